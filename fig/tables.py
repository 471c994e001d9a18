"""Table 1: methods by benchmarks, each value with its 95 % interval, the best in bold, ties with it marked.

A tie: the 95 % interval of the difference from the best, by a bootstrap of the samples that both have, paired by id,
holds 0. Each method is compared with the best alone; nothing is corrected for the number of methods. Where a result
has no samples in common with the best, the two intervals are compared instead, and the table says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from collect import Score, write_csv
from intervals import tied, tied_unpaired
from rows import Row, mean_of, nearest, short, source_name, stratum

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
CSV = (
    "group", "method", "models", "benchmark", "what", "value", "low", "high", "n", "seeds", "seeds_sd", "mark",
    "comparison", "lacks", "paper_protocol_value", "paper", "difference",
)  # fmt: skip


@dataclass
class Cell:
    """units: the column's scores that are there.  lacks: how many are not; such a cell is not compared.  paper: by its
    protocol ours, theirs, the difference.  Numbers are shown in the table's units: perplexity, else %."""

    score: Score
    units: list[Score]
    lacks: int
    paper: tuple[float, float, float] | None
    mark: str = ""  # "best", "tie" or ""
    unpaired: bool = False

    @property
    def scale(self) -> float:
        return 100 if self.score.benchmark == "needle" else 1

    @property
    def numbers(self) -> list[float | None]:
        """Value, low and high in the units shown."""
        return [None if x is None else self.scale * x for x in (self.score.value, self.score.low, self.score.high)]

    @property
    def spread(self) -> float | None:
        """Standard deviation between training seeds."""
        return float(np.std(self.score.seeds, ddof=1)) if len(self.score.seeds) > 1 else None

    def number(self, value: float) -> str:
        value *= self.scale
        return f"{value:.1e}" if abs(value) >= 1e4 else f"{value:.{2 if self.score.benchmark == 'perplexity' else 1}f}"

    @property
    def value(self) -> str:
        return self.number(self.score.value)

    @property
    def interval(self) -> str:
        return "" if self.score.low is None else f"[{self.number(self.score.low)}, {self.number(self.score.high)}]"

    @property
    def extra(self) -> list[str]:
        """What else there is to say: seeds, what is lacking, the paper's number."""
        words = []
        if self.spread is not None:
            words.append(f"{len(self.score.seeds)} seeds, sd {self.number(self.spread)}")
        if self.lacks:
            words.append(f"{len(self.units)} of {len(self.units) + self.lacks} only")
        if self.paper:
            ours, theirs, difference = self.paper
            own = "" if abs(ours - self.scale * self.score.value) < 0.005 else f"by its protocol {ours:.2f}, "
            words.append(f"{own}paper {theirs:g}, difference {difference:+.2f}")
        return words


@dataclass
class Column:
    """keys: of the scores (Score.key) that the column is the mean of. what: lengths, sets and data, for the header."""

    benchmark: str
    keys: list[tuple]
    what: str
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def lowest(self) -> bool:
        return self.benchmark == "perplexity"

    @property
    def head(self) -> str:
        return f"{NAMES[self.benchmark]} {'↓' if self.lowest else '↑'}"

    @property
    def n(self) -> str:
        counts = sorted({cell.score.n for cell in self.cells.values()})
        return f"n = {counts[0]:,}" if len(counts) == 1 else f"n = {counts[0]:,} to {counts[-1]:,}"


def columns_of(rows: list[Row], target: int | None) -> list[Column]:
    """Which length, shots and sets each benchmark is shown at: those of the target length (see rows.target_length)."""
    columns = []
    for name in NAMES:
        seen = [score for row in rows for score in row.select(name)]
        lengths = sorted({score.length for score in seen if score.length})
        if not seen:
            continue
        if name == "perplexity":
            for dataset in sorted({score.task for score in seen}):
                one = [score for score in seen if score.task == dataset]
                length = nearest({score.length for score in one}, target)
                columns.append(column(one, f"{dataset}, {short(length)} tokens", lengths=[length]))
        elif name == "needle":  # as in the paper: lengths up to twice the target
            lengths = [length for length in lengths if length <= 2 * (target or lengths[-1])] or lengths
            what = f"{counted(len(lengths), 'length')}, {short(lengths[0])}–{short(lengths[-1])} tokens"
            columns.append(column(seen, what, lengths=lengths))
        elif name == "ruler":
            length = nearest(set(lengths), target)
            columns.append(column(seen, f"{{task}}, {short(length)} tokens", lengths=[length]))
        else:
            source = min({score.source for score in seen}, key=lambda source: (*SOURCES, source).index(source))
            seen = [score for score in seen if score.source == source]
            if name == "trec":  # the number of examples that the most rows have, the largest of those
                shots = [score.length for score in seen]
                shots = max(shots, key=lambda count: (shots.count(count), count))
                columns.append(column(seen, f"TREC, {shots} examples", lengths=[shots]))
            else:
                columns.append(column(seen, "{set}"))
    return columns


