"""Does perplexity rank the methods as the benchmarks do? Spearman's rank correlation over methods."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from plots import GREY, GRID, Drawn, log_axis, plt
from rows import Row
from stats import RESAMPLES, percentile_interval
from tables import NAMES, Column

EXACT = "exact attention, fine-tuned"  # the methods of which the paper claims a correlation


def pair_scores(scores: pd.DataFrame, columns: list[Column]) -> pd.DataFrame:
    """Lines of benchmark, label, length, perplexity, score (in %): needle and RULER at every length, the others, which
    have no length, at that of Table 1. Perplexity is of the first dataset, a score the mean over what Table 1 shows."""
    names = ["benchmark", "label", "length", "perplexity", "score"]
    pairs = pd.DataFrame(columns=names)
    datasets = [column.keys[0] for column in columns if column.benchmark == "perplexity"]
    if not datasets:
        return pairs
    _, dataset, table_length, *_ = datasets[0]
    whole = scores[scores.part == ""]
    own = whole[(whole.benchmark == "perplexity") & (whole.task == dataset)]
    perplexity = own[["label", "length"]].assign(perplexity=own.value)
    for column in columns:
        if column.benchmark == "perplexity":
            continue
        if column.benchmark in ("needle", "ruler"):
            tasks = {key[1] for key in column.keys}
            own = whole[(whole.benchmark == column.benchmark) & whole.task.isin(tasks)]
            means = own.groupby(["label", "length"], sort=False).agg(score=("value", "mean"), n=("value", "size"))
            means = means[means.n == len(tasks)].reset_index()
        else:
            cells = {label: cell.numbers[0] for label, cell in column.cells.items() if not cell.missing}
            means = pd.DataFrame({"label": list(cells), "length": float(table_length), "score": list(cells.values())})
        own = means.merge(perplexity).assign(benchmark=column.benchmark)[names]
        pairs = pd.concat([pairs, own], ignore_index=True) if len(pairs) else own
    return pairs


def spearman(x_N: np.ndarray, y_N: np.ndarray, cluster_N: np.ndarray) -> tuple[float, float, float] | None:
    """Spearman's rank correlation with a 95 % bootstrap interval over clusters: (rho, low, high).

    x_N, y_N: values.  cluster_N: points that are resampled together (a method's lengths are not independent).  None
    with fewer than 4 clusters, or if one side is constant; resamples with a constant side are left out.
    """
    names = np.unique(cluster_N)
    if len(names) < 4 or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return None

    def rho(x_RN, y_RN):  # of each resample; a shorter resample is filled up with nan
        return pd.DataFrame(x_RN).rank(axis=1).corrwith(pd.DataFrame(y_RN).rank(axis=1), axis=1)

    size = np.unique(cluster_N, return_counts=True)[1].max()
    members = np.full((len(names), size), len(x_N))  # the last index is that of nan
    for i, name in enumerate(names):
        indices = np.flatnonzero(cluster_N == name)
        members[i, : len(indices)] = indices
    drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    drawn_RN = members[drawn].reshape(RESAMPLES, -1)
    values = rho(np.append(x_N, np.nan)[drawn_RN], np.append(y_N, np.nan)[drawn_RN])
    low, high = percentile_interval(values.dropna())
    return float(rho(x_N[None], y_N[None])[0]), low, high


def correlations(pairs: pd.DataFrame, rows: list[Row]) -> pd.DataFrame:
    """rho, low, high (NaN if there is none) for each benchmark, of all methods and of EXACT, at each length and over
    all lengths. Intervals: bootstrap over methods."""
    exact = [row.label for row in rows if row.group == EXACT]
    lines = []
    for benchmark, points in pairs.groupby("benchmark", sort=False):
        lengths = [f"{length:g}" for length in sorted(set(points.length))]
        for methods, chosen in (("all methods", points), (EXACT, points[points.label.isin(exact)])):
            for name in lengths + (["all lengths"] if len(lengths) > 1 else []):
                own = chosen if name == "all lengths" else chosen[chosen.length == float(name)]
                if len(own):
                    rho = spearman(own.perplexity.to_numpy(), own.score.to_numpy(), own.label.to_numpy())
                    lines.append((benchmark, methods, name, own.label.nunique(), len(own), *(rho or [np.nan] * 3)))
    names = ["benchmark", "methods", "length", "n_methods", "n_points", "rho", "low", "high"]
    return pd.DataFrame(lines, columns=names)


def figure(rows: list[Row], pairs: pd.DataFrame, table: pd.DataFrame) -> Iterator[Drawn]:
    """Score against perplexity, a panel for each benchmark; the longer, the larger."""
    if pairs.empty:
        return
    benchmarks = list(dict.fromkeys(pairs.benchmark))
    size = (2.6 * len(benchmarks) + 1.8, 3.6)
    drawing, panels = plt.subplots(1, len(benchmarks), figsize=size, layout="constrained", squeeze=False)
    for panel, benchmark in zip(panels[0], benchmarks, strict=True):
        points = pairs[pairs.benchmark == benchmark]
        sizes = 14 + 50 * (points.length.rank(method="dense") - 1) / max(1, points.length.nunique() - 1)
        for row in rows:  # each in every panel, so that the legend has them all
            own = points.label == row.label
            inside = "none" if row.frozen else row.color
            style = {"facecolor": inside, "edgecolor": row.color, "marker": row.marker, "alpha": 0.85}
            panel.scatter(points.perplexity[own], points.score[own], s=sizes[own], label=row.label, **style)
        log_axis(panel, "x", 4)
        panel.set(xlabel="perplexity (log scale)", ylim=(-4, 104))
        panel.grid(color=GRID, zorder=0)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
        total = table[(table.benchmark == benchmark) & (table.methods == "all methods")].iloc[-1]
        rho = "–" if np.isnan(total.rho) else f"{total.rho:.2f} [{total.low:.2f}, {total.high:.2f}]"
        panel.set_title(f"{NAMES[benchmark]}\nρ = {rho}", fontsize=9)
    panels[0][0].set_ylabel("score, %")
    panels[0][-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
    note = "larger: longer; open: not trained; needle and RULER at every length, the others at Table 1's"
    drawing.suptitle(note, fontsize=9, color=GREY)
    caption = "Spearman's ρ over methods and lengths; below 0, lower perplexity goes with higher scores."
    yield Drawn("correlation", "Perplexity and downstream scores", caption, drawing)
