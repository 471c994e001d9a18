"""Whether the findings of the paper (arXiv 2409.12181) show in a study, in words."""

import pandas as pd

from collect import BENCHMARKS
from rows import Row, short
from scores import PERPLEXITIES, make_estimate
from stats import tied_with_best
from tables import Cell, Column, comparable_cells

AHEAD, TIED, BEHIND = "ahead in", "not told apart in", "behind in"


def describe(columns: list[Column], rows: list[Row], correlations: pd.DataFrame, target: int) -> list[str]:
    """A sentence for each finding that there are results for.

    columns: of Table 1, with their cells.  correlations: see correlation.py.  target: see rows.target_length.
    """
    tuned = [row for row in rows if row.kind == "fine-tuned"]
    frozen = [row for row in rows if row.kind == "frozen"]
    exact = [row for row in tuned if row.info["exact_attention"] is True]
    approximate = [row for row in tuned + frozen if row.info["exact_attention"] is False]
    parts = [
        ("Exact attention with fine-tuning is ahead of approximate attention.", compare(columns, exact, approximate)),
        ("Methods with fine-tuning are ahead of those without.", compare(columns, tuned, frozen)),
        ("Methods work up to the length that they are extended to, and hardly beyond.", reach(columns, rows, target)),
        ("Lower perplexity goes with higher scores.", relation(correlations)),
    ]
    return [f"The paper: {finding} Here: {seen}." for finding, seen in parts if seen]


def best_cell(column: Column, rows: list[Row]) -> tuple[str, Cell] | None:
    """(label, cell) of the best of these rows in a column, of those that lack nothing."""
    cells = []
    for row in rows:
        cell = column.cells.get(row.label)
        if cell and not cell.lacks:
            cells.append((row.label, cell))
    choose = min if column.benchmark in PERPLEXITIES else max
    return choose(cells, key=lambda labelled: labelled[1].value, default=None)


def verdict(column: Column, first: Cell, second: Cell) -> str:
    """AHEAD or BEHIND if stats.tied_with_best tells `first` from `second`, else TIED."""
    lower_is_better = column.benchmark in PERPLEXITIES
    is_ahead = (first.value < second.value) == lower_is_better
    pair = [first, second] if is_ahead else [second, first]
    if first.value == second.value or len(comparable_cells(pair)) < 2:
        return TIED
    estimate = make_estimate([cell.scores for cell in pair])
    if estimate.n_units < 2 or tied_with_best(estimate, lower_is_better).all():
        return TIED
    return AHEAD if is_ahead else BEHIND


def compare(columns: list[Column], first_rows: list[Row], second_rows: list[Row]) -> str:
    """The best of some rows against the best of others, in each column."""
    places = {AHEAD: [], TIED: [], BEHIND: []}
    for column in columns:
        first, second = best_cell(column, first_rows), best_cell(column, second_rows)
        if first and second:
            values = [f"{label} {cell.format(cell.value)}" for label, cell in (first, second)]
            place = f"{BENCHMARKS[column.benchmark]} ({', '.join(values)})"
            places[verdict(column, first[1], second[1])].append(place)
    return "; ".join(f"{words} {', '.join(names)}" for words, names in places.items() if names)


def reach(columns: list[Column], rows: list[Row], target: int) -> str:
    """Needles found up to the target length and beyond it, means over methods."""
    parts = []
    for column in columns:
        if column.benchmark != "needle":
            continue
        for kind in ("fine-tuned", "frozen"):
            labels = [row.label for row in rows if row.kind == kind]
            own = column.scores[column.scores.label.isin(labels)]
            is_inside = own.length <= target
            inside, beyond = own[is_inside], own[~is_inside]
            if len(inside) and len(beyond):
                means = f"{inside.value.mean():.0f} % of needles up to {short(target)} tokens"
                parts.append(f"{kind} methods find {means} and {beyond.value.mean():.0f} % beyond")
    return ", ".join(parts)


def relation(correlations: pd.DataFrame) -> str:
    """Where the rank correlation of perplexity and score, over all methods, is below 0."""
    own = correlations.query("measure == 'perplexity' and methods == 'all methods'")
    total = own.groupby("benchmark", sort=False).tail(1).dropna()
    shown, not_shown = [], []
    for line in total.itertuples():
        place = f"{BENCHMARKS[line.benchmark]} (ρ = {line.rho:.2f} [{line.low:.2f}, {line.high:.2f}])"
        if line.high < 0:
            shown.append(place)
        else:
            not_shown.append(place)
    parts = {"it does in": shown, "no clear relation in": not_shown}
    return "; ".join(f"{words} {', '.join(names)}" for words, names in parts.items() if names)
