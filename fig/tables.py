"""Table 1: methods by benchmarks, each value with its 95 % interval, the best in bold, ties with it marked.

A tie: the 95 % interval of the difference from the best contains 0, by a bootstrap over the samples that both have,
paired by id. Each method is compared with the best alone; nothing is corrected for the number of methods. Where a
result has no samples in common with the best, the two intervals are compared instead, and the table says so.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from collect import Score
from rows import Row, mean_of, nearest, short, source_names, stratum
from stats import Z, percentile_interval, resampled_means

SOURCES = ("official", "user", "unverified", "standin")  # of several, the first is shown
NAMES = {
    "perplexity": "Perplexity",
    "needle": "Needle",
    "trec": "Many-shot",
    "longbench": "LongBench",
    "ruler": "RULER",
}
NOTE = (
    "Brackets: 95 % intervals over the samples. Bold: the best; ≈: not told apart from it by a paired bootstrap over "
    "the samples that both share (95 %, each method against the best alone). All but perplexity in %."
)
SEEDS_NOTE = "Several training seeds: their mean, its interval over the samples, the standard deviation (sd) of seeds."
CSV_COLUMNS = (
    "group", "method", "models", "benchmark", "what", "value", "low", "high", "n", "seeds", "seeds_sd", "mark",
    "comparison", "lacks", "paper_protocol_value", "paper", "difference",
)  # fmt: skip
LATEX = {"_": r"\_", "%": r"\%", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "–": "--"}


@dataclass
class Cell:
    """scores: those of the column that this row has.  missing: how many it lacks; such a cell is not compared.

    score: their mean.  paper: (ours, theirs, difference) by the paper's protocol.  mark: "best", "tie" or "".
    Numbers are shown in the table's units: perplexity, else %.
    """

    score: Score
    scores: list[Score]
    missing: int
    paper: tuple[float, float, float] | None
    mark: str = ""
    unpaired: bool = False

    @property
    def scale(self) -> int:
        return 100 if self.score.benchmark == "needle" else 1

    @property
    def numbers(self) -> list[float | None]:
        """Value, low and high, in the table's units."""
        return [None if x is None else self.scale * x for x in (self.score.value, self.score.low, self.score.high)]

    @property
    def seeds_sd(self) -> float | None:
        """Standard deviation between training seeds, in the table's units."""
        return self.scale * float(np.std(self.score.seeds, ddof=1)) if len(self.score.seeds) > 1 else None

    def format(self, number: float) -> str:
        if abs(number) >= 1e4:
            return f"{number:.1e}"
        return f"{number:.{2 if self.score.benchmark == 'perplexity' else 1}f}"

    @property
    def value(self) -> str:
        return self.format(self.numbers[0])

    @property
    def interval(self) -> str:
        _, low, high = self.numbers
        return "" if low is None else f"[{self.format(low)}, {self.format(high)}]"

    @property
    def remarks(self) -> list[str]:
        """Training seeds, what is missing, the paper's number."""
        remarks = []
        if self.seeds_sd is not None:
            remarks.append(f"{len(self.score.seeds)} seeds, sd {self.format(self.seeds_sd)}")
        if self.missing:
            remarks.append(f"{len(self.scores)} of {len(self.scores) + self.missing} only")
        if self.paper:
            ours, theirs, difference = self.paper
            protocol = "" if abs(ours - self.numbers[0]) < 0.005 else f"by its protocol {ours:.2f}, "
            remarks.append(f"{protocol}paper {theirs:g}, difference {difference:+.2f}")
        return remarks


@dataclass
class Column:
    """keys: of the scores (Score.key) whose mean is shown.  what: lengths, sets and data, for the header.

    cells: by row label.
    """

    benchmark: str
    keys: list[tuple]
    what: str
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def lower_is_better(self) -> bool:
        return self.benchmark == "perplexity"

    @property
    def head(self) -> str:
        return f"{NAMES[self.benchmark]} {'↓' if self.lower_is_better else '↑'}"

    @property
    def n(self) -> str:
        counts = sorted({cell.score.n for cell in self.cells.values()})
        return f"n = {counts[0]:,}" if len(counts) == 1 else f"n = {counts[0]:,} to {counts[-1]:,}"


