"""Token files, the windows of the protocol, and what is recorded of each window.

A token file is raw little-endian uint16 (uint32 for vocabularies above 65,536), documents one after the other, each
beginning with the same token (BOS). `<file>.json` beside it, written by prepare_data.py, says what the tokens are.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LAST = (64, 256)  # a window's end: mean loss over its last so many targets


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass
class TokenFile:
    """tokens_N: uint16 or uint32 [N], the first `documents` documents.  description: `data` of the result."""

    tokens_N: np.ndarray
    documents: int
    description: dict


def open_tokens(path: Path, documents: int, vocab_size: int) -> TokenFile:
    """The first `documents` documents of a token file, checked against the model's vocabulary and the sidecar.

    The stream ends where the next document begins (the (documents + 1)-th occurrence of the file's first token), or
    with the file. Raises ValueError, one line, if the file is missing, damaged, too short or of another vocabulary.
    """
    if not path.is_file():
        raise ValueError(f"no token file {path}; make one with prepare_data.py")
    sidecar_path = path.with_name(path.name + ".json")
    sidecar = {}
    if sidecar_path.is_file():
        try:
            sidecar = json.loads(sidecar_path.read_text())
        except ValueError:
            raise ValueError(f"{sidecar_path} is not JSON; make the token file again with prepare_data.py") from None
    dtype = sidecar.get("dtype", "uint32" if vocab_size > 65536 else "uint16")
    if dtype not in ("uint16", "uint32"):
        raise ValueError(f"{sidecar_path} says dtype {dtype}; token files are uint16 or uint32")
    if sidecar.get("vocab_size", 0) > vocab_size:
        raise ValueError(
            f"{path} was made with a tokenizer of {sidecar['vocab_size']} tokens, the model has {vocab_size}; make it "
            "again with prepare_data.py --tokenizer and this model's tokenizer"
        )
    size, width = path.stat().st_size, int(dtype[4:]) // 8
    if size == 0 or size % width:
        raise ValueError(f"{path} has {size} bytes, which is no whole number of {dtype} tokens; is the file complete?")
    sha256 = file_sha256(path)
    if sidecar.get("sha256", sha256) != sha256:
        raise ValueError(f"{path} is not the file that {sidecar_path.name} describes; run prepare_data.py again")

    tokens_N = np.memmap(path, dtype="<u2" if width == 2 else "<u4", mode="r")
    document_starts = np.flatnonzero(tokens_N == tokens_N[0])
    if len(document_starts) < documents:
        raise ValueError(
            f"{path} holds {len(document_starts)} documents, {documents} were asked for; give --documents "
            f"{len(document_starts)}, or make a longer file with prepare_data.py"
        )
    if len(document_starts) > documents:
        tokens_N = tokens_N[: document_starts[documents]]
    largest = int(tokens_N.max())
    if largest >= vocab_size:
        raise ValueError(
            f"{path} holds token id {largest}, the model's vocabulary ends at {vocab_size - 1}: read as {dtype}, it "
            "was made for another tokenizer; make it again with prepare_data.py"
        )
    kept = ("dataset", "tokenizer", "min_tokens", "split")
    description = {"path": str(path), "sha256": sha256, "source": sidecar.get("source", "unverified"), "dtype": dtype}
    return TokenFile(tokens_N, documents, description | {key: sidecar[key] for key in kept if key in sidecar})


def window_starts(n_tokens: int, length: int, stride: int) -> np.ndarray:
    """Starts of all windows, int64: 0, stride, 2 stride, ... below n_tokens - length, the last of them dropped.

    (LCEG's definition.) Every window [s, s + length) is followed by one more token, its last target. Raises
    ValueError if there is none.
    """
    starts = np.arange(0, n_tokens - length, stride)[:-1]
    if len(starts) == 0:
        raise ValueError(
            f"windows of {length} tokens every {stride} need more than {length + stride} tokens, the documents have "
            f"{n_tokens}; take more --documents, a shorter --seq_len, or a longer file from prepare_data.py"
        )
    return starts


def subsample(starts: np.ndarray, max_windows: int | None, seed: int) -> np.ndarray:
    """`max_windows` of the starts, in order, drawn without replacement; all of them if there are no more."""
    if max_windows is None or max_windows >= len(starts):
        return starts
    return np.sort(np.random.default_rng(seed).choice(starts, max_windows, replace=False))


def position_buckets(length: int) -> list[tuple[int, int]]:
    """Log-spaced ranges (first, last) of a target's position 1 .. length - 1, the number of tokens before it."""
    edges = [2**k for k in range(length.bit_length()) if 2**k < length]
    return [(first, min(2 * first, length) - 1) for first in edges]


def record(start: int, nll_L: np.ndarray, hit_L: np.ndarray) -> dict:
    """What is kept of a window: its mean loss over the L - 1 targets inside it, hits over all L positions, the sums
    of the losses in each position bucket, the mean over the last targets. All losses are None if one is not finite.

    nll_L: float64 [L].  hit_L: bool [L].  The last target lies just behind the window and counts as a hit only.
    """
    inside, length = nll_L[:-1], len(nll_L)
    buckets = position_buckets(length)
    kept = {"start": int(start), "correct": int(hit_L.sum())}
    last = {f"last_{n}": float(inside[-n:].mean()) for n in LAST if length > n}
    if not np.isfinite(inside).all():
        return kept | {"loss": None, "buckets": [None] * len(buckets)} | dict.fromkeys(last)
    sums = [float(inside[first - 1 : end].sum()) for first, end in buckets]
    return kept | {"loss": float(inside.mean()), "buckets": sums} | last


def mean(values: list[float]) -> float:
    """Mean that does not depend on how the sum was split."""
    return math.fsum(values) / len(values)
