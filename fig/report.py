"""report.html: one file with the warnings, what was run, Table 1, all figures, costs and links to the raw files."""

import base64
import re
from itertools import groupby
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import findings
import tables
from collect import BENCHMARKS, Results
from paper import PAPER
from rows import Row, short
from tables import Column

FEW = 100  # samples; with fewer an interval is wider than most differences between methods


def warnings(results: Results, rows: list[Row], columns: list[Column], failures: list[str]) -> list[str]:
    """What a reader has to know before the numbers, most important first. failures: steps that failed."""
    lines = []
    standin = [column.name for column in columns if "stand-in" in column.what]
    if standin:
        lines.append(f"Stand-in data in {', '.join(standin)}: a demonstration, not a result of those benchmarks.")
    lines += [f"Failed: {line}" for line in failures if line]
    lines += results.warnings
    few = []
    for column in columns:
        n = min(cell.n for cell in column.cells.values())
        if n < FEW:
            few.append(f"{column.name} ({column.what}) {n}")
    for score in results.scores:
        if score.value is None and score.part == "":
            lines.append(f"No number: {score.benchmark} of {score.model} at {score.length} ({score.file}).")
    if few:
        lines.append(f"Few samples (fewer than {FEW}): {'; '.join(few)}.")
    if max(len(row.models) for row in rows) == 1:
        lines.append("One training seed a method: how much another seed would change is not in the intervals.")
    return lines


def overview(results: Results, rows: list[Row], runs: pd.DataFrame, target: int) -> dict[str, str]:
    """Base, windows, methods, engines and versions."""
    bases, versions = set(), set()
    for info in results.models.values():
        bases.add(re.sub(r"^[./~].*/", "", info["base_model"] or "unknown"))  # of a folder its name
    for record in runs.versions.dropna():
        versions |= {f"{name} {version}" for name, version in record.items()}
    engines = runs[["engine", "dtype", "attention"]].fillna({"engine": "transformers"}).dropna()
    window = max(row.window for row in rows)
    return {
        "Base": ", ".join(sorted(bases)),
        "Window": f"{short(window)} tokens, extended to {short(target)}",
        "Engines": "; ".join(sorted(set(engines.agg(", ".join, axis=1)))),
        "Versions": ", ".join(sorted(versions)),
    }


def embed(path: Path) -> str:
    """The SVG file as a URL that contains it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


def html_table(table: pd.DataFrame) -> str:
    """The table in HTML, "" if it has no lines."""
    if table.empty:
        return ""
    return table.to_html(index=False, border=0, na_rep="–", float_format="{:,.3g}".format)


def write(output, results, rows, target, columns, comparisons, correlations, costs, recipes, figures, failures) -> Path:
    """Writes report.html into `output`, which has the SVG files of the figures (plots.Drawn).

    recipes: settings of training by model.  failures: steps that failed.  The others: see make_figures.main.
    """
    runs = pd.DataFrame(results.runs).replace({"benchmark": BENCHMARKS})
    data = runs[["benchmark", "task", "source", "data", "sha256"]].drop_duplicates()
    data["sha256"] = data.sha256.str[:12]
    recipe = pd.DataFrame({row.label: recipes.get(row.models[0], {}) for row in rows if row.kind == "fine-tuned"})
    options = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, **options)
    page = environment.get_template("report.html.j2").render(
        warnings=warnings(results, rows, columns, failures),
        findings=findings.describe(columns, rows, correlations, target),
        columns=columns,
        groups=groupby(rows, key=lambda row: row.group),
        notes=tables.notes(columns),
        figures=figures,
        images={drawn.name: embed(output / f"{drawn.name}.svg") for drawn in figures},
        correlations=html_table(correlations.replace({"measure": BENCHMARKS, "benchmark": BENCHMARKS})),
        comparisons=html_table(comparisons.replace({"benchmark": BENCHMARKS})),
        paper=PAPER,
        overview=overview(results, rows, runs, target),
        recipe=html_table(recipe.astype(object).sort_index().rename_axis("setting").reset_index()),
        data=html_table(data.sort_values(["benchmark", "task"])),
        commands=runs.dropna(subset="command").groupby("benchmark").command.unique(),
        costs=html_table(costs),
        files=sorted(path.name for path in output.iterdir() if path.suffix in (".csv", ".md", ".tex")),
    )
    path = output / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
