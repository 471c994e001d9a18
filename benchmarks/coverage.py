"""How often the intervals of common/stats.py contain the true value: simulated studies, in one table.

    python benchmarks/coverage.py            a few minutes on a CPU
    python benchmarks/coverage.py --quick    a quarter of the studies, in one minute

Nominal is 0.95. The exit status is 1 if less than 0.93 is covered at a size of presets/paper.sh (the upper part of the
table), or less than 0.90 at one of the pocket study. Each study draws new data of which the truth is known:

documents   Losses of tokens, nats: noise of a token, local correlation, an effect of the document (sizes as measured
            on held-out text). Ten documents of log-normal lengths (median `size` tokens); windows every 256 tokens.
tasks       Each task has a true score; its samples are the mean of one or more right or wrong answers.
needle      The trials of a cell share its text and true rate, which is drawn from Beta(.5, .5). With drawn_text each
            trial has an easy or hard text (logit, sd 1), and the cells are unlike (logits -4 to 3).
ranks       Methods with a lasting strength on both sides, related or not. The length raises or lowers both sides, far
            more than methods differ.

With methods=11 the first three simulate ties: the methods are equally good, samples are easier or harder for all of
them, and the marks are counted that such a method keeps.
"""

import math
import sys
from collections.abc import Callable
from functools import partial

from machine import print_head, print_row
from run import Parser, run_script

import numpy as np
import scipy.signal
import scipy.stats
from scipy.special import expit

from stats import Estimate, mean_over_documents, mean_over_grid, mean_over_tasks, rank_correlation, tied_with_best

CELL = 64  # tokens; losses are simulated as means over so many
STRIDE = 256  # tokens between window starts
LOCAL = 500  # tokens, over which losses are correlated
ALL = (2.5, 0.4, 0.15)  # standard deviations of a token's noise, of the local correlation and of documents
BETWEEN_METHODS = (1, 0.2, 0.03)  # what is left of them in the difference of two methods


def outcome(estimate: Estimate, truth: float) -> float:
    """Of one mean whether its interval contains the truth; of several equal methods the share that keeps its mark."""
    if len(estimate.mean_M) > 1:
        return tied_with_best(estimate).mean()
    low, high = estimate.interval() or (math.nan, math.nan)  # too few documents for one: counted as a miss
    return low <= truth <= high


def draw_losses(rng, document_N: np.ndarray, sd: tuple) -> np.ndarray:
    """Mean loss of each cell, nats [N], of true mean 0. sd: see ALL."""
    token, local, document = sd
    n_cells = len(document_N)
    decay = math.exp(-CELL / LOCAL)
    noise = local * math.sqrt(1 - decay**2)
    noise_N = rng.normal(0, noise, n_cells)
    local_N = scipy.signal.lfilter([1], [1, -decay], noise_N)
    token_N = rng.normal(0, token / math.sqrt(CELL), n_cells)
    effect_D = rng.normal(0, document, document_N[-1] + 1)
    return token_N + local_N + effect_D[document_N]


