r"""Scores RULER's predictions and prints one table of models and lengths; needs no GPU and no model.

    python eval/evaluate.py --data_dir results/*/synthetic/*/pred --benchmark synthetic

Writes into each folder RULER's summary.csv (summary-<task>.csv if there is one task) and scores.json: scores with 95 %
intervals over the samples, strict scores (whole words only), empty answers, costs. Ends with status 1 if a folder or
task is left out, or a task is incomplete.

As in NVIDIA/RULER (arXiv 2404.06654), a gold answer counts where it occurs in the prediction, in upper or lower case.
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from run import Parser, errors_of, run_script, write_json, write_text

import numpy as np
import pandas

from stats import mean_over_tasks
from store import read_lines, read_record
from tasks import check_row, read_tasks

RECORD_KEYS = (
    "name model method exact_attention base_model original_length trained_length trained_tokens training_seed "
    "checkpoint engine dtype attention protocol seed versions command"
).split()
# the effective length (arXiv 2404.06654) is the longest whose mean reaches Llama-2-7B-chat's score at 4,096 tokens
THRESHOLD = 85.6


def clean(pred: str) -> str:
    """A prediction without surrounding white space and with a line break for each control character (0x00-0x1f)."""
    return re.sub(r"[\x00-\x1f]", "\n", pred.strip()).strip()


def contains(pred: str, gold: str, strict: bool = False) -> bool:
    """strict: only as a whole word, not "no" in "know". An underscore is markdown, not part of a word."""
    pattern = re.escape(gold.lower())
    if strict:
        pattern = rf"(?<![^\W_]){pattern}(?![^\W_])"
    return re.search(pattern, pred.lower()) is not None


def score(pred: str, golds: list, metric: str, strict: bool = False) -> float:
    """0 to 1. string_match_all: the share of the golds that match; string_match_part: whether any of them does."""
    hits = [contains(pred, gold, strict) for gold in golds]
    if metric == "string_match_part":
        return float(any(hits))
    return sum(hits) / len(hits)


def percent(scores: list) -> float:
    """The mean in percent, rounded as RULER does."""
    mean = sum(scores) / len(scores)
    return round(mean * 100, 2)


def interval(*tasks: list[float]) -> list[float]:
    """The 95 % interval of the mean over the tasks' mean scores, in percent."""
    bounds = mean_over_tasks(tasks).interval()
    return np.round(100 * np.array(bounds), 2).tolist()


def read_predictions(path: Path) -> list:
    """The predictions of a task, the last one of each index. Raises an exception on odd lines."""
    entries, unreadable = read_lines(path)
    if unreadable:
        raise ValueError(f"{unreadable} unreadable lines")
    rows = {}
    for row in entries:
        if "error" not in row:  # the answer ran out of memory, and a kill left the line
            check_row(row, "pred")
            rows[int(row["index"])] = row
    return [rows[index] for index in sorted(rows)]


def evaluate_task(rows: list, metric: str, record: dict) -> dict:
    """One task's entry in scores.json. record: that of call_api.py, empty for predictions of other code."""
    scores, strict_scores, nulls = [], [], 0
    for row in rows:
        pred = clean(row["pred"])
        scores.append(score(pred, row["outputs"], metric))
        strict_scores.append(score(pred, row["outputs"], metric, strict=True))
        nulls += pred == ""
    expected = record.get("samples", len(rows))
    return {
        "source": record.get("data", {}).get("source"),
        "n": len(rows),
        "expected_n": expected,
        "complete": len(rows) >= expected,
        "score": percent(scores),
        "strict": percent(strict_scores),
        "interval_95": interval(scores),
        "nulls": nulls,
        "indices": [row["index"] for row in rows],
        "row_scores": np.round(scores, 6).tolist(),
        **costs(rows),
    }


def costs(rows: list) -> dict:
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


def summarize(entries: dict) -> dict:
    """`mean` in scores.json: the mean over the tasks, each of which counts the same."""
    row_scores, means, standins = [], [], []
    for name, entry in entries.items():
        scores = entry["row_scores"]
        row_scores.append(scores)
        means.append(sum(scores) / len(scores))
        if entry["source"] == "standin":
            standins.append(name)
    return {"score": percent(means), "interval_95": interval(*row_scores), "tasks": len(means), "standin": standins}


