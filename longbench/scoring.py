"""The scores of predictions with 95 % intervals: of each set, by length, and means over sets.

Rows score 0 to 1, sets and means 0 to 100. The intervals are over the rows, see stats.mean_over_tasks.
"""

import math
from pathlib import Path

import numpy as np

from metrics import METRICS
from run import read_json
from sets import CATEGORIES, FIRST_LINE, LONGBENCH_E, SETS, STANDIN, STANDIN_SETS, base_set, official_rows
from stats import Estimate, mean_over_tasks
from store import read_lines

BUCKETS = {  # length of a row in words: at least, less than
    "0-4k": (0, 4000),
    "4-8k": (4000, 8000),
    "8-16k": (8000, 16000),
    "16-32k": (16000, math.inf),
    "4k+": (math.nextafter(4000, math.inf), math.inf),
    "8k+": (8000, math.inf),
}


def score_set(path: Path, e: bool, problems: list[str]) -> dict:
    """Scores the predictions of one set, <model's folder>/<set>.jsonl; returns the set's entry in scores.json.

    e: of LongBench-E.  problems: gets a message if rows are missing. Raises ValueError if a row is not a prediction.
    """
    name = path.stem
    base = base_set(name)
    lines, unreadable = read_lines(path)
    answered = [row for row in lines if "error" not in row]  # a kill leaves errors, which are tried again
    rows_by_id = {repr(row.get("_id", index)): row for index, row in enumerate(answered)}
    rows = list(rows_by_id.values())
    if not rows:
        raise ValueError("no rows")
    columns = score_rows(rows, base)
    row_N = np.array(columns["row_scores"], dtype=np.float64)
    upstream = summary(np.array(columns["row_scores_upstream"], dtype=np.float64))
    record = path.parent / "runs" / f"{name}.json"
    run = read_json(record) or {}
    expected = official_rows(name, e)
    try:
        data = run.get("data", {})
        source = data.get("source", "user")  # "user": also predictions without a record
        if name.startswith(STANDIN):
            source = "standin"
        if source != "official":
            expected = data.get("rows", expected)
        wanted = min(run.get("limit") or math.inf, expected or len(rows))
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{record} is not the record of a run ({error})") from None
    if unreadable:
        problems.append(f"{path}: {unreadable} unreadable lines are left out")
    if len(rows) != wanted:
        problems.append(f"{path}: {len(rows)} rows, not {wanted}; rerun pred.py")
    return {
        "source": source,
        "expected_n": expected,
        "complete": len(rows) == expected and not run.get("errors"),
        "metric": SETS[base].metric,
        **summary(row_N),
        "score_upstream": upstream["score"],
        "interval_95_upstream": upstream["interval_95"],
        "by_length": by_length(row_N, np.array(columns["lengths"])),
        "empty": sum(not row["pred"].strip() for row in rows),
        **columns,
        "seconds": run.get("seconds"),
        "tokens_per_second": run.get("tokens_per_second"),
        "peak_memory_bytes": run.get("peak_memory_bytes"),
        "run": run,
    }


def score_rows(rows: list[dict], base: str) -> dict[str, list]:
    """{"ids", "lengths" (words), "row_scores" by the paper's first-line rule, "row_scores_upstream" by LongBench's}."""
    metric = METRICS[SETS[base].metric]
    ids, lengths, scores = [], [], {"lceg": [], "upstream": []}
    for number, row in enumerate(rows, 1):
        try:
            first_line = row["pred"].lstrip("\n").split("\n")[0]
            best = {}  # by text: both rules often score the same one
            for rule, cut_sets in FIRST_LINE.items():
                text = first_line if base in cut_sets else row["pred"]
                if text not in best:
                    best[text] = max(metric(text, answer, row.get("all_classes")) for answer in row["answers"])
                scores[rule].append(best[text])
            ids.append(row.get("_id"))
            lengths.append(row["length"])
            hash(row.get("_id"))  # raises on a list
            if not abs(row["length"]) < math.inf or not isinstance(row["answers"], list):
                raise ValueError("length is not a number, or answers not a list")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"row {number} is not a prediction ({type(error).__name__}: {error})") from None
    columns = {"ids": ids, "lengths": lengths}
    return columns | {"row_scores": scores["lceg"], "row_scores_upstream": scores["upstream"]}


def errors(estimate: Estimate) -> dict:
    """stderr (None for a single row) and interval_95 of a mean, 0 to 100."""
    error = estimate.standard_error
    low, high = estimate.interval()
    return {"stderr": None if error is None else 100 * error, "interval_95": [100 * low, 100 * high]}


def summary(row_N: np.ndarray) -> dict:
    """n, score, stderr and interval_95 of some rows."""
    total = sum(row_N.tolist())  # in the order of the rows, as LongBench does, so that it rounds alike
    return {"n": len(row_N), "score": 100 * total / len(row_N), **errors(mean_over_tasks([row_N]))}


def by_length(row_N: np.ndarray, length_N: np.ndarray) -> dict[str, dict]:
    """{bucket: summary of its rows}; without rows {"n": 0, "score": None}."""
    buckets = {}
    for bucket, (low, high) in BUCKETS.items():
        inside_N = row_N[(low <= length_N) & (length_N < high)]
        buckets[bucket] = {"n": 0, "score": None}
        if len(inside_N):
            buckets[bucket] = summary(inside_N)
    return buckets


def means(sets: dict[str, dict], source: str, e: bool) -> tuple[dict, dict | None]:
    """({category: mean of its sets}, mean of the categories or None without any) for the sets of one source.

    A mean is complete if every set that it should have is there and complete; stand-ins: every set that can be made.
    """
    missing = set(STANDIN_SETS if source == "standin" else LONGBENCH_E if e else SETS)
    members = {category: [] for category in CATEGORIES}
    for name, entry in sets.items():
        if entry["source"] == source:
            base = base_set(name)
            members[SETS[base].category].append(name)
            if entry["complete"]:
                missing.discard(base)
    incomplete = {SETS[base].category for base in missing}

    categories, all_names, weights = {}, [], []
    for category, names in members.items():
        if not names:
            continue
        entries = [sets[name] for name in names]
        estimate = mean_over_tasks([entry["row_scores"] for entry in entries])
        categories[category] = mean(entries, estimate) | {"sets": names, "complete": category not in incomplete}
        all_names += names
        weights += [1 / len(names)] * len(names)
    if not categories:
        return {}, None
    estimate = mean_over_tasks([sets[name]["row_scores"] for name in all_names], weights)
    overall = mean(categories.values(), estimate)
    return categories, overall | {"sets": all_names, "complete": not missing}


def mean(entries, estimate: Estimate) -> dict:
    """The mean of sets or categories, each with the same weight. estimate: of this mean, from the rows of the sets."""
    scores = [entry["score"] for entry in entries]
    upstream = [entry["score_upstream"] for entry in entries]
    return {
        "score": float(np.mean(scores)),
        **errors(estimate),
        "score_upstream": float(np.mean(upstream)),
    }