def documents(rng, size: int, length: int, windows=None, methods=1) -> float:
    """windows: size of the random sample [all]."""
    cells_D = rng.lognormal(math.log(size), 0.6, 10).astype(int) // CELL
    document_N = np.repeat(np.arange(len(cells_D)), cells_D)
    starts = np.arange(0, CELL * len(document_N) - length, STRIDE)
    if windows:
        starts = rng.choice(starts, windows, replace=False)
    windows_N = np.zeros(len(document_N))  # number of windows that contain each cell
    for start in starts:
        windows_N[start // CELL : (start + length) // CELL] += 1

    shared_N = draw_losses(rng, document_N, ALL)
    sums = []
    for _ in range(methods):
        loss_N = shared_N
        if methods > 1:
            loss_N = shared_N + draw_losses(rng, document_N, BETWEEN_METHODS)
        sums.append(np.bincount(document_N, windows_N * loss_N))
    targets_D = np.bincount(document_N, windows_N)
    return outcome(mean_over_documents(sums, targets_D), 0)


def tasks(rng, count: int, n: int, low: float, high: float, answers=1, methods=1) -> float:
    """`count` tasks of n samples with true scores from `low` to `high`. answers: of a sample."""
    samples = []
    rates = np.linspace(low, high, count)
    for rate in rates:
        rate_n = rate if methods == 1 else rng.beta(1, 1, n)
        samples.append(rng.binomial(answers, rate_n, (methods, n)) / answers)
    return outcome(mean_over_tasks(samples), rates.mean())


def needle(rng, cells: int, trials: int, drawn_text: bool, methods=1) -> float:
    if drawn_text:
        cell_C1 = np.linspace(-4, 3, cells)[:, None]
        rate_CT = expit(cell_C1 + rng.normal(size=trials))
        quantiles = scipy.stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
        truth = expit(cell_C1 + quantiles).mean()
    else:
        rate_CT = np.repeat(rng.beta(0.5, 0.5, (cells, 1)), trials, axis=1)
        truth = 0.5
    score_MCT = rng.binomial(1, rate_CT, (methods, cells, trials))
    return outcome(mean_over_grid(score_MCT, drawn_text), truth)


def ranks(rng, methods: int, lengths: int, relation: float) -> float:
    """relation: Pearson's correlation of the two sides within each length."""
    draw_sides = partial(rng.multivariate_normal, [0, 0], [[1, relation], [relation, 1]])
    lasting_M12 = draw_sides((methods, 1))
    other_ML2 = draw_sides((methods, lengths))
    length_L2 = rng.normal(0, 5, (lengths, 2))
    value_ML2 = lasting_M12 + other_ML2 + length_L2
    x_ML, y_ML = np.moveaxis(value_ML2, 2, 0)
    _, low, high = rank_correlation(x_ML, y_ML)
    truth = 6 / math.pi * math.asin(relation / 2)  # Spearman's of a normal distribution
    return low <= truth <= high


def simulate_case(studies: int, function: Callable, **settings) -> float:
    """Prints the row of a case, and returns what it covers. function: of a random generator and the settings."""
    if function is not ranks and "methods" in settings:
        studies //= 5  # of ties
    rng = np.random.default_rng(0)
    shares = [function(rng, **settings) for _ in range(studies)]
    actual = np.mean(shares)
    error = scipy.stats.sem(shares, ddof=0)
    texts = [f"{name} {value}" for name, value in settings.items()]
    name = f"{function.__name__}: {', '.join(texts)}"
    print_row(name, studies, f"{actual:.3f}", f"{error:.3f}")
    return actual


def main():
    parser = Parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the studies")
    studies = 500 if parser.parse_args().quick else 2000
    simulate = partial(simulate_case, studies)
    print_head("simulated", "studies", "actual", "standard error")
    paper = [
        simulate(documents, size=80_000, length=2048),
        simulate(documents, size=80_000, length=65536),
        simulate(documents, size=80_000, length=32768, methods=11),
        simulate(tasks, count=13, n=500, low=0, high=1),
        simulate(tasks, count=16, n=200, low=0.1, high=0.6, answers=4),
        simulate(tasks, count=1, n=200, low=0.7, high=0.7),
        simulate(tasks, count=13, n=500, low=0, high=1, methods=11),
        simulate(needle, cells=200, trials=1, drawn_text=False),
        simulate(needle, cells=200, trials=16, drawn_text=True),
        simulate(needle, cells=200, trials=16, drawn_text=True, methods=11),
        simulate(ranks, methods=11, lengths=5, relation=0),
        simulate(ranks, methods=11, lengths=5, relation=-0.8),
    ]
    pocket = [
        simulate(documents, size=16_000, length=256, windows=48),
        simulate(documents, size=16_000, length=2048, windows=8),
        simulate(documents, size=16_000, length=1024, windows=16, methods=11),
        simulate(tasks, count=13, n=5, low=0.05, high=0.05),
        simulate(tasks, count=5, n=24, low=0.1, high=0.5, answers=4),
        simulate(tasks, count=1, n=24, low=0.3, high=0.3),
        simulate(tasks, count=13, n=5, low=0, high=1, methods=11),
        simulate(needle, cells=20, trials=6, drawn_text=True),
        simulate(needle, cells=20, trials=6, drawn_text=True, methods=11),
        simulate(ranks, methods=11, lengths=4, relation=0),
    ]
    print(f"lowest {min(paper + pocket):.3f}")
    if min(paper) < 0.93 or min(pocket) < 0.90:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
