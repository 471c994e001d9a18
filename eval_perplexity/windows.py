"""Token files, the windows of the protocol, what is recorded of each window, and the numbers of a result.

A token file is raw little-endian uint16 (uint32 for vocabularies above 65,536), documents one after the other, each
beginning with the same token (BOS). `<file>.json` beside it, written by prepare_data.py, says what the tokens are.
"""

import hashlib
import math
from pathlib import Path
from statistics import fmean

from run import read_json

import numpy as np

from stats import Estimate, mean_over_documents

DATA_KEYS = ("sha256", "source", "dtype", "dataset", "tokenizer", "min_tokens", "split")  # of the result's `data`
LAST = (64, 256)  # the mean loss over the last targets of a window is recorded for these numbers of targets


def open_tokens(path: Path, documents: int, vocab_size: int) -> tuple:
    """The first `documents` documents of a token file, uint16 or uint32 [N], their starts, and the result's `data`.

    The stream ends where the next document begins, or with the file. Raises ValueError if the file is missing,
    incomplete, too short or of another vocabulary, or if its sidecar does not describe it.
    """
    if not path.is_file():
        raise ValueError(f"no token file {path}; make one with prepare_data.py")
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    dtype = "uint32" if vocab_size > 65536 else "uint16"
    sidecar = {"source": "unverified", "dtype": dtype, "sha256": sha256}
    sidecar_path = path.with_name(f"{path.name}.json")
    recorded = read_json(sidecar_path) if sidecar_path.exists() else {}
    sidecar |= recorded or {}
    if recorded is None or sidecar["dtype"] not in ("uint16", "uint32"):
        raise ValueError(f"{sidecar_path} is broken; make both files again with prepare_data.py")
    if sidecar["sha256"] != sha256:
        raise ValueError(f"{sidecar_path} does not describe {path}; make both files again with prepare_data.py")
    dtype = np.dtype(sidecar["dtype"]).newbyteorder("<")
    if not content or len(content) % dtype.itemsize:
        raise ValueError(f"{path} has {len(content)} bytes, not tokens; make it again with prepare_data.py")
    tokens_N = np.frombuffer(content, dtype)
    if content.startswith(b"\x93NUMPY") or not tokens_N[1::2].any():
        raise ValueError(f"{path} is a .npy file, or of wider integers than {dtype}; make it with prepare_data.py")
    starts = np.flatnonzero(tokens_N == tokens_N[0])
    n_documents = len(starts)
    if n_documents < documents:
        raise ValueError(f"{path} holds {n_documents} documents, not {documents}; give --documents {n_documents}")
    if n_documents > documents:
        tokens_N = tokens_N[: starts[documents]]
    largest = tokens_N.max()
    if largest >= vocab_size:
        mismatch = f"{path} holds token id {largest}, but the model has {vocab_size} tokens"
        raise ValueError(f"{mismatch}; make it with prepare_data.py and this model's tokenizer")
    known = {key: sidecar[key] for key in DATA_KEYS if key in sidecar}
    return tokens_N, starts[:documents], {"path": str(path), **known}


def window_starts(n_tokens: int, length: int, stride: int) -> np.ndarray:
    """Starts of all windows, int64: 0, stride, 2 stride, ... below n_tokens - length, the last of them dropped.

    Every window [s, s + length) is followed by one more token, its last target. Raises ValueError if there is none.
    """
    starts = np.arange(0, n_tokens - length, stride)[:-1]
    if len(starts) == 0:
        need = f"windows of {length} tokens every {stride} need more than {length + stride} tokens"
        raise ValueError(f"{need}, the documents have {n_tokens}; give more --documents or a shorter --seq_len")
    return starts


def subsample(starts: np.ndarray, max_windows: int | None, seed: int) -> np.ndarray:
    """`max_windows` of the starts, in order, drawn without replacement; all of them if there are no more."""
    if max_windows is None or max_windows >= len(starts):
        return starts
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(starts, max_windows, replace=False))


def bucket_edges(length: int) -> np.ndarray:
    """1, 2, 4, ..., `length`: where buckets of a target's position (the number of tokens before it) begin and end."""
    n_buckets = (length - 1).bit_length()
    return np.append(2 ** np.arange(n_buckets), length)


