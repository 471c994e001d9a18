"""The mixture of a training set: shares of the sources, upsampling of long documents, tokenising.

Fu et al., Data Engineering for Scaling Language Models to 128K Context (arXiv 2402.10171), "per-source length
upsampling", as LCEG (arXiv 2409.12181) uses it: documents of `min_length` tokens or more are kept, shorter ones with
probability `keep_short`, until each source has its share of the tokens; the shares are those of the whole dataset, so
that only the lengths change. Theirs estimates a document's tokens as characters / 3.68; here they are counted.

Workers import this module: neither torch nor Transformers.
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
    """`slimpajama`, `none`, or name=share,...: the share of each source, their sum 1; None for no mixture.

    Raises ValueError on anything else.
    """
    if text == "none":
        return None
    shares = SLIMPAJAMA if text == "slimpajama" else {}
    for item in text.split(",") if not shares else ():
        name, _, share = item.rpartition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            shares[name] = 0.0
        if not name or not 0 < shares[name] < float("inf"):
            raise ValueError(
                f"--mix {text}: '{item}' is not name=share with a share above 0; or give slimpajama or none"
            )
    return {name: share / sum(shares.values()) for name, share in shares.items()}


class Mixture:
    """Decides which documents are kept, in the order of reading, and counts them by source.

    shares: by source, or None: every document until `total` tokens (None: to the end of the data). A source takes
    documents, each completely, until it has its share of `total`; sources that are not in `shares` take none.
    """

    def __init__(self, shares: dict[str, float] | None, total: int | None):
        self.total, self.counts = total, {}
        self.budgets = shares and {name: round(share * total) for name, share in shares.items()}
        for name in self.budgets or ():
            self.source(name)

    def source(self, name: str) -> dict:
        return self.counts.setdefault(name, {"documents_seen": 0, "documents_kept": 0, "tokens": 0})

    @property
    def tokens(self) -> int:
        return sum(source["tokens"] for source in self.counts.values())

    def wants(self, name: str) -> bool:
        """Whether the source takes a further document; once it does not, it never does again."""
        if self.budgets is None:
            return self.total is None or self.tokens < self.total
        return name in self.budgets and self.counts[name]["tokens"] < self.budgets[name]

    def take(self, name: str, tokens: int) -> bool:
        """Takes a document of so many tokens if its source wants it."""
        if not self.wants(name):
            return False
        self.source(name)["documents_kept"] += 1
        self.counts[name]["tokens"] += tokens
        return True

    def missing(self) -> dict[str, int]:
        """Tokens that the sources still want; empty if the mixture is complete or has no limit."""
        if self.budgets is None:
            return {"tokens": self.total - self.tokens} if self.total and self.tokens < self.total else {}
        return {name: self.budgets[name] - self.counts[name]["tokens"] for name in self.budgets if self.wants(name)}

    def complete(self) -> bool:
        return self.total is not None and not self.missing()


# --- tokenising, in this process or in a worker
_encoder = None  # of this process


def start_worker(encoder) -> None:
    """Prepares a process for `tokenise`; a worker process ends when its parent does, however that ended."""
    global _encoder
    _encoder = encoder
    parent = multiprocessing.parent_process()
    if parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def encode(texts: list[str]) -> list[np.ndarray]:
    """Token ids of each text, int32, as a document: with the tokenizer's own BOS or whatever it adds by default.

    Text that spells a special token is tokenised as ordinary text.
    """
    if not hasattr(_encoder, "encode_batch_fast"):  # a tokenizer written in Python
        return [np.array(ids, np.int32) for ids in _encoder(texts, split_special_tokens=True)["input_ids"]]
    _encoder.encode_special_tokens = True
    ids = []
    for i in range(0, len(texts), 32):  # in slices: an Encoding takes many times the memory of its ids
        ids += [np.array(encoding.ids, np.int32) for encoding in _encoder.encode_batch_fast(texts[i : i + 32])]
    return ids


def tokenise(texts: list[str], drawn: list[bool], min_length: int) -> tuple[list[int], list[np.ndarray]]:
    """(indices, token ids) of the texts that are kept: drawn, or at least `min_length` tokens long."""
    ids = encode(texts)
    kept = [i for i, ids_N in enumerate(ids) if drawn[i] or len(ids_N) >= min_length]
    return kept, [ids[i] for i in kept]
