"""Lines against length, position or number of shots, a colour and marker a method, trained and frozen apart."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend is chosen first: there may be no screen
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator  # noqa: E402

from collect import Score  # noqa: E402
from rows import Row, mean_of, nearest, short, source_name, styles  # noqa: E402

# The report takes these apart by their colours (report.THEME): black is ink, this white is paper. SVG ids are seeded,
# so that the same results give the same file.
PAPER, SOFT, GRID = "#fffffe", "#555555", "#e5e5e5"
plt.rcParams |= {"figure.facecolor": PAPER, "axes.facecolor": "none", "savefig.facecolor": PAPER, "svg.hashsalt": "fig"}


@dataclass
class Drawn:
    """A figure. name: of its files.  caption: one sentence on what is seen, from the data."""

    name: str
    title: str
    caption: str
    figure: Figure


def show(score: Score) -> str:
    """26.2 [25.9, 26.6]; a share of 0 to 1 as percent."""
    scale = 100 if score.benchmark == "needle" else 1
    value, *bounds = (
        None if x is None else f"{scale * x:.1f}" if scale * abs(x) < 1e4 else f"{x:.2g}"
        for x in (score.value, score.low, score.high)
    )
    return value if None in bounds else f"{value} [{', '.join(bounds)}]"


def best(rows: list[Row], score_of: Callable[[Row], Score | None], lowest: bool = False) -> str:
    """ "ntk 26.2 [25.9, 26.6], the base 34.9": the best row's score, and the base's; those that share it are named."""
    scored = [(row, score) for row in rows if (score := score_of(row))]
    if not scored:
        return ""
    top = (min if lowest else max)(score.value for _, score in scored)
    winners = [row.label for row, score in scored if score.value == top]
    score = next(score for _, score in scored if score.value == top)
    many = f"{', '.join(winners[:3])}{f' and {len(winners) - 3} more' if len(winners) > 3 else ''}"
    base = [f"; the base has {show(score)}" for row, score in scored if row.base and row.label not in winners]
    return f"{many} {'has' if len(winners) == 1 else 'have'} {show(score)}{base[0] if base else ''}"


def sources(scores: list[Score]) -> str:
    return ", ".join(sorted({f"{source_name(score.source)} data" for score in scores}))


def kinds(rows: list[Row]) -> list[bool]:
    """Which of (False: trained, True: frozen) there are."""
    return [kind for kind in (False, True) if any(row.frozen == kind and not row.base for row in rows)] or [False]


def lines(panel, rows: list[Row], kind: bool, points_of: Callable[[Row], list[tuple[float, Score]]]) -> None:
    """The rows of one kind and the base, with their 95 % intervals shaded (a bar where a line has one point)."""
    style = styles(rows)
    for row in rows:
        if row.frozen != kind and not row.base:
            continue
        points = sorted(points_of(row), key=lambda point: point[0])
        if not points:
            continue
        color, marker = style[row.method]
        scale = 100 if points[0][1].benchmark == "needle" else 1
        panel.plot(
            [x for x, _ in points], [scale * score.value for _, score in points], color=color, marker=marker,
            markersize=5, linewidth=1.6, linestyle="--" if row.base else "-", label=row.label.removesuffix(" (frozen)"),
        )  # fmt: skip
        band = [(x, scale * score.low, scale * score.high) for x, score in points if score.low is not None]
        if len(band) > 1:
            panel.fill_between(*zip(*band, strict=True), color=color, alpha=0.1, linewidth=0)
        elif band:
            panel.vlines(*zip(*band, strict=True), color=color, linewidth=1)


def mark(panel, length: int, name: str) -> None:
    panel.axvline(length, color="#999999", linewidth=1, linestyle=":", zorder=0)
    panel.annotate(
        f" {name} {short(length)}", (length, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", ha="right",
        fontsize=8, color=SOFT,
    )  # fmt: skip


def finish(panel, ticks: list[float], log_y: bool = False) -> None:
    """Scales, ticks and grid of a panel whose x are lengths or counts."""
    panel.set_xscale("log")
    if len(ticks) > 8:
        ticks = ticks[:: -(-len(ticks) // 8)]
    panel.xaxis.set_major_locator(FixedLocator(ticks))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if log_y:
        log_axis(panel, "y")
    panel.grid(axis="y", color=GRID, zorder=0)
    panel.spines[["top", "right"]].set_visible(False)


def log_axis(panel, which: str) -> None:
    """A log scale with a few plain numbers, also where it spans less than a decade."""
    panel.set(**{f"{which}scale": "log"})
    axis = getattr(panel, f"{which}axis")
    axis.set_major_locator(MaxNLocator(7 if which == "y" else 4, steps=[1, 2, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def legend(panel) -> None:
    panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)


def marked(panel, rows: list[Row], kind: bool) -> None:
    """Vertical lines at the original window and, for trained rows, at the lengths trained."""
    original = max((row.facts["original_length"] or 0 for row in rows), default=0)
    lengths = {row.facts["trained_length"] or 0 for row in rows if not row.frozen and not row.base}
    for length in sorted(length for length in lengths if length > original and not kind):
        mark(panel, length, "trained")
    if original:
        mark(panel, original, "original")


def side_by_side(rows: list[Row], points_of, x_label: str, y_label: str, note: str, log_y=False, marks=True) -> Figure:
    """A panel for trained rows and one for frozen."""
    there = kinds(rows)
    figure, panels = plt.subplots(
        1, len(there), figsize=(5.2 * len(there) + 0.8, 3.9), sharex=True, sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for panel, kind in zip(panels[0], there, strict=True):
        lines(panel, rows, kind, points_of)
        if marks:
            marked(panel, rows, kind)
        finish(panel, sorted({x for row in rows for x, _ in points_of(row)}), log_y)
        panel.set(title="not trained" if kind else "trained", xlabel=x_label)
        legend(panel)
    panels[0][0].set_ylabel(y_label)
    figure.suptitle(note, fontsize=9, color=SOFT)
    return figure


def tasks(rows: list[Row], benchmark: str, part: str = "") -> list[str]:
    return sorted({score.task for row in rows for score in row.select(benchmark, part)})


def perplexity(rows: list[Row], target: int | None) -> Iterator[Drawn]:
    """perplexity.png and position.png; of several datasets, perplexity_<dataset>.png and so on."""
    datasets = tasks(rows, "perplexity")
    for dataset in datasets:
        name = "" if len(datasets) == 1 else f"_{dataset}"
        yield by_length(rows, target, dataset, f"perplexity{name}")
        yield from by_position(rows, target, dataset, f"position{name}")


def by_length(rows: list[Row], target: int | None, dataset: str, name: str) -> Drawn:
    """Perplexity against window length, a column for the mean over the window and one for its last 64 positions, a row
    for trained and one for frozen."""
    there = kinds(rows)
    figure, grid = plt.subplots(
        len(there), 2, figsize=(10.5, 3.7 * len(there) + 0.5), sharex=True, sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    seen = [score for row in rows for score in row.select("perplexity") if score.task == dataset]
    lengths = {score.length for score in seen}

    def points(row, part):
        return [(score.length, score) for score in row.select("perplexity", part) if score.task == dataset]

    for panels, kind in zip(grid, there, strict=True):
        for panel, part in zip(panels, ("", "last 64"), strict=True):
            lines(panel, rows, kind, lambda row, part=part: points(row, part))
            marked(panel, rows, kind)
            finish(panel, sorted(lengths), log_y=True)
        panels[0].set_ylabel(f"{'not trained' if kind else 'trained'}\nperplexity (log scale)")
        legend(panels[1])
    for panel, title in zip(grid[0], ("whole window", "last 64 positions"), strict=True):
        panel.set_title(title)
    for panel in grid[-1]:
        panel.set_xlabel("window, tokens")
    figure.suptitle(f"{dataset} ({sources(seen)}); shaded: 95 % intervals", fontsize=9, color=SOFT)
    length = nearest(lengths, target)
    winner = best(rows, lambda row: row.get("perplexity", dataset, length), lowest=True)
    caption = f"Over whole windows of {short(length)} tokens the lowest perplexity: {winner}."
    return Drawn(name, f"Perplexity by length, {dataset}", caption, figure)


def by_position(rows: list[Row], target: int | None, dataset: str, name: str) -> Iterator[Drawn]:
    """Perplexity against the position in the window, in windows of twice the target (or the longest below it)."""
    length = nearest(
        {s.length for row in rows for s in row.select("perplexity") if s.task == dataset}, target and 2 * target
    )

    def points(row):
        those = [s for s in row.scores.values() if (s.benchmark, s.task, s.length) == ("perplexity", dataset, length)]
        those = [score for score in those if score.part.startswith("positions") and score.value is not None]
        return [(int(score.part.split("-")[1]), score) for score in those]

    ends = sorted({x for row in rows for x, _ in points(row)})
    if not ends:
        return
    note = f"{dataset}, windows of {short(length)} tokens; a point is the mean over the positions since the last"
    figure = side_by_side(rows, points, "position in the window, tokens", "perplexity (log scale)", note, log_y=True)
    winner = best(rows, lambda row: dict(points(row)).get(ends[-1]), lowest=True)
    since = ends[-2] + 1 if len(ends) > 1 else 1
    caption = (
        f"At positions {since} to {ends[-1]} of windows of {short(length)} tokens the lowest perplexity: {winner}."
    )
    yield Drawn(name, f"Perplexity by position, {dataset}", caption, figure)


def many_shot(rows: list[Row], target: int | None) -> Iterator[Drawn]:
    """Accuracy against the number of examples in the prompt. Official and stand-in data are two figures."""
    found = tasks(rows, "trec")
    for task in found:
        seen = [score for row in rows for score in row.select("trec") if score.task == task]
        points = {row.label: [(s.length, s) for s in row.select("trec") if s.task == task] for row in rows}
        shots = sorted({score.length for score in seen})
        fewest = min(score.n for score in seen)
        note = f"TREC questions ({sources(seen)}), n = {fewest} a point or more; shaded: 95 % intervals"
        figure = side_by_side(
            rows,
            lambda row, points=points: points[row.label],
            "examples in the prompt",
            "accuracy, %",
            note,
            marks=False,
        )
        said = []
        for at in dict.fromkeys((shots[-1], shots[0])):
            at_shots = {label: dict(those).get(at) for label, those in points.items()}
            winner = best(rows, lambda row, at_shots=at_shots: at_shots[row.label])
            said.append(f"with {at} example{'s' * (at > 1)} {winner}")
        name = "many_shot" if len(found) == 1 else f"many_shot_{task}"
        yield Drawn(name, f"Many-shot TREC ({sources(seen)})", f"Best accuracy: {'; '.join(said)}.", figure)


def ruler(rows: list[Row], target: int | None) -> Iterator[Drawn]:
    """The mean over the tasks that all rows have at a length."""
    seen = [score for row in rows for score in row.select("ruler")]
    if not seen:
        return
    lengths = sorted({score.length for score in seen})
    means = {}
    for length in lengths:
        every = {score.task for score in seen if score.length == length}
        for row in rows:
            units = [score for score in row.select("ruler") if score.length == length]
            if {score.task for score in units} == every:
                means.setdefault(row.label, []).append((length, mean_of(units)))
    note = f"RULER, mean of {len({score.task for score in seen})} tasks ({sources(seen)}); shaded: 95 % intervals"
    figure = side_by_side(rows, lambda row: means.get(row.label, []), "prompt, tokens", "score, %", note)
    length = nearest(set(lengths), target)
    winner = best(rows, lambda row: dict(means.get(row.label, ())).get(length))
    yield Drawn("ruler", "RULER by length", f"At {short(length)} tokens the best mean: {winner}.", figure)
