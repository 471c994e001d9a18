"""The mixture of a training set: budgets by source, upsampling of long documents, packing into rows.

Fu et al., Data Engineering for Scaling Language Models to 128K Context (arXiv 2402.10171), "per-source length
upsampling", as LCEG (arXiv 2409.12181) uses it: documents of `min_length` tokens or more are kept, shorter ones with
probability `keep_short`, until each source has its share of the tokens; the shares are those of the whole dataset, so
that only the lengths change. Theirs estimates a document's tokens as characters / 3.68; here they are counted.
"""

import multiprocessing
import os
import signal
import threading

import numpy as np

# SlimPajama's own shares of tokens by `meta.redpajama_set_name`, as in Fu et al.'s code.
SLIMPAJAMA = {
    "RedPajamaCommonCrawl": 0.53374772,
    "RedPajamaC4": 0.26609933,
    "RedPajamaGithub": 0.05004782,
    "RedPajamaArXiv": 0.04290379,
    "RedPajamaBook": 0.0414836,
    "RedPajamaWikipedia": 0.03402128,
    "RedPajamaStackExchange": 0.03169647,
}


def parse_mix(text: str) -> dict[str, float] | None:
    """`slimpajama`, `none`, or name=share,...: the share of each source, their sum 1; None for no mixture."""
    if text == "none":
        return None
    if text == "slimpajama":
        shares = SLIMPAJAMA
    else:
        shares = {}
        for item in text.split(","):
            name, equals, share = item.rpartition("=")
            try:
                value = float(share)
            except ValueError:
                value = float("nan")
            if not (name and equals and 0 < value < float("inf")) or name in shares:
                raise SystemExit(
                    f"error: --mix {text}: '{item}' is no name=share with a share above 0, each name once; "
                    "or give slimpajama or none"
                )
            shares[name] = value
    return {name: share / sum(shares.values()) for name, share in shares.items()}


def parse_tokens(text: str) -> int:
    """1000000, 500k, 20M, 1.5B: a number of tokens. Raises ValueError for other words."""
    factor = {"k": 10**3, "m": 10**6, "b": 10**9}.get(text[-1:].lower())
    return round(float(text[:-1]) * factor) if factor else int(text)


class Mixture:
    """Which documents are taken, in the order of reading; counts by source.

    shares: by source, or None: every document until `total` tokens (None: to the end of the data). A source takes
    documents, each whole, until it has its share of `total`; other sources than those of `shares` take none.
    """

    def __init__(self, shares: dict[str, float] | None, total: int | None, sources: dict[str, dict] | None = None):
        self.total = total
        self.budgets = shares and {name: round(share * total) for name, share in shares.items()}
        self.sources = {} if sources is None else sources
        for name in self.budgets or ():
            self.source(name)

    def source(self, name: str) -> dict:
        return self.sources.setdefault(name, {"documents_seen": 0, "documents_kept": 0, "tokens": 0})

    @property
    def tokens(self) -> int:
        return sum(source["tokens"] for source in self.sources.values())

    def wants(self, name: str) -> bool:
        """Does the source take a further document? Once it does not, it never does again."""
        if self.budgets is None:
            return self.total is None or self.tokens < self.total
        return name in self.budgets and self.sources[name]["tokens"] < self.budgets[name]

    def missing(self) -> dict[str, int]:
        """Tokens that are still to come, by source; empty when the mixture is complete."""
        if self.budgets is None:
            return {"tokens": self.total - self.tokens} if self.total and self.tokens < self.total else {}
        return {name: self.budgets[name] - self.sources[name]["tokens"] for name in self.budgets if self.wants(name)}

    def done(self) -> bool:
        return (self.budgets is not None or self.total is not None) and not self.missing()

    def take(self, name: str, tokens: int) -> bool:
        """Takes a document of so many tokens if its source wants it."""
        if not self.wants(name):
            return False
        self.source(name)["documents_kept"] += 1
        self.sources[name]["tokens"] += tokens
        return True


