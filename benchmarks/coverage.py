"""How often the intervals of common/stats.py contain the true value: simulated studies, in one table.

    python benchmarks/coverage.py

Nominal is 0.95. Actual must be 0.93 to 0.98 at the sizes of the paper's study (presets/paper.sh), at least 0.90 at
those of the pocket study (presets/pocket.sh); the exit status is 1 if a case is outside. Each study draws new data of
which the truth is known:

documents   Losses of tokens, nats: noise of a token, local correlation, an effect of the document (ALL, as measured on
            held-out text). Ten documents of log-normal lengths (median `size` tokens); windows every 256 tokens.
tasks       Each task has a true score; its samples are the mean of one or more right or wrong answers.
fixed_text  Needle: the trials of a cell share its text and true rate, which is drawn from Beta(.5, .5).
drawn_text  Needle: each trial has an easy or hard text (logit, sd 1); the cells are unlike (logits -4 to 3).
ranks       Methods with a lasting strength on both sides, related or not. The length raises or lowers both sides, far
            more than methods differ.

With methods=11 the first four simulate ties: the methods are equally good, samples are easier or harder for all of
them, and the marks are counted that such a method keeps.
"""

import math
import sys
from multiprocessing import Pool

import numpy as np
import scipy.signal
import scipy.stats
from harness import ROOT, print_head, print_row
from scipy.special import expit

from run import Parser, run_script
from stats import Estimate, mean_over_documents, mean_over_grid, mean_over_tasks, rank_correlation, tied_with_best

sys.path.insert(0, str(ROOT / "eval_perplexity"))
from windows import subsample, window_starts  # noqa: E402

STUDIES = 2000  # of a case; of ties a fifth
CELL = 64  # tokens; losses are simulated as means over so many
STRIDE = 256  # tokens between window starts
LOCAL = 500  # tokens, over which losses are correlated
LIMITS = {"paper": (0.93, 0.98), "pocket": (0.90, 1.0)}  # of coverage, by the study whose sizes are simulated
ALL = (2.5, 0.4, 0.15)  # standard deviations of a token's noise, of the local correlation and of documents
BETWEEN_METHODS = (1, 0.2, 0.03)  # what is left of them in the difference of two methods


def outcome(estimate: Estimate, truth: float) -> float:
    """Of one mean whether its interval contains the truth; of several equal methods the share that keeps its mark."""
    if len(estimate.mean_M) > 1:
        return tied_with_best(estimate).mean()
    low, high = estimate.interval()
    return low <= truth <= high


def draw_losses(rng, document_N: np.ndarray, sd: tuple) -> np.ndarray:
    """Mean loss of each cell, nats [N], of true mean 0. sd: see ALL."""
    token, local, document = sd
    n_cells = len(document_N)
    decay = math.exp(-CELL / LOCAL)
    noise_N = rng.normal(0, local * math.sqrt(1 - decay**2), n_cells)
    local_N = scipy.signal.lfilter([1], [1, -decay], noise_N)
    token_N = rng.normal(0, token / math.sqrt(CELL), n_cells)
    effect_D = rng.normal(0, document, document_N[-1] + 1)
    return token_N + local_N + effect_D[document_N]


def documents(rng, size: int, length: int, windows=None, last=None, sd=ALL, methods=1) -> float:
    """windows: size of the sample [all].  last: only the last targets of each window, so many [all].  sd: see ALL."""
    cells_D = rng.lognormal(math.log(size), 0.6, 10).astype(int) // CELL
    document_N = np.repeat(np.arange(len(cells_D)), cells_D)
    all_starts = window_starts(CELL * len(document_N), length, STRIDE)
    windows_N = np.zeros(len(document_N))  # number of windows that contain each cell
    for start in subsample(all_starts, windows, seed=int(rng.integers(2**32))):
        end = start + length
        windows_N[(end - (last or length)) // CELL : end // CELL] += 1

    shared_N = draw_losses(rng, document_N, sd)
    sums = []
    for _ in range(methods):
        own_N = draw_losses(rng, document_N, BETWEEN_METHODS) if methods > 1 else 0
        sums.append(np.bincount(document_N, windows_N * (shared_N + own_N)))
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


def fixed_text(rng, cells: int, trials: int) -> float:
    rate_C1 = rng.beta(0.5, 0.5, (cells, 1))
    score_CT = rng.binomial(1, rate_C1, (cells, trials))
    return outcome(mean_over_grid(score_CT, drawn_text=False), 0.5)


def drawn_text(rng, cells: int, trials: int, methods=1) -> float:
    cell_C1 = np.linspace(-4, 3, cells)[:, None]
    rate_CT = expit(cell_C1 + rng.normal(size=trials))
    score_MCT = rng.binomial(1, rate_CT, (methods, cells, trials))
    quantiles = scipy.stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    truth = expit(cell_C1 + quantiles).mean()
    return outcome(mean_over_grid(score_MCT, drawn_text=True), truth)


def ranks(rng, methods: int, lengths: int, relation=0.0) -> float:
    """relation: Pearson's correlation of the two sides within each length."""
    sides = [[1, relation], [relation, 1]]
    lasting_M12 = rng.multivariate_normal([0, 0], sides, (methods, 1))
    other_ML2 = rng.multivariate_normal([0, 0], sides, (methods, lengths))
    length_L2 = rng.normal(0, 5, (lengths, 2))
    value_ML2 = lasting_M12 + other_ML2 + length_L2
    _, low, high = rank_correlation(value_ML2[..., 0], value_ML2[..., 1])
    truth = 6 / math.pi * math.asin(relation / 2)  # Spearman's of a normal distribution
    return low <= truth <= high


CASES = [  # whose sizes, function of a random generator, its settings
    ("paper", documents, dict(size=80_000, length=2048, sd=(2.5, 0, 0))),
    ("paper", documents, dict(size=80_000, length=2048, sd=(2.5, 0.4, 0))),
    ("paper", documents, dict(size=80_000, length=2048)),
    ("paper", documents, dict(size=80_000, length=65536)),
    ("paper", documents, dict(size=80_000, length=65536, last=256)),
    ("paper", documents, dict(size=80_000, length=32768, sd=BETWEEN_METHODS)),
    ("paper", documents, dict(size=80_000, length=32768, methods=11)),
    ("pocket", documents, dict(size=16_000, length=64, windows=200)),
    ("pocket", documents, dict(size=16_000, length=512, windows=50)),
    ("pocket", documents, dict(size=16_000, length=2048, windows=20)),
    ("pocket", documents, dict(size=16_000, length=512, windows=50, methods=11)),
    ("paper", tasks, dict(count=13, n=500, low=0, high=1)),
    ("paper", tasks, dict(count=16, n=200, low=0.1, high=0.6, answers=4)),
    ("paper", tasks, dict(count=1, n=200, low=0.7, high=0.7)),
    ("paper", tasks, dict(count=13, n=500, low=0, high=1, methods=11)),
    ("pocket", tasks, dict(count=11, n=6, low=0.05, high=0.05)),
    ("pocket", tasks, dict(count=5, n=24, low=0.1, high=0.5, answers=4)),
    ("pocket", tasks, dict(count=11, n=6, low=0, high=1, methods=11)),
    ("paper", fixed_text, dict(cells=200, trials=1)),
    ("pocket", fixed_text, dict(cells=25, trials=16)),
    ("paper", drawn_text, dict(cells=200, trials=16)),
    ("pocket", drawn_text, dict(cells=25, trials=16)),
    ("paper", drawn_text, dict(cells=200, trials=16, methods=11)),
    ("paper", ranks, dict(methods=11, lengths=5)),
    ("paper", ranks, dict(methods=11, lengths=5, relation=-0.8)),
    ("pocket", ranks, dict(methods=11, lengths=2)),
]


def simulate(case: tuple) -> list[float]:
    """What `outcome` gives in each study of a case; a fifth of the studies if they are of ties."""
    _, function, settings = case
    has_ties = function is not ranks and "methods" in settings
    rng = np.random.default_rng(CASES.index(case))
    studies = STUDIES // 5 if has_ties else STUDIES
    return [function(rng, **settings) for _ in range(studies)]


def main():
    Parser(__doc__).parse_args()
    print_head("sizes", "simulated", "studies", "actual", "standard error", "")
    failed = False
    with Pool() as pool:
        for case, shares in zip(CASES, pool.imap(simulate, CASES), strict=True):
            sizes, function, settings = case
            actual = np.mean(shares)
            error = np.std(shares) / math.sqrt(len(shares))
            low, high = LIMITS[sizes]
            note = "" if low <= actual <= high else f"outside {low} to {high}"
            failed = failed or bool(note)
            texts = [f"{name} {value}" for name, value in settings.items()]
            what = f"{function.__name__}: {', '.join(texts)}"
            print_row(sizes, what, len(shares), f"{actual:.3f}", f"{error:.3f}", note)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run_script(main)
