"""Heat-maps: the needle grid, RULER and LongBench by task."""

from collections.abc import Iterator

import numpy as np

from plots import SOFT, Drawn, best, plt, sources
from rows import Row, mean_of, nearest, short, source_name

CELL = "#111111"  # writing in a coloured cell: the same in light and dark


def needle(rows: list[Row], target: int | None) -> Iterator[Drawn]:
    """A heat-map a row: lengths across, depths down, the share found."""
    there = [(row, [s for s in row.scores.values() if s.benchmark == "needle" and s.metric == "score"]) for row in rows]
    there = [(row, [s for s in scores if s.part and s.value is not None]) for row, scores in there]
    there = [(row, scores) for row, scores in there if scores]
    if not there:
        return
    across = min(5, len(there))
    down = -(-len(there) // across)
    figure, panels = plt.subplots(
        down, across, figsize=(2.2 * across + 0.8, 1.5 * down + 0.7), layout="constrained", squeeze=False
    )
    for panel in panels.flat[len(there) :]:
        panel.remove()
    for panel, (row, scores) in zip(panels.flat, there, strict=False):
        lengths = sorted({score.length for score in scores})
        depths = sorted({float(score.part.split()[1]) for score in scores})
        value_DL = np.full((len(depths), len(lengths)), np.nan)
        for score in scores:
            value_DL[depths.index(float(score.part.split()[1])), lengths.index(score.length)] = 100 * score.value
        image = panel.imshow(value_DL, cmap="cividis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
        for length, dashes in ((row.facts["trained_length"], "--"), (row.facts["original_length"], ":")):
            if length and lengths[0] <= length <= lengths[-1]:
                panel.axvline(
                    np.interp(length, lengths, range(len(lengths))), color="#ffffff", linestyle=dashes, lw=1.3
                )
        for axis, values, most, text in ((panel.xaxis, lengths, 4, short), (panel.yaxis, depths, 3, "{:g}".format)):
            every = -(-len(values) // most)
            axis.set_ticks(range(0, len(values), every), [text(value) for value in values[::every]])
        panel.tick_params(length=2, labelsize=7)
        panel.set_title(row.label, fontsize=8)
    bar = figure.colorbar(image, ax=list(panels.flat[: len(there)]), shrink=0.7, aspect=30)
    bar.set_label("found, %", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.supxlabel("length, tokens", fontsize=9)
    figure.supylabel("depth, %", fontsize=9)
    note = f"{sources([s for _, scores in there for s in scores])}; dotted: original window, dashed: extended to"
    figure.suptitle(note, fontsize=8, color=SOFT)
    means = {row.label: mean_of(row.select("needle")) for row, _ in there}
    yield Drawn("needle_grid", "Needle by length and depth",
                f"Over the whole grid, in % found, the best mean: {best(rows, lambda row: means.get(row.label))}.",
                figure)  # fmt: skip


def matrix(rows: list[Row], blocks: list[list[tuple[str, dict]]], title: str):
    """A table of coloured numbers: rows by columns. blocks: groups of (name, {row label: value in %}), set apart."""
    columns = [column for block in blocks for column in block]
    rows = [row for row in rows if any(row.label in values for _, values in columns)]
    value_RC = np.array([[values.get(row.label, np.nan) for _, values in columns] for row in rows])
    figure, panel = plt.subplots(figsize=(0.62 * len(columns) + 2.2, 0.3 * len(rows) + 1.8), layout="constrained")
    panel.imshow(value_RC, cmap="cividis", vmin=0, vmax=100, aspect="auto", alpha=0.9)
    for (i, j), value in np.ndenumerate(value_RC):
        if not np.isnan(value):
            panel.text(
                j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color=CELL if value > 45 else "#ffffff"
            )
    edge = -0.5
    for block in blocks[:-1]:
        edge += len(block)
        panel.axvline(edge, color="#ffffff", linewidth=4)
    panel.set_xticks(range(len(columns)), [name for name, _ in columns], rotation=45, ha="right", fontsize=8)
    panel.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=8)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=9, color=SOFT)
    return figure


def spread_of(columns: list[tuple[str, dict]]) -> str:
    """Which column sets the rows apart most, for a caption."""
    name = max(columns, key=lambda column: max(column[1].values()) - min(column[1].values()))[0]
    values = dict(columns)[name]
    if len(set(values.values())) == 1:
        return f"nothing sets the methods apart: in {name} {next(iter(values.values())):.1f} % for each"
    top, bottom = max(values, key=values.get), min(values, key=values.get)
    return f"{name} sets the methods apart most: {top} has {values[top]:.1f} %, {bottom} {values[bottom]:.1f} %"


def ruler(rows: list[Row], target: int | None) -> Iterator[Drawn]:
    seen = [score for row in rows for score in row.select("ruler")]
    if not seen:
        return
    length = nearest({score.length for score in seen}, target)
    columns: dict[str, dict] = {}
    for row in rows:
        for score in sorted(row.select("ruler"), key=lambda s: s.task):
            if score.length == length:
                columns.setdefault(score.task, {})[row.label] = score.value
    figure = matrix(rows, [sorted(columns.items())], f"RULER at {short(length)} tokens, % ({sources(seen)})")
    caption = f"At {short(length)} tokens {spread_of(list(columns.items()))}."
    yield Drawn("ruler_tasks", "RULER by task", caption, figure)


def longbench(rows: list[Row], target: int | None) -> Iterator[Drawn]:
    """Sets, and apart from them the means of the categories; official and stand-in data are two figures."""
    seen = [score for row in rows for score in row.select("longbench")]
    for source in sorted({score.source for score in seen}):
        blocks = []
        for part in ("", "category"):
            columns: dict[str, dict] = {}
            for row in rows:
                for score in row.select("longbench", part):
                    if score.source == source:
                        columns.setdefault(score.task.removeprefix(f"{source}_"), {})[row.label] = score.value
            blocks += [sorted(columns.items())] if columns else []
        name = "longbench" if len({score.source for score in seen}) == 1 else f"longbench_{source}"
        figure = matrix(
            rows, blocks, f"LongBench, % ({source_name(source)} data); sets" + ("; categories" * (len(blocks) > 1))
        )
        yield Drawn(
            name, f"LongBench by task and category ({source_name(source)} data)", f"{spread_of(blocks[0])}.", figure
        )
