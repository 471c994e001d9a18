"""The scores of predictions with 95 % intervals: of each set, by length, and means over sets.

Rows score 0 to 1, sets and means 0 to 100. The intervals are over the rows, see stats.mean_over_tasks.
"""

import json
import math
from pathlib import Path

from run import errors_of

import numpy as np

from data import check_answers
from metrics import METRICS
from sets import ALL_SETS, CATEGORIES, FIRST_LINE, LONGBENCH_E, SETS, STANDIN, STANDIN_SETS, official_rows, parse_name
from stats import mean_over_tasks
from store import read_lines, read_record

BUCKETS = {  # length of a row in words: at least, less than
    "0-4k": (0, 4000),
    "4-8k": (4000, 8000),
    "8-16k": (8000, 16000),
    "16-32k": (16000, math.inf),
    "4k+": (math.nextafter(4000, math.inf), math.inf),
    "8k+": (8000, math.inf),
}


def score_set(path: Path, e: bool) -> tuple[dict, int]:
    """(a set's entry in scores.json, number of unreadable lines) from its predictions, <model's folder>/<set>.jsonl.

    e: of LongBench-E. Raises an exception if there are no predictions, a row is not one, or the run's record is odd.
    """
    name = path.stem
    base, _ = parse_name(name)
    rows, unreadable = read_predictions(path)
    scores, upstream_scores = [], []
    for number, row in enumerate(rows, 1):
        with errors_of(f"row {number} is not a prediction"):
            check_answers(row)
            hash(row.get("_id"))  # raises if it is no text or number
            score = upstream_score = score_row(row, base, "lceg")
            if (base in FIRST_LINE["lceg"]) != (base in FIRST_LINE["upstream"]):
                upstream_score = score_row(row, base, "upstream")
            scores.append(score)
            upstream_scores.append(upstream_score)
    run = read_record(path.parent / "runs" / f"{name}.json")
    data = run.get("data", {})
    source = "standin" if name.startswith(STANDIN) else data.get("source", "user")
    expected = official_rows(name, e)
    if source != "official":
        expected = data.get("rows", expected)
    lengths = [row["length"] for row in rows]
    entry = {
        "source": source,
        "expected_n": expected,
        "complete": len(rows) == expected and not run.get("errors"),
        "metric": ALL_SETS[base].metric,
        **summary(scores),
        "score_upstream": 100 * sum(upstream_scores) / len(rows),
        "by_length": by_length(scores, lengths),
        "empty": sum(not row["pred"].strip() for row in rows),
        "ids": [row.get("_id") for row in rows],
        "lengths": lengths,
        "row_scores": scores,
        "seconds": run.get("seconds"),
        "tokens_per_second": run.get("tokens_per_second"),
        "peak_memory_bytes": run.get("peak_memory_bytes"),
        "run": run,
    }
    json.dumps(entry, ensure_ascii=False, allow_nan=False).encode()  # raises on NaN or half a surrogate pair
    return entry, unreadable


def read_predictions(path: Path) -> tuple[list, int]:
    """(the answered rows of a file, of each `_id` the last one; the number of unreadable lines)."""
    rows = {}
    entries, unreadable = read_lines(path)
    for number, row in enumerate(entries):
        if "error" not in row:  # a run that was killed may leave such rows
            rows[repr(row.get("_id", number))] = row
    if not rows:
        raise ValueError("no rows")
    return list(rows.values()), unreadable


def score_row(row: dict, base: str, rule: str) -> float:
    """The score of a prediction, 0 to 1. rule: which sets are cut to their first line, a key of FIRST_LINE."""
    metric = METRICS[ALL_SETS[base].metric]
    text = row["pred"]
    if base in FIRST_LINE[rule]:
        text = text.lstrip("\n").split("\n")[0]
    return max(metric(text, answer, row["all_classes"]) for answer in row["answers"])


def errors(row_scores: list, weights: list | None = None) -> dict:
    """stderr (None for a single row) and interval_95 of a mean over sets, 0 to 100."""
    estimate = mean_over_tasks(row_scores, weights)
    error = estimate.standard_error
    low, high = estimate.interval()
    if error is not None:
        error *= 100
    return {"stderr": error, "interval_95": [100 * low, 100 * high]}


def summary(scores: list) -> dict:
    """n, score, stderr and interval_95 of some rows."""
    n = len(scores)
    return {"n": n, "score": 100 * sum(scores) / n, **errors([scores])}


def by_length(scores: list, lengths: list) -> dict:
    """{bucket: summary of its rows}; without rows {"n": 0, "score": None}."""
    scores, lengths = np.array(scores), np.array(lengths)
    buckets = {}
    for bucket, (low, high) in BUCKETS.items():
        inside = (low <= lengths) & (lengths < high)
        found = scores[inside].tolist()
        buckets[bucket] = summary(found) if found else {"n": 0, "score": None}
    return buckets


def means(sets: dict, source: str, e: bool) -> tuple:
    """({category: mean of its sets}, mean of the categories or None without any) for the sets of one source.

    A mean is complete if every set that it should have is there and complete; stand-ins: every set that can be made.
    """
    missing = set(STANDIN_SETS if source == "standin" else LONGBENCH_E if e else SETS)
    members = {category: {} for category in CATEGORIES}
    for name, entry in sets.items():
        base, _ = parse_name(name)
        if entry["source"] == source:
            members[SETS[base].category][name] = entry
            if entry["complete"]:
                missing.discard(base)
    incomplete = {SETS[base].category for base in missing}

    categories, weights = {}, {}
    for category, entries in members.items():
        if entries:
            categories[category] = mean(entries.values(), sets, dict.fromkeys(entries, 1.0))
            categories[category]["complete"] = category not in incomplete
            weights |= dict.fromkeys(entries, 1 / len(entries))
    if not categories:
        return {}, None
    overall = mean(categories.values(), sets, weights)
    return categories, overall | {"complete": not missing}


def mean(entries, sets: dict, weights: dict) -> dict:
    """The mean of some sets or categories, `entries`, each with the same weight. weights: of each set, by name."""
    row_scores = [sets[name]["row_scores"] for name in weights]
    scores = [entry["score"] for entry in entries]
    upstream_scores = [entry["score_upstream"] for entry in entries]
    return {
        "score": float(np.mean(scores)),
        **errors(row_scores, list(weights.values())),
        "score_upstream": float(np.mean(upstream_scores)),
        "sets": list(weights),
    }
