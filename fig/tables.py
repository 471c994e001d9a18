"""Table 1: methods by benchmarks, each value with its 95 % interval, the best in bold, ties with it marked.

Ties are those of stats.tied_with_best, from the samples that all methods of a column share (perplexity: documents;
needle: trials or cells): the truly best method has a mark in 95 % of studies, and so has each of several equally good.
"""

import math
import re
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from collect import BENCHMARKS, Results, Score
from paper import find_comparison
from rows import Row, mean_of, nearest, short, source_names
from scores import PERPLEXITIES, make_estimate
from stats import tied_with_best

PAPER_COLUMNS = ("perplexity", "needle", "trec", "longbench", "ruler")
COUNTED = {"trec": "TREC, {} examples", "icl": "TREC, {} examples", "kv": "{} pairs"}  # by the number in a set's name
NOTE = (
    "Brackets: 95 % intervals; the sampled units are documents (perplexities), trials or, where these share text, "
    "cells (needle), and single samples (the others). Bold: the best; ≈: not told apart from it by multiple "
    "comparisons with the best: of several equally good methods, each keeps its mark in 95 % of studies. "
    "All but perplexities in %."
)
SEEDS_NOTE = "Several training seeds: their mean, its interval over the samples, the standard deviation (sd) of seeds."
MISSING_NOTE = "Cells that lack a part of what others have are not compared."
RESULT_COLUMNS = (
    "model", "training_seed", "method", "trained_length", "trained_tokens", "benchmark", "task", "length", "part",
    "metric", "value", "low", "high", "n", "source", "protocol", "seed", "file",
)  # fmt: skip
CSV_COLUMNS = (
    "group", "method", "models", "benchmark", "what", "value", "low", "high", "n", "seeds", "seeds_sd", "mark",
    "lacks", "paper_protocol_value", "paper", "difference",
)  # fmt: skip
LATEX = str.maketrans({"↓": r"$\downarrow$", "↑": r"$\uparrow$", "–": "--"})


@dataclass
class Cell:
    """One value of the table, in its units: perplexity, else %.

    scores: the value is their mean.  lacks: how many scores of the column it lacks.
    published: the paper's number beside ours, see paper.find_comparison.
    mark: "best", "tie", "worse", "not compared" for want of shared samples, or "" if the cell lacks scores.
    seeds, seeds_sd: number of training seeds, and the standard deviation between them.
    """

    scores: list[Score]
    lacks: int
    published: dict
    mark: str = ""

    def __post_init__(self):
        mean = mean_of(self.scores)
        scale = 100 if mean.benchmark == "needle" else 1
        self.n = mean.n
        self.value = scale * mean.value
        self.low, self.high = (None, None) if mean.low is None else (scale * mean.low, scale * mean.high)
        self.seeds = max(1, len(mean.seeds))
        self.seeds_sd = scale * float(np.std(mean.seeds, ddof=1)) if self.seeds > 1 else None

    def format(self, number: float) -> str:
        if abs(number) >= 1e4:
            return f"{number:.1e}"
        return f"{number:.2f}" if self.scores[0].benchmark in PERPLEXITIES else f"{number:.1f}"

    @property
    def details(self) -> list[str]:
        """What follows the value: the interval, training seeds, what is missing, the paper's number."""
        details = []
        if self.low is not None:
            low, high = self.format(self.low), self.format(self.high)
            details.append(f"[{low}, {high}]")
        if self.seeds > 1:
            details.append(f"{self.seeds} seeds, sd {self.format(self.seeds_sd)}")
        if self.lacks:
            details.append(f"{len(self.scores)} of {len(self.scores) + self.lacks} only")
        if self.published:
            detail = "paper {paper:g}, difference {difference:+.2f}"
            if abs(self.published["paper_protocol_value"] - self.value) >= 0.005:
                detail = "by its protocol {paper_protocol_value:.2f}, " + detail
            details.append(detail.format(**self.published))
        return details


@dataclass
class Column:
    """scores: rows.make_frame's lines that are averaged.  what: lengths, sets and data.  cells: by row label."""

    benchmark: str
    what: str
    scores: pd.DataFrame
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return BENCHMARKS[self.benchmark] + (" ↓" if self.benchmark in PERPLEXITIES else " ↑")

    @property
    def n(self) -> str:
        counts = sorted({cell.n for cell in self.cells.values()})
        return f"n = {counts[0]:,}" if len(counts) == 1 else f"n = {counts[0]:,} to {counts[-1]:,}"


