"""Table 1: methods by benchmarks, each value with its 95 % interval, the best in bold, ties with it marked.

Ties are those of stats.tied_with_best, from the samples that all methods of a column share (perplexity: documents;
needle: trials or cells): the truly best method has a mark in 95 % of studies, and so has each of several equally good.
"""

import math
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from collect import BENCHMARKS, Results, Score
from rows import Row, nearest, short, source_names
from scores import PERPLEXITIES, make_estimate, mean_of
from stats import tied_with_best

PAPER_COLUMNS = ("perplexity", "needle", "trec", "longbench", "ruler")
COUNTED = {"trec": "TREC, {} examples", "icl": "TREC, {} examples", "kv": "{} pairs"}  # by the number in a set's name
NOTE = (
    "Brackets: 95 % intervals; the sampled units are documents (perplexities), trials or, where these share text, "
    "cells (needle), and single samples (the others). Bold: the best; ≈: not told apart from it by multiple "
    "comparisons with the best: of several equally good methods, each keeps its mark in 95 % of studies. "
    "All but perplexities in %."
)
RESULT_COLUMNS = (
    "model", "training_seed", "method", "trained_length", "trained_tokens", "benchmark", "task", "length", "part",
    "metric", "value", "low", "high", "n", "source", "protocol", "seed", "file",
)  # fmt: skip
LATEX = str.maketrans({"↓": r"$\downarrow$", "↑": r"$\uparrow$", "–": "--"})


@dataclass
class Cell:
    """One value of the table, in its units: perplexity, else %.

    scores: the value is their mean.  lacks: how many scores of the column it lacks.
    mark: "best", "tie", "worse", "not compared" for want of shared samples, or "" if the cell lacks scores.
    seeds, seeds_sd: number of training seeds, and the standard deviation between them.
    """

    scores: list[Score]
    lacks: int
    mark: str = ""

    def __post_init__(self):
        mean = mean_of(self.scores)
        self.is_perplexity = mean.benchmark in PERPLEXITIES
        scale = 100 if mean.benchmark == "needle" else 1
        self.n = mean.n
        self.value = scale * mean.value
        self.low = self.high = self.seeds_sd = None
        if mean.low is not None:
            self.low, self.high = scale * mean.low, scale * mean.high
        self.seeds = max(1, len(mean.seeds))
        if self.seeds > 1:
            self.seeds_sd = scale * float(np.std(mean.seeds, ddof=1))

    def __str__(self):
        return self.format(self.value)

    def format(self, number: float) -> str:
        if abs(number) >= 1e4:
            return f"{number:.1e}"
        return f"{number:.2f}" if self.is_perplexity else f"{number:.1f}"

    @property
    def details(self) -> list[str]:
        """What follows the value: the interval, the standard deviation of training seeds, what is missing."""
        details = []
        if self.low is not None:
            details.append(f"[{self.format(self.low)}, {self.format(self.high)}]")
        if self.seeds > 1:
            details.append(f"{self.seeds} seeds, sd {self.format(self.seeds_sd)}")
        if self.lacks:
            n = len(self.scores)
            details.append(f"{n} of {n + self.lacks} only")
        if self.mark == "not compared":
            details.append("samples not shared")
        return details


@dataclass
class Column:
    """scores: rows.make_frame's lines that are averaged.  what: lengths, sets and data.  cells: by row label."""

    benchmark: str
    what: str
    scores: pd.DataFrame
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return BENCHMARKS[self.benchmark]

    @property
    def lower_is_better(self) -> bool:
        return self.benchmark in PERPLEXITIES

    @property
    def complete(self) -> dict[str, Cell]:
        """The cells that lack nothing, which can be compared."""
        return {label: cell for label, cell in self.cells.items() if not cell.lacks}

    @property
    def head(self) -> str:
        return f"{self.name} {'↓' if self.lower_is_better else '↑'}"

    @property
    def least_n(self) -> int:
        return min(cell.n for cell in self.cells.values())

    @property
    def n(self) -> str:
        most = max(cell.n for cell in self.cells.values())
        return f"n = {most:,}" if most == self.least_n else f"n = {self.least_n:,} to {most:,}"


def make_columns(scores: pd.DataFrame, target: int, benchmarks=PAPER_COLUMNS) -> list[Column]:
    """The columns of these benchmarks that there are results for, without cells. target: see rows.target_length."""
    columns = []
    for benchmark in benchmarks:
        own = scores.query("benchmark == @benchmark and part == ''")
        for _, part in own.groupby("task" if benchmark in PERPLEXITIES else "benchmark"):
            shown, what = choose_scores(part, target)
            data = source_names(shown.source)
            if data != "official":
                what += f", {data} data"
            columns.append(Column(benchmark, what, shown))
    return columns


