"""What goes with what over the methods: perplexity with downstream scores, costs with scores."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from collect import Results, write_csv
from costs import Training, of_row
from intervals import spearman
from plots import GRID, SOFT, Drawn, log_axis, plt, show
from rows import Row, styles
from tables import NAMES, Column

RHO = ("benchmark", "methods", "length", "n_methods", "n_points", "rho", "low", "high")


def pairs_of(rows: list[Row], columns: list[Column]) -> dict[str, list[tuple[Row, int, float, float]]]:
    """{benchmark: (row, length, perplexity, score)}: needle and RULER by length, what has no length at the table's.

    Perplexity is of the first dataset, scores are means over what the table has of the benchmark.
    """
    datasets = [column for column in columns if column.benchmark == "perplexity"]
    if not datasets:
        return {}
    dataset, at = datasets[0].keys[0][1:3]
    found: dict[str, list] = {}
    for column in columns:
        if column.benchmark == "perplexity":
            continue
        for row in rows:
            if column.benchmark in ("needle", "ruler"):
                lengths = sorted({score.length for score in row.select(column.benchmark)})
                whole = {key[1] for key in column.keys}
                units = {
                    n: [s for s in row.select(column.benchmark) if s.length == n and s.task in whole] for n in lengths
                }
                units = {n: scores for n, scores in units.items() if len(scores) == len(whole)}
            else:
                cell = column.cells.get(row.label)
                units = {at: cell.units} if cell and not cell.lacks else {}
            for length, scores in units.items():
                if perplexity := row.get("perplexity", dataset, length):
                    value = float(np.mean([s.value for s in scores])) * (100 if column.benchmark == "needle" else 1)
                    found.setdefault(column.benchmark, []).append((row, length, perplexity.value, value))
    return found


def correlations(rows: list[Row], columns: list[Column]) -> list[dict]:
    """Spearman's rho of perplexity and score, over methods at each length and over methods and lengths; of all methods,
    and of fine-tuned ones with exact attention, of which the paper claims it. Intervals: bootstrap over methods."""
    table = []
    for benchmark, points in pairs_of(rows, columns).items():
        lengths = sorted({length for _, length, _, _ in points})
        for who in ("all methods", "exact attention, fine-tuned"):
            chosen = [point for point in points if who == "all methods" or point[0].group == who]
            for scope in [[length] for length in lengths] + ([lengths] if len(lengths) > 1 else []):
                those = [point for point in chosen if point[1] in scope]
                if not those:
                    continue
                x, y = (np.array([point[i] for point in those]) for i in (2, 3))
                rho = spearman(x, y, np.array([point[0].label for point in those]))
                name = "all lengths" if len(scope) > 1 else str(scope[0])
                counts = len({point[0].label for point in those}), len(those)
                table.append(dict(zip(RHO, (benchmark, who, name, *counts, *(rho or (None,) * 3)), strict=True)))
    return table


def write_correlations(table: list[dict], path: Path) -> None:
    write_csv(path, RHO, ([line[name] for name in RHO] for line in table))


class Scatter:
    """Panels of points, a colour and marker a row; open where it was not trained."""

    def __init__(self, rows: list[Row], down: int, across: int, figsize: tuple[float, float], **shared):
        self.rows, self.styles = rows, styles(rows)
        self.figure, self.panels = plt.subplots(
            down, across, figsize=figsize, layout="constrained", squeeze=False, **shared
        )
        for panel in self.panels.flat:
            panel.grid(color=GRID, zorder=0)
            panel.tick_params(labelsize=7)
            panel.spines[["top", "right"]].set_visible(False)

    def point(self, panel, row: Row, x: float, y: float, bar: tuple | None = None, size: float = 26, label: str = ""):
        color, marker = self.styles[row.method]
        if bar and bar[0] is not None:
            panel.vlines(x, *bar, color=color, linewidth=0.8, alpha=0.6)
        inside = "none" if row.frozen else color
        panel.scatter(x, y, s=size, facecolor=inside, edgecolor=color, marker=marker, alpha=0.85, label=label or None)

    def finish(self, note: str):
        """The legend, right of the first line, and a line above all."""
        panel = self.panels[0][-1]
        for row in self.rows:
            self.point(panel, row, np.nan, np.nan, label=row.label)
        panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
        self.figure.suptitle(note, fontsize=9, color=SOFT)
        return self.figure


def correlation(rows: list[Row], columns: list[Column], table: list[dict]) -> Iterator[Drawn]:
    """Score against perplexity, a panel a benchmark; the longer, the larger."""
    pairs = pairs_of(rows, columns)
    if not pairs:
        return
    scatter, said = Scatter(rows, 1, len(pairs), (2.6 * len(pairs) + 1.8, 3.6)), []
    for panel, (benchmark, points) in zip(scatter.panels[0], pairs.items(), strict=True):
        lengths = sorted({length for _, length, _, _ in points})
        for row, length, x, y in points:
            scatter.point(panel, row, x, y, size=14 + 50 * lengths.index(length) / max(1, len(lengths) - 1))
        log_axis(panel, "x")
        panel.set(xlabel="perplexity (log scale)", ylim=(-4, 104))
        scope = "all lengths" if len(lengths) > 1 else str(lengths[0])
        one = next(r for r in table if (r["benchmark"], r["methods"], r["length"]) == (benchmark, "all methods", scope))
        text = "–" if one["rho"] is None else f"{one['rho']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
        panel.set_title(f"{NAMES[benchmark]}\nρ = {text}", fontsize=9)
        said += [f"{NAMES[benchmark]} {text}"] if one["rho"] is not None else []
    scatter.panels[0][0].set_ylabel("score, %")
    figure = scatter.finish(
        "larger: longer; open: not trained; needle and RULER at every length, the rest at Table 1's"
    )
    caption = (
        "Spearman's ρ of perplexity and score over methods and lengths (below 0: lower perplexity goes with higher "
        f"scores), with intervals from a bootstrap over methods: {'; '.join(said)}."
        if said
        else "No rank correlation: fewer than four methods, or all alike."
    )
    yield Drawn("correlation", "Perplexity and downstream scores", caption, figure)


def cost_axes(rows: list[Row], columns: list[Column], found: Results, trainings: dict) -> dict[str, dict[str, float]]:
    """{what: {row label: value}}: of training its hours, of the perplexity evaluation that all rows share (the first
    dataset at Table 1's length) tokens/s and peak memory. Only what at least two rows have."""
    trained = {row.label: one for row in rows if (one := of_row(row, trainings))}
    axes = {"training, hours": {label: one.seconds / 3600 for label, one in trained.items()}}
    if all(one.device_hours is not None for one in trained.values()):
        axes = {"training, device-hours": {label: one.device_hours for label, one in trained.items()}}
    shared = next((column.keys[0][:3] for column in columns if column.benchmark == "perplexity"), None)
    runs = {run.model: run for run in found.runs if (run.benchmark, run.task, run.length) == shared}
    runs = {row.label: runs[row.models[0]] for row in rows if row.models[0] in runs}
    axes["perplexity, tokens/s"] = {k: speed for k, run in runs.items() if (speed := run.made["tokens_per_second"])}
    peaks = {label: run.made["peak_memory_bytes"] for label, run in runs.items()}
    axes["perplexity, peak GiB"] = {label: peak / 2**30 for label, peak in peaks.items() if peak}
    return {what: values for what, values in axes.items() if len(values) > 1}


def cost_caption(what: str, values: dict[str, float], column: Column, rows: list[Row]) -> str:
    """The best score for nothing and the best that was paid for; where all cost something, the extremes."""
    cells = column.cells
    free = [row.label for row in rows if values.get(row.label) == 0 and row.label in cells]
    paid = [row.label for row in rows if values.get(row.label) and row.label in cells]
    if free and paid:
        pick = min if column.lowest else max
        best = [pick(labels, key=lambda label: cells[label].score.value) for labels in (free, paid)]
        texts = [f"{label} {show(cells[label].score)}" for label in best]
        unit = what.split(", ")[1]
        return (
            f"{NAMES[column.benchmark]}: the best without training is {texts[0]}, with training {texts[1]} for "
            f"{values[best[1]]:.2g} {unit}."
        )
    ends = [f"{label}, {values[label]:.3g}" for label in (max(values, key=values.get), min(values, key=values.get))]
    return f"{what[0].upper()}{what[1:]}: the most has {ends[0]}; the least {ends[1]}."


def costs(rows: list[Row], columns: list[Column], found: Results, trainings: dict[str, Training]) -> Iterator[Drawn]:
    """Table 1's scores against what training took, and against speed and memory."""
    axes = cost_axes(rows, columns, found, trainings)
    shown = [column for column in columns if column.cells]
    if not axes or not shown:
        return
    size = (2.3 * len(shown) + 1.8, 2.0 * len(axes) + 0.5)
    scatter = Scatter(rows, len(axes), len(shown), size, sharex="row", sharey="col")
    for line, (what, values) in zip(scatter.panels, axes.items(), strict=True):
        for panel, column in zip(line, shown, strict=True):
            for row in rows:
                if row.label in values and (cell := column.cells.get(row.label)):
                    value, *bar = cell.numbers
                    scatter.point(panel, row, values[row.label], value, tuple(bar))
            panel.locator_params(axis="x", nbins=3)
        line[len(shown) // 2].set_xlabel(what, fontsize=8)
    for panel, column in zip(scatter.panels[0], shown, strict=True):
        panel.set_title(column.head, fontsize=9)
        if column.lowest:
            log_axis(panel, "y")
    caption = cost_caption(*next(iter(axes.items())), shown[-1], rows)
    yield Drawn("costs", "Cost against score", caption, scatter.finish("what a score costs; open: not trained"))
