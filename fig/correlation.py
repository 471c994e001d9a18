"""Do perplexity and LongPPL rank the methods as the benchmarks do? Spearman's rank correlation, within a length.

Lengths are never pooled: length changes perplexity and scores far more than a method does.
"""

import itertools

import pandas as pd

from collect import BENCHMARKS
from plots import Drawn, draw_grid, plain_log_axis
from rows import Row
from scores import PERPLEXITIES
from stats import MIN_METHODS, rank_correlation
from tables import Column

EXACT = "exact attention, fine-tuned"  # the methods of which the paper claims a correlation
MEASURES = {"perplexity": "perplexity", "long_ppl": "LongPPL"}
CORRELATIONS = ["measure", "benchmark", "methods", "length", "n_methods", "n_points", "rho", "low", "high"]
PAIRS = ["measure", "benchmark", "label", "length", "perplexity", "score"]  # measure: of PERPLEXITIES


def pair_scores(scores: pd.DataFrame, columns: list[Column]) -> pd.DataFrame:
    """PAIRS of perplexity, or LongPPL, on the first data set and mean score, %; needle and RULER at every length."""
    pairs = [pd.DataFrame(columns=PAIRS)]
    perplexities = [column.scores for column in columns if column.benchmark == "perplexity"]
    if not perplexities:
        return pairs[0]
    shown = perplexities[0]
    whole = scores.query("part == ''")
    measures = whole.query("benchmark in @PERPLEXITIES and task in @shown.task")
    measures = measures.rename(columns={"benchmark": "measure", "value": "perplexity"})
    measures = measures[["measure", "label", "length", "perplexity"]]
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
    return pd.concat(pairs, join="inner")


def correlate(points) -> dict:
    """rho, low, high of the perplexities and scores in these pairs, the mean over their lengths."""
    wide = points.pivot(index="label", columns="length", values=["perplexity", "score"]).astype(float)
    rho, low, high = rank_correlation(wide.perplexity.to_numpy(), wide.score.to_numpy())
    return {"n_methods": len(wide), "n_points": len(points), "rho": rho, "low": low, "high": high}


def correlations(pairs: pd.DataFrame, rows: list[Row]) -> pd.DataFrame:
    """The correlation of each measure and benchmark, for all methods and EXACT, at each length and their mean."""
    labels = [row.label for row in rows if row.group == EXACT]
    lines = []
    for (measure, benchmark), points in pairs.groupby(["measure", "benchmark"], sort=False):
        exact = points[points.label.isin(labels)]
        for methods, own in (("all methods", points), (EXACT, exact)):
            key = {"measure": measure, "benchmark": benchmark, "methods": methods}
            by_length = own.groupby("length")
            for length, part in by_length:
                lines.append({**key, "length": f"{length:g}", **correlate(part)})
            if len(by_length) > 1:
                lines.append({**key, "length": "mean of lengths", **correlate(own)})
    return pd.DataFrame(lines, columns=CORRELATIONS)


def format_rho(line) -> str:
    """rho with its interval, – if there is none."""
    text = f"{line.rho:.2f} [{line.low:.2f}, {line.high:.2f}]"
    return text.replace(" [nan, nan]", "").replace("nan", "–")


def draw(rows, pairs, table) -> Drawn:
    """Score against perplexity, below it against LongPPL, a panel for each benchmark."""
    benchmarks = pairs.benchmark.unique()
    measures = [measure for measure in PERPLEXITIES if measure in set(pairs.measure)]
    note = "larger: longer; open: not trained; needle and RULER at every length, the others at Table 1's"
    figure, panels = draw_grid(len(measures), len(benchmarks), 2.6, 3, note)
    totals = table.query("methods == 'all methods'").groupby(["measure", "benchmark"]).tail(1)
    totals = totals.set_index(["measure", "benchmark"]).reindex(itertools.product(measures, benchmarks))
    for panel, total in zip(panels.flat, totals.itertuples(), strict=True):
        measure, benchmark = total.Index
        points = pairs.query("measure == @measure and benchmark == @benchmark")
        sizes = 20 * points.length.rank(method="dense")
        for row in rows:  # each in every panel, so that the legend has them all
            own = points[points.label == row.label]
            panel.scatter(
                own.perplexity,
                own.score,
                sizes[own.index],
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
        panel.set_title(f"{BENCHMARKS[benchmark]}\nρ = {format_rho(total)}")
    for panel in panels[:, 0]:
        panel.set_ylabel("score, %")
    panels[0, -1].legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    caption = (
        "ρ: the mean over lengths of Spearman's correlation over methods within a length; below 0, lower perplexity "
        f"goes with higher scores. Brackets: 95 % intervals, none with fewer than {MIN_METHODS} methods."
    )
    return Drawn("correlation", "Perplexity and downstream scores", caption, figure)