def make_columns(rows: list[Row], target: int | None) -> list[Column]:
    """The columns that there are results for, at the target length (see rows.target_length)."""
    columns = []
    for benchmark in NAMES:
        scores = [score for row in rows for score in row.select(benchmark)]
        lengths = sorted({score.length for score in scores if score.length})
        if not scores:
            continue
        if benchmark == "perplexity":
            for dataset in sorted({score.task for score in scores}):
                own = [score for score in scores if score.task == dataset]
                length = nearest({score.length for score in own}, target)
                columns.append(make_column(own, f"{dataset}, {short(length)} tokens", [length]))
        elif benchmark == "needle":  # as in the paper: lengths up to twice the target
            lengths = [length for length in lengths if length <= 2 * (target or lengths[-1])] or lengths
            what = f"{counted(len(lengths), 'length')}, {short(lengths[0])}–{short(lengths[-1])} tokens"
            columns.append(make_column(scores, what, lengths))
        elif benchmark == "ruler":
            length = nearest(lengths, target)
            columns.append(make_column(scores, f"{{task}}, {short(length)} tokens", [length]))
        else:
            source = min({score.source for score in scores}, key=lambda source: (*SOURCES, source).index(source))
            scores = [score for score in scores if score.source == source]
            if benchmark == "longbench":
                columns.append(make_column(scores, "{set}"))
            else:  # the number of examples that most rows have, the largest of those
                shots = [score.length for score in scores]
                most = max(shots, key=lambda count: (shots.count(count), count))
                columns.append(make_column(scores, f"TREC, {most} examples", [most]))
    return columns


