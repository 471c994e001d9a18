"""The mixture of a training set: the share of each source, and more long documents than the data have.

"Per-source length upsampling" of Fu et al. (arXiv 2402.10171), as LCEG (arXiv 2409.12181) uses it: documents of
`min_length` tokens or more are kept, shorter ones with probability `keep_short`, until each source has its share of the
tokens. Fu et al. estimate the tokens of a document as characters / 3.68; here they are counted.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random

import numpy as np
from tokenizers import Tokenizer

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
    for item in text.split(",") if not shares else []:
        name, _, share = item.rpartition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            raise ValueError(f"--mix: '{item}' is not name=share; set slimpajama, none or name=share,...") from None
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


class Mixture:
    """Decides which documents are kept, in the order of reading, and counts them by source.

    budgets: tokens by source. A source takes complete documents until it has its budget; other sources take none.
    """

    def __init__(self, budgets: dict[str, float], min_length: int, keep_short: float):
        self.budgets, self.min_length, self.keep_short = budgets, min_length, keep_short
        self.documents_seen, self.documents_kept, self.tokens = Counter(), Counter(), Counter()

    def wants(self, source: str) -> bool:
        """Whether a source takes another document."""
        return self.tokens[source] < self.budgets.get(source, 0)

    def missing_tokens(self) -> dict[str, float]:
        """What the sources still lack of their budgets; empty if the mixture is complete."""
        return {source: self.budgets[source] - self.tokens[source] for source in self.budgets if self.wants(source)}

    def select(self, batches: Iterable[list], tokenizer: Tokenizer, rng: Random) -> Iterator[np.ndarray]:
        """Yields the token ids of the documents that are kept. batches: lists of documents, (text, source).

        Raises ValueError if a source of the mixture has no documents at all.
        """
        for batch in batches:
            candidates = self.find_candidates(batch, tokenizer, rng)
            documents = encode(tokenizer, [text for text, _, _ in candidates])
            for ids_N, (_, source, drawn) in zip(documents, candidates, strict=True):
                long_enough = drawn or len(ids_N) >= self.min_length
                if long_enough and self.wants(source):
                    self.documents_kept[source] += 1
                    self.tokens[source] += len(ids_N)
                    yield ids_N
            if not self.missing_tokens():
                return
        unknown = sorted(set(self.budgets) - set(self.documents_seen))
        if unknown:
            raise ValueError(f"--mix: no document has the source {unknown[0]}; there are {sorted(self.documents_seen)}")

    def find_candidates(self, batch: list, tokenizer: Tokenizer, rng: Random) -> list[tuple]:
        """The documents that may be kept, (text, source, drawn): only these need to be encoded."""
        special_tokens = tokenizer.num_special_tokens_to_add(False) + 1  # SentencePiece begins a text with "▁"
        min_bytes = self.min_length - special_tokens  # a token has at least one byte
        candidates = []
        for text, source in batch:
            self.documents_seen[source] += 1
            drawn = rng.random() < self.keep_short
            if text is None or not self.wants(source):
                continue
            if drawn or len(text.encode()) >= min_bytes:
                candidates.append((text, source, drawn))
        return candidates

    def describe(self) -> dict[str, dict]:
        """Documents, tokens and share of the tokens of each source."""
        sources = {}
        for source, documents_seen in self.documents_seen.items():
            sources[source] = {
                "documents_seen": documents_seen,
                "documents_kept": self.documents_kept[source],
                "tokens": self.tokens[source],
                "share": self.tokens[source] / self.tokens.total(),
            }
        return sources
