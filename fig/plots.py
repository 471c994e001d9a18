"""Figures of the rows of Table 1: lines against length, and heat-maps. Their captions are in report.html.j2."""

import math
import os
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

from rows import nearest, short, source_names
from scores import mean_of
from tables import counted

os.environ["MPLBACKEND"] = "Agg"  # there may be no screen
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator  # noqa: E402

LEGEND_LINE = 0.18  # inches
HEAT_MAP = {"cmap": "cividis", "vmin": 0, "vmax": 100, "aspect": "auto"}
plt.rcdefaults()  # not those of a matplotlibrc
plt.style.use(Path(__file__).with_name("figures.mplstyle"))


def draw_grid(down, across, width, height, note, **options):
    """(figure, its panels [down, across]). width, height: of a panel, inches.  note: above all panels."""
    size = (width * across + 1, height * down + 0.6)
    figure, panels = plt.subplots(down, across, figsize=size, squeeze=False, **options)
    figure.suptitle(note, color="#555555")
    return figure, panels


def plain_log_axis(axis, locator=None) -> None:
    """Labels a log axis with a few plain numbers, by default round ones. Call it when everything is drawn."""
    low, high = axis.get_view_interval()
    if high > 1000 * low:
        round_numbers = LogLocator()
    elif high > 5 * low:
        round_numbers = LogLocator(subs=(1, 2, 5))
    else:
        round_numbers = MaxNLocator(6, steps=[1, 2, 5, 10])
    axis.set_major_locator(locator or round_numbers)
    axis.set_major_formatter(lambda value, _: short(value))
    axis.minorticks_off()


def spread(lengths) -> list:
    """Those of the lengths, sorted, whose labels do not overlap on a log axis; the longest is one of them."""
    gap = (lengths[-1] / lengths[0]) ** (1 / 9)
    kept = []
    for length in reversed(lengths):
        if not kept or length * gap <= kept[-1] * 1.001:
            kept.append(length)
    return kept


def draw_lines(panel, rows, points) -> None:
    """A line for each row, its 95 % intervals shaded."""
    for row in rows:
        line = points[points.label == row.label].sort_values("length")
        if line.empty:
            continue
        dashes = "--" if row.kind == "base" else "-"
        panel.plot("length", "value", dashes, data=line, label=row.label, color=row.color, marker=row.marker)
        panel.fill_between("length", "low", "high", data=line, color=row.color, alpha=0.1, linewidth=0)
    panel.grid(axis="y")
    panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def draw_intervals(rows, points, note):
    """Values of a single length and their 95 % intervals, one below the other; a panel for each entry of points."""
    height = 0.25 * len(rows) + 0.6
    figure, panels = draw_grid(1, len(points), 5, height, f"{note}; bars: 95 % intervals", sharey=True)
    for panel, (x_label, own) in zip(panels[0], points.items(), strict=True):
        for row in rows:
            for score in own[own.label == row.label].itertuples():
                panel.plot([score.low, score.high], [row.label] * 2, color=row.color, linewidth=2, alpha=0.5)
                panel.plot([score.value], [row.label], color=row.color, marker=row.marker)
        panel.grid(axis="x")
        panel.set_xlabel(x_label)
    panels[0, 0].invert_yaxis()
    return figure


def draw_line_figure(rows, points, x_label, target=None):
    """Fine-tuned and frozen methods side by side, the base with both; a line of panels for each entry of points.

    points: {y label: label, length, value, low, high}, perplexity on a log scale.  target: a length to mark.
    """
    lengths = spread(sorted(pd.concat(points).length.unique()))
    if len(lengths) == 1:
        return draw_intervals(rows, points, f"{x_label}: {short(lengths[0])}")
    sides = {}
    for title, other in {"fine-tuned": "frozen", "frozen": "fine-tuned"}.items():
        side = [row for row in rows if row.kind != other]
        if any(row.kind != "base" for row in side):
            sides[title] = side
    sides = sides or {"base": rows}
    note = "shaded: 95 % intervals"
    marked = {rows[0].window, target} - {0} if target else ()
    if marked:
        note += "; dotted: original window and extended length"
    height = max(3.7, LEGEND_LINE * max(map(len, sides.values())))
    figure, panels = draw_grid(len(points), len(sides), 5, height, note, sharex=True, sharey="row")
    for line, (y_label, own) in zip(panels, points.items(), strict=True):
        left = line[0]
        left.set_ylabel(y_label)
        if y_label.startswith("perplexity"):
            left.set_yscale("log")
        for panel, title in zip(line, sides, strict=True):
            draw_lines(panel, sides[title], own)
            panel.set_title(title)
            for length in marked:
                panel.axvline(length, color="#999999", linewidth=1, linestyle=":", zorder=1)
            panel.set_xscale("log")
            plain_log_axis(panel.xaxis, FixedLocator(lengths))
        if left.get_yscale() == "log":
            plain_log_axis(left.yaxis)
    figure.supxlabel(x_label)
    return figure


