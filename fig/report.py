"""report.html: one file with the warnings, what was run, Table 1, all figures, costs and links to the raw files."""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import tables
from collect import KINDS, Results, Run
from costs import Training, of_row
from paper import PAPER, Comparison
from plots import GRID, SOFT
from plots import PAPER as WHITE
from rows import Row, short
from tables import NAMES, Column

FEW = 100  # samples; with fewer an interval is wider than most differences between methods
# colours of the figures that follow the page's theme; the dark ones among the methods' have a lighter twin
THEME = {
    "#000000": "var(--ink)",
    SOFT: "var(--soft)",
    "#999999": "var(--soft)",
    GRID: "var(--grid)",
    WHITE: "none",
    "#661100": "var(--brown)",
    "#882255": "var(--wine)",
    "#0072b2": "var(--blue)",
    "#332288": "var(--indigo)",
}
BENCHMARKS = {"perplexity": "Perplexity", "needle": "Needle", **KINDS}


@dataclass
class Study:
    """All that the page tells. recipes: settings of the training by model.  failures: lines of --failures."""

    found: Results
    rows: list[Row]
    target: int | None
    columns: list[Column]
    comparisons: list[Comparison]
    correlations: list[dict]
    trainings: dict[str, Training]
    recipes: dict[str, dict]
    failures: list[str]


def inline(svg: str, name: str) -> str:
    """A figure's SVG as a part of the page: ids of its own, colours of the page's theme, as wide as there is room."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", svg)
    points = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg)
    svg = svg.replace("<svg", f'<svg aria-hidden="true" style="max-width: {points / 10.2:.0f}rem"', 1)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in THEME.items():
        svg = re.sub(rf"((?:fill|stroke): ){colour}\b", rf"\g<1>{variable}", svg, flags=re.IGNORECASE)
    return svg


def warnings(study: Study) -> list[str]:
    """What a reader has to know before the numbers, most weighty first."""
    words, columns = [], {f"{NAMES[column.benchmark]} ({column.what})": column for column in study.columns}
    if standin := [NAMES[column.benchmark] for what, column in columns.items() if "stand-in" in what]:
        words.append(
            f"Stand-in data in {', '.join(standin)}: it shows the pipeline and the effects, and is no result of those "
            "benchmarks."
        )
    words += [f"Failed: {line}" for line in study.failures] + study.found.warnings
    for what, column in columns.items():
        cells = column.cells
        if lacking := [row.label for row in study.rows if row.label not in cells]:
            words.append(f"No result: {what} of {', '.join(lacking)}.")
        if part := [label for label, cell in cells.items() if cell.lacks]:
            words.append(f"Incomplete, so not compared: {what} of {', '.join(part)}.")
    for score in study.found.scores:
        if score.value is None and not score.part.startswith(("last", "positions")) and score.metric != "rate":
            words.append(
                f"No number: {score.benchmark} of {score.model} at {score.length} {score.part} ({score.file})."
            )
    few = {
        what: min(cell.score.n for cell in column.cells.values()) for what, column in columns.items() if column.cells
    }
    if few := [f"{what} {n}" for what, n in few.items() if n < FEW]:
        words.append(f"Few samples (fewer than {FEW}): {'; '.join(few)}.")
    trained = [row for row in study.rows if not row.frozen and not row.base]
    if trained and all(len(row.models) == 1 for row in trained):
        words.append("One training seed a method: how much another seed would change is not in the intervals.")
    return words


def recipe_lines(recipes: dict[str, dict], rows: list[Row]) -> list[tuple[str, str]]:
    """Settings of the fine-tuned rows: the common value, and which rows differ from it."""
    trained = {row.label: recipes.get(row.models[0], {}) for row in rows if not row.frozen and not row.base}
    lines = []
    for key in sorted({key for recipe in trained.values() for key in recipe}):
        values = {label: str(recipe[key]) for label, recipe in trained.items() if key in recipe}
        common, count = Counter(values.values()).most_common(1)[0]
        if len(values) < len(trained) or count == 1 < len(values):  # a method's own option
            text = "; ".join(f"{label} {value}" for label, value in values.items())
        else:
            other = [f"{label} {value}" for label, value in values.items() if value != common]
            text = common + (f" ({'; '.join(other)})" if other else "")
        lines.append((key, text))
    return lines


def data_lines(runs: list[Run]) -> list[tuple[str, str]]:
    """Which data each benchmark ran on: source, name and hash."""
    seen: dict[tuple, None] = {}
    for run in sorted(runs, key=lambda run: (list(BENCHMARKS).index(run.benchmark), run.task, run.length or 0)):
        where = str(run.data.get("dataset") or Path(str(run.data.get("path") or "")).name)
        sha256 = run.data.get("sha256")
        hashed = f", sha256 {str(sha256)[:12]}…" if sha256 else ""
        text = f"{run.data.get('source', 'unknown')}, {run.task}" + (f", {where}" if where else "") + hashed
        seen[BENCHMARKS[run.benchmark], text] = None
    return list(seen)


def cost_lines(study: Study) -> list[list[str]]:
    """A line a row: training hours, devices, tokens/s, peak; all evaluations together, and their peak. – is unknown."""
    lines = []
    for row in study.rows:
        one = of_row(row, study.trainings)
        runs = [run.made for run in study.found.runs if run.model == row.models[0]]
        peak = max((run["peak_memory_bytes"] or 0 for run in runs), default=0)
        seconds = sum(run["seconds"] or 0 for run in runs)
        trained = ["–"] * 4
        if one:
            trained[0] = f"{one.seconds / 3600:.3g}"
            trained[1] = f"{one.devices} × {one.device}" if one.devices else "–"
            trained[2] = f"{one.tokens_per_second:,.0f}" if one.seconds else "–"
            trained[3] = f"{one.peak_memory_bytes / 2**30:.2f}" if one.peak_memory_bytes else "–"
        evaluated = [f"{seconds / 3600:.3g}" if seconds else "–", f"{peak / 2**30:.2f}" if peak else "–"]
        lines.append([row.label, *trained, *evaluated])
    return lines


def raw_links(study: Study, output: Path) -> list[tuple[str, dict[str, str]]]:
    """(row, {benchmark: relative link to its file, or to the folder that has several})."""
    lines = []
    for row in study.rows:
        links = {}
        for name, title in BENCHMARKS.items():
            paths = {run.path for run in study.found.runs if run.benchmark == name and run.model in row.models}
            if paths:
                path = paths.pop() if len(paths) == 1 else Path(os.path.commonpath([path.parent for path in paths]))
                links[title] = Path(os.path.relpath(path.resolve(), output.resolve())).as_posix()
        lines.append((row.label, links))
    return lines


def commands(study: Study) -> list[tuple[str, list[str]]]:
    """(benchmark, its distinct commands), in the order of the rows."""
    order = {name: i for i, row in enumerate(study.rows) for name in row.models}
    lines = []
    for name, title in BENCHMARKS.items():
        runs = sorted((run for run in study.found.runs if run.benchmark == name), key=lambda run: order[run.model])
        if distinct := [*dict.fromkeys(run.made["command"] for run in runs if run.made["command"])]:
            lines.append((title, distinct))
    return lines


def facts(study: Study) -> list[tuple[str, str]]:
    """Base, windows, methods, engines and versions."""
    rows, runs = study.rows, [run.made for run in study.found.runs]
    bases = {str(one["base_model"]) for one in study.found.models.values() if one["base_model"]}
    bases = {Path(base).name if base.startswith((".", "/", "~")) else base for base in bases}
    window = max((row.facts["original_length"] or 0 for row in rows), default=0)
    engines = {f"{run['engine'] or 'transformers'}, {run['dtype']}, {run['attention']}" for run in runs}
    versions = {f"{name} {version}" for run in runs for name, version in (run["versions"] or {}).items()}
    return [
        ("Base", ", ".join(sorted(bases))),
        ("Window", f"{short(window)} tokens, extended to {short(study.target or 0)}"),
        ("Methods", ", ".join(row.label for row in rows if not row.base)),
        ("Engines", "; ".join(sorted(engines))),
        ("Versions", ", ".join(sorted(versions))),
    ]


def write(study: Study, figures: list[tuple], output: Path) -> Path:
    """Writes report.html into `output`. figures: (plots.Drawn, its SVG)."""
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
        facts=facts(study),
        data=data_lines(study.found.runs),
        recipe=recipe_lines(study.recipes, study.rows),
        commands=commands(study),
        columns=study.columns,
        groups=tables.groups(study.rows),
        notes=tables.notes(study.columns),
        paper=PAPER,
        figures=[(drawn, inline(svg, drawn.name)) for drawn, svg in figures],
        names=NAMES,
        costs=cost_lines(study),
        links=raw_links(study, output),
        files=sorted(path.name for path in output.iterdir() if path.suffix in (".csv", ".md", ".tex")),
    )
    path = output / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
