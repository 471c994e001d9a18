"""The mixture of a training set: the share of each source, and more long documents than the data have.

Fu et al., Data Engineering for Scaling Language Models to 128K Context (arXiv 2402.10171), "per-source length
upsampling", as LCEG (arXiv 2409.12181) uses it: documents of `min_length` tokens or more are kept, shorter ones with
probability `keep_short`, until each source has its share of the tokens. The shares are those of the whole dataset, so
only the lengths change. Fu et al. estimate the tokens of a document as characters / 3.68; here they are counted.
"""

from collections.abc import Iterable, Iterator
from random import Random

import numpy as np

from documents import encode

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
    """The share of each source, with the sum 1, from `slimpajama` or name=share,...; None for `none`."""
    if text == "none":
        return None
    shares = dict(SLIMPAJAMA) if text == "slimpajama" else {}
    for item in [] if shares else text.split(","):
        name, _, share = item.rpartition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            raise ValueError(f"--mix: '{item}' is not name=share; set slimpajama, none or name=share,...") from None
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


class Mixture:
    """Decides which documents are kept, in the order of reading, and counts them by source.

    shares: of the sources, or None to keep every document. A source takes complete documents until it has its share of
    `total` tokens; other sources take none. Without shares, documents are kept until there are `total` tokens, or all
    of them if that is None.
    """

    def __init__(self, shares: dict[str, float] | None, total: int | None, min_length: int, keep_short: float):
        self.total, self.min_length, self.keep_short = total, min_length, keep_short
        self.budgets = None if shares is None else {name: round(share * total) for name, share in shares.items()}
        self.tokens = 0
        self.counts = {}
        for name in shares or ():
            self.count(name)

    def count(self, name: str) -> dict:
        return self.counts.setdefault(name, {"documents_seen": 0, "documents_kept": 0, "tokens": 0})

    def wants(self, name: str) -> bool:
        """Whether a source takes another document."""
        if self.budgets is None:
            return self.total is None or self.tokens < self.total
        return self.count(name)["tokens"] < self.budgets.get(name, 0)

    def missing(self) -> dict[str, int]:
        """Tokens that are missing by source; empty if the mixture is complete or has no limit."""
        if self.budgets is None:
            tokens = (self.total or 0) - self.tokens
            return {"tokens": tokens} if tokens > 0 else {}
        return {name: self.budgets[name] - self.counts[name]["tokens"] for name in self.budgets if self.wants(name)}

    def select(self, batches: Iterable[list[tuple[str | None, str]]], tokenizer, rng: Random) -> Iterator[np.ndarray]:
        """Yields the token ids of the documents that are kept, in the order of `batches`.

        tokenizer: a `tokenizers.Tokenizer`. Raises ValueError if a source of the mixture has no documents at all.
        """
        for batch in batches:
            candidates = self.find_candidates(batch, tokenizer, rng)
            documents = encode(tokenizer, [text for text, _, _ in candidates])
            for (_, source, drawn), ids_N in zip(candidates, documents, strict=True):
                if (drawn or len(ids_N) >= self.min_length) and self.wants(source):
                    count = self.count(source)
                    count["documents_kept"] += 1
                    count["tokens"] += len(ids_N)
                    self.tokens += len(ids_N)
                    yield ids_N
            if self.total is not None and not self.missing():
                return
        unknown = [name for name, count in self.counts.items() if count["documents_seen"] == 0]
        if unknown:
            known = sorted(set(self.counts).difference(unknown))
            raise ValueError(f"--mix: the data have no source {', '.join(unknown)}, only {', '.join(known[:20])}")

    def find_candidates(self, batch: list, tokenizer, rng: Random) -> list[tuple[str, str, bool]]:
        """The documents that may be kept, (text, source, drawn): only these need to be encoded."""
        special_tokens = tokenizer.num_special_tokens_to_add(False) + 1  # SentencePiece begins a text with "▁"
        min_bytes = self.min_length - special_tokens  # a token has at least one byte
        candidates = []
        for text, source in batch:
            self.count(source)["documents_seen"] += 1
            drawn = rng.random() < self.keep_short
            if text is None or not self.wants(source):
                continue
            if drawn or len(text.encode()) >= min_bytes:
                candidates.append((text, source, drawn))
        return candidates
