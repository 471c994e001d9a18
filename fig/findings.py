"""Whether the findings of the paper (arXiv 2409.12181) show in a study, in words."""

import pandas as pd

from collect import BENCHMARKS
from correlation import EXACT, format_rho
from rows import Row, short
from tables import Column, compare_with_best


def describe(columns: list[Column], rows: list[Row], correlations: pd.DataFrame, target: int) -> list[str]:
    """A sentence for each finding that there are results for.

    columns: of Table 1, with their cells.  correlations: see correlation.py.  target: see rows.target_length.
    """
    groups = pd.Series({row.label: row.group for row in rows})
    tuned = groups.index[groups.str.endswith("fine-tuned")]
    frozen = groups.index[groups.str.endswith("frozen")]
    exact = groups.index[groups == EXACT]
    approximate = groups.index[groups.str.startswith("approximate")]
    parts = {
        "Exact attention with fine-tuning is ahead of approximate attention.": compare(columns, exact, approximate),
        "Methods with fine-tuning are ahead of those without.": compare(columns, tuned, frozen),
        "Methods work up to the length that they are extended to, and hardly beyond.": reach(columns, target),
        "Lower perplexity goes with higher scores.": relation(correlations),
    }
    return [f"The paper: {finding} Here: {seen}." for finding, seen in parts.items() if seen]


def join(places: dict) -> str:
    """{words: benchmarks} as one text."""
    return "; ".join(f"{words} {', '.join(names)}" for words, names in places.items() if names)


def compare(columns: list[Column], first_labels, second_labels) -> str:
    """The best of some rows against the best of others, in each column: told apart by stats.tied_with_best or not."""
    places = {"ahead in": [], "not told apart in": [], "behind in": []}
    for column in columns:
        first = next((cell for cell in column.ranking if cell.label in first_labels), None)
        second = next((cell for cell in column.ranking if cell.label in second_labels), None)
        if first is None or second is None:
            continue
        ranked = sorted([first, second], key=column.ranking.index)
        words = "not told apart in"
        if compare_with_best(ranked)[1] == "worse":
            words = "ahead in" if ranked[0] is first else "behind in"
        places[words].append(f"{column.name} ({first.label} {first}, {second.label} {second})")
    return join(places)


def reach(columns: list[Column], target: int) -> str:
    """Needles found up to the target length and beyond it, means over methods."""
    parts = []
    for column in columns:
        if column.benchmark == "needle":
            scores = column.scores.query("kind != 'base'")
            means = scores.groupby(["kind", scores.length > target]).value.mean().unstack()
            for kind, (inside, beyond) in means.reindex(columns=[False, True]).dropna().iterrows():
                found = f"{inside:.0f} % of needles up to {short(target)} tokens and {beyond:.0f} % beyond"
                parts.append(f"{kind} methods find {found}")
    return ", ".join(parts)


def relation(correlations: pd.DataFrame) -> str:
    """Where the rank correlation of perplexity and score, over all methods, is below 0."""
    own = correlations.query("measure == 'perplexity' and methods == 'all methods'")
    places = {"it does in": [], "no clear relation in": []}
    for line in own.groupby("benchmark", sort=False).tail(1).dropna().itertuples():
        words = "it does in" if line.high < 0 else "no clear relation in"
        places[words].append(f"{BENCHMARKS[line.benchmark]} (ρ = {format_rho(line)})")
    return join(places)
