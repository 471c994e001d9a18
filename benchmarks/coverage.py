"""How often the intervals of common/stats.py hold the true value: simulated studies, in one table.

    python benchmarks/coverage.py --quick        1,000 studies a case (ties: 200)
    python benchmarks/coverage.py                2,000 (ties: 400), as in README.md

Nominal is 0.95. Actual must be 0.93 to 0.98 at the sizes of the paper's study (presets/paper.sh), at least 0.90 at
those of the pocket study (presets/pocket.sh); --quick allows two standard errors of the simulation more. The exit
status is 1 if a case is outside. Each study draws new data; what is true of all data is known:

documents     Losses of tokens, nats: noise of a token (sd 2.5), local correlation (sd .4, over about 500 tokens), an
              effect of the document (sd .15, as measured on held-out text). Ten documents; windows every 256 tokens,
              each split between its documents. The documents have the lengths of the pocket study's, log-normal ones
              around 80,000 tokens ("books") or 32,768 and more ("papers"). "difference": of two methods, which share
              most of all three.
tasks         Each task has a true score; its samples are right or wrong, or the mean of four such ("shares").
grid          Needle. "fixed text": every cell has a true rate of its own for its text, Beta(.5, .5), and its trials
              share the text. "drawn text": an easy or hard text for each trial (logit, sd 1), cells unlike (sd 2).
ties          Equal methods; samples are easier or harder for all of them. Counted: marks of methods that kept theirs.
ranks         Methods with a lasting strength on both sides, related or not. The length raises or lowers both sides, far
              more than methods differ.
"""

import math
import sys
from functools import partial
from multiprocessing import Pool

import numpy as np
import scipy.signal
from harness import ROOT, print_head, print_row
from scipy.special import expit

from run import Parser, run_script
from stats import mean_over_documents, mean_over_grid, mean_over_tasks, rank_correlation, tied_with_best

sys.path.insert(0, str(ROOT / "eval_perplexity"))
from windows import subsample, window_starts  # noqa: E402

CELL = 64  # tokens; losses are simulated as means over so many
STRIDE = 256  # tokens between window starts
LOCAL = 500  # tokens, over which losses are correlated
POCKET_DOCUMENTS = 1000 * np.array([5, 8, 10, 12, 15, 18, 22, 26, 30, 36])  # tokens
EASE = (-4, 3)  # logits of the hardest and the easiest cell
LIMITS = {"paper": (0.93, 0.98), "pocket": (0.90, 1.0)}  # of coverage, by the study whose sizes are simulated
METHODS = 11  # rows of Table 1


