"""RULER's two scores and a strict form of each.

Facts of NVIDIA/RULER (arXiv 2404.06654): predictions are cleaned of control characters; a gold answer counts where it
occurs in the prediction, in upper or lower case; a model's effective length is the longest at which it reaches 85.6,
the score of Llama-2-7B-chat at 4,096 tokens. Weighted averages: issue 82 there.
"""

import re

THRESHOLD = 85.6


def clean(pred: str) -> str:
    """A prediction without surrounding white space and with a line break for each control character (0x00-0x1f)."""
    return re.sub(r"[\x00-\x1f]", "\n", pred.strip()).strip()


def contains(pred: str, gold: str) -> bool:
    return gold.lower() in pred.lower()


def contains_word(pred: str, gold: str) -> bool:
    """As `contains`, but not inside a longer word ("no" in "know")."""
    return re.search(rf"(?<!\w){re.escape(gold.lower())}(?!\w)", pred.lower()) is not None


def score(pred: str, golds: list[str], metric: str, found=contains) -> float:
    """0..1: string_match_all: the share of the golds that are found; string_match_part: whether any of them is."""
    hits = [float(found(pred, gold)) for gold in golds]
    return sum(hits) / len(hits) if metric == "string_match_all" else max(hits)


def effective_length(means: dict[int, float]) -> int | None:
    """The longest length (tokens) whose mean score reaches THRESHOLD; None if none does."""
    return max((length for length, mean in means.items() if mean >= THRESHOLD), default=None)


def weighted_mean(means: dict[int, float], decreasing: bool = False) -> float:
    """Mean over k lengths with the weights 1..k from the shortest to the longest (1/21..6/21 over RULER's six), or
    k..1."""
    total = 0.0
    for weight, length in enumerate(sorted(means, reverse=decreasing), 1):
        total += weight * means[length]
    return total / (len(means) * (len(means) + 1) / 2)
