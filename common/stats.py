"""Means over samples with 95 % intervals, ties with the best, rank correlation.

Three functions make an Estimate of the means of one or more methods over the same samples: `estimate.interval()` is the
interval of one mean, `tied_with_best(estimate)` compares several. benchmarks/coverage.py measures what they cover.

Axes: M methods, D documents, U sampled units, K strata (tasks), C cells, T trials, L lengths, R repetitions.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats

DRAWS = 5_000  # of correlated normal values
MIN_METHODS = 7  # for the interval of a rank correlation; with 5 methods none that was tried covers enough
Z = 1.959963984540054  # of a two-sided 95 % interval
ROUNDING = 1e-20  # variances below it come from rounding: the samples are equal


@dataclass(frozen=True)
class Estimate:
    """Means of M methods over the same samples, and their sampling errors.

    error_MU: what each independent unit (document, sample, trial or cell) adds to the errors. The variance of a mean is
    its sum of squares; of a difference of two means, the sum of squared differences.
    stratum_U: the stratum that each unit was drawn from, int.  df_K: degrees of freedom of each stratum.
    n: effective number of samples.  highest: values are between 0 and this; None: any values.
    """

    mean_M: np.ndarray
    error_MU: np.ndarray
    stratum_U: np.ndarray
    df_K: np.ndarray
    n: float
    highest: float | None = None

    @property
    def n_units(self) -> int:
        return self.error_MU.shape[1]

    @property
    def standard_error(self) -> float | None:
        """Of the first mean; None with a single unit."""
        return math.sqrt((self.error_MU[0] ** 2).sum()) if self.n_units > 1 else None

    def degrees_of_freedom(self, error_U: np.ndarray) -> float:
        """Of the variance sum(error_U^2) above 0, from those of the strata (Satterthwaite 1946; Welch 1947)."""
        variance_K = np.bincount(self.stratum_U, error_U**2)
        variance = variance_K.sum()
        return variance**2 / (variance_K**2 / self.df_K).sum()

    def interval(self) -> tuple[float, float] | None:
        """95 % interval (low, high) of the first mean; None if there are too few units.

        Any values: Student's t. Bounded ones: Wilson's interval with t for z, and for n the number of samples for which
        a proportion has this variance (Korn and Graubard 1998; Dean and Pagano 2015). Without any variance n is `n`.
        """
        mean = float(self.mean_M[0])
        variance = float((self.error_MU[0] ** 2).sum())
        t, df = Z, 0.0
        if variance > ROUNDING:
            df = self.degrees_of_freedom(self.error_MU[0])
            t = float(scipy.stats.t.ppf(0.975, df))
        if self.highest is None:
            half = t * math.sqrt(variance)
            return (mean - half, mean + half) if df >= 1 else None
        share, n = mean / self.highest, self.n
        if df:
            n = share * (1 - share) * self.highest**2 / variance
        low, high = wilson(share * n, n, t)
        return self.highest * low, self.highest * high


def wilson(total: float, n: float, z: float = Z) -> tuple[float, float]:
    """95 % score interval (low, high) of a mean of `n` values between 0 and 1 whose sum is `total` (Wilson 1927)."""
    p = total / n
    z2 = z * z
    shrink = 1 + z2 / n
    middle = (p + z2 / (2 * n)) / shrink
    variance = p * (1 - p) / n + z2 / (4 * n * n)
    half = z / shrink * math.sqrt(variance)
    low = min(p, middle - half)  # rounding moves neither past p
    high = max(p, middle + half)
    return max(0.0, low), min(1.0, high)


def mean_over_documents(loss_MD, target_D) -> Estimate:
    """Mean loss per target token, nats; the sampled units are the documents of the token file.

    loss_MD: summed losses of the targets in each document, over all windows, [D] or [M, D]; differences of them for a
    paired difference.  target_D: numbers of these targets; a document without any is left out.

    Jackknife, leaving out one document at a time (Efron and Tibshirani 1993, chapter 11), with the effective number of
    documents (Kish 1965) less 1 as degrees of freedom. A window must be split between its documents: assigned as a
    whole, windows of 32,768 tokens on documents of 60,000 cover .82 to .91 only.
    """
    known_D = np.asarray(target_D) > 0
    target_D = np.asarray(target_D, dtype=np.float64)[known_D]
    loss_MD = np.atleast_2d(loss_MD)[:, known_D]
    n_documents, n_targets = len(target_D), target_D.sum()
    loss_M1 = loss_MD.sum(axis=1, keepdims=True)
    error_MD = np.zeros(loss_MD.shape)
    if n_documents > 1:
        without_MD = (loss_M1 - loss_MD) / (n_targets - target_D)
        deviation_MD = without_MD - without_MD.mean(axis=1, keepdims=True)
        error_MD = math.sqrt((n_documents - 1) / n_documents) * deviation_MD
    df = n_targets**2 / (target_D**2).sum() - 1
    mean_M = loss_M1[:, 0] / n_targets
    return Estimate(mean_M, error_MD, np.zeros(n_documents, dtype=int), np.array([df]), n_documents)


def mean_over_tasks(tasks: list, weights=None, highest: float = 1.0) -> Estimate:
    """Mean of the tasks' mean scores; the sampled units are the samples of each task.

    tasks: scores of each task's samples, 0 to `highest`; [n_k] or [M, n_k] for task k.  weights: [K] [all the same].

    Stratified sampling (Cochran 1977, chapter 5). If a task has a single sample, all samples form one stratum.
    """
    weights = np.ones(len(tasks)) if weights is None else np.asarray(weights)
    tasks = [np.atleast_2d(scores) for scores in tasks]
    counts = [scores.shape[1] for scores in tasks]
    share_K = weights / weights.sum() / counts
    share_U = np.repeat(share_K, counts)  # of each sample in the mean
    stratum_U = np.repeat(np.arange(len(tasks)), counts)
    if min(counts) == 1:
        stratum_U = np.zeros_like(stratum_U)
    df_K = np.maximum(np.bincount(stratum_U) - 1, 1)

    score_MU = np.concatenate(tasks, axis=1)
    error_MU = np.zeros(score_MU.shape)
    for stratum, df in enumerate(df_K):
        inside_U = stratum_U == stratum
        own_MU = score_MU[:, inside_U]
        own_share_U = share_U[inside_U]
        mean_M1 = np.average(own_MU, axis=1, weights=own_share_U, keepdims=True)
        correction = math.sqrt((df + 1) / df)
        error_MU[:, inside_U] = correction * own_share_U * (own_MU - mean_M1)
    mean_M = (score_MU * share_U).sum(axis=1)
    return Estimate(mean_M, error_MU, stratum_U, df_K, 1 / (share_U**2).sum(), highest)


def mean_over_grid(score_MCT, drawn_text: bool) -> Estimate:
    """Mean score over the cells (length and depth) of a needle grid and their trials.

    score_MCT: scores, 0 to 1; [C, T] or [M, C, T], NaN without an answer.
    drawn_text: whether each trial has its own haystack text, in all cells. Then the sampled units are the trials;
    otherwise, and with a single trial, the cells.

    One-stage cluster sampling (Cochran 1977, chapter 9): the scores of a unit count as one value, their mean.
    """
    score_MCT = np.ma.masked_invalid(score_MCT)
    n_trials = score_MCT.shape[-1]
    averaged = -2 if drawn_text and n_trials > 1 else -1  # the cells, or the trials
    mean_MU = score_MCT.mean(axis=averaged)
    score_MU = np.atleast_2d(mean_MU.filled(np.nan))
    is_complete_U = np.isfinite(score_MU).all(axis=0)
    return mean_over_tasks([score_MU[:, is_complete_U]])


def tied_with_best(estimate: Estimate, lower_is_better: bool = False) -> np.ndarray:
    """Which methods cannot be told apart from the best one, bool [M]. The estimate must have two units or more.

    Multiple comparisons with the best (Hsu 1996, chapter 4): the truly best method is among them in 95 % of studies; of
    equally good ones, each is (93 % with six trials of needle, see benchmarks/coverage.py). Method i is left out if the
    largest t statistic of the others' leads over it exceeds the 95th percentile of the largest of as many correlated
    normal values, drawn as sums of the units' errors with normal weights (max-t; Hothorn, Bretz and Westfall 2008).
    """
    error_MU = estimate.error_MU
    value_M = -estimate.mean_M if lower_is_better else estimate.mean_M
    factors_MF, size_F, _ = np.linalg.svd(error_MU, full_matrices=False)
    normal_FR = np.random.default_rng(0).standard_normal((len(size_F), DRAWS))
    drawn_MR = (factors_MF * size_F) @ normal_FR

    tied_M = np.ones(len(error_MU), dtype=bool)
    for i, error_U in enumerate(error_MU):
        lead_M = value_M - value_M[i]
        difference_MU = error_MU - error_U
        variance_M = (difference_MU**2).sum(axis=1)
        varies_M = variance_M > ROUNDING  # false for i itself, and where all samples differ by the same value
        if (lead_M[~varies_M] > math.sqrt(ROUNDING)).any():
            tied_M[i] = False
        elif varies_M.any():
            error_M = np.sqrt(variance_M[varies_M])
            df_M = [estimate.degrees_of_freedom(difference_U) for difference_U in difference_MU[varies_M]]
            tail_M = scipy.stats.t.sf(lead_M[varies_M] / error_M, df_M)
            largest = scipy.stats.norm.isf(tail_M).max()  # of the normal values with the same tails
            lead_MR = drawn_MR[varies_M] - drawn_MR[i]
            largest_R = (lead_MR / error_M[:, None]).max(axis=0)
            tied_M[i] = largest <= np.quantile(largest_R, 0.95)
    return tied_M


def spearman(x_ML: np.ndarray, y_ML: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of the methods with both values, at each length, [L]; NaN if a side is constant."""
    rho_L = []
    for x_M, y_M in zip(x_ML.T, y_ML.T, strict=True):
        known_M = np.isfinite(x_M + y_M)
        ranks_2M = scipy.stats.rankdata([x_M[known_M], y_M[known_M]], axis=1)
        rho = math.nan
        if known_M.any() and np.ptp(ranks_2M, axis=1).all():  # neither side is constant
            rho = np.corrcoef(ranks_2M)[0, 1]
        rho_L.append(rho)
    return np.array(rho_L)


