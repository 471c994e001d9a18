"""The tables that the scorers print."""

from scoring import NO_STANDIN
from sets import CATEGORIES, SETS, base_set

LABELS = dict(  # LongBench's own short names
    zip(
        SETS,
        "NrtvQA Qasper MF-en HotpotQA 2WikiMQA Musique GovReport QMSum MultiNews TREC TriviaQA SAMSum PCount PRe Lcc "
        "RB-P".split(),
        strict=True,
    )
)
TITLES = {
    "official": "LongBench's data",
    "user": "data of the user's own, or without a record of where they come from",
    "standin": f"stand-in data, not LongBench's; none for summaries ({' '.join(LABELS[s] for s in NO_STANDIN)})",
}


def longbench_tables(results: list[dict], e: bool) -> str:
    """For each source of data models x sets, then models x means. results: what is in the models' scores.json."""
    blocks = []
    for source, title in TITLES.items():
        there = [result for result in results if result["overall"][source]]
        if there:
            blocks += [f"LongBench{'-E' * e}, {title}\n{sets_table(there, source)}", means_table(there, source)]
    return footnote(blocks, "rows or sets are missing")


def sets_table(results: list[dict], source: str) -> str:
    found = {base_set(s): s for result in results for s, one in result["sets"].items() if one["source"] == source}
    names = [found[base] for base in SETS if base in found]
    rows = [[result["name"], *(cell(result["sets"].get(s), source) for s in names)] for result in results]
    return grid(["model", *(LABELS[base_set(s)] for s in names)], rows)


def means_table(results: list[dict], source: str) -> str:
    categories = [c for c in CATEGORIES if any(c in result["categories"][source] for result in results)]
    rows = []
    for result in results:
        means, overall = result["categories"][source], result["overall"][source]
        interval = "{:.1f} - {:.1f}".format(*overall["interval_95"])
        cells = [cell(means.get(category)) for category in categories]
        rows.append([result["name"], *cells, cell(overall), interval, f"{overall['score_upstream']:.1f}"])
    return "means\n" + grid(["model", *categories, "overall", "95 % interval", "by LongBench's first-line rule"], rows)


def trec_table(results: list[dict]) -> str:
    """Models x shots, for each source of data; cells are score and standard error."""
    blocks = []
    for source, title in TITLES.items():
        sets = {s: one for result in results for s, one in result["sets"].items() if one["source"] == source}
        names = sorted(sets, key=shots)
        rows = []
        for result in results:
            cells = [cell(result["sets"].get(s), source, error=True) for s in names]
            if any(text != "-" for text in cells):
                rows.append([result["name"], *cells])
        if rows:
            title = title.replace("LongBench's", "the paper's").split(";")[0]
            header = ["shots", *(str(shots(s)) for s in names)]
            blocks.append(f"many-shot TREC, {title}: score (standard error)\n" + grid(header, rows))
    return footnote(blocks, "rows are missing")


def footnote(blocks: list[str], text: str) -> str:
    return "\n\n".join([*blocks, *([f"* incomplete: {text}"] if "*" in "".join(blocks) else [])])


def shots(name: str) -> int:
    return int("".join(filter(str.isdigit, name)))


def cell(one: dict | None, source: str | None = None, error: bool = False) -> str:
    """A score as text: "-" if there is none, with * if it is incomplete."""
    if one is None or source and one["source"] != source:
        return "-"
    spread = f" ({one['stderr']:.1f})" if error and one["stderr"] is not None else ""
    return f"{one['score']:.1f}{spread}{'' if one['complete'] else '*'}"


def grid(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first, *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]))
    return "\n".join(lines)