def counted(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"


def column(scores: list[Score], what: str, lengths: list | None = None) -> Column:
    """The column of all scores at these lengths; `what` takes how many sets or tasks they are."""
    scores = [score for score in scores if lengths is None or score.length in lengths]
    keys = sorted({score.key for score in scores})
    data = sorted({source_name(score.source) for score in scores})
    note = "" if data == ["official"] else f", {', '.join(data)} data"
    return Column(
        scores[0].benchmark, keys, what.format(set=counted(len(keys), "set"), task=counted(len(keys), "task")) + note
    )


def fill(columns: list[Column], rows: list[Row], paper_of: Callable[[Row, Column], tuple | None]) -> None:
    """The cells, which of them is best, and which tie with it."""
    for one in columns:
        for row in rows:
            units = [row.scores[key] for key in one.keys if key in row.scores and row.scores[key].value is not None]
            if units:
                one.cells[row.label] = Cell(mean_of(units), units, len(one.keys) - len(units), paper_of(row, one))
        whole = [cell for cell in one.cells.values() if not cell.lacks]
        if whole:
            best = (min if one.lowest else max)(whole, key=lambda cell: cell.score.value)
            for cell in whole:
                if best.score.value == 0 and not one.lowest:
                    continue  # nobody scored: there is no best
                if cell.score.value == best.score.value:
                    cell.mark = "best"
                else:
                    equal, cell.unpaired = ties(best, cell)
                    cell.mark = "tie" if equal else ""


def ties(best: Cell, cell: Cell) -> tuple[bool, bool]:
    """(do they tie, was it compared without pairs)."""
    differences = []
    for ours, theirs in zip(best.units, cell.units, strict=True):
        shared = [id_ for id_ in ours.samples or () if id_ in (theirs.samples or ())]
        if not shared:
            break
        differences.append(stratum(ours, shared, minus=theirs))
    else:
        if max(len(sums) for sums, _ in differences) > 1:
            return tied(differences), False
    both = [(c.score.value, c.score.low, c.score.high) for c in (best, cell)]
    if any(low is None for _, low, _ in both):
        return False, True
    if best.score.benchmark == "perplexity":
        both = [tuple(np.log(values)) for values in both]
    return tied_unpaired(*both), True


def notes(columns: list[Column]) -> list[str]:
    """What a reader must know of the table, a sentence each."""
    words = [NOTE]
    if unpaired := [NAMES[c.benchmark] for c in columns if any(cell.unpaired for cell in c.cells.values())]:
        words.append(f"Compared by their intervals, not in pairs, for want of shared samples: {', '.join(unpaired)}.")
    cells = [cell for c in columns for cell in c.cells.values()]
    if any(cell.spread is not None for cell in cells):
        words.append(
            "Several training seeds: their mean, its interval over the samples, the standard deviation (sd) of seeds."
        )
    if any(cell.lacks for cell in cells):
        words.append("Cells that lack a part of what others have are not compared.")
    return words


def groups(rows: list[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.group, []).append(row)
    return grouped


def markdown(columns: list[Column], rows: list[Row]) -> str:
    """Table 1 in Markdown, with its notes."""

    def text(cell: Cell | None) -> str:
        if cell is None:
            return "–"
        value = {"best": f"**{cell.value}**", "tie": f"{cell.value} ≈"}.get(cell.mark, cell.value)
        return "; ".join([f"{value} {cell.interval}".strip(), *cell.extra])

    lines = ["| method | " + " | ".join(f"{c.head}<br>{c.what}<br>{c.n}" for c in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for group, members in groups(rows).items():
        if group != "base":
            lines.append(f"| *{group}* |" + " |" * len(columns))
        lines += [f"| {r.label} | " + " | ".join(text(c.cells.get(r.label)) for c in columns) + " |" for r in members]
    return "\n".join([*lines, "", *notes(columns), ""])


def latex(columns: list[Column], rows: list[Row]) -> str:
    """Table 1 for LaTeX (booktabs)."""
    codes = {"_": r"\_", "%": r"\%", "&": r"\&", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "–": "--", "≈": r"$\approx$"}

    def escape(text: str) -> str:
        return "".join(codes.get(char, char) for char in text)

    def text(cell: Cell | None) -> str:
        if cell is None:
            return "--"
        value = {"best": rf"\textbf{{{cell.value}}}", "tie": rf"{cell.value}$^{{\approx}}$"}.get(cell.mark, cell.value)
        more = escape("; ".join(words for words in (cell.interval, *cell.extra) if words))
        return rf"{value} {{\scriptsize {more}}}"

    lines = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{l{'c' * len(columns)}}}", r"\toprule"]
    lines.append(" & ".join(["method", *(escape(c.head) for c in columns)]) + r" \\")
    lines.append(" & ".join(["", *(rf"{{\scriptsize {escape(f'{c.what}, {c.n}')}}}" for c in columns)]) + r" \\")
    for group, members in groups(rows).items():
        lines += [r"\midrule", rf"\multicolumn{{{len(columns) + 1}}}{{l}}{{\emph{{{escape(group)}}}}} \\"]
        for row in members:
            lines.append(" & ".join([escape(row.label), *(text(c.cells.get(row.label)) for c in columns)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {line}" for line in notes(columns)), ""])


def write(columns: list[Column], rows: list[Row], folder: Path) -> None:
    """table1.md, table1.tex, and table1.csv with a line a cell, in the units of the table."""
    (folder / "table1.md").write_text(markdown(columns, rows), encoding="utf-8")
    (folder / "table1.tex").write_text(latex(columns, rows), encoding="utf-8")
    lines = []
    for row, one in ((row, one) for row in rows for one in columns if row.label in one.cells):
        cell = one.cells[row.label]
        score, k = cell.score, cell.scale
        compared = "" if cell.lacks or cell.mark == "best" else "unpaired" if cell.unpaired else "paired"
        seeds = max(1, len(score.seeds)), None if cell.spread is None else k * cell.spread
        names = row.group, row.label, " ".join(row.models), one.benchmark, one.what
        lines.append(
            (*names, *cell.numbers, score.n, *seeds, cell.mark, compared, cell.lacks, *(cell.paper or (None,) * 3))
        )
    write_csv(folder / "table1.csv", CSV, lines)


def perplexity(rows: list[Row], dataset: str) -> str:
    """Markdown: a row a model, a column a length, `mean / last 64 positions` in each cell."""
    place = ("perplexity", dataset, "")
    seen = {r.label: {s.length for s in r.scores.values() if (s.benchmark, s.task, s.part) == place} for r in rows}
    lengths = sorted(set().union(*seen.values()))
    lines = ["| model | " + " | ".join(map(short, lengths)) + " |", "|---" * (len(lengths) + 1) + "|"]
    for row in (row for row in rows if seen[row.label]):
        cells = []
        for length in lengths:
            both = [row.get("perplexity", dataset, length, part) for part in ("", "last 64")]
            text = " / ".join(f"{score.value:.2f}" if score else "–" for score in both)
            cells.append(text if length in seen[row.label] else "–")
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_perplexity(rows: list[Row], path: Path) -> None:
    """perplexity.csv: a line a model and length, the mean and the last 64 positions side by side."""
    facts = ("method", "trained_tokens", "original_length", "trained_length")
    lines = []
    for row in rows:
        scores = [score for score in row.scores.values() if score.benchmark == "perplexity" and not score.part]
        for score in sorted(scores, key=lambda score: (score.task, score.length)):
            last = row.get("perplexity", score.task, score.length, "last 64")
            numbers = []
            for one in (score, last):
                low = one and one.low
                numbers += [one and one.value, None if low is None else [one.low, one.high]]
            names = score.task, score.source, *(row.facts[key] for key in facts), " ".join(row.models), score.length
            lines.append((*names, *numbers, score.n, score.seed))
    names = ("dataset", "source", *facts, "model", "length", "mean", "mean_interval", "last", "last_interval")
    write_csv(path, (*names, "n_windows", "seed"), lines)