def rank_correlation(x_ML: np.ndarray, y_ML: np.ndarray) -> tuple[float, float, float]:
    """(rho, low, high): mean over lengths of Spearman's correlation within a length, with its 95 % interval.

    x_ML, y_ML: values of each method at each length (or other setting), NaN where there is none. Lengths with less than
    4 methods or a constant side are left out; NaN if that leaves none. No interval (NaN) with fewer than MIN_METHODS
    methods at a length, or if rho is 1 or -1 whichever method is left out. Pooling lengths would mix in their effect.

    Jackknife of Fisher's z, leaving out one method with all its lengths at a time (Efron and Tibshirani 1993, chapter
    11), with Student's t. A percentile bootstrap covers .92 to .95 with 11 methods and 5 lengths.
    """
    n_methods_L = np.isfinite(x_ML + y_ML).sum(axis=0)
    rho_L = spearman(x_ML, y_ML)
    used_L = (n_methods_L >= 4) & np.isfinite(rho_L)
    if not used_L.any():
        return math.nan, math.nan, math.nan
    rho = float(rho_L[used_L].mean())
    x_ML = x_ML[:, used_L]
    y_ML = y_ML[:, used_L]
    rho_M = []  # without each method
    for i in range(len(x_ML)):
        rho_L = spearman(np.delete(x_ML, i, axis=0), np.delete(y_ML, i, axis=0))
        rho_M.append(np.nan_to_num(rho_L).mean())
    clipped = np.clip([rho, *rho_M], -0.999, 0.999)
    z, *z_M = np.arctanh(clipped)
    n_methods = n_methods_L[used_L].min()
    if n_methods < MIN_METHODS or np.ptp(z_M) == 0:
        return rho, math.nan, math.nan
    df = n_methods - 1
    error = np.std(z_M) * math.sqrt(df * len(z_M) / n_methods)
    half = scipy.stats.t.ppf(0.975, df) * error
    return rho, math.tanh(z - half), math.tanh(z + half)
