"""Figures: lines against length or number of examples, and heat-maps. Each figure has one fixed caption.

The functions in FIGURES make a Drawn of the rows of Table 1, the main scores of one benchmark and the target length.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rows import nearest, short, source_names
from scores import mean_of

os.environ["MPLBACKEND"] = "Agg"  # there may be no screen
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FixedLocator, MaxNLocator  # noqa: E402

GREY = "#555555"
HEAT_MAP = {"cmap": "cividis", "vmin": 0, "vmax": 100, "aspect": "auto"}
plt.rcdefaults()  # not those of a matplotlibrc
plt.style.use(Path(__file__).with_name("figures.mplstyle"))


@dataclass
class Drawn:
    """A figure, None if there is nothing to show.  name: of its files."""

    name: str
    title: str
    caption: str
    figure: plt.Figure | None
    image: str = ""  # the SVG file in base64, for the report


def draw_grid(down, across, width, height, note, **options):
    """(figure, its panels [down, across]). width, height: of a panel, inches.  note: above all panels."""
    size = (width * across + 1, height * down + 0.6)
    figure, panels = plt.subplots(down, across, figsize=size, squeeze=False, **options)
    figure.suptitle(note, color=GREY)
    return figure, panels


def plain_log_axis(axis, locator=None) -> None:
    """Labels a log axis with a few plain numbers, by default round ones."""
    axis.set_major_locator(locator or MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: short(value))
    axis.minorticks_off()


def draw_lines(panel, rows, points) -> None:
    """A line for each row, its 95 % intervals shaded."""
    for row in rows:
        line = points[points.label == row.label].sort_values("length")
        if len(line):
            dashes = "--" if row.kind == "base" else "-"
            panel.plot(line.length, line.value, dashes, label=row.label, color=row.color, marker=row.marker)
            panel.fill_between(line.length, line.low, line.high, color=row.color, alpha=0.1, linewidth=0)
    panel.grid(axis="y")
    panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def draw_line_figure(rows, points, x_label, target=None):
    """Trained and not trained methods side by side, the base with both; a line of panels for each entry of points.

    points: {y label: label, length, value, low, high}, perplexity on a log scale.  target: a length to mark.
    """
    kinds = {row.kind for row in rows}
    sides = {"base": rows} if kinds == {"base"} else {}
    if "fine-tuned" in kinds:
        sides["trained"] = [row for row in rows if row.kind != "frozen"]
    if "frozen" in kinds:
        sides["not trained"] = [row for row in rows if row.kind != "fine-tuned"]
    note = "shaded: 95 % intervals; dotted: original window and trained length"
    figure, panels = draw_grid(len(points), len(sides), 5, 3.7, note, sharex=True, sharey="row")
    marked = {rows[0].window, target} - {0} if target else ()
    lengths = pd.concat(points).length.sort_values().unique()
    for line, (y_label, own) in zip(panels, points.items(), strict=True):
        line[0].set_ylabel(y_label)
        if y_label.startswith("perplexity"):
            line[0].set_yscale("log")
            plain_log_axis(line[0].yaxis)
        for panel, title in zip(line, sides, strict=True):
            draw_lines(panel, sides[title], own)
            panel.set_title(title)
            for length in marked:
                panel.axvline(length, color="#999999", linewidth=1, linestyle=":")
            panel.set_xscale("log")
            plain_log_axis(panel.xaxis, FixedLocator(lengths, nbins=8))
    figure.supxlabel(x_label)
    return figure


def perplexity(rows, scores, target):
    points = {}
    for (dataset, part), own in scores.groupby(["task", "part"]):
        if part == "":
            points[f"perplexity, {dataset} ({source_names(own.source)} data)"] = own
        elif part == "last 64":
            points[f"perplexity of the last 64 positions, {dataset}"] = own
    figure = draw_line_figure(rows, points, "window, tokens", target)
    caption = "Lower is better; above: mean over the window, below: over its last 64 positions. Sampled are documents."
    return Drawn("perplexity", "Perplexity by length", caption, figure)


def many_shot(rows, scores, target):
    points = {}
    for source, own in scores.groupby("source"):
        points[f"accuracy, % ({source_names([source])} data, n = {own.n.min()} or more)"] = own
    figure = draw_line_figure(rows, points, "examples in the prompt")
    return Drawn("many_shot", "Many-shot TREC", "Accuracy by the number of examples in the prompt.", figure)


def ruler(rows, scores, target):
    """The mean over all tasks of a length, for the rows that have them all."""
    n_tasks = scores.groupby("length").task.nunique()
    means = []
    for (label, length), own in scores.groupby(["label", "length"]):
        if len(own) == n_tasks[length]:
            means.append(vars(mean_of(own.score.tolist())) | {"label": label})
    figure = None
    if means:
        name = f"score, %, mean of {n_tasks.max()} tasks ({source_names(scores.source)} data)"
        figure = draw_line_figure(rows, {name: pd.DataFrame(means)}, "prompt, tokens", target)
    return Drawn("ruler", "RULER by length", "Mean over the tasks at each length.", figure)


def needle_grid(rows, scores, target):
    """A heat-map for each row: lengths across, depths down, the share found."""
    cells = scores[scores.part != ""]
    cells = cells.assign(depth=cells.part.str.removeprefix("depth ").astype(float))
    shown = cells.row.nunique()
    across = min(5, shown)
    note = f"{source_names(cells.source)} data; white lines: original window and trained length"
    figure, panels = draw_grid(math.ceil(shown / across), across, 2.2, 1.5, note)
    for panel in panels.flat[shown:]:
        panel.remove()
    for panel, (row, own) in zip(panels.flat, cells.groupby("row", sort=False), strict=False):
        found = own.pivot_table("value", "depth", "length")
        lengths = found.columns
        for length in (row.window, row.length):
            if lengths[0] <= length <= lengths[-1]:
                place = np.interp(length, lengths, range(len(lengths)))
                panel.axvline(place, color="#ffffff", linestyle=":")
        step = math.ceil(len(lengths) / 4)
        panel.set_xticks(range(0, len(lengths), step), lengths[::step].map(short))
        step = math.ceil(len(found) / 3)
        panel.set_yticks(range(0, len(found), step), found.index[::step].map("{:g}".format))
        panel.set_title(row.label)
        image = panel.imshow(found, **HEAT_MAP)
    figure.colorbar(image, ax=panels[0, -1], label="found, %")
    figure.supxlabel("length, tokens")
    figure.supylabel("depth, %")
    caption = "The share of needles found at each length and depth."
    return Drawn("needle_grid", "Needle by length and depth", caption, figure)


def draw_matrix(scores, note):
    """A table of coloured numbers: rows by tasks. scores: values in %."""
    table = scores.pivot_table("value", "label", "task").reindex(scores.label.unique())
    down, across = table.shape
    figure, [[panel]] = draw_grid(1, 1, 0.62 * across + 1.2, 0.3 * down + 1.2, note)
    panel.imshow(table, alpha=0.9, **HEAT_MAP)
    for (i, j), value in np.ndenumerate(table):
        if not np.isnan(value):
            color = "#111111" if value > 45 else "#ffffff"
            panel.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)
    panel.set_xticks(range(across), table.columns, rotation=45, ha="right")
    panel.set_yticks(range(down), table.index)
    return figure


def ruler_tasks(rows, scores, target):
    length = nearest(scores.length, target)
    own = scores[scores.length == length]
    figure = draw_matrix(own, f"RULER at {short(length)} tokens, % ({source_names(own.source)} data)")
    return Drawn("ruler_tasks", "RULER by task", "Score of each task at the length of Table 1.", figure)


def longbench(rows, scores, target):
    if scores.source.nunique() == 1:
        scores = scores.assign(task=scores.task.str.removeprefix("standin_"))
    figure = draw_matrix(scores, f"LongBench, % ({source_names(scores.source)} data)")
    return Drawn("longbench", "LongBench by task", "Score of each set.", figure)


FIGURES = {  # the benchmark that each shows
    perplexity: "perplexity",
    needle_grid: "needle",
    many_shot: "trec",
    longbench: "longbench",
    ruler: "ruler",
    ruler_tasks: "ruler",
}
