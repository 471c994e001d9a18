r"""Scores RULER's predictions; needs no GPU and no model.

    python eval/evaluate.py --data_dir results/NAME/synthetic/4096/pred --benchmark synthetic
    python eval/evaluate.py --data_dir results/*/synthetic/*/pred --verbose 3           (prints three of each task)

Writes into each folder RULER's summary.csv (summary-<task>.csv if there is one task) and submission.csv, and
scores.json: the mean over the tasks, and for each task the score with its 95 % interval (over the samples), the strict
score (whole words only), the number of empty answers, the score of every sample, and the cost of the answers.

As in NVIDIA/RULER (arXiv 2404.06654), a gold answer counts where it occurs in the prediction, in upper or lower case.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas

from run import Parser, for_each_checkpoint, read_json, run_script, write_json, write_text
from stats import Estimate, mean_over_tasks
from store import read_lines
from tasks import check_row, read_tasks

COMMON_KEYS = (
    "name", "model", "method", "exact_attention", "base_model", "original_length", "trained_length", "trained_tokens",
    "training_seed", "checkpoint", "engine", "dtype", "attention", "protocol", "seed", "versions", "command",
)  # fmt: skip


def clean(pred: str) -> str:
    """A prediction without surrounding white space and with a line break for each control character (0x00-0x1f)."""
    return re.sub(r"[\x00-\x1f]", "\n", pred.strip()).strip()


def contains(pred: str, gold: str) -> bool:
    return gold.lower() in pred.lower()


def contains_word(pred: str, gold: str) -> bool:
    """As `contains`, but not inside a longer word ("no" in "know"). An underscore is markdown, not part of a word."""
    return re.search(rf"(?<![^\W_]){re.escape(gold.lower())}(?![^\W_])", pred.lower()) is not None


def score(pred: str, golds: list[str], metric: str, match=contains) -> float:
    """0 to 1. string_match_all: the share of the golds that match; string_match_part: whether any of them does."""
    hits = [float(match(pred, gold)) for gold in golds]
    return sum(hits) / len(hits) if metric == "string_match_all" else max(hits)


def interval(estimate: Estimate) -> list[float]:
    """The 95 % interval of a mean, in percent."""
    return np.round(100 * np.array(estimate.interval()), 2).tolist()


def percent(scores: list[float]) -> float:
    """The mean in percent, rounded as RULER does."""
    return round(sum(scores) / len(scores) * 100, 2)


def costs(rows: list[dict]) -> dict:
    """The cost of the answers, over all processes; empty for predictions of other code, which have none."""
    if "seconds" not in rows[0]:
        return {}
    seconds, tokens, peak = 0, 0, 0
    for row in rows:
        seconds += row["seconds"]
        tokens += row["prompt_tokens"] + row["generated_tokens"]
        peak = max(peak, row["peak_memory_bytes"] or 0)
    rate = round(tokens / seconds, 1) if seconds else None
    return {"seconds": round(seconds, 3), "tokens_per_second": rate, "peak_memory_bytes": peak or None}


def read_rows(path: Path) -> list[dict]:
    """The predictions of a task, the last one of each index. Raises KeyError, TypeError or ValueError on odd lines."""
    entries, unreadable = read_lines(path)
    if unreadable:
        raise ValueError(f"{unreadable} unreadable lines")
    rows = {}
    for row in entries:
        if "error" not in row:  # the answer ran out of memory, and a kill left the line
            check_row(row, "pred")
            rows[int(row["index"])] = row
    return [rows[index] for index in sorted(rows)]


def evaluate_task(rows: list[dict], metric: str, record: dict) -> dict:
    """One task's entry in scores.json, with `predictions` that go to submission.csv."""
    preds, scores, strict = [], [], []
    for row in rows:
        pred = clean(row["pred"])
        preds.append(pred)
        scores.append(score(pred, row["outputs"], metric))
        strict.append(score(pred, row["outputs"], metric, contains_word))
    data = record.get("data") or {}
    expected = record.get("samples") or len(rows)
    estimate = mean_over_tasks([scores])
    error = estimate.standard_error
    return {
        "source": data.get("source"),
        "metric": metric,
        "n": len(rows),
        "expected_n": expected,
        "complete": len(rows) >= expected,
        "score": percent(scores),
        "strict": percent(strict),
        "stderr": None if error is None else round(100 * error, 3),
        "interval_95": interval(estimate),
        "nulls": preds.count(""),
        "fill": data.get("mean_fill"),
        "tokens_to_generate": record.get("tokens_to_generate"),
        "indices": [row["index"] for row in rows],
        "row_scores": np.round(scores, 6).tolist(),
        "strict_row_scores": np.round(strict, 6).tolist(),
        "oom_retries": record.get("oom_retries"),
        "errors": record.get("errors"),
        "predictions": preds,
    } | costs(rows)