def choose_scores(scores: pd.DataFrame, target: int) -> tuple[pd.DataFrame, str]:
    """(the scores of a benchmark that Table 1 shows, what they are)."""
    benchmark, task = scores.benchmark.iloc[0], scores.task.iloc[0]
    if benchmark in (*PERPLEXITIES, "ruler"):
        length = nearest(scores.length, target)
        scores = scores.query("length == @length")
        if benchmark == "ruler":
            return scores, f"{counted(scores.task, 'task')}, {short(length)} tokens"
        targets = scores.score.iloc[0].targets or {}
        n = np.count_nonzero(list(targets.values()))
        documents = f", {n} document{'s' if n > 1 else ''}" if n else ""
        return scores, f"{task}, {short(length)} tokens{documents}"
    if benchmark == "needle":  # as in the paper: lengths up to twice the target
        longest = max(scores.length.min(), 2 * (target or math.inf))
        scores = scores[scores.length <= longest]
        range_shown = f"{short(scores.length.min())}–{short(scores.length.max())}"
        return scores, f"{counted(scores.length, 'length')}, {range_shown} tokens"
    scores = scores[scores.source == scores.source.min()]  # official and stand-in data are never averaged
    if benchmark not in COUNTED:
        return scores, counted(scores.task, "task" if benchmark == "short" else "set")
    shots = scores.length.mode().max()  # the number of examples that most rows have, the largest of those
    return scores.query("length == @shots"), COUNTED[benchmark].format(f"{shots:g}")


def counted(values: pd.Series, word: str) -> str:
    """How many different values there are: "1 set", "3 sets"."""
    n = values.nunique()
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def fill(columns: list[Column], rows: list[Row]) -> None:
    """Adds the cells, in the order of the rows, and marks which of them are best and which tie with the best."""
    for column in columns:
        n_parts = len(column.scores.drop_duplicates(["task", "length"]))
        for row in rows:
            own = column.scores.query("label == @row.label").sort_values(["task", "length"])
            if len(own):
                column.cells[row.label] = Cell(own.score.tolist(), n_parts - len(own))
        complete = sorted(column.complete.values(), key=lambda cell: cell.value, reverse=not column.lower_is_better)
        if complete and complete[0].value > 0:  # where all scores are 0, none is best
            for cell, mark in zip(complete, compare_with_best(complete), strict=True):
                cell.mark = "best" if cell.value == complete[0].value else mark


def can_compare(cell: Cell, best: Cell) -> bool:
    """Whether a cell can be compared with the best: of each score, it has at least half of the same samples."""
    for own, first in zip(cell.scores, best.scores, strict=True):
        ids = set(first.samples or ())
        shared = ids.intersection(own.samples or ())
        if own.design != first.design or len(shared) < max(1, len(ids) / 2):
            return False
    return True


def compare_with_best(cells: list[Cell]) -> list[str]:
    """The mark of each cell: "tie" or "worse" than the first, the best, or "not compared" for want of samples."""
    marks = ["not compared"] * len(cells)
    compared = [i for i, cell in enumerate(cells) if can_compare(cell, cells[0])]
    if len(compared) > 1:
        estimate = make_estimate([cells[i].scores for i in compared])
        if estimate.n_units > 1:
            is_tied = tied_with_best(estimate, lower_is_better=cells[0].is_perplexity)
            for i, tied in zip(compared, is_tied, strict=True):
                marks[i] = "tie" if tied else "worse"
    return marks


def make_texts(columns: list[Column], row: Row, missing: str, best: str, tie: str, details: str) -> list[str]:
    """The cells of a row by the patterns of a format: no result, the value of the best and of ties, what follows."""
    patterns = {"best": best, "tie": tie}
    texts = []
    for column in columns:
        text = missing
        cell = column.cells.get(row.label)
        if cell:
            text = patterns.get(cell.mark, "{}").format(cell)
            if cell.details:
                text += details.format("; ".join(cell.details))
        texts.append(text)
    return texts


def write_results(results: Results, path: Path) -> None:
    """results.csv: a line for each score; the same results give the same bytes (no times, no dates)."""
    lines = [{**vars(score), **results.models[score.model]} for score in results.scores]
    pd.DataFrame(lines, columns=RESULT_COLUMNS, dtype=object).to_csv(path, index=False)


def markdown(columns: list[Column], rows: list[Row]) -> str:
    """Table 1 in Markdown, with its note."""
    heads = [f"{column.head}<br>{column.what}<br>{column.n}" for column in columns]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for group, members in groupby(rows, key=lambda row: row.group):
        if group != "base":
            lines.append(f"| *{group}* |" + " |" * len(columns))
        for row in members:
            texts = make_texts(columns, row, "–", "**{}**", "{} ≈", " {}")
            lines.append(" | ".join([f"| {row.label}", *texts]) + " |")
    return "\n".join([*lines, "", NOTE, ""])


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
    return f"{text}% {NOTE}\n"


def write(columns: list[Column], rows: list[Row], folder: Path) -> None:
    """table1.md and table1.tex."""
    (folder / "table1.md").write_text(markdown(columns, rows), encoding="utf-8")
    (folder / "table1.tex").write_text(latex(columns, rows), encoding="utf-8")
