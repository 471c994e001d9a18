"""The paper's published numbers (paper.json) beside ours, where a run is one of theirs: the same base, method, tokens
and lengths, official data, and the paper's protocol. In every other case nothing is compared."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rows import Row

PUBLISHED = json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))


@dataclass
class Comparison:
    """ours, theirs: perplexity or percent.  what: dataset, set or task, and length.  note: a conflict in the paper."""

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
    info, base = row.info, PUBLISHED["base"]
    released = str(info["base_model"]).startswith(base["released_by"])  # imported: trained for an unknown time
    if info["base_model"] not in base["names"] and not released or info["original_length"] != base["original_length"]:
        return None
    for name, model in PUBLISHED["models"].items():
        same_method = info["method"] == model["method"]
        same_length = model.get("trained_length") in (None, info["trained_length"])
        if same_method and same_length:
            tokens = info["trained_tokens"] or 0
            if row.base or released or abs(tokens - model["trained_tokens"]) <= 0.05 * model["trained_tokens"]:
                return name
    return None


def conflict(place: str) -> dict:
    """The entry of `conflicts` about this place of paper.json, {} if there is none."""
    return next((entry for entry in PUBLISHED["conflicts"] if place in entry["where"]), {})


def official(scores: dict, **settings) -> bool:
    """Whether all scores are of complete official data, by the paper's protocol, with these settings."""
    for score in scores.values():
        complete = score.settings.get("complete", True)
        if score.source != "official" or score.protocol != "lceg" or not complete:
            return False
        if any(score.settings.get(key) != value for key, value in settings.items()):
            return False
    return True


def perplexity(row: Row, name: str) -> Iterator[Comparison]:
    """Table 2: all windows of the protocol."""
    table = PUBLISHED["table_2"]
    for score in row.select("perplexity"):
        settings = score.settings
        dataset = table["datasets"].get(settings.get("dataset"))
        theirs = table["values"].get(dataset, {}).get(name, {}).get(str(score.length))
        entry = conflict(f"table_2/{dataset}/{name}/{score.length}") or conflict(f"table_2/{dataset}/{name}")
        if theirs is None or not entry.get("compare", True):
            continue
        same_settings = all(settings.get(key) == value for key, value in table["settings"].items())
        all_windows = settings["n_windows"] == settings["n_windows_total"]
        if (score.source, score.protocol) == ("official", "lceg-windows") and same_settings and all_windows:
            what, note = f"{score.task}, {score.length} tokens", entry.get("note", "")
            yield Comparison("Table 2", row.label, name, "perplexity", what, score.value, theirs, note)


def needle(row: Row, name: str) -> Iterator[Comparison]:
    """Table 1's column: word overlap, mean over the grid up to 64k, with the paper's essays."""
    table, theirs = PUBLISHED["needle"], PUBLISHED["table_1"]["values"].get(name, {}).get("needle")
    keys = [("needle", "book", length, "", "lceg_overlap") for length in table["lengths"]]
    cells = {key: row.scores[key] for key in keys if key in row.scores}
    if theirs is not None and len(cells) == len(keys) and official(cells, depths=table["depths"]):
        ours = 100 * sum(cell.value for cell in cells.values()) / len(cells)
        yield Comparison("Table 1", row.label, name, "needle", "20 lengths, 10 depths, word overlap", ours, theirs)


def longbench(row: Row, name: str) -> Iterator[Comparison]:
    """Table 11: all 16 sets, and their mean."""
    table = PUBLISHED["table_11"]
    values = table["values"].get(name, {})
    length = table["max_length"].get(name, table["max_length_others"])
    scores = {score.task: score for score in row.select("longbench") if score.task in values}
    if values and len(scores) == len(values) and official(scores, max_length=length):
        yield from with_mean("Table 11", row, name, "longbench", f"{length} tokens", values, scores)


def ruler(row: Row, name: str) -> Iterator[Comparison]:
    """Table 3, and at 32k Table 15: all 13 tasks with 500 official samples each."""
    means, single = PUBLISHED["table_3"], PUBLISHED["table_15"]
    tasks = set(single["values"]["PI"])
    for length, theirs in means["values"].get(name, {}).items():
        scores = {score.task: score for score in row.select("ruler") if score.length == int(length)}
        same_samples = all(score.n == means["samples"] for score in scores.values())
        if set(scores) != tasks or not same_samples or not official(scores):
            continue
        if int(length) == single["length"] and name in single["values"]:
            yield from with_mean("Table 15", row, name, "ruler", f"{length} tokens", single["values"][name], scores)
        else:
            ours = sum(score.value for score in scores.values()) / len(scores)
            note = conflict(f"table_3/{name}/{length}").get("note", "")
            yield Comparison("Table 3", row.label, name, "ruler", f"mean, {length} tokens", ours, theirs, note)


def with_mean(table: str, row: Row, name: str, benchmark: str, what: str, values: dict, scores: dict):
    """The comparison of the means over sets or tasks, then one for each of them."""
    ours = sum(scores[task].value for task in values) / len(values)
    theirs = round(sum(values.values()) / len(values), 2)
    yield Comparison(table, row.label, name, benchmark, f"mean, {what}", ours, theirs)
    for task, value in values.items():
        yield Comparison(table, row.label, name, benchmark, f"{task}, {what}", scores[task].value, value)


def compare(rows: list[Row]) -> list[Comparison]:
    """All comparisons that are allowed. (Many-shot never is: the paper does not say how many shots its column has.)"""
    comparisons = []
    for row in rows:
        name = name_of(row)
        if name:
            for compare_benchmark in (perplexity, needle, longbench, ruler):
                comparisons += compare_benchmark(row, name)
    return comparisons


def for_table(comparisons: list[Comparison], row: Row, column) -> tuple[float, float, float] | None:
    """(ours, theirs, difference) for a cell of Table 1."""
    _, task, length, *_ = column.keys[0]
    start = {"perplexity": f"{task}, {length} tokens", "ruler": f"mean, {length} tokens", "longbench": "mean"}
    for one in comparisons:
        same_cell = (one.label, one.benchmark) == (row.label, column.benchmark)
        if same_cell and one.what.startswith(start.get(column.benchmark, "")):
            return one.ours, one.theirs, one.difference
    return None
