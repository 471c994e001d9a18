"""Do perplexity and LongPPL rank the methods as the benchmarks do? Spearman's rank correlation, within a length.

Lengths are never pooled: length changes perplexity and scores far more than a method does.
"""

from itertools import product

import pandas as pd

from collect import BENCHMARKS
from plots import LEGEND_LINE, draw_grid, plain_log_axis
from scores import PERPLEXITIES
from stats import rank_correlation

EXACT = "exact attention, fine-tuned"  # the methods of which the paper claims a correlation
MEASURES = {"perplexity": "perplexity", "long_ppl": "LongPPL"}
CORRELATIONS = ["measure", "benchmark", "methods", "length", "n_methods", "n_points", "rho", "low", "high"]
PAIRS = ["measure", "benchmark", "label", "length", "perplexity", "score"]  # measure: of PERPLEXITIES


def pair_scores(scores, columns) -> pd.DataFrame:
    """PAIRS of perplexity, or LongPPL, on the first data set and mean score, %; needle and RULER at every length."""
    pairs = []
    perplexities = [column.scores for column in columns if column.benchmark == "perplexity"]
    if not perplexities:
        return pd.DataFrame(columns=PAIRS)
    shown = perplexities[0]
    whole = scores.query("part == ''")
    measures = whole.query("benchmark in @PERPLEXITIES and task in @shown.task")
    measures = measures[["benchmark", "label", "length", "value"]]
    measures.columns = ["measure", "label", "length", "perplexity"]
    for column in columns:
        if column.lower_is_better:
            continue
        own = column.scores.assign(length=shown.length.iloc[0])
        if column.benchmark in ("needle", "ruler"):
            own = whole.query("benchmark == @column.benchmark and task in @own.task")
        groups = own.groupby(["label", "length"], sort=False, as_index=False)
        means = groups.agg(score=("value", "mean"), n_tasks=("task", "size"))
        complete = means[means.n_tasks == own.task.nunique()]
        pairs.append(complete.merge(measures).assign(benchmark=column.benchmark))
    return pd.concat(pairs)[PAIRS] if pairs else pd.DataFrame(columns=PAIRS)


def correlate(points) -> tuple:
    """Numbers of methods and points, and rho, low, high of these pairs, the mean over their lengths."""
    wide = points.pivot(index="label", columns="length").astype(float)
    rho, low, high = rank_correlation(wide.perplexity.to_numpy(), wide.score.to_numpy())
    return len(wide), len(points), rho, low, high


def correlations(pairs, rows) -> pd.DataFrame:
    """The correlation of each measure and benchmark, for all methods and EXACT, at each length and their mean."""
    labels = [row.label for row in rows if row.group == EXACT]
    lines = []
    for key, points in pairs.groupby(["measure", "benchmark"], sort=False):
        points = points[["label", "length", "perplexity", "score"]]
        exact = points[points.label.isin(labels)]
        for methods, own in (("all methods", points), (EXACT, exact)):
            by_length = own.groupby("length")
            for length, part in by_length:
                lines.append((*key, methods, f"{length:g}", *correlate(part)))
            if len(by_length) > 1:
                lines.append((*key, methods, "mean of lengths", *correlate(own)))
    return pd.DataFrame(lines, columns=CORRELATIONS)


def format_rho(line) -> str:
    """rho with its interval, – if there is none."""
    interval = f" [{line.low:.2f}, {line.high:.2f}]".replace(" [nan, nan]", "")
    return f"{line.rho:.2f}{interval}".replace("nan", "–")


def draw(rows, pairs, table):
    """Score against perplexity, below it against LongPPL, a panel for each benchmark."""
    benchmarks = pairs.benchmark.unique()
    measures = [measure for measure in PERPLEXITIES if measure in set(pairs.measure)]
    note = "larger: longer; open: frozen; needle and RULER at every length, the others at Table 1's"
    height = max(3, LEGEND_LINE * len(rows) / len(measures))
    figure, panels = draw_grid(len(measures), len(benchmarks), 2.6, height, note)
    places = product(measures, benchmarks)
    for panel, (measure, benchmark) in zip(panels.flat, places, strict=True):
        shown = "measure == @measure and benchmark == @benchmark"
        points = pairs.query(shown)
        points = points.assign(size=20 * points.length.rank(method="dense"))
        for row in rows:  # each in every panel, so that the legend has them all
            panel.scatter(
                "perplexity",
                "score",
                "size",
                data=points[points.label == row.label],
                label=row.label,
                marker=row.marker,
                edgecolor=row.color,
                facecolor="none" if row.kind == "frozen" else row.color,
                alpha=0.85,
            )
        panel.set(xscale="log", ylim=(-4, 104))
        plain_log_axis(panel.xaxis)
        panel.grid()
        panel.set_xlabel(f"{MEASURES[measure]} (log scale)")
        totals = table.query(f"{shown} and methods == 'all methods'")
        rho = format_rho(totals.iloc[-1]) if len(totals) else "–"
        panel.set_title(f"{BENCHMARKS[benchmark]}\nρ = {rho}")
    for panel in panels[:, 0]:
        panel.set_ylabel("score, %")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure
