"""From the predictions of one model to its scores: rows, sets, means over sets, all with 95 % bootstrap intervals.

Scores of rows are 0 to 1, of sets and means 0 to 100, as LongBench reports them. Each set is resampled on its own; the
resampled means of a category are the means of its sets' resampled means, and likewise the overall mean's.
"""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrics import METRICS
from run import read_json
from sets import CATEGORIES, FIRST_LINE, LONGBENCH_E, SETS, STANDIN, STANDIN_SETS, base_set, official_rows
from stats import bootstrap, percentile_interval, standard_error
from store import read_lines

SOURCES = ("official", "user", "standin")  # user: the user's own data, or predictions without a record
BUCKETS = {  # by a row's length in words: from, below; the paper's, then LongBench-E's that the paper lacks
    "0-4k": (0, 4000),
    "4-8k": (4000, 8000),
    "8-16k": (8000, 16000),
    "16-32k": (16000, math.inf),
    "4k+": (math.nextafter(4000, math.inf), math.inf),
    "8k+": (8000, math.inf),
}
BUCKETS_E = ("0-4k", "4-8k", "8k+")


@dataclass
class Scored:
    """A scored set, or a mean. entry: what scores.json says about it.  means_B: resampled means, 0 to 1."""

    entry: dict
    means_B: np.ndarray


# --- one set
def score_set(path: Path, seed: int, e: bool) -> tuple[Scored, list[str]]:
    """(the scored set, what is wrong with it) for a file of predictions, <folder>/<set>.jsonl. e: LongBench-E.

    Raises ValueError if the set is unknown, or a row is not a prediction of it.
    """
    name = path.stem
    base = base_set(name)
    entries, unreadable = read_lines(path)
    rows = list({row.get("_id", i): row for i, row in enumerate(entries)}.values())
    if not rows:
        raise ValueError("no rows")
    row_N, upstream_N = score_rows(rows, base)
    means_B = resample(row_N, name, seed)
    run = read_json(path.parent / "runs" / f"{name}.json") or {}
    data = run.get("data", {})
    source = "standin" if name.startswith(STANDIN) else data.get("source", "user")
    expected = official_rows(name, e)
    if source != "official":
        expected = data.get("rows", expected)
    wanted = min(run.get("limit") or math.inf, expected or len(rows))
    problems = [f"{unreadable} unreadable lines are left out"] if unreadable else []
    if len(rows) != wanted:
        problems.append(f"{len(rows)} rows, not {wanted}; rerun pred.py")
    lengths = [row["length"] for row in rows]
    entry = {
        "source": source,
        "expected_n": expected,
        "complete": len(rows) == expected and not run.get("errors"),
        "metric": SETS[base].metric,
        **summary(row_N, means_B),
        "score_upstream": percent(upstream_N),
        "interval_95_upstream": interval(resample(upstream_N, name, seed)),
        "by_length": by_length(row_N, np.array(lengths), name, seed),
        "empty": sum(not row["pred"].strip() for row in rows),
        "ids": [row.get("_id") for row in rows],
        "lengths": lengths,
        "row_scores": row_N.tolist(),
        "row_scores_upstream": upstream_N.tolist(),
        **{key: run.get(key) for key in ("seconds", "tokens_per_second", "peak_memory_bytes")},
        "run": run,
    }
    return Scored(entry, means_B), problems


def score_rows(rows: list[dict], base: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of rows by the paper's and by LongBench's own first-line rule, float64 [N] each, 0 to 1."""
    metric = METRICS[SETS[base].metric]
    scores = {rule: [] for rule in ("lceg", "upstream")}
    for number, row in enumerate(rows, 1):
        try:
            whole, first_line = row["pred"], row["pred"].lstrip("\n").split("\n")[0]
            for rule in scores:
                text = first_line if base in FIRST_LINE[rule] else whole
                best = max(metric(text, answer, row.get("all_classes")) for answer in row["answers"])
                scores[rule].append(best)
            float(row["length"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"row {number} is not a prediction ({type(error).__name__}: {error})") from None
    return np.array(scores["lceg"], dtype=np.float64), np.array(scores["upstream"], dtype=np.float64)


def resample(row_N: np.ndarray, name: str, seed: int) -> np.ndarray:
    """Bootstrap means of rows, 0 to 1; they depend on the rows, the name and the seed alone."""
    return bootstrap(row_N, [seed, zlib.crc32(name.encode())])


def interval(means_B: np.ndarray) -> list[float]:
    """95 % interval of resampled means, 0 to 100."""
    return [100 * end for end in percentile_interval(means_B)]


def percent(row_N: np.ndarray) -> float:
    """The mean, 0 to 100. Added in the order of the rows, as LongBench does, so that it rounds alike."""
    return 100 * sum(row_N.tolist()) / len(row_N)


def summary(row_N: np.ndarray, means_B: np.ndarray) -> dict:
    """n, score, stderr and interval_95 of rows and their resampled means."""
    error = standard_error(row_N)
    return {
        "n": len(row_N),
        "score": percent(row_N),
        "stderr": None if error is None else 100 * error,
        "interval_95": interval(means_B),
    }


def by_length(row_N: np.ndarray, length_N: np.ndarray, name: str, seed: int) -> dict[str, dict]:
    """{bucket: summary of its rows}; without rows {"n": 0, "score": None}."""
    buckets = {}
    for bucket, (low, high) in BUCKETS.items():
        inside_N = row_N[(low <= length_N) & (length_N < high)]
        buckets[bucket] = {"n": 0, "score": None}
        if len(inside_N):
            buckets[bucket] = summary(inside_N, resample(inside_N, f"{name} {bucket}", seed))
    return buckets


# --- means over sets
def means(scored: dict[str, Scored], source: str, e: bool) -> tuple[dict, dict | None]:
    """({category: mean over its sets}, mean over the categories or None) for the sets of one source.

    A mean is `complete` if all sets of the category are there and complete; of stand-ins, all that can be made.
    """
    required = STANDIN_SETS if source == "standin" else LONGBENCH_E if e else tuple(SETS)
    names = {base_set(name): name for name, one in scored.items() if one.entry["source"] == source}
    categories = {}
    for category in CATEGORIES:
        there = [names[base] for base in SETS if base in names and SETS[base].category == category]
        needed = [base for base in required if SETS[base].category == category]
        complete = all(base in names and scored[names[base]].entry["complete"] for base in needed)
        if there:
            categories[category] = mean_of([scored[name] for name in there], there, complete)
    if not categories:
        return {}, None
    complete = {SETS[base].category for base in required} == set(categories)
    complete = complete and all(mean.entry["complete"] for mean in categories.values())
    overall = mean_of(list(categories.values()), list(names.values()), complete)
    return {category: mean.entry for category, mean in categories.items()}, overall.entry


def mean_of(parts: list[Scored], sets: list[str], complete: bool) -> Scored:
    """The mean of sets, or of categories, each with the same weight."""
    means_B = np.mean([part.means_B for part in parts], axis=0)
    entry = {
        "score": float(np.mean([part.entry["score"] for part in parts])),
        "stderr": 100 * float(means_B.std(ddof=1)),
        "interval_95": interval(means_B),
        "score_upstream": float(np.mean([part.entry["score_upstream"] for part in parts])),
        "sets": sets,
        "complete": complete,
    }
    return Scored(entry, means_B)
