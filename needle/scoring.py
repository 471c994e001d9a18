"""Scores of one answer. Nothing here needs a model."""

import re
from collections import Counter


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.sub(r"[^\w\s]|_", "", text.lower()).split()


def word_share(answer: str, response: str) -> float:
    """Share of the answer's distinct words that the response has, 0 to 1."""
    expected = set(words(answer))
    return len(expected & set(words(response))) / len(expected)


def contained(answer: str, text: str) -> bool:
    """Whether the answer's words stand in the text, one after the other."""
    return bool(words(answer)) and f" {' '.join(words(answer))} " in f" {' '.join(words(text))} "


def lceg_overlap(answer: str, response: str) -> float:
    """The heat-map score of the code of arXiv 2409.12181.

    Distinct words in common (split at white space, lower case, with punctuation) over the number of words of the
    answer, repeated ones counted. The paper's answer has "a" twice in 12 words, so it reaches 11/12.
    """
    expected = answer.lower().split()
    return len(set(expected) & set(response.lower().split())) / len(expected)


def rouge1_f(reference: str, response: str) -> float:
    """ROUGE-1 F (Lin 2004), 0 to 1: harmonic mean of the clipped unigram recall and precision, without stemming."""
    ours, theirs = (Counter(re.findall("[a-z0-9]+", text.lower())) for text in (reference, response))
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0
