"""Token files, the windows of the protocol, and what is recorded of each window.

A token file is raw little-endian uint16 (uint32 for vocabularies above 65,536), documents one after the other, each
beginning with the same token (BOS). `<file>.json` beside it, written by prepare_data.py, says what the tokens are.
"""

import hashlib
from pathlib import Path

import numpy as np

from run import read_json

LAST = (64, 256)  # the mean loss over the last targets of a window is recorded for these numbers of targets


def open_tokens(path: Path, documents: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """The first `documents` documents of a token file, uint16 or uint32 [N], their starts, and the result's `data`.

    The stream ends where the next document begins (the (documents + 1)-th occurrence of the file's first token), or
    with the file. Raises ValueError if the file is missing, incomplete, too short or of another vocabulary, or if its
    sidecar does not describe it.
    """
    if not path.is_file():
        raise ValueError(f"no token file {path}; make one with prepare_data.py")
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    sidecar = {"source": "unverified", "dtype": "uint32" if vocab_size > 65536 else "uint16", "sha256": sha256}
    sidecar_path = path.with_name(path.name + ".json")
    sidecar |= read_json(sidecar_path) or {}
    if sidecar["sha256"] != sha256:
        raise ValueError(f"{sidecar_path} does not describe {path}; make both files again with prepare_data.py")
    dtype = np.dtype(sidecar["dtype"]).newbyteorder("<")
    if not content or len(content) % dtype.itemsize:
        raise ValueError(f"{path} has {len(content)} bytes, not tokens; make it again with prepare_data.py")
    tokens_N = np.frombuffer(content, dtype)
    document_starts = np.flatnonzero(tokens_N == tokens_N[0])
    n_documents = len(document_starts)
    if n_documents < documents:
        raise ValueError(f"{path} holds {n_documents} documents, not {documents}; give --documents {n_documents}")
    if n_documents > documents:
        tokens_N = tokens_N[: document_starts[documents]]
    largest = tokens_N.max()
    if largest >= vocab_size:
        mismatch = f"{path} holds token id {largest}, but the model has {vocab_size} tokens"
        raise ValueError(f"{mismatch}; make the file with prepare_data.py and this model's tokenizer")
    keys = ("sha256", "source", "dtype", "dataset", "tokenizer", "min_tokens", "split")
    data = {"path": str(path)} | {key: sidecar[key] for key in keys if key in sidecar}
    return tokens_N, document_starts[:documents], data


def window_starts(n_tokens: int, length: int, stride: int) -> np.ndarray:
    """Starts of all windows, int64: 0, stride, 2 stride, ... below n_tokens - length, the last of them dropped.

    Every window [s, s + length) is followed by one more token, its last target. Raises ValueError if there is none.
    """
    starts = np.arange(0, max(n_tokens - length, 0), stride)[:-1]
    if len(starts) == 0:
        need = f"windows of {length} tokens every {stride} need more than {length + stride} tokens"
        raise ValueError(f"{need}, the documents have {n_tokens}; give more --documents or a shorter --seq_len")
    return starts


def subsample(starts: np.ndarray, max_windows: int | None, seed: int) -> np.ndarray:
    """`max_windows` of the starts, in order, drawn without replacement; all of them if there are no more."""
    if max_windows is None or max_windows >= len(starts):
        return starts
    return np.sort(np.random.default_rng(seed).choice(starts, max_windows, replace=False))


def position_buckets(length: int) -> list[tuple[int, int]]:
    """Log-spaced ranges (first, last) of a target's position 1 .. length - 1, the number of tokens before it."""
    firsts = [2**k for k in range((length - 1).bit_length())]
    return [(first, min(2 * first, length) - 1) for first in firsts]


def recorded_parts(length: int) -> dict[str, int]:
    """{key in a record: number of last targets} of the mean losses that are recorded of a window."""
    return {"loss": length - 1} | {f"last_{n}": n for n in LAST if n < length}


def split_by_document(losses: np.ndarray, first_position: int, document_starts: np.ndarray) -> dict:
    """Sums of the losses and numbers of the targets in document `first` and those after it.

    losses: float64, of the targets at `first_position` and the positions after it in the token stream.
    """
    positions = first_position + np.arange(len(losses))
    documents = np.searchsorted(document_starts, positions, side="right") - 1
    first = documents[0]
    sums = np.bincount(documents - first, weights=losses)
    counts = np.bincount(documents - first)
    return {"first": int(first), "sum": sums.tolist(), "targets": counts.tolist()}


def record(start: int, nll_L: np.ndarray, hit_L: np.ndarray, document_starts: np.ndarray) -> dict:
    """What is kept of a window: hits over all L positions; of the L - 1 targets inside it the mean losses of
    `recorded_parts`, also split by document, and the sums in each position bucket.

    nll_L: float64 [L].  hit_L: bool [L].  The last target is the token after the window and counts as a hit only.
    """
    inside = nll_L[:-1]
    length = len(nll_L)
    kept = {"start": start, "correct": int(hit_L.sum()), "buckets": []}
    for key, n in recorded_parts(length).items():
        losses = inside[-n:]
        kept[key] = float(losses.mean())
        kept[f"{key}_documents"] = split_by_document(losses, start + length - n, document_starts)
    for first, last in position_buckets(length):
        kept["buckets"].append(float(inside[first - 1 : last].sum()))
    return kept
