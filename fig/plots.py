"""Figures: lines against length, position or number of examples, and heat-maps. Each figure has one fixed caption."""

from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend is chosen first: there may be no screen
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator  # noqa: E402

from rows import Row, mean_of, nearest, short, source_names  # noqa: E402

GREY, GRID = "#555555", "#e5e5e5"
plt.rcParams["svg.hashsalt"] = "fig"  # the same results give the same SVG ids


@dataclass
class Drawn:
    """A figure. name: of its files."""

    name: str
    title: str
    caption: str
    figure: Figure


def suffix(names, name: str) -> str:
    """The end of a figure's name: "" if there is one dataset, else which it is."""
    return "" if len(names) == 1 else f"_{name}"


# --- lines
def split_rows(rows: list[Row]) -> dict[str, list[Row]]:
    """{title of a panel: its rows}: trained and not trained methods apart, the base in both."""
    panels = {}
    for title, frozen in (("trained", False), ("not trained", True)):
        if any(row.frozen == frozen and not row.base for row in rows):
            panels[title] = [row for row in rows if row.base or row.frozen == frozen]
    return panels or {"": rows}


def log_axis(panel, name: str, n_ticks: int) -> None:
    """Gives the x or y axis a log scale with a few plain numbers, also where it spans less than a decade."""
    panel.set(**{f"{name}scale": "log"})
    axis = getattr(panel, f"{name}axis")
    axis.set_major_locator(MaxNLocator(n_ticks, steps=[1, 2, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def mark_windows(panel, rows: list[Row]) -> None:
    """Vertical lines at the original window and at the trained lengths of the panel's rows."""
    original = max((row.info["original_length"] or 0 for row in rows), default=0)
    trained = {row.info["trained_length"] or 0 for row in rows if not row.frozen and not row.base}
    lines = {length: "trained" for length in sorted(trained) if length > original}
    if original:
        lines[original] = "original"
    for length, name in lines.items():
        panel.axvline(length, color="#999999", linewidth=1, linestyle=":", zorder=0)
        place = {"xycoords": ("data", "axes fraction"), "rotation": 90, "va": "top", "ha": "right"}
        panel.annotate(f" {name} {short(length)}", (length, 1), fontsize=8, color=GREY, **place)


def draw_lines(panel, rows: list[Row], points: pd.DataFrame) -> None:
    """A line for each row, its 95 % intervals shaded (a bar for a single point)."""
    for row in rows:
        line = points[points.label == row.label].sort_values("x")
        if line.empty:
            continue
        dashes = "--" if row.base else "-"
        style = {"color": row.color, "marker": row.marker, "linestyle": dashes, "markersize": 5, "linewidth": 1.6}
        panel.plot(line.x, line.value, label=row.label.removesuffix(" (frozen)"), **style)
        band = line.dropna(subset=["low", "high"])
        if len(band) > 1:
            panel.fill_between(band.x, band.low, band.high, color=row.color, alpha=0.1, linewidth=0)
        else:
            panel.vlines(band.x, band.low, band.high, color=row.color, linewidth=1)


def line_figure(rows: list[Row], points: dict[str, pd.DataFrame], x_label: str, note: str, log_y=False, windows=True):
    """Trained and not trained methods side by side, a line of panels for each entry of points.

    points: {y label: lines with label, x, value, low, high}.
    """
    split = split_rows(rows)
    size = (5.2 * len(split) + 0.8, 3.7 * len(points) + 0.3)
    figure, panels = plt.subplots(
        len(points), len(split), figsize=size, sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    for line, (y_label, values) in zip(panels, points.items(), strict=True):
        line[0].set_ylabel(y_label)
        for panel, (title, members) in zip(line, split.items(), strict=True):
            draw_lines(panel, members, values)
            if windows:
                mark_windows(panel, members)
            panel.set_title(title)
            panel.set_xscale("log")
            ticks = sorted(set(values.x))
            panel.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 8)]))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            if log_y:
                log_axis(panel, "y", 7)
            panel.grid(axis="y", color=GRID, zorder=0)
            panel.spines[["top", "right"]].set_visible(False)
            if panel.get_legend_handles_labels()[0]:
                panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    for panel in panels[-1]:
        panel.set_xlabel(x_label)
    figure.suptitle(f"{note}; shaded: 95 % intervals", fontsize=9, color=GREY)
    return figure


