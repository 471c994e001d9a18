"""Draws the heat-maps of needle results: one picture a model, and all models in a grid of three columns.

    python needle_plot.py                                             reads results, writes img
    python needle_plot.py --results results/NAME --colours cividis    one model; for the colour-blind
    python needle_plot.py --score lceg_overlap                        the heat-map score of the paper's code

Needs no GPU and reads only result files. Writes needle.png, .svg, .pdf, needle.csv and needle/<test name>.* to
--output_dir, and prints the mean by length. A column is a length, a row a depth. White lines mark the original window
(dotted) and the length that the method was trained or set for (dashed); a length between two columns is marked in
proportion between their middles.
"""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend is chosen first: there may be no screen
import numpy as np  # noqa: E402
from matplotlib.colors import LinearSegmentedColormap  # noqa: E402
from matplotlib.patheffects import withStroke  # noqa: E402

from scoring import wilson  # noqa: E402

COLOURS = ("#F0496E", "#EBB839", "#0CD79F")  # of the paper's picture: 0, 1/2, 1
SCORES = {"score": "share of the answer's words", "rate": "exact match", "lceg_overlap": "word overlap (LCEG)"}
COLUMNS = 3
CHECKPOINT = ("method", "trained_tokens", "original_length", "trained_length")


@dataclass
class Cell:
    """One result file. length: tokens, depth: percent. value: mean score of n answers, None if none was made."""

    test: str
    method: str
    trained_tokens: int | None
    original_length: int | None
    trained_length: int | None
    length: int
    depth: float
    value: float | None
    n: int
    source: str


def read(folder: Path, score: str) -> list[Cell]:
    """All needle results below `folder`, but in folders set aside as *.old. Exits with one line if there is none;
    names files that are not whole or not of this kit."""
    cells = []
    for path in sorted(folder.rglob("*_results.json")):
        if ".old" in path.parent.name:
            continue
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            cells.append(
                Cell(
                    test=path.parent.name,
                    length=result["context_length"],
                    depth=result["depth_percent"],
                    value=result[score],
                    n=1 if score == "lceg_overlap" else result["n"],  # the first trial's
                    source=result["data"]["source"],
                    **{
                        name: result[name] for name in ("method", "trained_tokens", "original_length", "trained_length")
                    },
                )
            )
        except (ValueError, KeyError, TypeError, OSError) as reason:
            print(f"left out: {path} is no needle result with '{score}' ({type(reason).__name__}: {reason})")
    if not cells:
        hint = "; --protocol lceg adds lceg_overlap" if score == "lceg_overlap" else ""
        raise SystemExit(f"error: no needle results in {folder}; run needle/eval.sh first{hint}")
    return cells


def label(cell: Cell) -> str:
    frozen = cell.trained_tokens == 0 and cell.method != "base"
    return f"{cell.method.removesuffix('_frozen')} (frozen)" if frozen else cell.method


