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
    "ntk_frozen": ("#56B4E9", "d"),
    "yarn": ("#009E73", "v"),
}
SPARE = [("#CC79A7", "P"), ("#D55E00", "X"), ("#F0E442", "*"), ("#882255", "<"), ("#44AA99", ">"), ("#AA4499", "h")]


@dataclass
class Point:
    """One result file: a model at one length (tokens), perplexities with 95 % intervals (None where there is none)."""

    dataset: str
    source: str
    method: str
    trained_tokens: int
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
    def label(self) -> str:
        if self.method == "base":
            return "base"
        return self.method if self.trained_tokens else f"{self.method.removesuffix('_frozen')} (frozen)"


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
    for point in sorted(points, key=lambda p: (p.method != "base", not p.trained_tokens, p.label, p.model, p.length)):
        rows.setdefault((point.label, point.model), []).append(point)
    return rows


def short(length: float) -> str:
    return f"{length / 1024:g}k" if length >= 1024 else f"{length:g}"


def draw(points: list[Point], path: Path) -> None:
    """Two panels to `path`: mean perplexity over the window, and over its last 64 positions, against its length."""
    rows = rows_of(points)
    lengths = sorted({point.length for point in points})
    spare = iter(SPARE)
    styles = {method: STYLE.get(method) or next(spare, SPARE[0]) for method in sorted({p.method for p in points})}
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for panel, what, title in zip(panels, ("mean", "last"), ("whole window", "last 64 positions"), strict=True):
        marks = {point.original_length: "original" for point in points}
        marks |= {p.trained_length: "trained" for p in points if p.trained_tokens and p.trained_length not in marks}
        for length, name in marks.items():
            panel.axvline(length, color="#999999", linewidth=1, linestyle=":", zorder=0)
            panel.annotate(
                f" {name} length {short(length)}", (length, 1), xycoords=("data", "axes fraction"),
                rotation=90, va="top", ha="right", fontsize=8, color="#555555",
            )  # fmt: skip
        names = [label for label, _ in rows]
        for (label, model), row in rows.items():
            color, marker = styles[row[0].method]
            frozen = label.endswith("(frozen)")
            seen = [point for point in row if getattr(point, what) is not None]
            x, y = [point.length for point in seen], [getattr(point, what) for point in seen]
            panel.plot(
                x, y, color=color, marker=marker, markersize=5, linewidth=1.6,
                linestyle="--" if frozen or label == "base" else "-",
                markerfacecolor="white" if frozen else color,
                label=label if names.count(label) == 1 else f"{label}, {model}",
            )  # fmt: skip
            band = [(p.length, *getattr(p, f"{what}_interval")) for p in seen if getattr(p, f"{what}_interval")]
            if band:
                panel.fill_between(*zip(*band, strict=True), color=color, alpha=0.13, linewidth=0)
        panel.set(xscale="log", yscale="log", xlabel="window, tokens", title=title)
        panel.xaxis.set_major_locator(FixedLocator(lengths))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        panel.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.grid(axis="y", color="#e5e5e5", zorder=0)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("perplexity (log scale)")
    panels[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    sources = ", ".join(sorted({f"{point.dataset} ({point.source} data)" for point in points}))
    figure.suptitle(f"{sources}; shaded: 95 % intervals; dashed: not trained", fontsize=9, color="#555555")
    figure.savefig(path, dpi=160)
    plt.close(figure)


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
