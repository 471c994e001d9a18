"""RULER's two scores, a strict form of each, and intervals. numpy only.

Facts of NVIDIA/RULER (arXiv 2404.06654): predictions are cleaned of control characters; a gold answer counts where it
occurs in the prediction, in any case of letters; 85.6 is what Llama-2-7B-chat reaches at 4k, the bar for an effective
length. Weighted averages: issue 82 there.
"""

import numpy as np

THRESHOLD = 85.6
RESAMPLES = 2000


def clean(pred: str) -> str:
    """Stripped, each control character (0x00-0x1f) a line break, and stripped again."""
    return "".join("\n" if character < " " else character for character in pred.strip()).strip()


def contains(pred: str, gold: str) -> bool:
    return gold.lower() in pred.lower()


def contains_word(pred: str, gold: str) -> bool:
    """As `contains`, but not inside a longer word ("no" in "know"): no letter, digit or _ stands next to it."""
    pred, gold = pred.lower(), gold.lower()
    at = pred.find(gold)
    while at >= 0:
        around = pred[at - 1 : at] + pred[at + len(gold) : at + len(gold) + 1]
        if not any(character.isalnum() or character == "_" for character in around):
            return True
        at = pred.find(gold, at + 1)
    return False


def score(pred: str, golds: list[str], metric: str, found=contains) -> float:
    """0..1: string_match_all: the share of the golds that are found; string_match_part: whether any is."""
    hits = [float(found(pred, gold)) for gold in golds]
    return sum(hits) / len(hits) if metric == "string_match_all" else max(hits)


def percent(scores: list[float]) -> float:
    """The mean in percent, rounded as RULER does."""
    return round(sum(scores) / len(scores) * 100, 2)


def resample(scores: list[float], seed: int) -> np.ndarray:
    """Means of RESAMPLES samples drawn with replacement, [RESAMPLES]."""
    values_n = np.asarray(scores, dtype=np.float64)
    picks_Rn = np.random.default_rng(seed).integers(0, len(values_n), (RESAMPLES, len(values_n)), dtype=np.int32)
    return values_n[picks_Rn].mean(axis=1)


def interval(means_R: np.ndarray) -> list[float]:
    """95 % percentile bootstrap, in percent. Of zero width where all samples agree, which says little for few."""
    return [round(100 * float(bound), 2) for bound in np.percentile(means_R, [2.5, 97.5])]


def effective_length(means: dict[int, float]) -> int | None:
    """The longest length (tokens) whose mean reaches THRESHOLD; None if none does."""
    return max((length for length, mean in means.items() if mean >= THRESHOLD), default=None)


def weighted(means: dict[int, float], decreasing: bool = False) -> float:
    """Mean over k lengths with weights 1..k (shortest..longest), or k..1: RULER's 1/21..6/21 over its six lengths."""
    ordered = [means[length] for length in sorted(means, reverse=decreasing)]
    weights = range(1, len(ordered) + 1)
    return sum(w * mean for w, mean in zip(weights, ordered, strict=True)) / sum(weights)
