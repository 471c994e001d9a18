"""Draws the heat-maps of needle results, one panel for each model.

    python needle_plot.py                            reads results, writes img
    python needle_plot.py --results results/NAME     one model
    python needle_plot.py --score lceg_overlap       the heat-map score of the paper's code

Writes needle.png, .svg, .pdf and needle.csv to --output_dir and prints the means; needs no GPU. White lines
mark the original window (dotted) and the length that the model was trained or set for (dashed).
"""

import math
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # there may be no screen
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap

from run import Parser, read_json, run_script
from stats import mean_over_grid

SCORES = {"score": "share of the answer's words", "rate": "exact match", "lceg_overlap": "word overlap (LCEG)"}
COLOURS = LinearSegmentedColormap.from_list("lceg", ("#F0496E", "#EBB839", "#0CD79F"))  # of the paper's picture


def read_cell(path: Path, score: str) -> dict:
    """The row of `read_cells` for one file. Raises KeyError or TypeError if it is not a needle result."""
    result = read_json(path) or {}
    first_only = score == "lceg_overlap"  # LCEG's score is of the first trial
    trials = [result] if first_only else result["trials"]
    key = "exact" if score == "rate" else score
    return {
        "model": path.parent.name,
        "original_length": result["original_length"],
        "trained_length": result["trained_length"],
        "length": result["context_length"],
        "depth": result["depth_percent"],
        "value": result[score],
        "n": 1 if first_only else result["n"],
        "source": result["data"]["source"],
        "scores": [trial.get(key) for trial in trials],
        "drawn_text": result["drawn_text"],
    }


def read_cells(folder: Path, score: str) -> pd.DataFrame:
    """All needle results below a folder, one row for each cell; reports files that are left out.

    Columns: model, original_length, trained_length, length (tokens), depth (percent), value (mean score of n answers,
    NaN without any), n, source, scores (a list, of each trial), drawn_text (see scoring.write_cell). Raises ValueError
    if there are none.
    """
    rows = []
    for path in sorted(folder.rglob("*_results.json")):
        if re.fullmatch(r"old\d*", path.parent.name):
            continue  # answers with other settings
        try:
            rows.append(read_cell(path, score))
        except (AttributeError, KeyError, TypeError):
            print(f"left out: {path} is not a needle result with '{score}'")
    if not rows:
        raise ValueError(f"no needle results with '{score}' in {folder}; run eval.sh first")
    cells = pd.DataFrame(rows).astype({"value": float, "original_length": float, "trained_length": float})
    if cells.duplicated(["model", "length", "depth"]).any():
        raise ValueError(f"two folders in {folder} have the same name and the same cells; rename one")
    return cells


def mean(cells: pd.DataFrame) -> str:
    """The mean over the grid with its 95 % interval."""
    if cells.value.isna().all():
        return "no answers"
    score_CT = pd.DataFrame(cells.scores.tolist(), dtype=float)  # NaN without an answer
    mean = mean_over_grid(score_CT.to_numpy(), cells.drawn_text.all())
    low, high = mean.interval()
    return f"{mean.mean_M[0]:.2f} [{low:.2f}, {high:.2f}]"


def draw_panel(axes, model: str, cells: pd.DataFrame):
    """The heat-map of one model; returns its image."""
    grid = cells.pivot(index="depth", columns="length", values="value")
    lengths = list(grid.columns)
    colours = COLOURS.with_extremes(bad="#dddddd")
    image = axes.imshow(grid, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for key, style in (("trained_length", "--"), ("original_length", ":")):
        length = cells[key].iloc[0]
        if lengths[0] <= length <= lengths[-1]:  # not if it is unknown
            column = np.interp(length, lengths, range(len(lengths)))
            axes.axvline(column, color="white", linewidth=1.6, linestyle=style)
    step = math.ceil(len(lengths) / 5)
    axes.set_xticks(range(0, len(lengths), step), lengths[::step])
    step = math.ceil(len(grid) / 5)
    axes.set_yticks(range(0, len(grid), step), grid.index[::step])
    axes.tick_params(length=2, labelsize=8)
    axes.set_title(f"{model}  {mean(cells)}", fontsize=9, parse_math=False)
    return image


def draw(cells: pd.DataFrame, score: str):
    """The figure: a panel for each model, up to three side by side."""
    models = list(cells.groupby("model"))
    across = min(3, len(models))
    down = math.ceil(len(models) / across)
    figure, panels = plt.subplots(down, across, squeeze=False, layout="constrained")
    figure.set_size_inches(3.4 * across + 1.2, 2.0 * down + 0.8)
    used = list(panels.flat[: len(models)])
    for axes in panels.flat[len(models) :]:
        axes.remove()
    for axes, (model, group) in zip(used, models, strict=True):
        image = draw_panel(axes, model, group)
    figure.colorbar(image, ax=used, shrink=0.7, aspect=30).set_label(SCORES[score], fontsize=8)
    figure.supxlabel("length, tokens", fontsize=9)
    figure.supylabel("depth of the needle, %", fontsize=9)
    sources = ", ".join(cells.source.unique())
    title = f"{sources} text; mean [95 % interval]\ndotted: original window, dashed: extended to"
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
    for model, group in cells.groupby("model"):
        print(f"{model}: {SCORES[args.score]} {mean(group)}")
    print(f"picture: {args.output_dir / 'needle.png'}")
    cells["model"] = cells.model.str.replace(r"^(?=[=+@-])", "'", regex=True)  # not a formula in a spreadsheet
    cells.drop(columns=["scores", "drawn_text"]).to_csv(args.output_dir / "needle.csv", index=False)


if __name__ == "__main__":
    run_script(main)