def recorded_parts(length: int) -> dict:
    """{key in a record: number of last targets} of the mean losses that are recorded of a window."""
    parts = {"loss": length - 1}
    for n in LAST:
        if n < length:
            parts[f"last_{n}"] = n
    return parts


def record(start: int, nll_L, hit_L, document_starts) -> dict:
    """What is kept of a window: hits, mean losses of `recorded_parts`, also split by document, and sums by position.

    nll_L: float64 [L].  hit_L: bool [L].  The last target is the token after the window and counts as a hit only.
    """
    length = len(nll_L)
    inside = nll_L[:-1]
    edges = bucket_edges(length)
    bucket_sums = np.add.reduceat(inside, edges[:-1] - 1)
    kept = {"start": start, "correct": int(hit_L.sum()), "buckets": bucket_sums.tolist()}
    for key, n in recorded_parts(length).items():
        losses = inside[-n:]
        kept[key] = float(losses.mean())
        kept[f"{key}_documents"] = split_by_document(losses, start + length - n, document_starts)
    return kept


def split_by_document(losses, first_position: int, document_starts) -> dict:
    """Sums of the losses and numbers of the targets in document `first` and those after it.

    losses: float64, of the targets at `first_position` of the token stream and those after it.
    """
    positions = np.arange(first_position, first_position + len(losses))
    documents = np.searchsorted(document_starts, positions, side="right") - 1
    first = int(documents[0])
    documents -= first
    sums = np.bincount(documents, weights=losses)
    return {"first": first, "sum": sums.tolist(), "targets": np.bincount(documents).tolist()}


def summarise(records: list, length: int, n_documents: int) -> dict:
    """The result's values from the records of all windows. Losses are in nats. n_documents: of the stream."""
    means = {}
    for key in recorded_parts(length):
        means[key] = mean_loss(records, key, n_documents)
    whole = means.pop("loss")
    n_correct = sum(record["correct"] for record in records)
    sum_D, target_D = sum_by_document(records, "loss", n_documents)
    return {
        "val_acc": n_correct / (len(records) * length),
        "val_loss": whole["loss"],
        "val_perplexity": whole["perplexity"],
        "val_perplexity_per_chunk": [whole["perplexity"]],
        "perplexity_interval_95": whole["perplexity_interval_95"],
        "sampled_unit": "document",
        "n_sampled_documents": int((target_D > 0).sum()),
        "loss_by_position": loss_by_position(records, length),
        **means,
        # to compare two models document by document
        "document_losses": {"sum": sum_D.tolist(), "targets": target_D.tolist()},
    }


def mean_loss(records: list, key: str, n_documents: int) -> dict:
    """Mean of one of the records' losses with its perplexity and the interval of that.

    All windows have the same number of targets, so the mean over windows is that over targets, the interval's centre.
    """
    loss = fmean(record[key] for record in records)
    sum_D, target_D = sum_by_document(records, key, n_documents)
    estimate = mean_over_documents(sum_D, target_D)
    return {"loss": loss, "perplexity": math.exp(loss), "perplexity_interval_95": exp_interval(estimate)}


def sum_by_document(records: list, key: str, n_documents: int) -> tuple:
    """(summed losses, numbers of targets) over all windows, float64 and int64 [D]."""
    sum_D = np.zeros(n_documents)
    target_D = np.zeros(n_documents, dtype=int)
    for record in records:
        part = record[f"{key}_documents"]
        first = part["first"]
        documents = slice(first, first + len(part["sum"]))
        sum_D[documents] += part["sum"]
        target_D[documents] += part["targets"]
    return sum_D, target_D


def exp_interval(estimate: Estimate) -> list | None:
    """95 % interval of a perplexity from the estimate of its loss; None for a single document."""
    bounds = estimate.interval()
    return list(map(math.exp, bounds)) if bounds else None


def loss_by_position(records: list, length: int) -> list:
    """Mean loss and perplexity in each bucket of positions."""
    buckets = []
    edges = bucket_edges(length).tolist()
    sums = zip(*[record["buckets"] for record in records], strict=True)
    for first, end, bucket_sums in zip(edges, edges[1:], sums, strict=False):
        loss = fmean(bucket_sums) / (end - first)
        buckets.append({"from": first, "to": end - 1, "loss": loss, "perplexity": math.exp(loss)})
    return buckets
