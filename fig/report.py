"""report.html: one file with the warnings, what was run, Table 1, all figures, costs and links to the raw files."""

import base64
from pathlib import Path

from run import read_text, write_text

import pandas as pd
from jinja2 import StrictUndefined, Template

import findings
from collect import BENCHMARKS
from paper import PAPER
from rows import short, target_length
from stats import MIN_METHODS
from tables import NOTE

TEMPLATE = Path(__file__).with_name("report.html.j2")


def html_table(table: pd.DataFrame) -> str:
    table = table.replace({"measure": BENCHMARKS, "benchmark": BENCHMARKS})
    return table.to_html(index=False, border=0, na_rep="–", float_format="{:,.3g}".format)


def write(output: Path, figures, results, rows, columns, recipes, correlations, comparisons, costs) -> None:
    """Writes report.html. figures: names of the SVG files in `output`."""
    runs = pd.DataFrame(results.runs).replace({"benchmark": BENCHMARKS})
    data = runs[["benchmark", "task", "source", "data", "sha256"]].drop_duplicates()
    data["sha256"] = data.sha256.str[:12]
    engines = runs[["engine", "dtype", "attention"]].fillna({"engine": "transformers"}).dropna()
    bases = pd.DataFrame(results.models.values()).base_model.fillna("unknown")
    versions = set()
    for record in runs.versions.dropna():
        versions.update(f"{name} {version}" for name, version in record.items())
    recipe = {row.label: recipes.get(row.models[0], {}) for row in rows if row.kind == "fine-tuned"}
    recipe = pd.DataFrame(recipe, dtype=object).sort_index().rename_axis("setting")
    files = ["results.csv", "table1.md", "table1.tex", "costs.csv", "correlation.csv"]
    if not comparisons.empty:
        files.append("paper.csv")
    images = {}
    for name in figures:
        svg = (output / f"{name}.svg").read_bytes()
        images[name] = base64.b64encode(svg).decode()
    options = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True, "autoescape": True}
    target = target_length(rows)
    page = Template(read_text(TEMPLATE), **options).render(
        results=results,
        rows=rows,
        columns=columns,
        correlations=correlations,
        comparisons=comparisons,
        costs=costs,
        target=target,
        findings=findings.describe(columns, correlations, target),
        note=NOTE,
        images=images,
        min_methods=MIN_METHODS,
        html_table=html_table,
        paper=PAPER,
        short=short,
        bases=bases.str.replace(r"^[./~].*/", "", regex=True),  # of a folder its name
        engines=engines.agg(", ".join, axis=1),
        versions=versions,
        recipe=recipe.reset_index(),
        data=data.sort_values(["benchmark", "task"]),
        commands=runs.dropna(subset="command").groupby("benchmark").command.unique(),
        files=sorted(files),
    )
    write_text(output / "report.html", page)
