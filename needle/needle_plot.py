"""Draws the heat-maps of needle results, one panel for each model.

    python needle_plot.py                            reads results, writes img
    python needle_plot.py --results results/NAME     one model
    python needle_plot.py --score lceg_overlap       the heat-map score of the paper's code

Writes needle.png, .svg and .pdf to --output_dir and prints the means; needs no GPU.
"""

import json
import math
import re
from pathlib import Path

from run import Parser, errors_of, read_text, run_script

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap

matplotlib.use("Agg")  # there may be no screen
SCORES = {"score": "share of the answer's words", "rate": "exact match", "lceg_overlap": "word overlap (LCEG)"}
COLOURS = LinearSegmentedColormap.from_list("lceg", ("#F0496E", "#EBB839", "#0CD79F"))  # the paper's
COLOURS = COLOURS.with_extremes(bad="#dddddd")
LIMITS = {"context_length": 2**63, "depth_percent": 100, "original_length": 2**63, "trained_length": 2**63}


def read_cell(path, score) -> dict:
    """A row of `read_cells`. Raises an exception if the file is not a needle result with numbers in their ranges."""
    result = json.loads(read_text(path))
    source = result["data"]["source"]
    if not isinstance(source, str):
        raise TypeError(f"the source is {source!r}")
    cell = {"model": path.parent.name, "source": source}
    for key, highest in {score: 1, **LIMITS}.items():
        value = result[key]
        cell[key] = value
        is_unknown = value is None and key not in ("context_length", "depth_percent")
        if not is_unknown and not 0 <= value <= highest:
            raise ValueError(f"{key} is {value}")
    return cell


def read_cells(folder, score) -> pd.DataFrame:
    """All needle results below a folder, one row for each cell; odd files are named and left out."""
    cells = []
    for path in sorted(folder.rglob("*_results.json")):
        if re.fullmatch(r"old\d*", path.parent.name):
            continue  # answers with other settings
        try:
            with errors_of(f"{path} is not a needle result with '{score}'"):
                cells.append(read_cell(path, score))
        except ValueError as error:
            print(f"left out: {error}")
    if not cells:
        raise ValueError(f"no needle results with '{score}' in {folder}; run eval.sh first")
    cells = pd.DataFrame(cells)
    if cells.duplicated(["model", "context_length", "depth_percent"]).any():
        raise ValueError(f"two folders in {folder} have the same name and the same cells; rename one")
    return cells.astype({score: float, "original_length": float, "trained_length": float})  # NaN where unknown


def draw_panel(axes, model, cells, score):
    """The heat-map of one model; returns its image. White lines mark the original and the trained window."""
    grid = cells.pivot(index="depth_percent", columns="context_length", values=score)
    lengths = grid.columns
    image = axes.imshow(grid, cmap=COLOURS, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    first = cells.iloc[0]
    for length, style in ((first.trained_length, "--"), (first.original_length, ":")):
        if lengths[0] <= length <= lengths[-1]:
            column = np.interp(length, lengths, range(len(lengths)))
            axes.axvline(column, color="white", linewidth=1.6, linestyle=style)
    for axis, values in ((axes.xaxis, lengths), (axes.yaxis, grid.index)):
        step = math.ceil(len(values) / 5)
        axis.set_ticks(range(0, len(values), step), values[::step])
    axes.tick_params(length=2, labelsize=8)
    mean = cells[score].mean()
    axes.set_title(f"{model}  {mean:.2f}", fontsize=9, parse_math=False)
    return image


def draw(cells, score):
    """The figure: a panel for each model, up to three side by side."""
    models = cells.groupby("model")
    across = min(3, len(models))
    down = math.ceil(len(models) / across)
    size = (3.4 * across + 1.2, 2.0 * down + 0.8)
    figure = plt.figure(figsize=size, layout="constrained")
    for number, (model, group) in enumerate(models, 1):
        panel = figure.add_subplot(down, across, number)
        image = draw_panel(panel, model, group, score)
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.7, aspect=30)
    bar.set_label(SCORES[score], fontsize=8)
    figure.supxlabel("length, tokens", fontsize=9)
    figure.supylabel("depth of the needle, %", fontsize=9)
    sources = ", ".join(cells.source.unique())
    title = f"{sources} text; mean\ndotted: original window, dashed: extended to"
    figure.suptitle(title, fontsize=8, color="#555555", parse_math=False)
    return figure


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of result files [results]")
    parser.add_argument("--output_dir", type=Path, default=Path("img"), help="[img]")
    parser.add_argument("--score", choices=SCORES, default="score", help="[score]")
    args = parser.parse_args()
    cells = read_cells(args.results, args.score)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    figure = draw(cells, args.score)
    for ending in ("png", "svg", "pdf"):
        figure.savefig(args.output_dir / f"needle.{ending}", dpi=200)
    means = cells.groupby("model")[args.score].mean().round(2)
    print(means.to_string())
    print(f"picture: {args.output_dir / 'needle.png'}")


if __name__ == "__main__":
    run_script(main)