def score_folder(folder: Path, tasks: dict, problems: list) -> dict:
    """Scores a folder and writes its files; returns the content of scores.json. Adds what is wrong to `problems`.

    Raises ValueError, and writes nothing, if no task has predictions, or the tasks do not belong together.
    """
    entries, records = {}, {}
    for name, task in tasks.items():
        try:
            with errors_of(f"{folder}/{name}.jsonl or runs/{name}.json"):
                rows = read_predictions(folder / f"{name}.jsonl")
                if rows:
                    record = read_record(folder / "runs" / f"{name}.json")
                    record |= record.get("settings") or {}
                    entry = evaluate_task(rows, task["metric"], record)
                    json.dumps([entry, record], ensure_ascii=False, allow_nan=False).encode()  # raises on NaN
                    entries[name], records[name] = entry, record
        except ValueError as error:
            problems.append(f"left out: {error}")
    if not entries:
        raise ValueError(f"{folder} has no predictions of any task")
    for key in ("checkpoint", "protocol"):
        values = {record.get(key) for record in records.values()}
        if len(values) > 1:
            raise ValueError(f"{folder}: the tasks have different values of {key}; answer one set of them again")
    record = next(iter(records.values()))
    scores = {"benchmark": "ruler"}
    for key in RECORD_KEYS:
        scores[key] = record.get(key)
    length = folder.resolve().parent  # <model>/<benchmark>/<length>/pred, for predictions of other code
    scores["name"] = scores["name"] or length.parent.parent.name
    with errors_of(f"{folder}: the folder above is not named after the length"):
        scores["length"] = record.get("max_seq_length") or int(length.name)
    scores |= {"tasks": entries, "mean": summarize(entries)}
    write_json(folder / "scores.json", scores)

    summary = pandas.DataFrame({0: ["Tasks", "Score", "Nulls"]})  # RULER's file
    for name, entry in entries.items():
        summary[len(summary.columns)] = [name, entry["score"], f"{entry['nulls']}/{entry['n']}"]
        if not entry["complete"]:
            problems.append(f"incomplete: {folder}/{name}.jsonl: {entry['n']} of {entry['expected_n']} samples")
    stem = "summary" if len(entries) > 1 else f"summary-{name}"
    write_text(folder / f"{stem}.csv", summary.to_csv(index=False))
    return scores


def print_table(folders: list, tasks: list) -> None:
    """Prints a line for each length and model, then the effective lengths. folders: the contents of scores.json."""
    rows = []
    for scores in folders:
        row = {"length": scores["length"], "name": scores["name"], "method": scores["method"] or "-"}
        mean = scores["mean"]
        row["mean"] = mean["score"]
        row["low"], row["high"] = mean["interval_95"]
        row["nulls"] = 0
        for name, entry in scores["tasks"].items():
            row[name] = entry["score"]
            row["nulls"] += entry["nulls"]
        rows.append(row)
    frame = pandas.DataFrame(rows).sort_values(["length", "name"])
    tasks = [task for task in tasks if task in frame]
    table = frame[["length", "name", "method", "mean", "low", "high", *tasks, "nulls"]]
    for long, short in (("niah_", ""), ("single", "s"), ("multi", "m")):
        table.columns = table.columns.str.replace(long, short)
    print("RULER in %: mean of the tasks and its 95 % interval over the samples; the tasks; empty answers\n")
    print(table.to_string(index=False, na_rep="-", float_format="%.1f"))
    for name, passed in frame[frame["mean"] >= THRESHOLD].groupby("name"):
        print(f"{name}: effective length {passed.length.max()}, the longest whose mean reaches {THRESHOLD}")


def main():
    parser = Parser(__doc__)
    parser.add_argument("--data_dir", type=Path, nargs="+", required=True, help="folders of predictions")
    parser.add_argument("--benchmark", default="synthetic", help="[synthetic]")
    args = parser.parse_args()
    tasks = read_tasks(args.benchmark)
    folders, standins, problems = [], set(), []
    for folder in args.data_dir:
        try:
            scores = score_folder(folder, tasks, problems)
        except ValueError as error:
            problems.append(f"left out: {error}")
        else:
            folders.append(scores)
            standins.update(scores["mean"]["standin"])
    if folders:
        print_table(folders, list(tasks))
    if standins:
        names = " ".join(sorted(standins))
        print(f"stand-in data, not RULER's: {names}; compare these tasks with each other only")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    run_script(main)