class Rows:
    """Documents joined in order and cut every `length` tokens, whatever document is there."""

    def __init__(self, length: int, ids_N: np.ndarray | None = None, starts_D: np.ndarray | None = None):
        self.length = length
        self.parts = [np.zeros(0, np.int32) if ids_N is None else ids_N]
        self.starts_D = np.zeros(0, np.int64) if starts_D is None else starts_D  # where documents begin in what is held
        self.new_starts: list[int] = []
        self.size = len(self.parts[0])

    def add(self, ids_N: np.ndarray) -> None:
        self.new_starts.append(self.size)
        self.parts.append(ids_N)
        self.size += len(ids_N)

    def held(self) -> tuple[np.ndarray, np.ndarray]:
        """(ids_N int32, starts_D int64): all tokens not taken yet and where documents begin among them."""
        self.parts = [np.concatenate(self.parts)]
        self.starts_D = np.concatenate([self.starts_D, np.array(self.new_starts, np.int64)])
        self.new_starts = []
        return self.parts[0], self.starts_D

    def take(self, rows: int) -> tuple[np.ndarray, list[list[int]]]:
        """Removes the first rows: (ids_RL int32, for each row the ascending offsets at which a document begins in it).

        The offsets always begin with 0, a document carried over from the row before included.
        """
        ids_N, starts_D = self.held()
        cut = rows * self.length
        if cut > self.size:
            raise ValueError(f"{self.size} tokens are no {rows} rows of {self.length}")
        offsets = [[0] for _ in range(rows)]
        for start in starts_D[starts_D < cut].tolist():
            row, offset = divmod(start, self.length)
            if offset > offsets[row][-1]:
                offsets[row].append(offset)
        self.parts, self.starts_D = [ids_N[cut:].copy()], starts_D[starts_D >= cut] - cut
        self.size -= cut
        return ids_N[:cut].reshape(rows, self.length), offsets


# ----------------------------------------------------------------------------- tokenising, here or in a worker
_encoder = None  # of this process


def load_tokenizer(name: str):
    """A tokenizer of Transformers; exits with one line if there is none of that name."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # that a document is longer than the model's window is no news here
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as reason:  # no such folder or id, gated, offline, a broken file
        first = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
        raise SystemExit(f"error: no tokenizer in {name}: {first}") from None


def start_worker(encoder) -> None:
    """Prepares a process for `tokenise`; a worker process ends when its parent does, however that ended."""
    global _encoder
    _encoder = encoder
    parent = multiprocessing.parent_process()
    if parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def encoder_of(tokenizer):
    """What a worker needs of a tokenizer: its Rust part, which starts without Transformers, or all of it."""
    return getattr(tokenizer, "backend_tokenizer", tokenizer)


def encode(encoder, texts: list[str]) -> list[np.ndarray]:
    """Token ids of each text, int32, as a document: with the tokenizer's own BOS or whatever it adds by default.

    Text that spells a special token is tokenised as ordinary text.
    """
    if not hasattr(encoder, "encode_batch_fast"):  # a tokenizer written in Python
        return [np.array(ids, np.int32) for ids in encoder(texts, split_special_tokens=True)["input_ids"]]
    encoder.encode_special_tokens = True
    encoded = []
    for i in range(0, len(texts), 32):  # in slices: an Encoding takes many times the memory of its ids
        encoded += [np.array(one.ids, np.int32) for one in encoder.encode_batch_fast(texts[i : i + 32])]
    return encoded


def tokenise(texts: list[str], drawn: list[bool], min_length: int) -> tuple[list[int], list[int], np.ndarray]:
    """Which of the texts are kept, drawn or at least `min_length` tokens long: (indices, lengths, their ids, int32)."""
    encoded = encode(_encoder, texts)
    kept = [i for i, ids_N in enumerate(encoded) if drawn[i] or len(ids_N) >= min_length]
    ids_N = np.concatenate([np.zeros(0, np.int32), *(encoded[i] for i in kept)])
    return kept, [len(encoded[i]) for i in kept], ids_N
