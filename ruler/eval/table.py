r"""One table of RULER's scores over models and lengths, from the scores.json that evaluate.py wrote.

    python eval/table.py --root results                                   all models and lengths
    python eval/table.py --root results --models a b --lengths 4096 8192  reports which of these are missing

Prints the mean over the tasks with its 95 % interval, the effective length and the weighted averages, then the tasks of
each length; writes <root>/ruler.csv and <root>/ruler.json. Ends with status 1 if a score is missing.

RULER's effective length (arXiv 2404.06654) is the longest whose mean reaches 85.6, the score of Llama-2-7B-chat at
4,096 tokens. The weights of its weighted averages increase or decrease with the length.
"""

import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas

from run import Parser, read_json, run_script, write_json, write_text
from tasks import choose_tasks, read_tasks

THRESHOLD = 85.6
COMMON_KEYS = ("method", "model", "original_length", "trained_length", "trained_tokens", "training_seed", "profile")


def read_row(path: Path, tasks: list[str]) -> dict:
    """A row of ruler.csv, from <root>/<model>/<benchmark>/<length>/pred/scores.json. Raises an error on odd files."""
    scores = read_json(path)
    mean = scores["mean"]
    entries = scores["tasks"]
    row = {"name": path.parts[-5]}
    for key in COMMON_KEYS:
        row[key] = scores.get(key)
    row["length"] = int(path.parts[-3])
    row["score"] = float(mean["score"])
    row["low"], row["high"] = map(float, mean["interval_95"])
    row["strict"] = float(mean["strict"])
    row["tasks"] = mean["tasks"]
    row["nulls"] = sum(entry["nulls"] for entry in entries.values())
    row["standin"] = " ".join(mean["standin"])
    missing = [task for task in tasks if task not in entries]
    for task, entry in entries.items():
        if not entry["complete"]:
            missing.append(f"{task} ({entry['n']} of {entry['expected_n']} samples)")
    row["missing"] = ", ".join(missing)
    for task, entry in entries.items():
        row[task] = float(entry["score"])
    return row


def summarize(frame: pandas.DataFrame, lengths: list[int]) -> dict:
    """A model's entry in ruler.json, from its rows. Weighted averages need all lengths, each with as many tasks."""
    summary = {"effective_length": None, "weighted_increasing": None, "weighted_decreasing": None}
    passed = frame.length[frame.score >= THRESHOLD]
    if len(passed):
        summary["effective_length"] = int(passed.max())
    if len(frame) == len(lengths) and frame.tasks.nunique() == 1:
        weights = np.arange(1, len(frame) + 1)  # 1/21 to 6/21 over RULER's six lengths
        increasing = np.average(frame.score, weights=weights)
        decreasing = np.average(frame.score, weights=weights[::-1])
        summary["weighted_increasing"] = round(float(increasing), 2)
        summary["weighted_decreasing"] = round(float(decreasing), 2)
    return summary


def print_means(frame: pandas.DataFrame, models: dict[str, dict], num_tasks: int) -> None:
    """A line for each model: its mean at each length, and its entry in ruler.json."""
    cells = []
    for row in frame.itertuples():
        cell = f"{row.score:.1f} [{row.low:.1f}, {row.high:.1f}]"
        if row.tasks != num_tasks:
            cell += f" ({row.tasks})"
        cells.append(cell)
    frame = frame.assign(cell=cells).fillna({"method": "-"})
    table = frame.pivot(index=["name", "method"], columns="length", values="cell").reset_index()
    summaries = pandas.DataFrame(map(models.get, table.name), dtype=object).fillna("-")
    print(f"RULER: mean of {num_tasks} tasks in % [95 % interval over the samples]; of fewer tasks: (number)\n")
    print(pandas.concat([table, summaries], axis=1).to_string(index=False, na_rep="-"))
    print(f"\neffective_length: the longest whose mean reaches {THRESHOLD}; weighted: means over the lengths with")
    print("weights 1, 2, ... that increase or decrease with the length, as RULER's 1/21..6/21 over its six lengths")


def print_tasks(frame: pandas.DataFrame, tasks: list[str]) -> None:
    """A table for each length: the score of every task."""
    for length, rows in frame.groupby("length"):
        print(f"\n{length} tokens; nulls: empty answers; strict: the mean if only whole words count")
        table = rows.reindex(columns=["name", *tasks, "nulls", "strict"])
        for long, abbreviation in (("niah_", ""), ("single", "s"), ("multi", "m")):
            table.columns = table.columns.str.replace(long, abbreviation)
        print(table.to_string(index=False, na_rep="-", float_format="%.1f"))
    names = " ".join(frame.standin).split()
    standins = " ".join(sorted(set(names)))
    if standins:
        print(f"\nstand-in data, not RULER's: {standins}; compare these tasks with each other only")


def main():
    parser = Parser(__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of <model>/<benchmark>/<length>/pred")
    parser.add_argument("--benchmark", default="synthetic", help="[synthetic]")
    parser.add_argument("--models", nargs="+", help="names of models there [all]")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens [all]")
    parser.add_argument("--task", nargs="+", help="tasks that must be there, separated by spaces or commas [all]")
    args = parser.parse_args()
    known = read_tasks(args.benchmark)
    wanted = choose_tasks(args.task, known)
    rows, lines = [], []
    for path in args.root.glob(f"*/{args.benchmark}/*/pred/scores.json"):
        try:
            row = read_row(path, wanted)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            lines.append(f"left out: {path} is not a file of evaluate.py ({error!r})")
            continue
        asked = args.models is None or row["name"] in args.models
        if asked and (args.lengths is None or row["length"] in args.lengths):
            rows.append(row)
    if not rows:
        reason = f"no scores of {' '.join(args.models or ['any model'])} in {args.root}; run.sh makes them"
        raise ValueError("; ".join([reason, *lines]))
    frame = pandas.DataFrame(rows).sort_values(["name", "length"])
    lengths = args.lengths or sorted(frame.length.unique().tolist())
    models = {name: summarize(rows, lengths) for name, rows in frame.groupby("name")}
    tasks = [task for task in known if task in wanted or task in frame]

    print_means(frame, models, len(tasks))
    print_tasks(frame, tasks)
    write_text(args.root / "ruler.csv", frame.to_csv(index=False))
    result = {"benchmark": "ruler", "lengths": lengths, "tasks": tasks, "threshold": THRESHOLD, "models": models}
    write_json(args.root / "ruler.json", result)
    print(f"\n{args.root}/ruler.csv, {args.root}/ruler.json")

    missing = frame.set_index(["name", "length"]).missing
    for place in product(args.models or models, lengths):
        reason = missing.get(place, "everything")
        if reason:
            name, length = place
            lines.append(f"missing: {name} at {length}: {reason}")
    if lines:
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    run_script(main)
