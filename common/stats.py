"""Intervals of means: percentile bootstrap over samples, and Wilson's score interval."""

import math

import numpy as np

RESAMPLES = 2000
Z = 1.959963984540054  # of a two-sided 95 % interval


def resampled_means(strata: list[tuple[np.ndarray, np.ndarray]], seed=0, resamples: int = RESAMPLES) -> np.ndarray:
    """Means over strata of bootstrap samples, float64 [resamples] (Efron and Tibshirani 1993, chapter 13).

    strata: (sums, counts) of the units drawn with replacement, both [units]: single samples (counts of 1), or blocks of
    samples that overlap. Each stratum (a task, a set, a length) counts the same.  seed: what numpy's default_rng takes.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for sums, counts in strata:
        units = len(sums)
        drawn = rng.integers(units, size=(resamples, units))
        sums_drawn = sums[drawn].sum(1)
        counts_drawn = counts[drawn].sum(1)
        total += sums_drawn / counts_drawn
    return total / len(strata)


def bootstrap(values, seed=0) -> np.ndarray:
    """Bootstrap means of single samples, float64 [RESAMPLES]."""
    values = np.asarray(values, dtype=np.float64)
    return resampled_means([(values, np.ones(len(values)))], seed)


def percentile_interval(means: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval (low, high) of resampled means."""
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def wilson(total: float, n: int) -> tuple[float, float]:
    """95 % score interval (low, high) of a mean of `n` values between 0 and 1 whose sum is `total` (Wilson 1927).

    For values in between it is wide: their variance is at most p (1 - p).
    """
    p = total / n
    shrink = 1 + Z * Z / n
    middle = (p + Z * Z / (2 * n)) / shrink
    variance = p * (1 - p) / n + Z * Z / (4 * n * n)
    half = Z / shrink * math.sqrt(variance)
    return max(0.0, middle - half), min(1.0, middle + half)


def standard_error(values) -> float | None:
    """Standard error of the mean; None for a single value."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))
