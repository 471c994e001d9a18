"""Draws perplexity against length for every model found in the result files, and prints the table.

    python make_figures.py                                          reads ../eval_perplexity/results, writes here
    python make_figures.py --results ../quickstart_run/results --output_dir ../quickstart_run

Needs no GPU and reads only result files; one CPU is all it uses. Writes perplexity.png and perplexity.csv.
"""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend is chosen first: there may be no screen
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator  # noqa: E402

# Okabe and Ito's palette, told apart by the colour-blind; markers tell the same in black and white
STYLE = {
    "base": ("#000000", "o"),
    "origin": ("#7f7f7f", "s"),
    "pi": ("#E69F00", "^"),
    "ntk": ("#0072B2", "D"),
    "yarn": ("#009E73", "v"),
    "clex": ("#CC79A7", "P"),
    "longlora": ("#D55E00", "X"),
    "landmark": ("#882255", "h"),
    "lm_infinite": ("#56B4E9", "<"),
    "self_extend": ("#661100", ">"),
}
SPARE = [("#44AA99", "p"), ("#AA4499", "*"), ("#999933", "8"), ("#332288", "H")]


@dataclass
class Point:
    """One result file: a model at one length (tokens), perplexities with 95 % intervals (None where there is none)."""

    dataset: str
    source: str
    method: str
    trained_tokens: int | None
    original_length: int
    trained_length: int
    model: str
    length: int
    mean: float | None
    mean_interval: list | None
    last: float | None
    last_interval: list | None
    n_windows: int
    seed: int

    @property
    def frozen(self) -> bool:
        """Extended without training (None tokens: trained by other code, it is not known how long)."""
        return self.trained_tokens == 0 and self.method != "base"

    @property
    def style(self) -> str:
        return self.method.removesuffix("_frozen")

    @property
    def label(self) -> str:
        return f"{self.style} (frozen)" if self.frozen else self.method


def read(folder: Path) -> list[Point]:
    """All perplexity results below `folder`. Exits with one line if there is none; names files that are not whole."""
    points = []
    for path in sorted(folder.rglob("*.json")):
        try:
            result = json.loads(path.read_text())
            if "val_perplexity" not in result or "seq_len" not in result:
                continue  # another stage's result
            last = result.get("last_64") or {}
            points.append(
                Point(
                    dataset=Path(result["data"]["path"]).parent.name,
                    source=result["data"]["source"],
                    method=result["method"],
                    trained_tokens=result["trained_tokens"],
                    original_length=result["original_length"],
                    trained_length=result["trained_length"],
                    model=Path(result["model"]).name,
                    length=result["seq_len"],
                    mean=result["val_perplexity"],
                    mean_interval=result["perplexity_interval_95"],
                    last=last.get("perplexity"),
                    last_interval=last.get("perplexity_interval_95"),
                    n_windows=result["n_windows"],
                    seed=result["seed"],
                )
            )
        except (ValueError, KeyError, TypeError) as reason:
            print(f"left out: {path} is no whole perplexity result ({type(reason).__name__}: {reason})")
    if not points:
        raise SystemExit(f"error: no perplexity results in {folder}; run eval_perplexity/eval.sh first")
    return points


def rows_of(points: list[Point]) -> dict[tuple[str, str], list[Point]]:
    """Points by model, keyed (label, model), base first, then trained, then frozen; each sorted by length."""
    rows: dict[tuple[str, str], list[Point]] = {}
    for point in sorted(points, key=lambda p: (p.method != "base", p.frozen, p.label, p.model, p.length)):
        rows.setdefault((point.label, point.model), []).append(point)
    return rows


def short(length: float) -> str:
    return f"{length / 1024:g}k" if length >= 1024 else f"{length:g}"