def draw_windows(rng, kind: str, length: int, max_windows: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(document of each cell of CELL tokens [N], starts of the windows in tokens [W]) of ten documents."""
    if kind == "books":
        tokens_D = rng.lognormal(math.log(80_000), 0.6, 10)
    elif kind == "papers":
        tokens_D = 32_768 + rng.exponential(25_000, 10)
    else:
        tokens_D = rng.permutation(POCKET_DOCUMENTS)
    cells_D = tokens_D.astype(int) // CELL
    document_N = np.repeat(np.arange(len(cells_D)), cells_D)
    starts_W = window_starts(CELL * len(document_N), length, STRIDE)
    return document_N, subsample(starts_W, max_windows, seed=int(rng.integers(2**32)))


def cell_losses(rng, document_N: np.ndarray, token: float, local: float, document: float) -> np.ndarray:
    """Mean loss of each cell, nats [N], of true mean 0. The last three are standard deviations."""
    n_cells = len(document_N)
    decay = math.exp(-CELL / LOCAL)
    noise_N = rng.normal(0, local * math.sqrt(1 - decay**2), n_cells)
    local_N = scipy.signal.lfilter([1], [1, -decay], noise_N)
    token_N = rng.normal(0, token / math.sqrt(CELL), n_cells)
    effect_D = rng.normal(0, document, document_N[-1] + 1)
    return token_N + local_N + effect_D[document_N]


def split(loss_N: np.ndarray, document_N: np.ndarray, starts_W: np.ndarray, length: int) -> tuple:
    """(summed losses, numbers of targets) over the windows of each document, both [D], in cells."""
    total = np.concatenate([[0], np.cumsum(loss_N)])
    bounds = np.searchsorted(document_N, np.arange(document_N[-1] + 2))
    first_W1 = starts_W[:, None] // CELL
    low_WD = np.maximum(first_W1, bounds[:-1])
    high_WD = np.minimum(first_W1 + length // CELL, bounds[1:])
    high_WD = np.maximum(high_WD, low_WD)  # a document outside the window
    sum_WD = total[high_WD] - total[low_WD]
    return sum_WD.sum(axis=0), (high_WD - low_WD).sum(axis=0)


def holds(interval: tuple, truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


def documents(rng, kind, length, max_windows=None, last=None, token=2.5, local=0.4, document=0.15) -> bool:
    """last: only the last targets of each window, so many.  token, local, document: standard deviations."""
    document_N, starts_W = draw_windows(rng, kind, length, max_windows)
    loss_N = cell_losses(rng, document_N, token, local, document)
    last = last or length
    sums = split(loss_N, document_N, starts_W + length - last, last)
    return holds(mean_over_documents(*sums).interval(), 0)


def draw_scores(rng, rate, shape, answers: int = 1) -> np.ndarray:
    """Scores of samples: each the mean of `answers` right or wrong ones, right at this rate."""
    return rng.binomial(answers, rate, shape) / answers


def tasks(rng, rates, n, answers=1, weights=None) -> bool:
    samples = [draw_scores(rng, rate, n, answers) for rate in rates]
    return holds(mean_over_tasks(samples, weights).interval(), np.average(rates, weights=weights))


def fixed_text(rng, cells, trials) -> bool:
    rate_C1 = rng.beta(0.5, 0.5, (cells, 1))
    score_CT = draw_scores(rng, rate_C1, (cells, trials))
    return holds(mean_over_grid(score_CT, drawn_text=False).interval(), 0.5)


def drawn_rates(rng, cells: int, trials: int) -> np.ndarray:
    """Rates of a needle grid whose trials have texts of their own, [C, T]."""
    return expit(np.linspace(*EASE, cells)[:, None] + rng.normal(0, 1, trials))


def drawn_text(rng, cells, trials) -> bool:
    rate_CT = drawn_rates(rng, cells, trials)
    score_CT = draw_scores(rng, rate_CT, rate_CT.shape)
    text, weight = np.polynomial.hermite_e.hermegauss(40)
    cell_C1 = np.linspace(*EASE, cells)[:, None]
    truth = np.average(expit(cell_C1 + text).mean(axis=0), weights=weight)
    return holds(mean_over_grid(score_CT, drawn_text=True).interval(), truth)


def tied_tasks(rng, n_tasks, n, answers=1) -> float:
    samples = []
    for _ in range(n_tasks):
        rate_n = rng.beta(1, 1, n)
        samples.append(draw_scores(rng, rate_n, (METHODS, n), answers))
    return tied_with_best(mean_over_tasks(samples)).mean()


def tied_grid(rng, cells, trials) -> float:
    rate_CT = drawn_rates(rng, cells, trials)
    score_MCT = draw_scores(rng, rate_CT, (METHODS, cells, trials))
    return tied_with_best(mean_over_grid(score_MCT, drawn_text=True)).mean()


def tied_documents(rng, kind, length, max_windows=None) -> float:
    document_N, starts_W = draw_windows(rng, kind, length, max_windows)
    shared_N = cell_losses(rng, document_N, 2.5, 0.4, 0.15)
    sums = []
    for _ in range(METHODS):
        loss_N = shared_N + cell_losses(rng, document_N, **DIFFERENCE)
        sum_D, target_D = split(loss_N, document_N, starts_W, length)
        sums.append(sum_D)
    return tied_with_best(mean_over_documents(sums, target_D), lower_is_better=True).mean()


def ranks(rng, methods, lengths, relation=0.0) -> bool:
    """relation: Pearson's correlation of the two sides within each length."""
    sides = [[1, relation], [relation, 1]]
    lasting_M12 = rng.multivariate_normal([0, 0], sides, (methods, 1))
    other_ML2 = rng.multivariate_normal([0, 0], sides, (methods, lengths))
    length_L2 = rng.normal(0, 5, (lengths, 2))
    value_ML2 = lasting_M12 + other_ML2 + length_L2
    _, *interval = rank_correlation(value_ML2[..., 0], value_ML2[..., 1])
    return holds(interval, 6 / math.pi * math.asin(relation / 2))  # Spearman's of a normal distribution


INDEPENDENT = dict(local=0, document=0)
LOCAL_ONLY = dict(document=0)
DIFFERENCE = dict(token=1, local=0.2, document=0.03)  # what is left of 2.5, .4 and .15 between two methods
CATEGORIES = np.repeat([3, 3, 3, 3, 2, 2], [3, 3, 3, 3, 2, 2])  # LongBench: sets in the category of each set
LOW = np.linspace(0.1, 0.6, 16)
UNLIKE = [0] * 9 + [0.5] * 2
CASES = [  # whose sizes, what is simulated, function of a random generator and its arguments
    ("paper", "documents: books, 2,048 tokens; independent tokens", documents, ("books", 2048), INDEPENDENT),
    ("paper", "the same; local correlation", documents, ("books", 2048), LOCAL_ONLY),
    ("paper", "the same; document effects too", documents, ("books", 2048), {}),
    ("paper", "documents: books, 32,768 tokens", documents, ("books", 32768), {}),
    ("paper", "documents: books, 65,536 tokens", documents, ("books", 65536), {}),
    ("paper", "documents: papers, 32,768 tokens", documents, ("papers", 32768), {}),
    ("paper", "documents: papers, 65,536 tokens", documents, ("papers", 65536), {}),
    ("paper", "the same; last 256", documents, ("papers", 65536), dict(last=256)),
    ("paper", "documents: papers, 32,768; difference", documents, ("papers", 32768), DIFFERENCE),
    ("pocket", "documents: 64 tokens, 200 windows", documents, ("pocket", 64, 200), {}),
    ("pocket", "documents: 512 tokens, 50 windows", documents, ("pocket", 512, 50), {}),
    ("pocket", "the same; difference", documents, ("pocket", 512, 50), DIFFERENCE),
    ("pocket", "documents: 2,048 tokens, 20 windows", documents, ("pocket", 2048, 20), {}),
    ("paper", "tasks: 13 x 500, all .3", tasks, ([0.3] * 13, 500), {}),
    ("paper", "tasks: 13 x 500, 0 to 1", tasks, (np.linspace(0, 1, 13), 500), {}),
    ("paper", "tasks: 16 x 200 in categories, shares", tasks, (LOW, 200, 4, 1 / CATEGORIES), {}),
    ("paper", "tasks: 1 x 200, .7", tasks, ([0.7], 200), {}),
    ("pocket", "tasks: 11 x 6, all .05", tasks, ([0.05] * 11, 6), {}),
    ("pocket", "tasks: 11 x 6, nine 0, two .5", tasks, (UNLIKE, 6), {}),
    ("pocket", "tasks: 11 x 6, all .5", tasks, ([0.5] * 11, 6), {}),
    ("pocket", "tasks: 5 x 24, shares", tasks, (LOW[::3][:5], 24, 4), {}),
    ("pocket", "tasks: 1 x 24, .2", tasks, ([0.2], 24), {}),
    ("paper", "grid: 200 x 1, fixed text", fixed_text, (200, 1), {}),
    ("paper", "grid: 200 x 16, drawn text", drawn_text, (200, 16), {}),
    ("pocket", "grid: 25 x 16, fixed text", fixed_text, (25, 16), {}),
    ("pocket", "grid: 25 x 16, drawn text", drawn_text, (25, 16), {}),
    ("paper", "ties: tasks, 13 x 500", tied_tasks, (13, 500), {}),
    ("paper", "ties: tasks, 16 x 200, shares", tied_tasks, (16, 200, 4), {}),
    ("paper", "ties: grid, 200 x 16", tied_grid, (200, 16), {}),
    ("paper", "ties: books, 32,768 tokens", tied_documents, ("books", 32768), {}),
    ("paper", "ties: papers, 32,768 tokens", tied_documents, ("papers", 32768), {}),
    ("pocket", "ties: tasks, 11 x 6", tied_tasks, (11, 6), {}),
    ("pocket", "ties: tasks, 5 x 24, shares", tied_tasks, (5, 24, 4), {}),
    ("pocket", "ties: grid, 25 x 16", tied_grid, (25, 16), {}),
    ("pocket", "ties: 512 tokens, 50 windows", tied_documents, ("pocket", 512, 50), {}),
    ("paper", "ranks: 11 methods, 5 lengths, no relation", ranks, (11, 5), {}),
    ("paper", "ranks: 11 methods, 5 lengths, r = .5", ranks, (11, 5, 0.5), {}),
    ("paper", "ranks: 11 methods, 5 lengths, r = -.8", ranks, (11, 5, -0.8), {}),
    ("paper", "ranks: 11 methods, 1 length, no relation", ranks, (11, 1), {}),
    ("paper", "ranks: 7 methods, 5 lengths, no relation", ranks, (7, 5), {}),
    ("pocket", "ranks: 11 methods, 2 lengths, no relation", ranks, (11, 2), {}),
]


def simulate(number: int, studies: int) -> tuple[int, float, float]:
    """(studies, share of the intervals or marks that held, its standard error) of a case; fewer studies of ties."""
    _, what, function, args, kwargs = CASES[number]
    if what.startswith("ties"):
        studies //= 5
    rng = np.random.default_rng(number)
    shares = [function(rng, *args, **kwargs) for _ in range(studies)]
    return studies, float(np.mean(shares)), float(np.std(shares)) / math.sqrt(studies)


def main():
    parser = Parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 studies a case instead of 2,000")
    args = parser.parse_args()
    numbers = range(len(CASES))
    print_head("sizes", "simulated", "studies", "nominal", "actual", "standard error", "")
    lowest, failed = 1.0, 0
    with Pool() as pool:
        results = pool.imap(partial(simulate, studies=1000 if args.quick else 2000), numbers)
        for (sizes, what, *_), (studies, actual, error) in zip(CASES, results, strict=True):
            low, high = LIMITS[sizes]
            allowance = 2 * error if args.quick else 0
            outside = not low - allowance <= actual <= high + allowance
            note = f"outside {low} to {high}" if outside else ""
            print_row(sizes, what, studies, "0.95", f"{actual:.3f}", f"{error:.3f}", note)
            lowest = min(lowest, actual)
            failed += outside
    print(f"lowest {lowest:.3f}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    run_script(main)
