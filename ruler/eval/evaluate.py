r"""Scores RULER's predictions; needs no GPU and no model.

    python eval/evaluate.py --data_dir results/NAME/synthetic/4096/pred --benchmark synthetic
    python eval/evaluate.py --data_dir results/*/synthetic/*/pred --verbose 3           (prints three of each task)

Writes into each folder RULER's summary.csv (summary-<task>.csv if there is one task) and submission.csv, and
scores.json: for each task the score with its 95 % interval (bootstrap over samples), the number of empty answers, the
strict score (whole words only), the score of every sample, and what the answers cost; the mean over the tasks.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas

from run import read_json, run_script, write_json, write_text
from scoring import clean, contains_word, score
from stats import bootstrap, percentile_interval, resampled_means, standard_error
from store import read_lines
from tasks import read_tasks

# what all tasks of a folder have in common
ABOUT = (
    "name", "model", "method", "exact_attention", "base_model", "original_length", "trained_length", "trained_tokens",
    "training_seed", "checkpoint", "engine", "dtype", "attention", "protocol", "seed", "versions", "command",
)  # fmt: skip


def interval(means: np.ndarray) -> list[float]:
    """The 95 % interval of resampled means, in percent."""
    return [round(100 * bound, 2) for bound in percentile_interval(means)]


def percent(scores: list[float]) -> float:
    """The mean in percent, rounded as RULER does."""
    return round(sum(scores) / len(scores) * 100, 2)


def costs(rows: list[dict]) -> dict:
    """What the answers took, all processes together; empty for predictions of other code, which do not say."""
    if "seconds" not in rows[0]:
        return {}
    seconds = sum(row["seconds"] for row in rows)
    tokens = sum(row["prompt_tokens"] + row["generated_tokens"] for row in rows)
    peak = max(row["peak_memory_bytes"] or 0 for row in rows)
    rate = round(tokens / seconds, 1) if seconds else None
    return {"seconds": round(seconds, 3), "tokens_per_second": rate, "peak_memory_bytes": peak or None}


def evaluate_task(rows: list[dict], task: dict, record: dict) -> dict:
    """One task's entry in scores.json, with `predictions` that go to submission.csv.

    Raises ValueError if a row has no gold answers.
    """
    scores, strict, preds = [], [], []
    for row in rows:
        golds = [gold for gold in row["outputs"] if gold is not None]
        if not golds:
            raise ValueError(f"sample {row['index']} has no gold answers")
        pred = clean(row["pred"])
        preds.append(pred)
        scores.append(score(pred, golds, task["metric"]))
        strict.append(score(pred, golds, task["metric"], contains_word))
    data = record.get("data") or {}
    expected = record.get("samples") or len(rows)
    error = standard_error(scores)
    return {
        "source": data.get("source"),
        "metric": task["metric"],
        "n": len(rows),
        "expected_n": expected,
        "complete": len(rows) >= expected,
        "score": percent(scores),
        "strict": percent(strict),
        "stderr": None if error is None else round(100 * error, 3),
        "interval_95": interval(bootstrap(scores)),
        "nulls": preds.count(""),
        "fill": data.get("mean_fill"),
        "tokens_to_generate": record.get("tokens_to_generate"),
        "indices": [row["index"] for row in rows],
        "row_scores": [round(value, 6) for value in scores],
        "strict_row_scores": [round(value, 6) for value in strict],
        "oom_retries": record.get("oom_retries"),
        "errors": record.get("errors"),
        "predictions": preds,
    } | costs(rows)


def mean(entries: dict[str, dict], tasks: dict[str, dict]) -> dict:
    """The mean over tasks, each counting the same; its interval resamples the samples within each task."""
    strata = [(np.array(entry["row_scores"]), np.ones(entry["n"])) for entry in entries.values()]
    return {
        "score": percent([sum(entry["row_scores"]) / entry["n"] for entry in entries.values()]),
        "interval_95": interval(resampled_means(strata)),
        "strict": percent([sum(entry["strict_row_scores"]) / entry["n"] for entry in entries.values()]),
        "tasks": len(entries),
        "complete": len(entries) == len(tasks) and all(entry["complete"] for entry in entries.values()),
        "standin": [task for task, entry in entries.items() if entry["source"] == "standin"],
    }


def score_folder(folder: Path, tasks: dict[str, dict], verbose: int):
    """Scores a folder of predictions, writes its files and prints the scores. Raises ValueError if it cannot."""
    entries, records = {}, {}
    for name, task in tasks.items():
        lines = [row for row in read_lines(folder / f"{name}.jsonl")[0] if "index" in row]
        rows = sorted({row["index"]: row for row in lines}.values(), key=lambda row: row["index"])
        if not rows:
            continue
        record = read_json(folder / "runs" / f"{name}.json") or {}
        records[name] = record | record.get("settings", {})
        try:
            entries[name] = evaluate_task(rows, task, records[name])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / name}.jsonl: {error}") from None
        for row in rows[:verbose]:
            print(f"{name} {row['index']}: ...{row.get('input', '')[-300:]!r}")
            print(f"  gold: {row['outputs']}\n  prediction: {row['pred']!r}")
    if not entries:
        raise ValueError(f"{folder} has no predictions of any task; pred/call_api.py makes them")
    for key, what in (("checkpoint", "checkpoints"), ("protocol", "profiles of data")):
        first = {record.get(key): name for name, record in records.items()}
        if len(first) > 1:
            raise ValueError(f"{folder}: {' and '.join(first.values())} are of different {what}; answer one set again")
    write_tables(folder, entries)
    record = next(iter(records.values()))
    place = folder.resolve().parents  # <name>/<benchmark>/<length>/pred
    about = {"benchmark": "ruler"} | {key: record.get(key) for key in ABOUT}
    about["name"] = about["name"] or place[2].name
    about["length"] = record.get("max_seq_length") or (int(place[0].name) if place[0].name.isdecimal() else None)
    about["profile"] = record.get("protocol")
    missing = [name for name in tasks if name not in entries]
    scores = about | {"tasks": entries, "mean": mean(entries, tasks), "missing": missing}
    write_json(folder / "scores.json", scores)
    show(folder, scores)


def write_tables(folder: Path, entries: dict[str, dict]):
    """Writes RULER's summary.csv and submission.csv; takes `predictions` out of the entries."""
    names, frames = list(entries), []
    scores = [entry["score"] for entry in entries.values()]
    nulls = [f"{entry['nulls']}/{entry['n']}" for entry in entries.values()]
    summary = pandas.DataFrame([["Tasks", *names], ["Score", *scores], ["Nulls", *nulls]])
    summary_name = "summary.csv" if len(names) > 1 else f"summary-{names[0]}.csv"
    write_text(folder / summary_name, summary.to_csv(index=False))
    for name, entry in entries.items():
        columns = {"Task": name, "ID": entry["indices"], "Prediction": entry.pop("predictions")}
        frames.append(pandas.DataFrame(columns))
    write_text(folder / "submission.csv", pandas.concat(frames).to_csv(index=False))


def show(folder: Path, scores: dict):
    """Prints the mean and a line for each task."""
    whole = scores["mean"]
    low, high = whole["interval_95"]
    print(f"{folder}: mean of {whole['tasks']} tasks {whole['score']:.2f} [{low:.2f}, {high:.2f}]")
    table = pandas.DataFrame(scores["tasks"]).T[["score", "interval_95", "strict", "nulls", "n", "source"]]
    print(table.to_string(na_rep="-"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, nargs="+", required=True, help="folders of predictions")
    parser.add_argument("--benchmark", default="synthetic", help="[synthetic]")
    parser.add_argument("--verbose", type=int, default=0, help="answers of each task to print [0]")
    args = parser.parse_args()
    tasks = read_tasks(args.benchmark)
    errors = []
    for folder in args.data_dir:
        try:
            score_folder(folder, tasks, args.verbose)
        except (ValueError, OSError) as error:
            errors.append(str(error))
    if errors:
        raise ValueError("\nerror: ".join(errors))


if __name__ == "__main__":
    run_script(main)
