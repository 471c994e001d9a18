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
    standin, gaps, few = [], [], []
    for column in columns:
        name = BENCHMARKS[column.benchmark]
        missing = [row.label for row in rows if row.label not in column.cells]
        incomplete = [label for label, cell in column.cells.items() if cell.lacks]
        n = min(cell.n for cell in column.cells.values())
        if "stand-in" in column.what:
            standin.append(name)
        if missing:
            gaps.append(f"No result: {name} ({column.what}) of {', '.join(missing)}.")
        if incomplete:
            gaps.append(f"Incomplete, so not compared: {name} ({column.what}) of {', '.join(incomplete)}.")
        if n < FEW:
            few.append(f"{name} ({column.what}) {n}")
    lines = [f"Failed: {line}" for line in failures if line]
    lines += results.warnings + gaps
    if standin:
        names = ", ".join(standin)
        lines.insert(0, f"Stand-in data in {names}: a demonstration, not a result of those benchmarks.")
    for score in results.scores:
        if score.value is None and score.part == "":
            place = f"{score.benchmark} of {score.model} at {score.length}"
            lines.append(f"No number: {place} ({score.file}).")
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
    engines = runs[["engine", "dtype", "attention"]].fillna({"engine": "transformers"}).dropna().drop_duplicates()
    window = max(row.info["original_length"] or 0 for row in rows)
    return {
        "Base": ", ".join(sorted(bases)),
        "Window": f"{short(window)} tokens, extended to {short(target)}",
        "Methods": ", ".join(row.label for row in rows if row.kind != "base"),
        "Engines": "; ".join(sorted(", ".join(engine) for engine in engines.itertuples(index=False))),
        "Versions": ", ".join(sorted(versions)),
    }


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
    images = {}
    for drawn in figures:
        svg = (output / f"{drawn.name}.svg").read_bytes()
        images[drawn.name] = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    options = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, **options)
    page = environment.get_template("report.html.j2").render(
        warnings=warnings(results, rows, columns, failures),
        findings=findings.describe(columns, rows, correlations, target),
        columns=columns,
        groups=groupby(rows, key=lambda row: row.group),
        notes=tables.notes(columns),
        figures=figures,
        images=images,
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
    path.write_text(page, encoding="utf-8", errors="replace")
    return path