def models(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Cells by name, base first, then trained, then frozen; a method that came twice is named with its test."""
    tests: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda c: (c.method != "base", "(frozen)" in label(c), label(c), c.test)):
        tests.setdefault(cell.test, []).append(cell)
    labels = [label(group[0]) for group in tests.values()]
    names = {test: label(group[0]) for test, group in tests.items()}
    return {n if labels.count(n) == 1 else f"{n}, {test}": tests[test] for test, n in names.items()}


def grid(cells: list[Cell]) -> tuple[list[int], list[float], np.ndarray]:
    """(lengths, depths, value_DL float64), NaN where there is no value."""
    lengths, depths = sorted({cell.length for cell in cells}), sorted({cell.depth for cell in cells})
    value_DL = np.full((len(depths), len(lengths)), np.nan)
    for cell in cells:
        if cell.value is not None:
            value_DL[depths.index(cell.depth), lengths.index(cell.length)] = cell.value
    return lengths, depths, value_DL


def mean(cells: list[Cell]) -> tuple[float, float, float] | None:
    """(mean over all answers, low, high) with the 95 % Wilson interval; None without any answer."""
    seen = [cell for cell in cells if cell.value is not None and cell.n]
    if not seen:
        return None
    total, n = sum(cell.value * cell.n for cell in seen), sum(cell.n for cell in seen)
    return total / n, *wilson(total, n)


def column(length: float, lengths: list[int]) -> float | None:
    """Where a length lies among the columns, whose middles are 0, 1, 2, ...; None outside of them."""
    if not lengths[0] <= length <= lengths[-1]:
        return None
    return float(np.interp(length, lengths, range(len(lengths))))


def short(length: int) -> str:
    if length < 1000:
        return str(length)
    return f"{length / 1024:g}k" if length % 1024 == 0 else f"{length / 1000:.0f}k"


def panel(axes, name: str, cells: list[Cell], colours):
    """One model's heat-map; returns its image."""
    lengths, depths, value_DL = grid(cells)
    image = axes.imshow(value_DL, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for edge in np.arange(0.5, len(lengths) - 1):
        axes.axvline(edge, color="#808080", linewidth=0.4, linestyle="--")
    for edge in np.arange(0.5, len(depths) - 1):
        axes.axhline(edge, color="#808080", linewidth=0.4, linestyle="--")
    first = cells[0]
    for length, dashes in {first.trained_length: "--", first.original_length: ":"}.items():
        if length and (x := column(length, lengths)) is not None:
            outline = [withStroke(linewidth=3, foreground="#000000b0")]
            axes.axvline(x, color="white", linewidth=1.6, linestyle=dashes, path_effects=outline)
    every = -(-len(lengths) // 6)
    axes.set_xticks(range(0, len(lengths), every), [short(length) for length in lengths[::every]])
    every = -(-len(depths) // 5)
    axes.set_yticks(range(0, len(depths), every), [f"{depth:g}" for depth in depths[::every]])
    axes.tick_params(length=2, labelsize=8)
    value = mean(cells)
    axes.set_title(name + (" no answers" if value is None else "  {:.2f} [{:.2f}, {:.2f}]".format(*value)), fontsize=9)
    return image


def draw(groups: dict[str, list[Cell]], colours: str, score: str):
    """The figure of one or several models, side by side in up to three columns."""
    scale = LinearSegmentedColormap.from_list("lceg", COLOURS) if colours == "lceg" else plt.get_cmap(colours)
    scale = scale.with_extremes(bad="#dddddd")
    across = min(COLUMNS, len(groups))
    down = -(-len(groups) // across)
    figure, all_axes = plt.subplots(
        down, across, figsize=(3.4 * across + 1.2, 2.0 * down + 0.8), squeeze=False, layout="constrained"
    )
    for axes in all_axes.flat[len(groups) :]:
        axes.remove()
    for axes, (name, cells) in zip(all_axes.flat, groups.items(), strict=False):
        image = panel(axes, name, cells, scale)
    bar = figure.colorbar(image, ax=list(all_axes.flat[: len(groups)]), shrink=0.7, aspect=30)
    bar.set_label(SCORES[score], fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.supxlabel("length, tokens", fontsize=9)
    figure.supylabel("depth of the needle, %", fontsize=9)
    everything = [cell for cells in groups.values() for cell in cells]
    sources = ", ".join(sorted({cell.source for cell in everything}))
    counts = sorted({cell.n for cell in everything})
    per_cell = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    prompts = "prompt" if counts == [1] else "prompts"
    what = f"{sources} text, {per_cell} {prompts} a cell; mean [95 % interval]"
    marks = "dotted: original window, dashed: extended to"
    figure.suptitle(
        f"{what}; {marks}" if across > 1 else f"{what}\n{marks}",
        fontsize=8,
        color="#555555",
    )
    return figure


def save(figure, path: Path):
    """PNG, SVG and PDF; `path` without ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "svg", "pdf"):
        figure.savefig(f"{path}.{ending}", dpi=200)
    plt.close(figure)


def table(groups: dict[str, list[Cell]]) -> str:
    """Markdown: a row a model, a column a length (mean over depths), and the mean of all with its interval."""
    lengths = sorted({cell.length for cells in groups.values() for cell in cells})
    lines = ["| model | " + " | ".join(map(short, lengths)) + " | all |", "|---" * (len(lengths) + 2) + "|"]
    for name, cells in groups.items():
        row = [mean([cell for cell in cells if cell.length == length]) for length in lengths]
        shown = ["–" if value is None else f"{value[0]:.2f}" for value in row]
        total = mean(cells)
        shown.append("–" if total is None else "{:.2f} [{:.2f}, {:.2f}]".format(*total))
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def write_csv(cells: list[Cell], score: str, path: Path):
    names = list(Cell.__annotations__)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "kind", "low", "high"])
        for cell in sorted(cells, key=lambda c: (c.test, c.length, c.depth)):
            interval = (None, None) if cell.value is None else wilson(cell.value * cell.n, cell.n)
            writer.writerow([*(getattr(cell, name) for name in names), score, *interval])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of result files [results]")
    parser.add_argument("--output_dir", type=Path, default=Path("img"), help="[img]")
    parser.add_argument("--score", choices=SCORES, default="score", help="[score]")
    parser.add_argument("--colours", choices=["lceg", "cividis"], default="lceg", help="[lceg]")
    args = parser.parse_args()
    cells = read(args.results, args.score)
    groups = models(cells)
    for name, group in groups.items():
        save(draw({name: group}, args.colours, args.score), args.output_dir / "needle" / group[0].test)
    save(draw(groups, args.colours, args.score), args.output_dir / "needle")
    write_csv(cells, args.score, args.output_dir / "needle.csv")
    print(f"{SCORES[args.score]}, mean over depths\n{table(groups)}\nfigure: {args.output_dir / 'needle.png'}")


if __name__ == "__main__":
    main()