def draw_perplexity(rows, scores, target):
    points = {}
    for (dataset, part), own in scores.groupby(["task", "part"]):
        if part == "":
            points[f"perplexity, {dataset} ({source_names(own)} data)"] = own
        elif part == "last 64":
            points[f"perplexity of the last 64 positions, {dataset}"] = own
    return draw_line_figure(rows, points, "window, tokens", target)


def draw_many_shot(rows, scores, target):
    points = {}
    for _, own in scores.groupby("source"):
        points[f"accuracy, % ({source_names(own)} data, n = {own.n.min()} or more)"] = own
    return draw_line_figure(rows, points, "examples in the prompt")


def draw_ruler(rows, scores, target):
    """The mean over all tasks of a length, for the rows that have them all; None if no row has."""
    n_tasks = scores.groupby("length").task.nunique()
    means = []
    for (label, length), own in scores.groupby(["label", "length"]):
        if len(own) == n_tasks[length]:
            mean = mean_of(own.score.tolist())
            means.append(vars(mean) | {"label": label})
    if not means:
        return None
    y_label = f"score, %, mean of {counted(n_tasks.max(), 'task')} ({source_names(scores)} data)"
    return draw_line_figure(rows, {y_label: pd.DataFrame(means)}, "prompt, tokens", target)


def label_ticks(axis, labels, most: int) -> None:
    """Labels the rows or columns of a heat-map; at most `most` of them, evenly spaced."""
    step = math.ceil(len(labels) / most)
    axis.set_ticks(range(0, len(labels), step), labels[::step])


def draw_needle_grid(rows, scores, target):
    """A heat-map for each row: lengths across, depths down, the share found."""
    cells = scores[scores.part != ""]
    depth = cells.part.str.removeprefix("depth ").astype(float)
    shown = cells.row.nunique()
    across = min(5, shown)
    down = math.ceil(shown / across)
    note = f"{source_names(cells)} data; dotted: original window and extended length"
    figure, panels = draw_grid(down, across, 2.2, 1.5, note)
    for panel in panels.flat[shown:]:
        panel.remove()
    groups = cells.assign(depth=depth).groupby("row", sort=False)
    for panel, (row, own) in zip(panels.flat, groups, strict=False):
        found = own.pivot_table("value", "depth", "length")
        lengths = found.columns
        for length in (row.window, row.length):
            if lengths[0] <= length <= lengths[-1]:
                place = np.interp(length, lengths, range(len(lengths)))
                panel.axvline(place, color="#000000")
                panel.axvline(place, color="#ffffff", linestyle=":")
        label_ticks(panel.xaxis, lengths.map(short), 4)
        label_ticks(panel.yaxis, found.index.map("{:g}".format), 3)
        panel.set_title(textwrap.fill(row.label, 30))
        image = panel.imshow(found, **HEAT_MAP)
    figure.colorbar(image, ax=panels[0, -1], label="found, %")
    figure.supxlabel("length, tokens")
    figure.supylabel("depth, %")
    return figure


def draw_matrix(scores, title):
    """A table of coloured numbers: rows by tasks. scores: values in %."""
    table = scores.pivot_table("value", "label", "task").reindex(scores.label.unique())
    down, across = table.shape
    width, height = 0.62 * across + 1.2, 0.3 * down + 1.2
    note = f"{title}, % ({source_names(scores)} data)"
    figure, [[panel]] = draw_grid(1, 1, width, height, note)
    panel.imshow(table, alpha=0.9, **HEAT_MAP)
    for (i, j), value in np.ndenumerate(table):
        if not np.isnan(value):
            color = "#111111" if value > 45 else "#ffffff"
            panel.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)
    panel.set_xticks(range(across), table.columns, rotation=45, ha="right")
    panel.set_yticks(range(down), table.index)
    return figure


def draw_ruler_tasks(rows, scores, target):
    length = nearest(scores.length, target)
    own = scores[scores.length == length]
    return draw_matrix(own, f"RULER at {short(length)} tokens")


def draw_longbench(rows, scores, target):
    if scores.source.nunique() == 1:
        scores = scores.assign(task=scores.task.str.removeprefix("standin_"))
    return draw_matrix(scores, "LongBench")


FIGURES = {  # by the name of its files: function of rows, main scores and target length; benchmark of these scores
    "perplexity": (draw_perplexity, "perplexity"),
    "needle_grid": (draw_needle_grid, "needle"),
    "many_shot": (draw_many_shot, "trec"),
    "longbench": (draw_longbench, "longbench"),
    "ruler": (draw_ruler, "ruler"),
    "ruler_tasks": (draw_ruler_tasks, "ruler"),
}
