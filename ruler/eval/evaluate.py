r"""Scores RULER's predictions; needs no GPU and no model.

    python eval/evaluate.py --data_dir results/NAME/synthetic/4096/pred --benchmark synthetic
    python eval/evaluate.py --data_dir results/*/synthetic/*/pred --verbose 3           (prints three of each task)

Writes into each folder RULER's summary.csv (summary-<task>.csv if there is one task) and submission.csv, and
scores.json: of each task the score with its 95 % interval (bootstrap over samples), the empty answers, the strict score
(whole words only) and every sample's; the mean over tasks, complete if all thirteen are there. Chunks <task>-<k>.jsonl
are put together first.
"""

import argparse
import csv
import io
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from results import merge_chunks, read_json, read_rows, write_json, write_text
from scoring import clean, contains_word, interval, percent, resample, score
from tasks import TASKS, read_tasks

# what the notes of all tasks of a folder share, and what is each task's own
ABOUT = (
    "name", "model", "method", "exact_attention", "base_model", "original_length", "trained_length", "trained_tokens",
    "training_seed", "checkpoint", "engine", "dtype", "attention", "protocol", "seed", "versions", "command",
)  # fmt: skip
COSTS = ("seconds", "timed", "tokens_per_second", "peak_memory_bytes", "reduced", "errors")


def evaluate(rows: dict[int, dict], task: dict, note: dict) -> dict:
    """One task's entry of scores.json, and with it its `predictions`, cleaned. rows: {index: prediction row}."""
    indices = sorted(rows)
    preds = [clean(rows[index]["pred"]) for index in indices]
    golds = [[gold for gold in rows[index]["outputs"] if gold is not None] for index in indices]
    if not all(golds):
        raise ValueError(f"sample {indices[[not g for g in golds].index(True)]} has no gold answers")
    scores = [score(pred, gold, task["metric"]) for pred, gold in zip(preds, golds, strict=True)]
    strict = [score(pred, gold, task["metric"], contains_word) for pred, gold in zip(preds, golds, strict=True)]
    data = note.get("data") or {}
    expected = data.get("num_samples") or note.get("data_rows")
    return {
        "source": data.get("source"),
        "metric": task["metric"],
        "n": len(indices),
        "expected_n": expected,
        "complete": expected is None or len(indices) >= expected,
        "score": percent(scores),
        "strict": percent(strict),
        "stderr": round(100 * float(np.std(scores, ddof=1)) / math.sqrt(len(scores)), 3) if len(scores) > 1 else None,
        "interval_95": interval(resample(scores, 0)),
        "strict_interval_95": interval(resample(strict, 0)),
        "nulls": sum(not pred for pred in preds),
        "fill": data.get("mean_fill"),
        "tokens_to_generate": note.get("tokens_to_generate"),
        "indices": indices,
        "row_scores": [round(value, 6) for value in scores],
        "strict_row_scores": [round(value, 6) for value in strict],
        **{key: note.get(key) for key in COSTS},
        "predictions": preds,
    }


def mean(entries: dict[str, dict]) -> dict:
    """The mean over tasks, each counting the same; samples are drawn anew within each task."""
    official = [task for task in TASKS if task in entries]
    means_R = np.mean([resample(entry["row_scores"], seed) for seed, entry in enumerate(entries.values())], axis=0)
    strict_R = [sum(entry["strict_row_scores"]) / entry["n"] for entry in entries.values()]
    exact = [sum(entry["row_scores"]) / entry["n"] for entry in entries.values()]
    return {
        "score": percent(exact),
        "interval_95": interval(means_R),
        "strict": percent(strict_R),
        "tasks": len(entries),
        "complete": len(official) == len(TASKS) == len(entries) and all(e["complete"] for e in entries.values()),
        "standin": [task for task, entry in entries.items() if entry["source"] == "standin"],
    }


