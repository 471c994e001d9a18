"""Table 1: methods by benchmarks, each value with its 95 % interval, the best in bold, ties with it marked.

Ties are those of stats.tied_with_best, from the samples that all methods of a column share; NOTE says what they mean.
"""

import math
import re
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np
import pandas as pd

from collect import BENCHMARKS, Score
from rows import Row, nearest, short, source_names
from scores import PERPLEXITIES, make_estimate, mean_of
from stats import tied_with_best

PAPER_COLUMNS = ("perplexity", "needle", "trec", "longbench", "ruler")
CONTENTS = {
    "perplexity": "{task}, {longest} tokens",
    "long_ppl": "{task}, {longest} tokens",
    "needle": "{n_lengths}, {lengths} tokens",
    "trec": "TREC, {length:g} examples",
    "icl": "TREC, {length:g} examples",
    "kv": "{length:g} pairs",
    "longbench": "{n_sets}",
    "longbench_e": "{n_sets}",
    "ruler": "{n_tasks}, {longest} tokens",
    "short": "{n_tasks}",
}
NOTE = (
    "Brackets: 95 % intervals; the sampled units are documents (perplexities), trials or, where these share text, "
    "cells (needle), and single samples (the others). Bold: the best; ≈: not told apart from it by multiple "
    "comparisons with the best: of several equally good methods, each keeps its mark in 93 to 95 % of studies. "
    "All but perplexities in %."
)
RESULT_COLUMNS = (
    "model", "training_seed", "method", "trained_length", "trained_tokens", "benchmark", "task", "length", "part",
    "metric", "value", "low", "high", "n", "source", "protocol", "seed", "file",
)  # fmt: skip
LATEX_SIGNS = str.maketrans({"↓": r"$\downarrow$", "↑": r"$\uparrow$", "–": "--"})
MARKDOWN = {"missing": "–", "best": "**{}**", "tie": "{} ≈", "details": " {}"}
LATEX = {"missing": "--", "best": r"\textbf{{{}}}", "tie": r"{}$^\approx$", "details": r" {{\scriptsize {}}}"}


@dataclass(eq=False)
class Cell:
    """One value of the table, in its units: perplexity, else %.

    row: of the table.  scores: the value is their mean.  lacks: how many scores of the column it lacks.
    mark: "best", "tie", "worse", "not compared" for want of shared samples, or "" if the cell lacks scores.
    seeds, seeds_sd: number of training seeds, and the standard deviation between them.
    """

    row: Row
    scores: list[Score]
    lacks: int
    mark: str = ""

    def __post_init__(self):
        mean = mean_of(self.scores)
        self.is_perplexity = mean.benchmark in PERPLEXITIES
        scale = 100 if mean.benchmark == "needle" else 1
        self.n = mean.n
        self.value = scale * mean.value
        self.low = scale * mean.low
        self.high = scale * mean.high
        self.seeds = max(1, len(mean.seeds))
        self.seeds_sd = scale * pd.Series(mean.seeds, dtype=float).std()

    def __str__(self):
        return self.format(self.value)

    def format(self, number: float) -> str:
        if number >= 1e4:
            return f"{number:.1e}"
        return f"{number:.2f}" if self.is_perplexity else f"{number:.1f}"

    @property
    def details(self) -> list[str]:
        """What follows the value: the interval, the standard deviation of training seeds, what is missing."""
        details = []
        low, high, sd = map(self.format, (self.low, self.high, self.seeds_sd))
        if low != "nan":
            details.append(f"[{low}, {high}]")
        if self.seeds > 1:
            details.append(f"{self.seeds} seeds, sd {sd}")
        if self.lacks:
            n = len(self.scores)
            details.append(f"{n} of {n + self.lacks} only")
        if self.mark == "not compared":
            details.append("samples not shared")
        return details


class Column:
    """A column of the table. scores: rows.make_frame's lines that are averaged.  what: their lengths, sets and data.

    cells: by row label, in the order of the rows.  ranking: those that lack nothing, the best first.
    """

    def __init__(self, benchmark, what, scores):
        self.benchmark, self.what, self.scores = benchmark, what, scores
        self.name = BENCHMARKS[benchmark]
        self.lower_is_better = benchmark in PERPLEXITIES
        self.head = f"{self.name} {'↓' if self.lower_is_better else '↑'}"
        self.cells = {}
        n_parts = len(scores.drop_duplicates(["task", "length"]))
        for row, own in scores.groupby("row", sort=False):
            own = own.sort_values(["task", "length"])
            self.cells[row.label] = Cell(row, own.score.tolist(), n_parts - len(own))
        complete = [cell for cell in self.cells.values() if not cell.lacks]
        self.ranking = sorted(complete, key=attrgetter("value"), reverse=not self.lower_is_better)
        if complete and self.ranking[0].value > 0:  # where all scores are 0, none is best
            for cell, mark in compare_with_best(self.ranking).items():
                cell.mark = mark
        counts = [cell.n for cell in self.cells.values()]
        self.least_n = min(counts)
        self.n = f"n = {min(counts):,}"
        if min(counts) < max(counts):
            self.n += f" to {max(counts):,}"


def make_columns(scores, target, benchmarks=PAPER_COLUMNS) -> list[Column]:
    """The columns of these benchmarks that there are results for. target: see rows.target_length."""
    columns = []
    for benchmark in benchmarks:
        own = scores.query("benchmark == @benchmark and part == ''")
        for _, part in own.groupby("task" if benchmark in PERPLEXITIES else "benchmark"):
            shown = choose_scores(benchmark, part, target)
            columns.append(Column(benchmark, describe_scores(benchmark, shown), shown))
    return columns


