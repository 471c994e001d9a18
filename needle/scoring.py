"""Scores of one answer, and the interval of a mean score. Nothing here needs a model."""

import math
import re
from collections import Counter


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.sub(r"[^\w\s]|_", "", text.lower()).split()


def found(answer: str, response: str) -> float:
    """Share of the answer's distinct words that the response has, 0 to 1."""
    wanted = set(words(answer))
    return len(wanted & set(words(response))) / len(wanted)


def contained(answer: str, text: str) -> bool:
    """Does `text` have the answer's words, one after the other?"""
    return bool(words(answer)) and f" {' '.join(words(answer))} " in f" {' '.join(words(text))} "


def all_contained(answer: str, response: str, several: bool) -> bool:
    """Exact match: the response contains the answer. several: each word of it is an answer of its own."""
    return all(contained(one, response) for one in (words(answer) if several else [answer]))


def lceg_overlap(answer: str, response: str) -> float:
    """The heat-map score of arXiv 2409.12181's code: distinct words in common (split at white space, lower case,
    punctuation kept) over the number of the answer's words, repeated ones counted; so its answer, which has "a"
    twice in 12 words, reaches 11/12."""
    wanted = answer.lower().split()
    return len(set(wanted) & set(response.lower().split())) / len(wanted)


def rouge1_f(reference: str, response: str) -> float:
    """ROUGE-1 F (Lin 2004), 0 to 1: harmonic mean of the unigrams' clipped recall and precision, without stemming."""
    ours, theirs = (Counter(re.findall("[a-z0-9]+", text.lower())) for text in (reference, response))
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0


def wilson(total: float, n: int) -> list[float]:
    """95 % score interval [low, high] of a mean of `n` values between 0 and 1 that sum up to `total` (Wilson 1927).

    For values 0 and 1 it is the usual interval of a rate. For scores in between it is on the wide side: their
    variance is at most p (1 - p).
    """
    z, p = 1.959963984540054, total / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [max(0.0, middle - half), min(1.0, middle + half)]