def table(rows: list[list]) -> str:
    """CSV as pandas writes it: quotes where needed, \\n at the ends of lines."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def score_folder(folder: Path, tasks: dict[str, dict], verbose: int) -> dict[str, dict]:
    """Scores one folder of predictions and writes its files; {task: entry}. ValueError, one line, if it cannot be."""
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    merge_chunks(folder)
    notes, found = {}, {}
    for name in tasks:
        if rows := read_rows(folder / f"{name}.jsonl"):
            found[name], notes[name] = rows, read_json(folder / "runs" / f"{name}.json") or {}
    if not found:
        raise ValueError(f"{folder} has no predictions of any task; pred/call_api.py makes them")
    for key, what in (("checkpoint", "checkpoints"), ("protocol", "profiles of data")):
        values = {note.get(key): name for name, note in notes.items()}
        if len(values) > 1:
            raise ValueError(f"{folder}: {' and '.join(values.values())} are of different {what}; answer one set again")
    entries = {}
    for name, rows in found.items():
        try:
            entries[name] = evaluate(rows, tasks[name], notes[name])
        except (ValueError, KeyError, TypeError, AttributeError) as reason:
            raise ValueError(f"{folder / name}.jsonl: {reason}") from None
        for index in entries[name]["indices"][:verbose]:
            row = rows[index]
            print(f"{name} {index}\n  input      ...{row.get('input', '')[-300:]!r}\n  gold       {row['outputs']}")
            print(f"  prediction {row['pred']!r}")
    write(folder, entries, notes)
    return entries


def write(folder: Path, entries: dict[str, dict], notes: dict[str, dict]) -> None:
    """summary.csv, submission.csv and scores.json."""
    names = list(entries)
    summary = [[*range(len(names) + 1)], ["Tasks", *names]]
    summary.append(["Score", *(entry["score"] for entry in entries.values())])
    summary.append(["Nulls", *(f"{entry['nulls']}/{entry['n']}" for entry in entries.values())])
    write_text(folder / ("summary.csv" if len(names) > 1 else f"summary-{names[0]}.csv"), table(summary))
    submission = [["Task", "ID", "Prediction"]]
    for name, entry in entries.items():
        submission += [[name, *row] for row in zip(entry["indices"], entry.pop("predictions"), strict=True)]
    write_text(folder / "submission.csv", table(submission))
    note = next(iter(notes.values()))
    above = folder.resolve().parent.name
    about = {"benchmark": "ruler"} | {key: note.get(key) for key in ABOUT}
    about["name"] = about["name"] or folder.resolve().parents[2].name
    about |= {"length": note.get("max_seq_length") or (int(above) if above.isdecimal() else None)}
    content = about | {"profile": note.get("protocol"), "tasks": entries, "mean": mean(entries)}
    write_json(folder / "scores.json", content | {"missing": [task for task in TASKS if task not in entries]})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, nargs="+", required=True, help="folders of predictions")
    parser.add_argument("--benchmark", default="synthetic", help="[synthetic]")
    parser.add_argument("--verbose", type=int, default=0, help="answers of each task to print [0]")
    args = parser.parse_args()
    failures = []
    try:
        tasks = read_tasks(args.benchmark)
    except ValueError as reason:
        sys.exit(f"error: {reason}")
    for folder in args.data_dir:
        try:
            entries = score_folder(folder, tasks, args.verbose)
        except ValueError as reason:
            failures.append(str(reason))
            continue
        scores = read_json(folder / "scores.json")
        whole, (low, high) = scores["mean"], scores["mean"]["interval_95"]
        marked = " (some data are stand-ins)" if whole["standin"] else ""
        print(f"{folder}: mean of {whole['tasks']} tasks {whole['score']:.2f} [{low:.2f}, {high:.2f}]{marked}")
        for name, entry in entries.items():
            low, high = entry["interval_95"]
            print(
                f"  {name:<16} {entry['score']:6.2f} [{low:6.2f}, {high:6.2f}]  strict {entry['strict']:6.2f}"
                f"  nulls {entry['nulls']}/{entry['n']}{'  standin' * (entry['source'] == 'standin')}"
            )
    if failures:
        sys.exit("\n".join(f"error: {failure}" for failure in failures))


if __name__ == "__main__":
    main()
