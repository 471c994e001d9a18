"""report.html: one file with the warnings, what was run, Table 1, all figures, costs and links to the raw files."""

import base64
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import tables
from collect import BENCHMARKS, Results
from costs import sum_costs
from paper import PAPER
from plots import Drawn
from rows import Row, short
from tables import Column

FEW = 100  # samples; with fewer an interval is wider than most differences between methods


@dataclass
class Study:
    """What the report shows. recipes: settings of the training by model.  failures: lines of --failures."""

    results: Results
    rows: list[Row]
    target: int
    columns: list[Column]
    comparisons: pd.DataFrame
    correlations: pd.DataFrame
    costs: pd.DataFrame
    recipes: dict[str, dict]
    figures: list[Drawn]
    failures: list[str]


def warnings(study: Study) -> list[str]:
    """What a reader has to know before the numbers, most important first."""
    standin, gaps, few = [], [], []
    for column in study.columns:
        name = BENCHMARKS[column.benchmark]
        missing = [row.label for row in study.rows if row.label not in column.cells]
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
    lines = [f"Failed: {line}" for line in study.failures if line]
    lines += study.results.warnings + gaps
    if standin:
        names = ", ".join(standin)
        lines.insert(0, f"Stand-in data in {names}: a demonstration, not a result of those benchmarks.")
    for score in study.results.scores:
        if score.value is None and score.part == "":
            place = f"{score.benchmark} of {score.model} at {score.length}"
            lines.append(f"No number: {place} ({score.file}).")
    if few:
        lines.append(f"Few samples (fewer than {FEW}): {'; '.join(few)}.")
    if max(len(row.models) for row in study.rows) == 1:
        lines.append("One training seed a method: how much another seed would change is not in the intervals.")
    return lines


def recipe_table(study: Study) -> pd.DataFrame:
    """Settings by fine-tuned rows (the first seed's)."""
    recipes = {row.label: study.recipes.get(row.models[0]) for row in study.rows if row.kind == "fine-tuned"}
    return pd.DataFrame(recipes, dtype=object).sort_index().rename_axis("setting").reset_index()


def overview(study: Study, runs: pd.DataFrame) -> dict[str, str]:
    """Base, windows, methods, engines and versions."""
    models = pd.DataFrame(study.results.models.values())
    bases = {Path(base).name if base.startswith((".", "/", "~")) else base for base in models.base_model.dropna()}
    window = short(models.original_length.max())
    versions = pd.DataFrame(runs.versions.dropna().tolist()).melt().dropna()
    engines = runs.engine.fillna("transformers") + ", " + runs["dtype"] + ", " + runs.attention
    return {
        "Base": ", ".join(sorted(bases)),
        "Window": f"{window} tokens, extended to {short(study.target)}",
        "Methods": ", ".join(row.label for row in study.rows if row.kind != "base"),
        "Engines": "; ".join(engines.dropna().sort_values().unique()),
        "Versions": ", ".join((versions.variable + " " + versions.value).sort_values().unique()),
    }


def html_table(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0, na_rep="–", float_format="{:,.3g}".format)


def write(study: Study, output: Path) -> Path:
    """Writes report.html into `output`, which has the figures' SVG files."""
    runs = pd.DataFrame(study.results.runs).replace({"benchmark": BENCHMARKS})
    data = runs[["benchmark", "task", "source", "data", "sha256"]].drop_duplicates()
    data["sha256"] = data.sha256.str[:12]
    images = {}
    for drawn in study.figures:
        svg = (output / f"{drawn.name}.svg").read_bytes()
        images[drawn.name] = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        study=study,
        warnings=warnings(study),
        overview=overview(study, runs),
        data=html_table(data.sort_values(["benchmark", "task"])),
        recipe=html_table(recipe_table(study)) if study.recipes else "",
        commands=runs.dropna(subset="command").groupby("benchmark").command.unique(),
        groups=groupby(study.rows, key=lambda row: row.group),
        notes=tables.notes(study.columns),
        paper=PAPER,
        comparisons=html_table(study.comparisons.replace({"benchmark": BENCHMARKS})),
        images=images,
        correlations=html_table(study.correlations.replace({"benchmark": BENCHMARKS})),
        costs=html_table(sum_costs(study.rows, study.costs)),
        files=sorted(path.name for path in output.iterdir() if path.suffix in (".csv", ".md", ".tex")),
    )
    path = output / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