def choose_scores(benchmark, scores, target):
    """The scores of a benchmark that Table 1 shows."""
    if benchmark in (*PERPLEXITIES, "ruler"):
        return scores[scores.length == nearest(scores.length, target)]
    if benchmark == "needle":  # as in the paper: lengths up to twice the target
        longest = max(scores.length.min(), 2 * (target or math.inf))
        return scores[scores.length <= longest]
    scores = scores[scores.source == scores.source.min()]  # official and stand-in data are never averaged
    if benchmark in ("trec", "icl", "kv"):  # a number is in the names of their sets
        most_common = scores.length.mode()  # the number of examples that most rows have, the largest of those
        return scores[scores.length == most_common.max()]
    return scores


def describe_scores(benchmark, scores) -> str:
    """What the scores of a column are: sets, lengths and data."""
    first = scores.iloc[0]
    n_tasks = scores.task.nunique()
    longest = short(scores.length.max())
    lengths = [short(scores.length.min()), longest]
    n_documents = np.count_nonzero(list(first.score.targets.values()))
    what = CONTENTS[benchmark].format(
        task=first.task,
        length=first.length,
        longest=longest,
        lengths="–".join(dict.fromkeys(lengths)),
        n_lengths=counted(scores.length.nunique(), "length"),
        n_tasks=counted(n_tasks, "task"),
        n_sets=counted(n_tasks, "set"),
    )
    if n_documents:
        what += f", {counted(n_documents, 'document')}"
    data = source_names(scores)
    return what if data == "official" else f"{what}, {data} data"


def counted(n: int, word: str) -> str:
    """ "1 set", "3 sets"."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def can_compare(cell, best) -> bool:
    """Whether a cell can be compared with the best: of each score, it has at least half of the same samples."""
    for own, first in zip(cell.scores, best.scores, strict=True):
        n_shared = len(own.samples.keys() & first.samples)
        n_needed = max(1, len(first.samples) / 2)
        if own.design != first.design or n_shared < n_needed:
            return False
    return True


def compare_with_best(cells) -> dict:
    """The mark of each cell, see Cell. cells: the best first; all with its value are "best"."""
    best = cells[0]
    marks = dict.fromkeys(cells, "not compared")
    compared = [cell for cell in cells if can_compare(cell, best)]
    if compared:
        estimate = make_estimate([cell.scores for cell in compared])
        if estimate.n_units > 1:
            is_tied = tied_with_best(estimate, lower_is_better=best.is_perplexity)
            marks |= zip(compared, np.where(is_tied, "tie", "worse"), strict=True)
    equal = [cell for cell in cells if cell.value == best.value]
    return marks | dict.fromkeys(equal, "best")


def format_cell(column, row, patterns: dict) -> str:
    """The text of a row in a column. patterns: MARKDOWN or LATEX."""
    cell = column.cells.get(row.label)
    if not cell:
        return patterns["missing"]
    text = patterns.get(cell.mark, "{}").format(cell)
    if cell.details:
        text += patterns["details"].format("; ".join(cell.details))
    return text


def guard(value):
    """A text that a spreadsheet would take for a formula, with an apostrophe in front; other values as they are."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
    return f"'{value}" if is_formula else value


def write_csv(table, path) -> None:
    rows = [list(map(guard, row)) for row in table.itertuples(index=False)]
    pd.DataFrame(rows, columns=table.columns, dtype=object).to_csv(path, index=False)


def write_results(results, path) -> None:
    """results.csv: a line for each score; the same results give the same bytes (no times, no dates)."""
    lines = []
    for score in results.scores:
        lines.append(vars(score) | results.models[score.model])
    write_csv(pd.DataFrame(lines, columns=RESULT_COLUMNS, dtype=object), path)


def escape(name: str) -> str:
    """A name from a result for Markdown: what would end a cell or begin code, HTML, a link or emphasis is escaped."""
    return re.sub(r"([\\|`*<>&\[\]~$])", r"\\\1", name)


def markdown(columns, rows) -> str:
    """Table 1 in Markdown, with its note."""
    heads = []
    for column in columns:
        heads.append(f"{column.head}<br>{escape(column.what)}<br>{column.n}")
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    for group, members in groupby(rows, key=attrgetter("group")):
        if group != "base":
            lines.append(f"| *{group}* |" + " |" * len(columns))
        for row in members:
            line = f"| {escape(row.label)}"
            for column in columns:
                line += " | " + format_cell(column, row, MARKDOWN)
            lines.append(f"{line} |")
    return "\n".join([*lines, "", NOTE, ""])


def latex(columns, rows) -> str:
    """Table 1 for LaTeX (booktabs); empty without columns."""
    if not columns:
        return ""
    index = [[row.group for row in rows], [row.label for row in rows]]
    table = {}
    for column in columns:
        table[column.head, column.what, column.n] = [format_cell(column, row, LATEX) for row in rows]
    style = pd.DataFrame(table, index).style
    style = style.format_index(escape="latex").format_index(escape="latex", axis="columns")
    alignment = "ll" + "c" * len(columns)
    text = style.to_latex(column_format=alignment, hrules=True, multirow_align="naive", multicol_align="r")
    return f"{text.translate(LATEX_SIGNS)}% {NOTE}\n"
