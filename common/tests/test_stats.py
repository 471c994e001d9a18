"""stats.py against scipy, closed forms and cases made by hand."""

import math

import numpy as np
import pytest
import scipy.stats

from stats import mean_over_documents, mean_over_grid, mean_over_tasks, rank_correlation, tied_with_best, wilson

RNG = np.random.default_rng(5)


def t_interval(values):
    return scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))


def test_wilson_equals_scipy():
    for k, n in ((0, 20), (7, 20), (20, 20), (3, 1000)):
        expected = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_equal_documents_have_the_t_interval_of_their_means():
    loss_D, other_D = RNG.normal(3, 0.2, (2, 10))
    estimate = mean_over_documents(500 * loss_D, [500] * 10)
    assert estimate.mean_M == pytest.approx([loss_D.mean()]) and estimate.n_units == 10
    assert estimate.interval() == pytest.approx(t_interval(loss_D))
    paired = mean_over_documents(500 * (loss_D - other_D), [500] * 10)
    assert paired.interval() == pytest.approx(t_interval(loss_D - other_D))


def test_unequal_documents_are_left_out_one_by_one():
    loss_D, target_D = RNG.normal(3, 0.2, 6), np.array([1, 1, 2, 3, 5, 8])
    without = [np.average(np.delete(loss_D, d), weights=np.delete(target_D, d)) for d in range(6)]
    standard_error = math.sqrt(5 / 6 * np.sum((without - np.mean(without)) ** 2))
    df = 400 / (1 + 1 + 4 + 9 + 25 + 64) - 1
    expected = scipy.stats.t.interval(0.95, df, np.average(loss_D, weights=target_D), standard_error)
    estimate = mean_over_documents([*loss_D * target_D, 0], [*target_D, 0])  # the last one has no window
    assert estimate.n_units == 6 and estimate.interval() == pytest.approx(expected)


@pytest.mark.parametrize("target_D", [[9], [9, 0], [97, 3]])
def test_one_document_or_nearly_one_has_no_interval(target_D):
    assert mean_over_documents(2.0 * np.array(target_D) + 0.5, target_D).interval() is None


def test_one_task_has_the_error_of_its_mean_and_two_have_welchs_degrees_of_freedom():
    first, second = RNG.normal(0.5, 0.1, 12), RNG.normal(0.5, 0.3, 7)
    assert mean_over_tasks([first]).standard_error == pytest.approx(scipy.stats.sem(first))
    difference = mean_over_tasks([first, -second], highest=None)  # half of it
    welch = scipy.stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert difference.interval() == pytest.approx((welch.low / 2, welch.high / 2))
    assert mean_over_tasks([first], highest=None).interval() == pytest.approx(t_interval(first))


def test_bounded_scores_have_wilsons_interval():
    task = np.repeat([0.0, 1.0], [40, 160])
    t = scipy.stats.t.ppf(0.975, 199)
    expected = np.array(wilson(0.8 * 199, 199, t))  # variance p (1 - p) / (n - 1)
    assert mean_over_tasks([task]).interval() == pytest.approx(expected)
    assert mean_over_tasks([100 * task], highest=100).interval() == pytest.approx(100 * expected)
    for score in (0.0, 0.3, 1.0):  # without variance: never of zero width
        assert mean_over_tasks([[score] * 6] * 11).interval() == pytest.approx(wilson(score * 66, 66))
    assert mean_over_tasks([[1.0], [0.0]]).standard_error > 0  # single samples count as of one task
    assert mean_over_tasks([[1.0]]).interval() == pytest.approx(wilson(1, 1))
    low, high = mean_over_tasks([[1.0] * 200, [1.0]]).interval()  # tasks of unlike sizes, no variance
    assert 0 < low < high == 1


def test_weights_of_tasks():
    tasks = [RNG.random(5), RNG.random(8)]
    estimate = mean_over_tasks(tasks, weights=[1, 3])
    assert estimate.mean_M == pytest.approx([(tasks[0].mean() + 3 * tasks[1].mean()) / 4])
    errors = [scipy.stats.sem(task) for task in tasks]
    assert estimate.standard_error == pytest.approx(math.hypot(errors[0], 3 * errors[1]) / 4)


