r"""One table of RULER's scores over models and lengths, from the scores.json that evaluate.py wrote.

    python eval/table.py --root results                                   all models and lengths that are there
    python eval/table.py --root results --models a b --lengths 4096 8192  reports what is missing of these

Prints the mean over the tasks with its 95 % interval, the effective length (the longest whose mean reaches 85.6) and
the weighted averages, then the tasks of each length; writes <root>/ruler.csv and <root>/ruler.json. Ends with status 1
if a score is missing.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas

from run import read_json, run_script, write_json, write_text
from scoring import THRESHOLD, effective_length, weighted_mean
from tasks import choose_tasks, read_tasks

ABOUT = ("method", "model", "original_length", "trained_length", "trained_tokens", "training_seed", "profile")


def read_row(path: Path, tasks: list[str]) -> dict:
    """A row of ruler.csv, from <root>/<model>/<benchmark>/<length>/pred/scores.json."""
    scores = read_json(path)
    mean, entries = scores["mean"], scores["tasks"]
    low, high = mean["interval_95"]
    row = {"name": path.parts[-5]} | {key: scores.get(key) for key in ABOUT} | {"length": int(path.parts[-3])}
    row |= {"score": mean["score"], "low": low, "high": high, "strict": mean["strict"], "tasks": mean["tasks"]}
    row |= {"nulls": sum(entry["nulls"] for entry in entries.values()), "standin": " ".join(mean["standin"])}
    incomplete = [f"{task} ({e['n']} of {e['expected_n']} samples)" for task, e in entries.items() if not e["complete"]]
    row["missing"] = ", ".join([task for task in tasks if task not in entries] + incomplete)
    return row | {task: entry["score"] for task, entry in entries.items()}


def summarize(frame: pandas.DataFrame, lengths: list[int]) -> dict:
    """A model's entry in ruler.json, from its rows. Weighted averages need all lengths, with as many tasks each."""
    means = dict(zip(frame["length"], frame["score"], strict=True))
    complete = len(means) == len(lengths) and frame["tasks"].nunique() == 1
    return {
        "effective_length": effective_length(means),
        "weighted_increasing": round(weighted_mean(means), 2) if complete else None,
        "weighted_decreasing": round(weighted_mean(means, decreasing=True), 2) if complete else None,
    }


def show_means(frame: pandas.DataFrame, models: dict[str, dict], n_tasks: int):
    """Prints a line for each model: its mean at each length, and its entry in ruler.json."""
    cells = []
    for row in frame.itertuples():
        count = "" if row.tasks == n_tasks else f" ({row.tasks})"
        cells.append(f"{row.score:.1f} [{row.low:.1f}, {row.high:.1f}]{count}")
    frame = frame.assign(cell=cells).fillna({"method": "-"})
    table = frame.pivot(index=["name", "method"], columns="length", values="cell").reset_index()
    summaries = pandas.DataFrame([models[name] for name in table["name"]], dtype=object).fillna("-")
    print(f"RULER: mean of {n_tasks} tasks in % [95 % interval: bootstrap over samples]; of fewer tasks: (number)\n")
    print(pandas.concat([table, summaries], axis=1).to_string(index=False, na_rep="-"))
    print(f"\neffective_length: the longest whose mean reaches {THRESHOLD}; weighted: means over the lengths with")
    print("weights 1, 2, ... that increase or decrease with the length, as RULER's 1/21..6/21 over its six lengths")


def show_tasks(frame: pandas.DataFrame, tasks: list[str]):
    """Prints a table for each length: the score of every task."""
    short = {task: task.replace("niah_", "").replace("single", "s").replace("multi", "m") for task in tasks}
    for length, rows in frame.groupby("length"):
        print(f"\n{length} tokens; nulls: empty answers; strict: the mean if only whole words count")
        columns = rows.reindex(columns=["name", *tasks, "nulls", "strict"]).rename(columns=short)
        print(columns.to_string(index=False, na_rep="-", float_format="%.1f"))
    standin = sorted(set(" ".join(frame["standin"]).split()))
    if standin:
        print(f"\nstand-in data, not RULER's: {' '.join(standin)}; compare these tasks with each other only")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of <model>/<benchmark>/<length>/pred")
    parser.add_argument("--benchmark", default="synthetic", help="[synthetic]")
    parser.add_argument("--models", nargs="+", help="names of models there [all]")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens [all]")
    parser.add_argument("--task", nargs="+", help="tasks that must be there, separated by spaces or commas [all]")
    args = parser.parse_args()
    every = read_tasks(args.benchmark)
    wanted = choose_tasks(args.task, every)
    rows = [read_row(path, wanted) for path in args.root.glob(f"*/{args.benchmark}/*/pred/scores.json")]
    rows = [row for row in rows if not args.models or row["name"] in args.models]
    rows = [row for row in rows if not args.lengths or row["length"] in args.lengths]
    if not rows:
        raise ValueError(f"no scores of {' '.join(args.models or ['any model'])} in {args.root}; run.sh makes them")
    frame = pandas.DataFrame(rows).sort_values(["name", "length"])
    lengths = args.lengths or sorted(set(frame["length"]))
    models = {name: summarize(rows, lengths) for name, rows in frame.groupby("name")}
    tasks = [task for task in every if task in frame or task in wanted]

    show_means(frame, models, len(tasks))
    show_tasks(frame, tasks)
    write_text(args.root / "ruler.csv", frame.to_csv(index=False))
    about = {"benchmark": "ruler", "lengths": lengths, "tasks": tasks, "threshold": THRESHOLD}
    write_json(args.root / "ruler.json", about | {"models": models})
    print(f"\n{args.root}/ruler.csv, {args.root}/ruler.json")

    missing = {(row["name"], row["length"]): row["missing"] for row in rows}
    lines = []
    for name in args.models or models:
        for length in lengths:
            if what := missing.get((name, length), "everything"):
                lines.append(f"missing: {name} at {length}: {what}")
    if lines:
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    run_script(main)
