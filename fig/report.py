"""report.html: one file with the warnings, what was run, Table 1, all figures, costs and links to the raw files."""

import base64
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import tables
from collect import KINDS, Results, Run
from costs import row_costs
from paper import PUBLISHED, Comparison
from plots import Drawn
from rows import Row, short
from tables import NAMES, Column

FEW = 100  # samples; with fewer an interval is wider than most differences between methods
BENCHMARKS = {"perplexity": "Perplexity", "needle": "Needle", **KINDS}


@dataclass
class Study:
    """What the report shows. recipes: settings of the training by model.  failures: lines of --failures."""

    results: Results
    rows: list[Row]
    target: int | None
    columns: list[Column]
    comparisons: list[Comparison]
    correlations: pd.DataFrame
    costs: pd.DataFrame
    recipes: dict[str, dict]
    figures: list[Drawn]
    failures: list[str]


def warnings(study: Study) -> list[str]:
    """What a reader has to know before the numbers, most important first."""
    lines, columns = [], {f"{NAMES[column.benchmark]} ({column.what})": column for column in study.columns}
    standin = [NAMES[column.benchmark] for what, column in columns.items() if "stand-in" in what]
    if standin:
        lines.append(f"Stand-in data in {', '.join(standin)}: a demonstration, not a result of those benchmarks.")
    lines += [f"Failed: {line}" for line in study.failures] + study.results.warnings
    for what, column in columns.items():
        missing = [row.label for row in study.rows if row.label not in column.cells]
        if missing:
            lines.append(f"No result: {what} of {', '.join(missing)}.")
        incomplete = [label for label, cell in column.cells.items() if cell.missing]
        if incomplete:
            lines.append(f"Incomplete, so not compared: {what} of {', '.join(incomplete)}.")
    for score in study.results.scores:
        if score.value is None and not score.part.startswith(("last", "positions")) and score.metric != "rate":
            place = f"{score.benchmark} of {score.model} at {score.length} {score.part}"
            lines.append(f"No number: {place} ({score.file}).")
    samples = {what: min(cell.score.n for cell in column.cells.values()) for what, column in columns.items()}
    few = [f"{what} {n}" for what, n in samples.items() if n < FEW]
    if few:
        lines.append(f"Few samples (fewer than {FEW}): {'; '.join(few)}.")
    trained = [row for row in study.rows if not row.frozen and not row.base]
    if trained and all(len(row.models) == 1 for row in trained):
        lines.append("One training seed a method: how much another seed would change is not in the intervals.")
    return lines


def recipe_table(study: Study) -> pd.DataFrame:
    """Settings by fine-tuned rows (the first seed's)."""
    trained = [row for row in study.rows if not row.frozen and not row.base]
    table = pd.DataFrame({row.label: study.recipes.get(row.models[0], {}) for row in trained}, dtype=object)
    return table.sort_index().rename_axis("setting").reset_index()


def data_table(runs: list[Run]) -> pd.DataFrame:
    """Which data each benchmark ran on."""
    lines = []
    for run in runs:
        name = run.data.get("dataset") or Path(str(run.data.get("path") or "")).name
        source, sha256 = run.data.get("source", "unknown"), str(run.data.get("sha256") or "")[:12]
        lines.append((BENCHMARKS[run.benchmark], run.task, source, name, sha256))
    table = pd.DataFrame(lines, columns=["benchmark", "task", "source", "name", "sha256 begins"])
    return table.drop_duplicates().sort_values(["benchmark", "task"])


def commands(runs: list[Run]) -> dict[str, list[str]]:
    """The distinct commands of each benchmark."""
    lines: dict[str, list[str]] = {}
    for run in runs:
        own = lines.setdefault(BENCHMARKS[run.benchmark], [])
        if run.record["command"] and run.record["command"] not in own:
            own.append(run.record["command"])
    return lines


def overview(study: Study) -> list[tuple[str, str]]:
    """Base, windows, methods, engines and versions."""
    rows, records = study.rows, [run.record for run in study.results.runs]
    bases = {str(info["base_model"]) for info in study.results.models.values() if info["base_model"]}
    bases = {Path(base).name if base.startswith((".", "/", "~")) else base for base in bases}
    window = max((row.info["original_length"] or 0 for row in rows), default=0)
    engines = {f"{record['engine'] or 'transformers'}, {record['dtype']}, {record['attention']}" for record in records}
    versions = {f"{name} {version}" for record in records for name, version in (record["versions"] or {}).items()}
    return [
        ("Base", ", ".join(sorted(bases))),
        ("Window", f"{short(window)} tokens, extended to {short(study.target or 0)}"),
        ("Methods", ", ".join(row.label for row in rows if not row.base)),
        ("Engines", "; ".join(sorted(engines))),
        ("Versions", ", ".join(sorted(versions))),
    ]


def html_table(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0, na_rep="–", float_format="{:,.3g}".format)


def write(study: Study, output: Path) -> Path:
    """Writes report.html into `output`, which has the figures' SVG files."""
    loader, options = FileSystemLoader(Path(__file__).parent), {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **options)
    images = {}
    for drawn in study.figures:
        svg = (output / f"{drawn.name}.svg").read_bytes()
        images[drawn.name] = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    page = environment.get_template("report.html.j2").render(
        study=study,
        warnings=warnings(study),
        overview=overview(study),
        data=html_table(data_table(study.results.runs)),
        recipe=html_table(recipe_table(study)) if study.recipes else "",
        commands=commands(study.results.runs),
        groups=tables.group_rows(study.rows),
        notes=tables.notes(study.columns),
        paper=PUBLISHED,
        images=images,
        names=NAMES,
        correlations=html_table(study.correlations.replace({"benchmark": NAMES})),
        costs=html_table(row_costs(study.rows, study.costs)),
        files=sorted(path.name for path in output.iterdir() if path.suffix in (".csv", ".md", ".tex")),
    )
    path = output / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
