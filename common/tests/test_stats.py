"""stats.py against scipy and against a plain loop."""

import math

import numpy as np
import pytest
import scipy.stats

from stats import bootstrap, percentile_interval, resampled_means, standard_error, wilson


def test_wilson_equals_scipy():
    for k, n in ((0, 20), (7, 20), (20, 20), (3, 1000)):
        expected = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_bootstrap_has_the_width_of_the_standard_error_and_repeats_with_its_seed():
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = percentile_interval(bootstrap(values, seed=7))
    assert standard_error(values) == pytest.approx(scipy.stats.sem(values)) and standard_error([1.0]) is None
    assert (high - low) / (2 * 1.96 * scipy.stats.sem(values)) == pytest.approx(1, abs=0.07)
    assert (bootstrap(values, seed=7) == bootstrap(list(values), seed=7)).all()
    assert (bootstrap(values, seed=7) != bootstrap(values, seed=8)).any()


def test_strata_count_the_same_and_blocks_are_drawn_whole():
    small, large = np.ones(2), np.zeros(1000)
    assert set(resampled_means([(small, np.ones(2)), (large, np.ones(1000))])) == {0.5}
    losses = np.random.default_rng(3).normal(3, 0.5, 57)
    block = np.arange(57) // 4  # of windows that overlap
    sums, counts = np.bincount(block, weights=losses), np.bincount(block)
    rng, means = np.random.default_rng(2), []
    for _ in range(1000):
        drawn = rng.integers(len(sums), size=len(sums))
        means.append(math.fsum(sums[drawn]) / counts[drawn].sum())
    assert resampled_means([(sums, counts)], seed=2, resamples=1000) == pytest.approx(means, rel=1e-14)
