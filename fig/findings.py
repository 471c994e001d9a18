"""Whether the findings of the paper (arXiv 2409.12181) show in a study, in words."""

import pandas as pd

from collect import BENCHMARKS
from rows import Row, short
from tables import Cell, Column, compare_with_best

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


def best_label(column: Column, rows: list[Row]) -> str | None:
    """The best of these rows in a column, of those that lack nothing."""
    values = {row.label: column.cells[row.label].value for row in rows if row.label in column.complete}
    choose = min if column.lower_is_better else max
    return choose(values, key=values.get, default=None)


def verdict(column: Column, first: Cell, second: Cell) -> str:
    """AHEAD or BEHIND if stats.tied_with_best tells `first` from `second`, else TIED."""
    is_ahead = (first.value < second.value) == column.lower_is_better
    pair = [first, second] if is_ahead else [second, first]
    if first.value == second.value or compare_with_best(pair)[1] != "worse":
        return TIED
    return AHEAD if is_ahead else BEHIND


def compare(columns: list[Column], first_rows: list[Row], second_rows: list[Row]) -> str:
    """The best of some rows against the best of others, in each column."""
    places = {AHEAD: [], TIED: [], BEHIND: []}
    for column in columns:
        labels = [best_label(column, first_rows), best_label(column, second_rows)]
        if None not in labels:
            first, second = [column.cells[label] for label in labels]
            values = f"{labels[0]} {first}, {labels[1]} {second}"
            places[verdict(column, first, second)].append(f"{column.name} ({values})")
    return join(places)


def reach(columns: list[Column], rows: list[Row], target: int) -> str:
    """Needles found up to the target length and beyond it, means over methods."""
    kinds = {row.label: row.kind for row in rows}
    parts = []
    for column in columns:
        if column.benchmark != "needle":
            continue
        scores = column.scores.assign(kind=column.scores.label.map(kinds), is_beyond=column.scores.length > target)
        means = scores.pivot_table("value", "kind", "is_beyond").reindex(columns=[False, True]).dropna()
        for kind, (inside, beyond) in means.drop("base", errors="ignore").iterrows():
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