def draw(points: list[Point], path: Path) -> None:
    """Perplexity against window length, to `path`: a column for the mean over the window and one for its last 64
    positions, a row for trained methods and one for frozen, the base in each."""
    rows = rows_of(points)
    lengths = sorted({point.length for point in points})
    original = max(point.original_length for point in points)
    trained = sorted({point.trained_length for point in points if not point.frozen and point.trained_length > original})
    spare = iter(SPARE)
    styles = {method: STYLE.get(method) or next(spare, SPARE[0]) for method in sorted({p.style for p in points})}
    kinds = [kind for kind in (False, True) if any(p.frozen == kind and p.method != "base" for p in points)] or [False]
    figure, grid = plt.subplots(
        len(kinds), 2, figsize=(10.5, 3.7 * len(kinds) + 0.5), sharex=True, sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    names = [label for label, _ in rows]
    for panels, kind in zip(grid, kinds, strict=True):
        for panel, what in zip(panels, ("mean", "last"), strict=True):
            for (label, model), row in rows.items():
                if row[0].frozen == kind or row[0].method == "base":
                    text = label.removesuffix(" (frozen)") if names.count(label) == 1 else f"{label}, {model}"
                    line(panel, row, what, text, styles[row[0].style])
            for length in trained if not kind else ():
                mark(panel, length, "trained")
            mark(panel, original, "original")
            scales(panel, lengths)
        panels[0].set_ylabel(f"{'not trained' if kind else 'trained'}\nperplexity (log scale)")
        panels[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    for panel, title in zip(grid[0], ("whole window", "last 64 positions"), strict=True):
        panel.set_title(title)
    for panel in grid[-1]:
        panel.set_xlabel("window, tokens")
    sources = ", ".join(sorted({f"{point.dataset} ({point.source} data)" for point in points}))
    figure.suptitle(f"{sources}; shaded: 95 % intervals", fontsize=9, color="#555555")
    figure.savefig(path, dpi=160)
    plt.close(figure)


def line(panel, row: list[Point], what: str, label: str, style: tuple[str, str]) -> None:
    """One model in one panel. what: "mean" or "last"."""
    color, marker = style
    seen = [point for point in row if getattr(point, what) is not None]
    x, y = [point.length for point in seen], [getattr(point, what) for point in seen]
    dashes = "--" if row[0].method == "base" else "-"
    panel.plot(x, y, color=color, marker=marker, markersize=5, linewidth=1.6, linestyle=dashes, label=label)
    band = [(point.length, *getattr(point, f"{what}_interval")) for point in seen if getattr(point, f"{what}_interval")]
    if band:
        panel.fill_between(*zip(*band, strict=True), color=color, alpha=0.1, linewidth=0)


def mark(panel, length: int, name: str) -> None:
    panel.axvline(length, color="#999999", linewidth=1, linestyle=":", zorder=0)
    panel.annotate(
        f" {name} {short(length)}", (length, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", ha="right",
        fontsize=8, color="#555555",
    )  # fmt: skip


def scales(panel, lengths: list[int]) -> None:
    panel.set(xscale="log", yscale="log")
    panel.xaxis.set_major_locator(FixedLocator(lengths))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    panel.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.grid(axis="y", color="#e5e5e5", zorder=0)
    panel.spines[["top", "right"]].set_visible(False)


def table(points: list[Point]) -> str:
    """A Markdown table: a row a model, a column a length, `mean / last 64 positions` in each cell."""
    rows = rows_of(points)
    lengths = sorted({point.length for point in points})
    lines = ["| model | " + " | ".join(short(length) for length in lengths) + " |", "|---" * (len(lengths) + 1) + "|"]
    names = [label for label, _ in rows]
    for (label, model), row in rows.items():
        cells = {p.length: " / ".join("–" if v is None else f"{v:.2f}" for v in (p.mean, p.last)) for p in row}
        name = label if names.count(label) == 1 else f"{label}, {model}"
        lines.append(f"| {name} | " + " | ".join(cells.get(length, "–") for length in lengths) + " |")
    return "\n".join(lines)


def write_csv(points: list[Point], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Point.__annotations__)
        for row in rows_of(points).values():
            writer.writerows([getattr(point, name) for name in Point.__annotations__] for point in row)


def main():
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, default=here.parent / "eval_perplexity" / "results", help="result files"
    )
    parser.add_argument("--output_dir", type=Path, default=here, help="folder for the figure and the table")
    args = parser.parse_args()
    points = read(args.results)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_csv(points, args.output_dir / "perplexity.csv")
    by_dataset: dict[str, list[Point]] = {}
    for point in points:
        by_dataset.setdefault(point.dataset, []).append(point)
    for dataset, group in by_dataset.items():
        path = args.output_dir / ("perplexity.png" if len(by_dataset) == 1 else f"perplexity_{dataset}.png")
        draw(group, path)
        fewest = min(point.n_windows for point in group)
        print(f"\nPerplexity on {dataset} ({group[0].source} data), mean / last 64 positions, {fewest}+ windows each")
        print(table(group))
        print(f"figure: {path}")


if __name__ == "__main__":
    main()
