"""Whether the findings of the paper (arXiv 2409.12181) show in a study, in words."""

import math

import pandas as pd

from collect import BENCHMARKS
from rows import Row, short
from tables import Cell, Column, find_ties, share_samples

AHEAD, TIED, BEHIND = "ahead in", "not told apart in", "behind in"


def describe(columns: list[Column], rows: list[Row], correlations: pd.DataFrame, target: int) -> list[str]:
    """A sentence for each finding that there are results for.

    columns: of Table 1, with their cells.  correlations: see correlation.py.  target: see rows.target_length.
    """
    tuned = [row for row in rows if row.kind == "fine-tuned"]
    frozen = [row for row in rows if row.kind == "frozen"]
    exact = [row for row in tuned if row.info["exact_attention"] is True]
    approximate = [row for row in tuned + frozen if row.info["exact_attention"] is False]
    parts = {
        "Exact attention with fine-tuning is ahead of approximate attention.": compare(columns, exact, approximate),
        "Methods with fine-tuning are ahead of those without.": compare(columns, tuned, frozen),
        "Methods work up to the length that they are extended to, and hardly beyond.": reach(columns, rows, target),
        "Lower perplexity goes with higher scores.": relation(correlations),
    }
    return [f"The paper: {finding} Here: {seen}." for finding, seen in parts.items() if seen]


def join(places: dict[str, list[str]]) -> str:
    """{words: benchmarks} as one text."""
    return "; ".join(f"{words} {', '.join(names)}" for words, names in places.items() if names)


def best_cell(column: Column, rows: list[Row]) -> tuple[str, Cell] | None:
    """(label, cell) of the best of these rows in a column, of those that lack nothing."""
    labels = {row.label for row in rows}
    cells = [(label, cell) for label, cell in column.cells.items() if label in labels and not cell.lacks]
    choose = min if column.lower_is_better else max
    return choose(cells, key=lambda labelled: labelled[1].value, default=None)


def verdict(column: Column, first: Cell, second: Cell) -> str:
    """AHEAD or BEHIND if stats.tied_with_best tells `first` from `second`, else TIED."""
    is_ahead = (first.value < second.value) == column.lower_is_better
    pair = [first, second] if is_ahead else [second, first]
    ties = find_ties(pair) if share_samples(pair) else None
    if first.value == second.value or ties is None or all(ties):
        return TIED
    return AHEAD if is_ahead else BEHIND


def compare(columns: list[Column], first_rows: list[Row], second_rows: list[Row]) -> str:
    """The best of some rows against the best of others, in each column."""
    places = {AHEAD: [], TIED: [], BEHIND: []}
    for column in columns:
        pair = best_cell(column, first_rows), best_cell(column, second_rows)
        if None not in pair:
            (first_label, first), (second_label, second) = pair
            values = f"{first_label} {first.format(first.value)}, {second_label} {second.format(second.value)}"
            places[verdict(column, first, second)].append(f"{column.name} ({values})")
    return join(places)


def reach(columns: list[Column], rows: list[Row], target: int) -> str:
    """Needles found up to the target length and beyond it, means over methods."""
    parts = []
    for column in columns:
        if column.benchmark != "needle":
            continue
        for kind in ("fine-tuned", "frozen"):
            labels = [row.label for row in rows if row.kind == kind]
            own = column.scores.query("label in @labels")
            inside = own.query("length <= @target").value.mean()
            beyond = own.query("length > @target").value.mean()
            if not math.isnan(inside + beyond):
                found = f"{inside:.0f} % of needles up to {short(target)} tokens and {beyond:.0f} % beyond"
                parts.append(f"{kind} methods find {found}")
    return ", ".join(parts)


def relation(correlations: pd.DataFrame) -> str:
    """Where the rank correlation of perplexity and score, over all methods, is below 0."""
    own = correlations.query("measure == 'perplexity' and methods == 'all methods'")
    total = own.groupby("benchmark", sort=False).tail(1).dropna()
    places = {"it does in": [], "no clear relation in": []}
    for line in total.itertuples():
        words = "it does in" if line.high < 0 else "no clear relation in"
        values = f"ρ = {line.rho:.2f} [{line.low:.2f}, {line.high:.2f}]"
        places[words].append(f"{BENCHMARKS[line.benchmark]} ({values})")
    return join(places)
