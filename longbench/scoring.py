"""From the predictions of one model to its scores: rows read and checked, sets scored, means, intervals.

Scores of rows are 0 to 1, of sets and means 0 to 100, as LongBench reports them. A set's interval is the 95 %
percentile bootstrap over its rows (Efron and Tibshirani 1993, ch. 13); the draws of a mean are the means of its sets'.
"""

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrics import DEEPEST_PATH, METRICS, rouge_l_and_path
from sets import CATEGORIES, FIRST_LINE, LONGBENCH_E, SETS, STANDIN, base_set

RESAMPLES = 2000
NO_STANDIN = ("gov_report", "qmsum", "multi_news", "samsum")  # summaries somebody has to write
BUCKETS_E = {"0-4k": (0, 4000), "4-8k": (4000, 8000), "8k+": (8000, math.inf)}  # LongBench-E's, words: from, below
BUCKETS = {  # those of the paper's code, and their order there
    "0-4k": (0, 4000),
    "4-8k": (4000, 8000),
    "8-16k": (8000, 16000),
    "16-32k": (16000, math.inf),
    "4k+": (math.nextafter(4000, math.inf), math.inf),
}


# ----------------------------------------------------------------------------- reading
def read_rows(path: Path, name: str) -> tuple[list[dict], list[str], list[str]]:
    """(rows of the set `name` that can be scored, in the file's order; what is wrong with others; notes), a line each.

    Of several rows with the same `_id` the last counts.
    """
    metric = SETS[base_set(name)].metric
    rows, wrong, doubled = {}, {}, 0
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = check(line, metric)
            except ValueError as reason:
                reason = "cut off; run pred.py again" if number == len(lines) else str(reason)
                wrong.setdefault(reason, []).append(number)
                continue
            key = row.get("_id", number)
            doubled += rows.pop(key, None) is not None
            rows[key] = row
    problems = [
        f"{path}, line {numbers[0]}{f' and {len(numbers) - 1} more' if numbers[1:] else ''}: {reason}"
        for reason, numbers in wrong.items()
    ]
    notes = [f"{path}: {doubled} rows left out, a later one has the same _id"] if doubled else []
    return list(rows.values()), problems, notes


def check(line: str, metric: str) -> dict:
    """The row of a line of predictions. Raises ValueError, one line, if it cannot be scored."""
    try:
        row = json.loads(line)
    except ValueError:
        raise ValueError("not JSON") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    types = {"pred": str, "answers": list, "length": (int, float)}
    if metric == "classification":
        types["all_classes"] = list
    for field, kind in types.items():
        if field not in row:
            raise ValueError(f"no field '{field}'")
        if not isinstance(row[field], kind):
            raise ValueError(f"the field '{field}' is {json.dumps(row[field])[:40]}")
    if not row["answers"] or not all(isinstance(answer, str) for answer in row["answers"]):
        raise ValueError("'answers' is not a list of texts")
    if metric == "retrieval":
        METRICS[metric]("", row["answers"][0])  # says it if the answer has no paragraph in it
    return row


# ----------------------------------------------------------------------------- one set
@dataclass
class Scored:
    """A set's rows scored. row_N, upstream_N: float64 0 to 1, answers cut by the paper's rule and by LongBench's own.
    draws_B, upstream_B: bootstrap means, 0 to 1. recursion: rows for which `rouge` would have failed."""

    name: str
    row_N: np.ndarray
    upstream_N: np.ndarray
    length_N: np.ndarray
    empty: int
    recursion: int
    seed: int

    def __post_init__(self):
        self.draws_B = bootstrap(self.row_N, self.name, self.seed)
        self.upstream_B = bootstrap(self.upstream_N, self.name, self.seed)

    def buckets(self, limits: dict) -> dict[str, dict]:
        """{bucket: n, score, stderr, interval_95}, None where there is no row."""
        found = {}
        for bucket, (low, high) in limits.items():
            row_N = self.row_N[(low <= self.length_N) & (self.length_N < high)]
            n = len(row_N)
            draws_B = bootstrap(row_N, f"{self.name} {bucket}", self.seed) if n else None
            found[bucket] = {
                "n": n,
                "score": percent(row_N) if n else None,
                "stderr": stderr(row_N),
                "interval_95": interval(draws_B) if n else None,
            }
        return found