def counted(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"


def make_column(scores: list[Score], what: str, lengths: list | None = None) -> Column:
    """The column of all scores at these lengths. `what` may hold {set} or {task}: how many there are."""
    scores = [score for score in scores if lengths is None or score.length in lengths]
    keys = sorted({score.key for score in scores})
    what = what.format(set=counted(len(keys), "set"), task=counted(len(keys), "task"))
    data = source_names(score.source for score in scores)
    return Column(scores[0].benchmark, keys, what if data == "official" else f"{what}, {data} data")


def fill(columns: list[Column], rows: list[Row], paper_of: Callable[[Row, Column], tuple | None]) -> None:
    """Adds the cells, and marks which of them are best and which tie with the best."""
    for column in columns:
        for row in rows:
            scores = [row.scores[key] for key in column.keys if key in row.scores]
            scores = [score for score in scores if score.value is not None]
            if scores:
                missing = len(column.keys) - len(scores)
                column.cells[row.label] = Cell(mean_of(scores), scores, missing, paper_of(row, column))
        complete = [cell for cell in column.cells.values() if not cell.missing]
        if not complete:
            continue
        best = (min if column.lower_is_better else max)(complete, key=lambda cell: cell.score.value)
        if best.score.value == 0 and not column.lower_is_better:
            continue  # nobody scored: there is no best
        for cell in complete:
            if cell.score.value == best.score.value:
                cell.mark = "best"
            else:
                tie, cell.unpaired = compare(best, cell)
                cell.mark = "tie" if tie else ""


def compare(best: Cell, cell: Cell) -> tuple[bool, bool]:
    """(do they tie, were they compared without pairs)."""
    differences = []
    for ours, theirs in zip(best.scores, cell.scores, strict=True):
        shared = [id_ for id_ in ours.samples or () if id_ in (theirs.samples or ())]
        if shared:
            differences.append(stratum(ours, shared, minus=theirs))
    if len(differences) == len(best.scores) and max(len(sums) for sums, _ in differences) > 1:
        low, high = percentile_interval(resampled_means(differences))
        return low <= 0 <= high, False
    values = [(one.score.value, one.score.low, one.score.high) for one in (best, cell)]
    if any(low is None for _, low, _ in values):
        return False, True
    if best.score.benchmark == "perplexity":
        values = np.log(values).tolist()
    return tied_unpaired(*values), True


def tied_unpaired(first: tuple[float, float, float], second: tuple[float, float, float]) -> bool:
    """Whether two (value, low, high) differ by at most 1.96 standard errors of the difference, which the two 95 %
    intervals give under normal errors."""
    errors = [(high - low) / (2 * Z) for _, low, high in (first, second)]
    return abs(first[0] - second[0]) <= Z * math.hypot(*errors)


def notes(columns: list[Column]) -> list[str]:
    """What a reader must know about the table, a sentence each."""
    lines = [NOTE]
    unpaired = [NAMES[c.benchmark] for c in columns if any(cell.unpaired for cell in c.cells.values())]
    if unpaired:
        lines.append(f"Compared by their intervals, not in pairs, for want of shared samples: {', '.join(unpaired)}.")
    cells = [cell for column in columns for cell in column.cells.values()]
    if any(cell.seeds_sd is not None for cell in cells):
        lines.append(SEEDS_NOTE)
    if any(cell.missing for cell in cells):
        lines.append("Cells that lack a part of what others have are not compared.")
    return lines


def group_rows(rows: list[Row]) -> dict[str, list[Row]]:
    return {group: list(members) for group, members in itertools.groupby(rows, key=lambda row: row.group)}


def cell_text(cell: Cell | None, missing: str, best: str, tie: str, details: str) -> str:
    """A cell by the patterns of a format: for no result, for the value of the best and of ties, for what follows."""
    if cell is None:
        return missing
    value = {"best": best, "tie": tie}.get(cell.mark, "{}").format(cell.value)
    texts = [cell.interval, *cell.remarks] if cell.interval else cell.remarks
    return value + (details.format("; ".join(texts)) if texts else "")


def markdown(columns: list[Column], rows: list[Row]) -> str:
    """Table 1 in Markdown, with its notes."""
    lines = ["| method | " + " | ".join(f"{c.head}<br>{c.what}<br>{c.n}" for c in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for group, members in group_rows(rows).items():
        if group != "base":
            lines.append(f"| *{group}* |" + " |" * len(columns))
        for row in members:
            cells = [cell_text(column.cells.get(row.label), "–", "**{}**", "{} ≈", " {}") for column in columns]
            lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *notes(columns), ""])


def latex(columns: list[Column], rows: list[Row]) -> str:
    """Table 1 for LaTeX (booktabs)."""
    patterns = ("--", r"\textbf{{{}}}", r"{}$^\approx$", r" {{\scriptsize {}}}")
    cells = [[cell_text(column.cells.get(row.label), *patterns) for column in columns] for row in rows]
    heads = [(column.head, column.what, column.n) for column in columns]
    index = pd.MultiIndex.from_tuples([(row.group, row.label) for row in rows])
    table = pd.DataFrame(cells, index, pd.MultiIndex.from_tuples(heads))
    text = table.to_latex(multirow=False, column_format="ll" + "c" * len(columns))
    for character, code in LATEX.items():
        text = text.replace(character, code)
    return text + "".join(f"% {line}\n" for line in notes(columns))


def write(columns: list[Column], rows: list[Row], folder: Path) -> None:
    """table1.md, table1.tex, and table1.csv with a line for each cell, in the units of the table."""
    (folder / "table1.md").write_text(markdown(columns, rows), encoding="utf-8")
    (folder / "table1.tex").write_text(latex(columns, rows), encoding="utf-8")
    lines = []
    for row in rows:
        for column in columns:
            cell = column.cells.get(row.label)
            if cell:
                names = (row.group, row.label, " ".join(row.models), column.benchmark, column.what)
                seeds = (max(1, len(cell.score.seeds)), cell.seeds_sd)
                comparison = "unpaired" if cell.unpaired else "paired"
                comparison = "" if cell.missing or cell.mark == "best" else comparison
                marks = (cell.mark, comparison, cell.missing)
                lines.append((*names, *cell.numbers, cell.score.n, *seeds, *marks, *(cell.paper or [None] * 3)))
    table = pd.DataFrame(lines, columns=CSV_COLUMNS, dtype=object)
    table.to_csv(folder / "table1.csv", index=False, lineterminator="\n")
