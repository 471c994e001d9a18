"""Draws the heat-maps of needle results, one panel for each model.

    python needle_plot.py                                             reads results, writes img
    python needle_plot.py --results results/NAME --colours cividis    one model; for colour-blind readers
    python needle_plot.py --score lceg_overlap                        the heat-map score of the paper's code

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
from matplotlib.patheffects import withStroke

from run import Parser, read_json, run_script
from stats import mean_over_grid

SCORES = {"score": "share of the answer's words", "rate": "exact match", "lceg_overlap": "word overlap (LCEG)"}
COLOURS = {  # lceg: of the paper's picture, at 0, 1/2 and 1
    "lceg": LinearSegmentedColormap.from_list("lceg", ("#F0496E", "#EBB839", "#0CD79F")),
    "cividis": plt.get_cmap("cividis"),
}
PANELS_ACROSS = 3
LIMITS = {"original_length": 1e9, "trained_length": 1e9, "length": 1e9, "depth": 100, "value": 1, "n": 1e9}


def read_cell(path: Path, score: str) -> dict:
    """The row of `read_cells` for one file. Raises what `read_cells` catches if it is not a needle result."""
    result = read_json(path) or {}
    trials = [result] if score == "lceg_overlap" else result["trials"]  # LCEG's is of the first trial
    key = "exact" if score == "rate" else score
    row = {
        "model": path.parent.name,
        "original_length": result["original_length"],
        "trained_length": result["trained_length"],
        "length": result["context_length"],
        "depth": result["depth_percent"],
        "value": result[score],
        "n": 1 if score == "lceg_overlap" else result["n"],
        "source": str(result["data"]["source"]),
        "scores": [trial.get(key) for trial in trials],
        "drawn_text": result.get("drawn_text", False),
    }
    for key, most in LIMITS.items():
        unknown = row[key] is None and key not in ("length", "depth", "n")
        if not (unknown or 0 <= row[key] <= most):
            raise ValueError
    return row


def read_cells(folder: Path, score: str) -> pd.DataFrame:
    """All needle results below a folder, one row for each cell; reports files that are left out.

    Columns: model, original_length, trained_length, length (tokens), depth (percent), value (mean score of n answers,
    NaN without any), n, source, scores (a list, of each trial), drawn_text (see scoring.write_cell). Raises ValueError
    if there are none.
    """
    rows, folders = {}, {}  # by cell, by model
    for path in sorted(folder.rglob("*_results.json")):
        if re.fullmatch(r"old\d*", path.parent.name):
            continue  # answers with other settings
        try:
            row = read_cell(path, score)
        except (AttributeError, KeyError, TypeError, ValueError):
            print(f"left out: {path} is not a needle result with '{score}'")
            continue
        cell = (row["model"], row["length"], row["depth"])
        if cell in rows or folders.setdefault(path.parent.name, path.parent) != path.parent:
            print(f"left out: {path} repeats a model or a cell; rename its folder")
            continue
        rows[cell] = row
    if not rows:
        raise ValueError(f"no needle results with '{score}' in {folder}; run eval.sh first")
    cells = pd.DataFrame(list(rows.values()))
    return cells.astype({"value": float, "original_length": float, "trained_length": float})


def mean(cells: pd.DataFrame) -> str:
    """The mean over the grid with its 95 % interval."""
    if cells.value.isna().all():
        return "no answers"
    score_CT = pd.DataFrame(cells.scores.tolist(), dtype=float)  # NaN without an answer
    mean = mean_over_grid(score_CT.to_numpy(), cells.drawn_text.all())
    low, high = mean.interval()
    return f"{mean.mean_M[0]:.2f} [{low:.2f}, {high:.2f}]"


def format_length(length: int) -> str:
    if length < 1000:
        return str(length)
    return f"{length / 1024:g}k" if length % 1024 == 0 else f"{length / 1000:.0f}k"


def draw_panel(axes, model: str, cells: pd.DataFrame, colours):
    """The heat-map of one model; returns its image."""
    grid = cells.pivot(index="depth", columns="length", values="value")
    lengths = list(grid.columns)
    image = axes.imshow(grid, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for key, style in (("trained_length", "--"), ("original_length", ":")):
        length = cells[key].iloc[0]
        if lengths[0] <= length <= lengths[-1]:  # not if it is unknown
            column = np.interp(length, lengths, range(len(lengths)))
            outline = [withStroke(linewidth=3, foreground="#000000b0")]
            axes.axvline(column, color="white", linewidth=1.6, linestyle=style, path_effects=outline)
    step = math.ceil(len(lengths) / 6)
    axes.set_xticks(range(0, len(lengths), step), map(format_length, lengths[::step]))
    step = math.ceil(len(grid) / 5)
    axes.set_yticks(range(0, len(grid), step), map("{:g}".format, grid.index[::step]))
    axes.tick_params(length=2, labelsize=8)
    axes.set_title(f"{model}  {mean(cells)}", fontsize=9, parse_math=False)
    return image


def draw(cells: pd.DataFrame, colours: str, score: str):
    """The figure: a panel for each model, up to three side by side."""
    models = list(cells.groupby("model"))
    across = min(PANELS_ACROSS, len(models))
    down = math.ceil(len(models) / across)
    figure, panels = plt.subplots(down, across, squeeze=False, layout="constrained")
    figure.set_size_inches(3.4 * across + 1.2, 2.0 * down + 0.8)
    colour_map = COLOURS[colours].with_extremes(bad="#dddddd")
    used = list(panels.flat[: len(models)])
    for axes in panels.flat[len(models) :]:
        axes.remove()
    for axes, (model, group) in zip(used, models, strict=True):
        image = draw_panel(axes, model, group, colour_map)
    figure.colorbar(image, ax=used, shrink=0.7, aspect=30).set_label(SCORES[score], fontsize=8)
    figure.supxlabel("length, tokens", fontsize=9)
    figure.supylabel("depth of the needle, %", fontsize=9)
    sources = ", ".join(cells.source.unique())
    title = f"{sources} text, at most {cells.n.max()} prompts per cell; mean [95 % interval]\n"
    title += "dotted: original window, dashed: extended to"
    figure.suptitle(title, fontsize=8, color="#555555", parse_math=False)
    return figure


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of result files [results]")
    parser.add_argument("--output_dir", type=Path, default=Path("img"), help="[img]")
    parser.add_argument("--score", choices=SCORES, default="score", help="[score]")
    parser.add_argument("--colours", choices=COLOURS, default="lceg", help="[lceg]")
    args = parser.parse_args()
    cells = read_cells(args.results, args.score)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    figure = draw(cells, args.colours, args.score)
    for ending in ("png", "svg", "pdf"):
        figure.savefig(args.output_dir / f"needle.{ending}", dpi=200)
    cells["model"] = cells.model.str.replace(r"^(?=[=+@-])", "'", regex=True)  # not a formula in a spreadsheet
    cells.drop(columns=["scores", "drawn_text"]).to_csv(args.output_dir / "needle.csv", index=False)
    for model, group in cells.groupby("model"):
        print(f"{model}: {SCORES[args.score]} {mean(group)}")
    print(f"picture: {args.output_dir / 'needle.png'}")


if __name__ == "__main__":
    run_script(main)