def perplexity(rows: list[Row], scores: pd.DataFrame, target: int | None) -> Iterator[Drawn]:
    """perplexity.png and position.png; with several datasets perplexity_<dataset>.png and so on."""
    datasets = sorted(set(scores[scores.benchmark == "perplexity"].task))
    for dataset in datasets:
        own = scores[(scores.benchmark == "perplexity") & (scores.task == dataset)]
        by_length = own.rename(columns={"length": "x"})
        points = {
            "perplexity, whole window": by_length[by_length.part == ""],
            "perplexity, last 64 positions": by_length[by_length.part == "last 64"],
        }
        note = f"{dataset} ({source_names(own.source)} data), log scale"
        figure = line_figure(rows, points, "window, tokens", note, log_y=True)
        caption = "Lower is better; above: mean over the window, below: over its last 64 positions."
        title = f"Perplexity by length, {dataset}"
        yield Drawn(f"perplexity{suffix(datasets, dataset)}", title, caption, figure)

        length = nearest(set(own.length), target and 2 * target)
        buckets = own[(own.length == length) & own.part.str.startswith("positions")]
        if buckets.empty:
            continue
        last_position = buckets.part.str.split("-").str[1].astype(int)
        points = {"perplexity": buckets.assign(x=last_position)}
        note = f"{dataset}, windows of {short(length)} tokens, log scale"
        figure = line_figure(rows, points, "position in the window, tokens", note, log_y=True)
        caption = "Each point is the mean over the positions since the point before."
        title = f"Perplexity by position, {dataset}"
        yield Drawn(f"position{suffix(datasets, dataset)}", title, caption, figure)


def many_shot(rows: list[Row], scores: pd.DataFrame, target: int | None) -> Iterator[Drawn]:
    """Accuracy against the number of examples in the prompt. Official and stand-in data are two figures."""
    tasks = sorted(set(scores[scores.benchmark == "trec"].task))
    for task in tasks:
        points = scores[(scores.benchmark == "trec") & (scores.task == task)].rename(columns={"length": "x"})
        data = f"{source_names(points.source)} data"
        note = f"TREC questions ({data}), n = {points.n.min()} a point or more"
        figure = line_figure(rows, {"accuracy, %": points}, "examples in the prompt", note, windows=False)
        caption = "Accuracy by the number of examples in the prompt."
        yield Drawn(f"many_shot{suffix(tasks, task)}", f"Many-shot TREC ({data})", caption, figure)


def ruler(rows: list[Row], scores: pd.DataFrame, target: int | None) -> Iterator[Drawn]:
    """The mean over all tasks of a length, for the rows that have them all."""
    tasks: dict[int, set] = {}
    for row in rows:
        for score in row.select("ruler"):
            tasks.setdefault(score.length, set()).add(score.task)
    lines, sources = [], set()
    for row in rows:
        for length in tasks:
            members = [score for score in row.select("ruler") if score.length == length]
            if {score.task for score in members} == tasks[length]:
                mean = mean_of(members)
                lines.append((row.label, length, mean.value, mean.low, mean.high))
                sources |= {score.source for score in members}
    if not lines:
        return
    points = pd.DataFrame(lines, columns=["label", "x", "value", "low", "high"])
    n_tasks = max(map(len, tasks.values()))
    note = f"RULER, mean of {n_tasks} tasks ({source_names(sources)} data)"
    figure = line_figure(rows, {"score, %": points}, "prompt, tokens", note)
    yield Drawn("ruler", "RULER by length", "Mean over the tasks at each length.", figure)