def score_rows(name: str, rows: list[dict], seed: int) -> Scored:
    """Scores the rows of the set `name`; at least one. An empty prediction is scored like any other."""
    base = base_set(name)
    metric = SETS[base].metric
    pairs, recursion = [], 0
    for row in rows:
        first_line = row["pred"].lstrip("\n").split("\n")[0]
        texts = [first_line if base in FIRST_LINE[policy] else row["pred"] for policy in ("lceg", "upstream")]
        best, deep = best_score(metric, texts[0], row)
        pairs.append((best, best if texts[1] == texts[0] else best_score(metric, texts[1], row)[0]))
        recursion += deep
    row_N, upstream_N = np.array(pairs, dtype=np.float64).T
    length_N = np.array([row["length"] for row in rows], dtype=np.float64)
    return Scored(name, row_N, upstream_N, length_N, sum(not row["pred"].strip() for row in rows), recursion, seed)


def best_score(metric: str, prediction: str, row: dict) -> tuple[float, bool]:
    """(the best score over the accepted answers, whether `rouge` would have failed on one of them)."""
    if metric == "rouge":
        found = [rouge_l_and_path(prediction, answer) for answer in row["answers"]]
        return max(score for score, _ in found), any(path > DEEPEST_PATH for _, path in found)
    return max(METRICS[metric](prediction, answer, row.get("all_classes")) for answer in row["answers"]), False


# ----------------------------------------------------------------------------- statistics
def bootstrap(row_N: np.ndarray, name: str, seed: int) -> np.ndarray:
    """Means of RESAMPLES resamples, float64; the draw depends on seed, name and number of rows alone."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return row_N[rng.integers(0, len(row_N), (RESAMPLES, len(row_N)), dtype=np.int32)].mean(axis=1)


def interval(draws_B: np.ndarray) -> list[float]:
    """95 % percentile interval [low, high], points of 100."""
    return [100 * float(limit) for limit in np.percentile(draws_B, (2.5, 97.5))]


def percent(row_N: np.ndarray) -> float:
    return 100 * sum(row_N.tolist()) / len(row_N)  # added up in order, as LongBench does, so that it rounds alike


def stderr(row_N: np.ndarray) -> float | None:
    """Standard error of the mean, points of 100; None for a single row."""
    return 100 * float(row_N.std(ddof=1)) / math.sqrt(len(row_N)) if len(row_N) > 1 else None


# ----------------------------------------------------------------------------- means over sets
def means(scored: list[tuple[Scored, bool]], source: str, e: bool) -> tuple[dict, dict | None]:
    """({category: mean over its sets}, mean over the categories or None), as LongBench's tables have them.

    scored: the sets of one source, each with whether it is complete. A mean is `complete` if all sets of the category
    are there and complete; for stand-ins, all that have one.
    """
    there = {base_set(one.name): (one, complete) for one, complete in scored}
    wanted = [name for name in (LONGBENCH_E if e else SETS) if source != "standin" or name not in NO_STANDIN]
    categories, all_draws = {}, []
    for category in CATEGORIES:
        names = [name for name in SETS if name in there and SETS[name].category == category]
        if not names:
            continue
        found = [there[name][0] for name in names]
        draws_B = np.mean([one.draws_B for one in found], axis=0)
        all_draws.append(draws_B)
        categories[category] = {
            "score": float(np.mean([percent(one.row_N) for one in found])),
            "score_upstream": float(np.mean([percent(one.upstream_N) for one in found])),
            "interval_95": interval(draws_B),
            "sets": [one.name for one in found],
            "complete": all(n in there and there[n][1] for n in wanted if SETS[n].category == category),
        }
    if not categories:
        return {}, None
    expected = {SETS[name].category for name in wanted}
    return categories, {
        "score": float(np.mean([mean["score"] for mean in categories.values()])),
        "score_upstream": float(np.mean([mean["score_upstream"] for mean in categories.values()])),
        "interval_95": interval(np.mean(all_draws, axis=0)),
        "sets": [name for mean in categories.values() for name in mean["sets"]],
        "complete": expected == set(categories) and all(mean["complete"] for mean in categories.values()),
    }


def source_of(name: str, run: dict) -> str:
    """ "official", "standin", or "user" for data that are neither or of which there is no record."""
    return "standin" if name.startswith(STANDIN) else run.get("data", {}).get("source", "user")
