"""Whether the findings of the paper (arXiv 2409.12181) show in a study, in words."""

import pandas as pd

from collect import BENCHMARKS
from correlation import EXACT, format_rho
from rows import short
from tables import Column, compare_with_best


def describe(columns: list[Column], correlations: pd.DataFrame, target: int) -> list[str]:
    """A sentence for each finding that there are results for. target: see rows.target_length."""
    parts = {
        "Exact attention with fine-tuning is ahead of approximate attention.": compare(columns, EXACT, "approximate"),
        "Methods with fine-tuning are ahead of those without.": compare(columns, "fine-tuned", "frozen"),
        "Methods work up to the length that they are extended to, and hardly beyond.": reach(columns, target),
        "Lower perplexity goes with higher scores.": relation(correlations),
    }
    return [f"The paper: {finding} Here: {seen}." for finding, seen in parts.items() if seen]


def join(places) -> str:
    """{words: benchmarks} as one text."""
    return "; ".join(f"{words} {', '.join(names)}" for words, names in places.items() if names)


def compare(columns, first_group: str, second_group: str) -> str:
    """The best of some rows against the best of others, in each column; *_group: a part of the name of their groups."""
    places = {"ahead in": [], "not told apart in": [], "behind in": []}
    for column in columns:
        best = {}  # of each group, the better group first; of equal ones a fine-tuned one
        sign = 1 if column.lower_is_better else -1
        for cell in sorted(column.ranking, key=lambda cell: (sign * cell.value, cell.row.kind == "frozen")):
            for group in (first_group, second_group):
                if group in cell.row.group:
                    best.setdefault(group, cell)
        if len(best) < 2:
            continue
        better, other = best.values()
        words = "not told apart in"
        if compare_with_best([better, other])[1] == "worse":
            words = "ahead in" if better is best[first_group] else "behind in"
        values = [f"{best[group].row.label} {best[group]}" for group in (first_group, second_group)]
        places[words].append(f"{column.name} ({', '.join(values)})")
    return join(places)


def reach(columns, target) -> str:
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


def relation(correlations) -> str:
    """Where the rank correlation of perplexity and score, over all methods, is below 0."""
    own = correlations.query("measure == 'perplexity' and methods == 'all methods'")
    places = {"it does in": [], "no clear relation in": []}
    for line in own.groupby("benchmark", sort=False).tail(1).dropna().itertuples():
        words = "it does in" if line.high < 0 else "no clear relation in"
        places[words].append(f"{BENCHMARKS[line.benchmark]} (ρ = {format_rho(line)})")
    return join(places)
