"""Whether the findings of the paper (arXiv 2409.12181) show in a study, in words."""

from collect import BENCHMARKS
from correlation import EXACT, format_rho
from rows import short
from tables import compare_with_best


def describe(columns, correlations, target) -> dict:
    """{finding: what is seen of it, "" without results}. target: see rows.target_length."""
    return {
        "Exact attention with fine-tuning is ahead of approximate attention.": compare(columns, EXACT, "approximate"),
        "Methods with fine-tuning are ahead of those without.": compare(columns, "fine-tuned", "frozen"),
        "Methods work up to the length that they are extended to, and hardly beyond.": reach(columns, target),
        "Lower perplexity goes with higher scores.": relation(correlations),
    }


def join(places: dict) -> str:
    """{words: benchmarks} as one text."""
    parts = []
    for words, names in places.items():
        if names:
            parts.append(f"{words} {', '.join(names)}")
    return "; ".join(parts)


def find_best(column, group):
    """The best of the rows with this part in the name of their group, of equal ones a fine-tuned one; None without."""
    cells = [cell for cell in column.ranking if group in cell.row.group]
    equal = [cell for cell in cells if cell.value == cells[0].value]
    return min(equal, key=lambda cell: cell.row.kind == "frozen", default=None)


def compare(columns, first_group: str, second_group: str) -> str:
    """The best of some rows against the best of others, in each column; see `find_best`."""
    places = {"ahead in": [], "not told apart in": [], "behind in": []}
    for column in columns:
        first = find_best(column, first_group)
        second = find_best(column, second_group)
        if not first or not second:
            continue
        words = "not told apart in"
        better, other = sorted([first, second], key=column.ranking.index)
        if compare_with_best([better, other])[other] == "worse":
            words = "ahead in" if better is first else "behind in"
        values = f"{first.row.label} {first}, {second.row.label} {second}"
        places[words].append(f"{column.name} ({values})")
    return join(places)


def reach(columns, target) -> str:
    """Needles found up to the target length and beyond it, means over methods."""
    parts = []
    for column in columns:
        if column.benchmark == "needle":
            scores = column.scores.query("kind != 'base'")
            means = scores.pivot_table("value", "kind", scores.length > target)
            for kind, inside, beyond in means.reindex(columns=[False, True]).dropna().itertuples():
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
