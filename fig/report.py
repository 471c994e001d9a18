"""report.html: one file with the warnings, what was run, Table 1, all figures, costs and links to the raw files."""

import base64
from itertools import groupby
from pathlib import Path

import pandas as pd
from jinja2 import StrictUndefined, Template

import findings
import tables
from collect import BENCHMARKS
from paper import PAPER
from rows import short

TEMPLATE = Path(__file__).with_name("report.html.j2")


def html_table(table: pd.DataFrame) -> str:
    """The table in HTML, "" if it has no lines."""
    if table.empty:
        return ""
    table = table.replace({"measure": BENCHMARKS, "benchmark": BENCHMARKS})
    return table.to_html(index=False, border=0, na_rep="–", float_format="{:,.3g}".format)


def write(output, results, rows, target, columns, comparisons, correlations, costs, recipes, figures, failures) -> Path:
    """Writes report.html into `output`, which has the SVG files of the figures; see make_figures.main."""
    runs = pd.DataFrame(results.runs).replace({"benchmark": BENCHMARKS})
    data = runs[["benchmark", "task", "source", "data", "sha256"]].drop_duplicates()
    data["sha256"] = data.sha256.str[:12]
    engines = runs[["engine", "dtype", "attention"]].fillna({"engine": "transformers"}).dropna()
    bases = pd.Series([info["base_model"] for info in results.models.values()]).fillna("unknown")
    versions = [version for record in runs.versions.dropna() for version in record.items()]
    recipe = pd.DataFrame({row.label: recipes.get(row.models[0], {}) for row in rows if row.kind == "fine-tuned"})
    for drawn in figures:
        image = output / f"{drawn.name}.svg"
        drawn.image = base64.b64encode(image.read_bytes()).decode()
    options = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True, "autoescape": True}
    page = Template(TEMPLATE.read_text(encoding="utf-8"), **options).render(
        results=results,
        rows=rows,
        columns=columns,
        failures=failures,
        findings=findings.describe(columns, correlations, target),
        groups=groupby(rows, key=lambda row: row.group),
        note=tables.NOTE,
        figures=figures,
        correlations=html_table(correlations),
        comparisons=html_table(comparisons),
        paper=PAPER,
        short=short,
        target=target,
        bases=bases.str.replace(r"^[./~].*/", "", regex=True),  # of a folder its name
        engines=engines.agg(", ".join, axis=1),
        versions=[f"{name} {version}" for name, version in versions],
        recipe=html_table(recipe.astype(object).sort_index().rename_axis("setting").reset_index()),
        data=html_table(data.sort_values(["benchmark", "task"])),
        commands=runs.dropna(subset="command").groupby("benchmark").command.unique(),
        costs=html_table(costs),
        files=sorted(path.name for path in output.iterdir() if path.suffix in (".csv", ".md", ".tex")),
    )
    path = output / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