def test_the_units_of_a_grid_are_trials_or_cells():
    score_CT = RNG.random((6, 4))
    drawn, fixed = mean_over_grid(score_CT, drawn_text=True), mean_over_grid(score_CT, drawn_text=False)
    assert drawn.standard_error == pytest.approx(scipy.stats.sem(score_CT.mean(axis=0)))
    assert fixed.standard_error == pytest.approx(scipy.stats.sem(score_CT.mean(axis=1)))
    assert mean_over_grid(score_CT[:, :1], drawn_text=True).n_units == 6
    score_CT[2] = np.nan  # a cell without answers
    assert mean_over_grid(score_CT, drawn_text=False).n_units == 5
    assert mean_over_grid([score_CT, score_CT], drawn_text=True).mean_M == pytest.approx([np.nanmean(score_CT)] * 2)


def test_two_methods_tie_unless_the_paired_t_test_is_significant():
    """The largest of one normal value has the quantile of a one-sided test at 5 %."""
    noise = RNG.normal(0, 0.1, 30)
    for lead in np.linspace(0, 0.1, 11):
        pair = np.array([noise, RNG.permutation(noise) + lead])
        p = scipy.stats.ttest_rel(pair[1], pair[0], alternative="greater").pvalue
        if abs(p - 0.05) > 0.01:
            assert tied_with_best(mean_over_tasks([pair])).tolist() == [p > 0.05, True]
            assert tied_with_best(mean_over_tasks([-pair]), lower_is_better=True).tolist() == [p > 0.05, True]


def test_ties_of_equal_worse_and_constantly_worse_methods():
    score_U = RNG.random(40)
    scores = [score_U, score_U, score_U - 0.001, score_U - RNG.random(40), score_U + RNG.normal(0, 0.1, 40) - 0.001]
    assert tied_with_best(mean_over_tasks([scores])).tolist() == [True, True, False, False, True]
    assert tied_with_best(mean_over_tasks([[[0, 0], [1, 1], [1, 1]]])).tolist() == [False, True, True]


def test_rank_correlation_is_the_mean_of_spearmans():
    x_ML, y_ML = RNG.integers(0, 6, (9, 3)).astype(float), RNG.random((9, 3))  # with ties
    expected = [scipy.stats.spearmanr(x_ML[:, k], y_ML[:, k]).statistic for k in range(3)]
    rho, low, high = rank_correlation(x_ML, y_ML)
    assert rho == pytest.approx(np.mean(expected)) and low < rho < high
    pulled_ML = y_ML + 100 * np.arange(3)  # the length does not count
    assert rank_correlation(x_ML + 7 * np.arange(3), pulled_ML) == pytest.approx((rho, low, high))
    x_ML[2, 0] = np.nan
    expected[0] = scipy.stats.spearmanr(np.delete(x_ML[:, 0], 2), np.delete(y_ML[:, 0], 2)).statistic
    assert rank_correlation(x_ML, y_ML)[0] == pytest.approx(np.mean(expected))


def test_rank_correlation_of_one_length_is_the_jackknife_of_fishers_z():
    x_M, y_M = RNG.random(8), RNG.random(8)
    without = []
    for i in range(8):
        without.append(math.atanh(scipy.stats.spearmanr(np.delete(x_M, i), np.delete(y_M, i)).statistic))
    z = math.atanh(scipy.stats.spearmanr(x_M, y_M).statistic)
    expected = scipy.stats.t.interval(0.95, 7, z, math.sqrt(7) * np.std(without))
    assert rank_correlation(x_M[:, None], y_M[:, None])[1:] == pytest.approx(np.tanh(expected))


def test_rank_correlation_without_enough_methods():
    x_ML = np.arange(12.0).reshape(6, 2)
    assert rank_correlation(x_ML, x_ML) == pytest.approx((1, math.nan, math.nan), nan_ok=True)
    assert np.isnan(rank_correlation(x_ML[:3], x_ML[:3])).all()
    assert np.isnan(rank_correlation(np.ones((8, 2)), np.random.default_rng(0).random((8, 2)))).all()
    perfect = np.arange(8.0)[:, None]
    assert rank_correlation(perfect, -perfect) == pytest.approx((-1, math.nan, math.nan), nan_ok=True)