# --- heat-maps
def needle_grid(rows: list[Row], scores: pd.DataFrame, target: int | None) -> Iterator[Drawn]:
    """A heat-map for each row: lengths across, depths down, the share found."""
    cells = scores[(scores.benchmark == "needle") & (scores.part != "")]
    if cells.empty:
        return
    cells = cells.assign(depth=cells.part.str.split().str[1].astype(float))
    members = [row for row in rows if row.label in set(cells.label)]
    across = min(5, len(members))
    down = -(-len(members) // across)
    size = (2.2 * across + 0.8, 1.5 * down + 0.7)
    figure, panels = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False)
    for panel in panels.flat[len(members) :]:
        panel.remove()
    for panel, row in zip(panels.flat, members, strict=False):
        found = cells[cells.label == row.label].pivot_table(index="depth", columns="length", values="value")
        image = panel.imshow(found, cmap="cividis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
        lengths = list(found.columns)
        for length, dashes in ((row.info["trained_length"], "--"), (row.info["original_length"], ":")):
            if length and lengths[0] <= length <= lengths[-1]:
                place = np.interp(length, lengths, range(len(lengths)))
                panel.axvline(place, color="#ffffff", linestyle=dashes, linewidth=1.3)
        step = -(-len(lengths) // 4)
        panel.set_xticks(range(0, len(lengths), step), map(short, lengths[::step]))
        step = -(-len(found) // 3)
        panel.set_yticks(range(0, len(found), step), map("{:g}".format, found.index[::step]))
        panel.tick_params(length=2, labelsize=7)
        panel.set_title(row.label, fontsize=8)
    bar = figure.colorbar(image, ax=list(panels.flat[: len(members)]), shrink=0.7, aspect=30)
    bar.set_label("found, %", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.supxlabel("length, tokens", fontsize=9)
    figure.supylabel("depth, %", fontsize=9)
    note = f"{source_names(cells.source)} data; dotted: original window, dashed: extended to"
    figure.suptitle(note, fontsize=8, color=GREY)
    caption = "The share of needles found at each length and depth."
    yield Drawn("needle_grid", "Needle by length and depth", caption, figure)


def matrix(rows: list[Row], blocks: list[pd.DataFrame], title: str) -> Figure:
    """A table of coloured numbers, rows by tasks. blocks: scores in %, a group of columns each, set apart."""
    tables = [block.pivot_table(index="label", columns="task", values="value") for block in blocks]
    table = pd.concat(tables, axis=1)
    table = table.reindex([row.label for row in rows if row.label in table.index])
    size = (0.62 * table.shape[1] + 2.2, 0.3 * len(table) + 1.8)
    figure, panel = plt.subplots(figsize=size, layout="constrained")
    panel.imshow(table, cmap="cividis", vmin=0, vmax=100, aspect="auto", alpha=0.9)
    for (i, j), value in np.ndenumerate(table.to_numpy()):
        if not np.isnan(value):
            color = "#111111" if value > 45 else "#ffffff"
            panel.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)
    for edge in np.cumsum([block.shape[1] for block in tables])[:-1]:
        panel.axvline(edge - 0.5, color="#ffffff", linewidth=4)
    panel.set_xticks(range(table.shape[1]), table.columns, rotation=45, ha="right", fontsize=8)
    panel.set_yticks(range(len(table)), table.index, fontsize=8)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=9, color=GREY)
    return figure


def ruler_tasks(rows: list[Row], scores: pd.DataFrame, target: int | None) -> Iterator[Drawn]:
    own = scores[scores.benchmark == "ruler"]
    if own.empty:
        return
    length = nearest(set(own.length), target)
    own = own[own.length == length]
    figure = matrix(rows, [own], f"RULER at {short(length)} tokens, % ({source_names(own.source)} data)")
    yield Drawn("ruler_tasks", "RULER by task", "Score of each task at the length of Table 1.", figure)


def longbench(rows: list[Row], scores: pd.DataFrame, target: int | None) -> Iterator[Drawn]:
    """Sets, and beside them the means of the categories; official and stand-in data are two figures."""
    own = scores[scores.benchmark == "longbench"]
    sources = sorted(set(own.source))
    for source in sources:
        names = own.task.str.removeprefix(f"{source}_")
        blocks = [own.assign(task=names)[(own.source == source) & (own.part == part)] for part in ("", "category")]
        data = f"{source_names([source])} data"
        figure = matrix(rows, [block for block in blocks if len(block)], f"LongBench, % ({data})")
        caption = "Score of each set; right, where it is recorded: means of the categories."
        title = f"LongBench by task and category ({data})"
        yield Drawn(f"longbench{suffix(sources, source)}", title, caption, figure)
