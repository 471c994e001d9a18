"""The paper's published numbers (paper.json) beside ours, where a run is one of theirs: the same base, method, tokens
and lengths, official data, and the paper's protocol. In every other case nothing is compared."""

import json
from dataclasses import dataclass
from pathlib import Path

from collect import Score
from rows import Row

PAPER = json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))


@dataclass
class Comparison:
    """ours, theirs: perplexity or percent. what: dataset and length, set, task. note: the paper against itself."""

    table: str
    label: str
    name: str
    benchmark: str
    what: str
    ours: float
    theirs: float
    note: str = ""

    @property
    def difference(self) -> float:
        return self.ours - self.theirs


def name_of(row: Row) -> str | None:
    """What the paper calls this row; None if it is not one of its models."""
    facts, base = row.facts, PAPER["base"]
    released = str(facts["base_model"]).startswith(base["released_by"])  # adopted: how long it was trained is not known
    if facts["base_model"] not in base["names"] and not released or facts["original_length"] != base["original_length"]:
        return None
    for name, model in PAPER["models"].items():
        tokens = facts["trained_tokens"] or 0
        if (
            facts["method"] == model["method"]
            and model.get("trained_length") in (None, facts["trained_length"])
            and (row.base or released or abs(tokens - model["trained_tokens"]) <= 0.05 * model["trained_tokens"])
        ):
            return name
    return None


def conflict(place: str) -> dict:
    """The entry of `conflicts` about this place of paper.json, {} without one."""
    return next((entry for entry in PAPER["conflicts"] if place in entry["where"]), {})


def is_whole(score: Score) -> bool:
    return score.source == "official" and bool(score.settings.get("complete", True))


def perplexity(row: Row, name: str) -> list[Comparison]:
    """Table 2. All windows of the protocol, none left out."""
    found = []
    for score in row.select("perplexity"):
        settings, wanted = score.settings, PAPER["table_2"]["settings"]
        dataset = PAPER["table_2"]["datasets"].get(settings.get("dataset"))
        theirs = PAPER["table_2"]["values"].get(dataset, {}).get(name, {}).get(str(score.length))
        entry = conflict(f"table_2/{dataset}/{name}/{score.length}") or conflict(f"table_2/{dataset}/{name}")
        if (
            theirs is not None
            and entry.get("compare", True)
            and (score.source, score.protocol) == ("official", "lceg-windows")
            and all(settings.get(key) == value for key, value in wanted.items())
            and settings["n_windows"] == settings["n_windows_total"]
        ):
            what = f"{score.task}, {score.length} tokens"
            found.append(
                Comparison("Table 2", row.label, name, "perplexity", what, score.value, theirs, entry.get("note", ""))
            )
    return found


def needle(row: Row, name: str) -> list[Comparison]:
    """Table 1's column: word overlap, mean over the grid up to 64k, with the paper's essays."""
    cells = [s for s in row.scores.values() if (s.benchmark, s.metric, s.part) == ("needle", "lceg_overlap", "")]
    wanted, theirs = PAPER["needle"], PAPER["table_1"]["values"].get(name, {}).get("needle")
    cells = [cell for cell in cells if cell.length <= max(wanted["lengths"]) and cell.task == "book"]
    if (
        theirs is None
        or sorted(cell.length for cell in cells) != wanted["lengths"]
        or any((cell.source, cell.protocol) != ("official", "lceg") for cell in cells)
        or any(cell.settings["depths"] != wanted["depths"] for cell in cells)
    ):
        return []
    ours = 100 * sum(cell.value for cell in cells) / len(cells)
    return [Comparison("Table 1", row.label, name, "needle", "20 lengths, 10 depths, word overlap", ours, theirs)]


def longbench(row: Row, name: str) -> list[Comparison]:
    """Table 11: all 16 sets, and their mean."""
    values = PAPER["table_11"]["values"].get(name, {})
    length = PAPER["table_11"]["max_length"].get(name, PAPER["table_11"]["max_length_others"])
    scores = {score.task: score for score in row.select("longbench") if score.task in values}
    if not values or len(scores) < len(values) or not all(
        is_whole(score) and score.protocol == "lceg" and score.settings.get("max_length") == length
        for score in scores.values()
    ):  # fmt: skip
        return []
    return with_mean("Table 11", row, name, "longbench", f"{length} tokens", values, scores)


def ruler(row: Row, name: str) -> list[Comparison]:
    """Table 3, and at 32k Table 15: all 13 tasks with 500 official samples each."""
    tasks, found = set(next(iter(PAPER["table_15"]["values"].values()))), []
    for length, theirs in ((int(at), value) for at, value in PAPER["table_3"]["values"].get(name, {}).items()):
        scores = {score.task: score for score in row.select("ruler") if score.length == length}
        if set(scores) != tasks or not all(
            is_whole(score) and score.protocol == "lceg" and score.n == PAPER["table_3"]["samples"]
            for score in scores.values()
        ):  # fmt: skip
            continue
        values = PAPER["table_15"]["values"].get(name) if length == PAPER["table_15"]["length"] else None
        if values:
            found += with_mean("Table 15", row, name, "ruler", f"{length} tokens", values, scores)
            continue
        ours = sum(score.value for score in scores.values()) / len(scores)
        note = conflict(f"table_3/{name}/{length}").get("note", "")
        found.append(Comparison("Table 3", row.label, name, "ruler", f"mean, {length} tokens", ours, theirs, note))
    return found


def with_mean(table: str, row: Row, name: str, benchmark: str, what: str, values: dict, scores: dict):
    """A comparison a set or task, and that of their plain means first."""
    means = [sum(side) / len(values) for side in ([scores[t].value for t in values], values.values())]
    single = [Comparison(table, row.label, name, benchmark, f"{t}, {what}", scores[t].value, values[t]) for t in values]
    return [Comparison(table, row.label, name, benchmark, f"mean, {what}", means[0], round(means[1], 2)), *single]


def compare(rows: list[Row]) -> list[Comparison]:
    """All comparisons that are allowed. (Many-shot never is: the paper does not say how many shots its column has.)"""
    found = []
    for row in rows:
        if name := name_of(row):
            found += perplexity(row, name) + needle(row, name) + longbench(row, name) + ruler(row, name)
    return found


def for_table(comparisons: list[Comparison], row: Row, column) -> tuple[float, float, float] | None:
    """(ours, theirs, difference) for a cell of Table 1."""
    _, task, length, *_ = column.keys[0]
    wanted = {"perplexity": f"{task}, {length} tokens", "ruler": f"mean, {length} tokens"}.get(column.benchmark, "")
    for one in comparisons:
        same = (one.label, one.benchmark) == (row.label, column.benchmark)
        if same and (one.what == wanted or not wanted and (one.benchmark == "needle" or one.what.startswith("mean"))):
            return one.ours, one.theirs, one.difference
    return None