def make_columns(scores: pd.DataFrame, target: int, benchmarks=PAPER_COLUMNS) -> list[Column]:
    """The columns of these benchmarks that there are results for, without cells. target: see rows.target_length."""
    columns = []
    for benchmark in benchmarks:
        own = scores.query("benchmark == @benchmark and part == ''")
        for _, part in own.groupby("task" if benchmark in PERPLEXITIES else "benchmark"):
            shown, what = choose_scores(part, target)
            data = source_names(shown.source)
            columns.append(Column(benchmark, what if data == "official" else f"{what}, {data} data", shown))
    return columns


def choose_scores(scores: pd.DataFrame, target: int) -> tuple[pd.DataFrame, str]:
    """(the scores of a benchmark that Table 1 shows, what they are)."""
    benchmark = scores.benchmark.iloc[0]
    if benchmark in (*PERPLEXITIES, "ruler"):
        length = nearest(scores.length, target)
        scores = scores.query("length == @length")
        name = scores.task.iloc[0] if benchmark in PERPLEXITIES else counted(scores.task, "task")
        targets = scores.score.iloc[0].targets or {}
        n = sum(map(bool, targets.values()))
        documents = f", {n} document{'s' if n > 1 else ''}" if n else ""
        return scores, f"{name}, {short(length)} tokens{documents}"
    if benchmark == "needle":  # as in the paper: lengths up to twice the target
        lengths = scores.length
        lengths = lengths[lengths <= max(lengths.min(), 2 * (target or math.inf))]
        range_shown = f"{short(lengths.min())}–{short(lengths.max())}"
        return scores.loc[lengths.index], f"{counted(lengths, 'length')}, {range_shown} tokens"
    scores = scores[scores.source == scores.source.min()]  # official and stand-in data are never averaged
    if benchmark not in COUNTED:
        return scores, counted(scores.task, "task" if benchmark == "short" else "set")
    shots = scores.length.mode().max()  # the number of examples that most rows have, the largest of those
    return scores.query("length == @shots"), COUNTED[benchmark].format(f"{shots:g}")


def counted(values: pd.Series, word: str) -> str:
    """How many different values there are: "1 set", "3 sets"."""
    n = values.nunique()
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def fill(columns: list[Column], rows: list[Row], comparisons: pd.DataFrame) -> None:
    """Adds the cells, and marks which of them are best and which tie with the best. comparisons: see paper.compare."""
    for column in columns:
        n_parts = len(column.scores.drop_duplicates(["task", "length"]))
        for row in rows:
            own = column.scores.query("label == @row.label").sort_values(["task", "length"])
            if len(own):
                published = find_comparison(comparisons, row, own.score.iloc[0])
                column.cells[row.label] = Cell(own.score.tolist(), n_parts - len(own), published)
        complete = [cell for cell in column.cells.values() if not cell.lacks]
        complete.sort(key=lambda cell: cell.value, reverse=column.benchmark not in PERPLEXITIES)
        if complete and complete[0].value > 0:  # where all scores are 0, none is best
            mark_cells(complete)


def comparable_cells(cells: list[Cell]) -> list[Cell]:
    """The cells that can be compared with the first: of each of its scores, all share at least half of the samples."""
    best = cells[0].scores
    shared = [set(score.samples or ()) for score in best]
    comparable = []
    for cell in cells:
        still_shared = []
        for first, score, ids in zip(best, cell.scores, shared, strict=True):
            ids = ids & set(score.samples or ())
            if score.design == first.design and ids and len(ids) >= len(first.samples) / 2:
                still_shared.append(ids)
        if len(still_shared) == len(best):
            comparable.append(cell)
            shared = still_shared
    return comparable


def mark_cells(cells: list[Cell]) -> None:
    """Marks the best of the cells, which come first, and those that are not told apart from them."""
    for cell in cells:
        cell.mark = "not compared"
    compared = comparable_cells(cells)
    estimate = make_estimate([cell.scores for cell in compared]) if len(compared) > 1 else None
    if estimate and estimate.n_units > 1:
        tied = tied_with_best(estimate, lower_is_better=cells[0].scores[0].benchmark in PERPLEXITIES)
        for cell, is_tied in zip(compared, tied, strict=True):
            cell.mark = "tie" if is_tied else "worse"
    for cell in cells:
        if cell.value == cells[0].value:
            cell.mark = "best"


