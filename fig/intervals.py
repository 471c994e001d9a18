"""Bootstrap intervals over the samples of a benchmark, paired comparisons, and rank correlation.

Everything is seeded: the same results give the same bounds, bit by bit. A stratum is what is averaged first (a set, a
task, a length of the needle grid); a mean over strata weighs them equally, and its samples are drawn within each.
"""

import math

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 2000
Z = 1.959963984540054  # of a two-sided 95 % interval


def resampled_means(strata: list[tuple[np.ndarray, np.ndarray]], seed: int = 0) -> np.ndarray:
    """Means over strata of bootstrap samples, float64 [RESAMPLES].

    strata: (sums, counts) of the units that are drawn with replacement, both [units]: single samples (counts of 1), or
    blocks of samples that overlap.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(RESAMPLES)
    for sums, counts in strata:
        drawn = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
        total += sums[drawn].sum(1) / counts[drawn].sum(1)
    return total / len(strata)


def interval(means: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of resampled means."""
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def wilson(total: float, n: int) -> tuple[float, float]:
    """95 % score interval of a mean of n values between 0 and 1 that sum up to `total` (Wilson 1927); for values in
    between it is on the wide side."""
    p = total / n
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def tied(differences: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Paired bootstrap: does the 95 % interval of the mean difference hold 0? differences: strata of the samples'
    differences, see resampled_means."""
    low, high = interval(resampled_means(differences))
    return low <= 0 <= high


def tied_unpaired(first: tuple[float, float, float], second: tuple[float, float, float]) -> bool:
    """Without samples in common: |difference| within 1.96 of its standard error, which the two 95 % intervals give
    under normal errors. first, second: (value, low, high)."""
    errors = [(high - low) / (2 * Z) for _, low, high in (first, second)]
    return abs(first[0] - second[0]) <= Z * math.hypot(*errors)


def spearman(x_N: np.ndarray, y_N: np.ndarray, cluster_N: np.ndarray) -> tuple[float, float, float] | None:
    """Spearman's rank correlation with a 95 % bootstrap interval over clusters: (rho, low, high).

    x_N, y_N: values.  cluster_N: which points are drawn together (a method's lengths are not independent).  None with
    fewer than 4 clusters, or where one side is constant. Resamples in which a side is constant are left out.
    """
    names = np.unique(cluster_N)
    if len(names) < 4 or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return None

    def rho(x_RN, y_RN):  # a row each; what a shorter resample lacks is nan
        x_RN, y_RN = (rankdata(side, axis=1, nan_policy="omit") for side in (x_RN, y_RN))
        x_RN, y_RN = (side - np.nanmean(side, 1, keepdims=True) for side in (x_RN, y_RN))
        norm = np.sqrt(np.nansum(x_RN**2, 1) * np.nansum(y_RN**2, 1))
        return np.divide(np.nansum(x_RN * y_RN, 1), norm, out=np.full(len(norm), np.nan), where=norm > 0)

    size = np.unique(cluster_N, return_counts=True)[1].max()
    members = np.full((len(names), size), len(x_N))  # the last index is that of nan
    for i, name in enumerate(names):
        own = np.flatnonzero(cluster_N == name)
        members[i, : len(own)] = own
    drawn_RN = members[np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))].reshape(
        RESAMPLES, -1
    )
    values = rho(np.append(x_N, np.nan)[drawn_RN], np.append(y_N, np.nan)[drawn_RN])
    low, high = interval(values[np.isfinite(values)])
    return float(rho(x_N[None].astype(float), y_N[None].astype(float))[0]), low, high