def summarize(entries: dict[str, dict], num_tasks: int) -> dict:
    """The mean over the tasks, each of which counts the same; `mean` in scores.json."""
    means, strict_means = [], []
    for entry in entries.values():
        means.append(sum(entry["row_scores"]) / entry["n"])
        strict_means.append(sum(entry["strict_row_scores"]) / entry["n"])
    estimate = mean_over_tasks([entry["row_scores"] for entry in entries.values()])
    return {
        "score": percent(means),
        "interval_95": interval(estimate),
        "strict": percent(strict_means),
        "tasks": len(entries),
        "complete": len(entries) == num_tasks and all(entry["complete"] for entry in entries.values()),
        "standin": [name for name, entry in entries.items() if entry["source"] == "standin"],
    }


def score_folder(folder: Path, tasks: dict[str, dict], verbose: int) -> None:
    """Scores a folder of predictions, writes its files, prints the scores. Raises ValueError if it left a file out."""
    entries, records, problems = {}, [], []
    tasks_of = {}  # by checkpoint and profile of the data
    for name, task in tasks.items():
        path = folder / f"{name}.jsonl"
        record = read_json(folder / "runs" / f"{name}.json") or {}
        try:
            rows = read_rows(path)
            if not rows:
                continue
            record |= record.get("settings", {})
            entries[name] = evaluate_task(rows, task["metric"], record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"{path} or its record in runs/ ({error!r})")
            continue
        records.append(record)
        tasks_of[str([record.get("checkpoint"), record.get("protocol")])] = name
        for row in rows[:verbose]:
            print(f"{name} {row['index']}: ...{row.get('input', '')[-300:]!r}")
            print(f"  gold: {row['outputs']}\n  prediction: {row['pred']!r}")
    left_out = f"{folder}: left out: {', '.join(problems)}; everything else is scored"
    if not entries:
        raise ValueError(left_out if problems else f"{folder} has no predictions of any task")
    if len(tasks_of) > 1:
        names = " and ".join(tasks_of.values())
        raise ValueError(f"{folder}: {names} are of different checkpoints or profiles; answer one set again")
    write_tables(folder, entries)
    record = records[0]
    scores = {"benchmark": "ruler"} | {key: record.get(key) for key in COMMON_KEYS}
    length = folder.resolve().parent.name
    scores["name"] = scores["name"] or folder.resolve().parent.parent.parent.name
    scores["length"] = record.get("max_seq_length") or (int(length) if length.isdecimal() else None)
    scores["profile"] = record.get("protocol")
    scores["tasks"] = entries
    scores["mean"] = summarize(entries, len(tasks))
    scores["missing"] = [name for name in tasks if name not in entries]
    write_json(folder / "scores.json", scores)
    low, high = scores["mean"]["interval_95"]
    print(f"{folder}: mean of {len(entries)} tasks {scores['mean']['score']:.2f} [{low:.2f}, {high:.2f}]")
    table = pandas.DataFrame(entries).T[["score", "interval_95", "strict", "nulls", "n", "source"]]
    print(table.to_string(na_rep="-"))
    if problems:
        raise ValueError(left_out)


def write_tables(folder: Path, entries: dict[str, dict]) -> None:
    """Writes RULER's summary.csv and submission.csv; takes `predictions` out of the entries."""
    summary = pandas.DataFrame({"": ["Tasks", "Score", "Nulls"]})
    frames = []
    for name, entry in entries.items():
        summary[name] = [name, entry["score"], f"{entry['nulls']}/{entry['n']}"]
        columns = {"Task": name, "ID": entry["indices"], "Prediction": entry.pop("predictions")}
        frames.append(pandas.DataFrame(columns))
    summary.columns = range(len(summary.columns))
    summary_name = "summary.csv" if len(entries) > 1 else f"summary-{name}.csv"
    write_text(folder / summary_name, summary.to_csv(index=False))
    write_text(folder / "submission.csv", pandas.concat(frames).to_csv(index=False))


def main():
    parser = Parser(__doc__)
    parser.add_argument("--data_dir", type=Path, nargs="+", required=True, help="folders of predictions")
    parser.add_argument("--benchmark", default="synthetic", help="[synthetic]")
    parser.add_argument("--verbose", type=int, default=0, help="answers of each task to print [0]")
    args = parser.parse_args()
    tasks = read_tasks(args.benchmark)
    for_each_checkpoint(args.data_dir, lambda folder: score_folder(folder, tasks, args.verbose))


if __name__ == "__main__":
    run_script(main)