def notes(columns: list[Column]) -> list[str]:
    """What a reader must know about the table, a sentence each."""
    unpaired, cells = [], []
    for column in columns:
        cells += column.cells.values()
        if "not compared" in [cell.mark for cell in column.cells.values()]:
            unpaired.append(BENCHMARKS[column.benchmark])
    lines = [NOTE]
    if unpaired:
        lines.append(f"Not compared with the best, for want of shared samples: {', '.join(unpaired)}.")
    if any(cell.seeds > 1 for cell in cells):
        lines.append(SEEDS_NOTE)
    if any(cell.lacks for cell in cells):
        lines.append(MISSING_NOTE)
    return lines


def make_texts(columns: list[Column], row: Row, missing: str, best: str, tie: str, details: str) -> list[str]:
    """The cells of a row by the patterns of a format: no result, the value of the best and of ties, what follows."""
    texts = []
    for column in columns:
        cell = column.cells.get(row.label)
        if cell is None:
            texts.append(missing)
            continue
        pattern = {"best": best, "tie": tie}.get(cell.mark, "{}")
        text = pattern.format(cell.format(cell.value))
        if cell.details:
            text += details.format("; ".join(cell.details))
        texts.append(text)
    return texts


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Writes the table. A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    table = table.replace(r"^([=+\-@])", r"'\1", regex=True)
    table.to_csv(path, index=False, lineterminator="\n")


def write_results(results: Results, path: Path) -> None:
    """results.csv: a line for each score; the same results give the same bytes (no times, no dates)."""
    lines = [{**vars(score), **results.models[score.model]} for score in results.scores]
    write_csv(pd.DataFrame(lines, columns=RESULT_COLUMNS, dtype=object), path)


def escape(name: str) -> str:
    """A name from a result for Markdown: what would end a cell or begin code, HTML, a link or emphasis is escaped."""
    return re.sub(r"([\\|`*<>&\[\]~$])", r"\\\1", name)


def markdown(columns: list[Column], rows: list[Row]) -> str:
    """Table 1 in Markdown, with its notes."""
    heads = [f"{column.head}<br>{escape(column.what)}<br>{column.n}" for column in columns]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for group, members in groupby(rows, key=lambda row: row.group):
        if group != "base":
            lines.append(f"| *{group}* |" + " |" * len(columns))
        for row in members:
            texts = make_texts(columns, row, "–", "**{}**", "{} ≈", " {}")
            lines.append(" | ".join([f"| {escape(row.label)}", *texts]) + " |")
    return "\n".join([*lines, "", *notes(columns), ""])


def latex(columns: list[Column], rows: list[Row]) -> str:
    """Table 1 for LaTeX (booktabs); empty without columns."""
    if not columns:
        return ""
    patterns = ("--", r"\textbf{{{}}}", r"{}$^\approx$", r" {{\scriptsize {}}}")
    cells = {(row.group, row.label): make_texts(columns, row, *patterns) for row in rows}
    heads = [(column.head, column.what, column.n) for column in columns]
    table = pd.DataFrame(cells, index=pd.MultiIndex.from_tuples(heads)).T
    style = table.style.format_index(escape="latex").format_index(escape="latex", axis="columns")
    options = {"hrules": True, "multirow_align": "naive", "multicol_align": "r"}
    text = style.to_latex(column_format="ll" + "c" * len(columns), **options).translate(LATEX)
    return text + "".join(f"% {line}\n" for line in notes(columns))


def write(columns: list[Column], rows: list[Row], folder: Path) -> None:
    """table1.md, table1.tex, and table1.csv with a line for each cell, in the units of the table."""
    (folder / "table1.md").write_text(markdown(columns, rows), encoding="utf-8")
    (folder / "table1.tex").write_text(latex(columns, rows), encoding="utf-8")
    lines = []
    for row in rows:
        names = {"group": row.group, "method": row.label, "models": " ".join(row.models)}
        for column in columns:
            cell = column.cells.get(row.label)
            if cell:
                lines.append({**names, **vars(column), **vars(cell), **cell.published})
    table = pd.DataFrame(lines, columns=CSV_COLUMNS, dtype=object)
    write_csv(table, folder / "table1.csv")
