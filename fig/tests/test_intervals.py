"""The statistics, against worked cases and other implementations."""

import math

import numpy as np
import pytest
import scipy.stats

from intervals import interval, resampled_means, spearman, tied, tied_unpaired, wilson

ONES = np.ones


def test_bootstrap_of_a_mean_is_that_of_the_formula():
    values = np.random.default_rng(1).normal(5, 2, 400)
    means = resampled_means([(values, ONES(400))])
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)
    low, high = interval(means)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.03)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.07)
    assert (means == resampled_means([(values, ONES(400))])).all()


def test_strata_weigh_equally_and_blocks_are_drawn_whole():
    small, large = np.array([1.0, 1.0]), np.zeros(1000)
    assert resampled_means([(small, ONES(2)), (large, ONES(1000))]).tolist() == [0.5] * 2000
    # 100 blocks of 10 equal samples are as uncertain as 100 samples, not 1,000
    values = np.random.default_rng(2).normal(size=100)
    blocks = resampled_means([(10 * values, np.full(100, 10))])
    assert blocks.std() == pytest.approx(values.std() / 10, rel=0.06)


def test_ties_are_found_in_pairs():
    """Two methods that fail on the same hard samples: the difference is certain although the intervals overlap."""
    hard = np.random.default_rng(3).random(200) < 0.5
    one = np.where(hard, 0.0, 1.0)
    other = one.copy()
    other[np.flatnonzero(one)[:12]] = 0  # worse on 12 samples, better on none
    assert not tied([(one - other, ONES(200))])
    low, high = (interval(resampled_means([(x, ONES(200))])) for x in (other, one))
    assert low[1] > high[0]
    assert tied_unpaired((one.mean(), *high), (other.mean(), *low))
    swapped = np.random.default_rng(4).permutation(one)
    assert tied([(one - swapped, ONES(200))])


def test_unpaired_by_the_standard_errors():
    assert tied_unpaired((10, 9, 11), (11.3, 10.3, 12.3)) and not tied_unpaired((10, 9, 11), (11.5, 10.5, 12.5))


def test_wilson_against_scipy():
    for k, n in ((0, 20), (7, 20), (20, 20)):
        theirs = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_rank_correlation_against_scipy():
    rng = np.random.default_rng(5)
    x = rng.integers(0, 12, 30).astype(float)  # with ties
    y = -x + rng.normal(0, 4, 30)
    rho, low, high = spearman(x, y, np.arange(30))
    assert rho == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    theirs = scipy.stats.bootstrap(
        (x, y), lambda a, b: scipy.stats.spearmanr(a, b).statistic, paired=True, vectorized=False, n_resamples=500,
        method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.08)
    # clusters of unequal size: one by one
    cluster = np.sort(rng.integers(0, 8, 30))
    again, names, values = np.random.default_rng(0), np.unique(cluster), []
    for drawn in again.integers(len(names), size=(2000, len(names))):
        chosen = np.concatenate([np.flatnonzero(cluster == names[i]) for i in drawn])
        values.append(scipy.stats.spearmanr(x[chosen], y[chosen]).statistic)
    assert spearman(x, y, cluster) == pytest.approx((rho, *interval(np.array(values))), abs=1e-9)
    # the lengths of a method are drawn together: ten copies of each point say no more than the points
    again = spearman(np.repeat(x, 10), np.repeat(y, 10), np.repeat(np.arange(30), 10))
    assert again == pytest.approx((rho, low, high), abs=1e-9)


def test_no_rank_correlation_of_too_little():
    three = np.array([1.0, 2.0, 3.0])
    assert spearman(three, three, np.arange(3)) is None
    four = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(four, np.ones(4), np.arange(4)) is None
    rho, low, high = spearman(four, -four, np.arange(4))
    assert rho == pytest.approx(-1) and not math.isnan(low) and not math.isnan(high)
