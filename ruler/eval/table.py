r"""One table of RULER's scores over models and lengths, from the scores.json that evaluate.py wrote.

    python eval/table.py --root results                                   all models and lengths that are there
    python eval/table.py --root results --models a b --lengths 4096 8192  these; what is missing of them is said

Prints the mean over the tasks with its 95 % interval, the effective length (the longest whose mean reaches 85.6) and
the weighted averages, then the tasks of each length; writes <root>/ruler.json and <root>/ruler.csv. Ends with status 1
where a score is missing.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluate import table
from results import read_json, write_json, write_text
from scoring import THRESHOLD, effective_length, weighted
from tasks import choose, read_tasks

ABOUT = ("method", "model", "original_length", "trained_length", "trained_tokens", "training_seed", "profile")


def short(task: str) -> str:
    """A heading: niah_multikey_1 -> mkey_1."""
    return task.replace("niah_", "").replace("single", "s").replace("multi", "m")


def summarise(scores: dict[int, dict], lengths: list[int], needed: list[str]) -> dict:
    """A model's row. scores: {length: its scores.json}. Weighted averages only where all lengths are there, with the
    same tasks."""
    means = {length: scores[length]["mean"]["score"] for length in lengths if length in scores}
    alike = len({tuple(scores[length]["tasks"]) for length in means}) == 1
    row = {key: next(iter(scores.values())).get(key) for key in ABOUT}
    row["lengths"] = {str(length): scores[length]["mean"] for length in means}
    row["effective_length"] = effective_length(means)
    whole = len(means) == len(lengths) and alike
    row["weighted_increasing"] = round(weighted(means), 2) if whole else None
    row["weighted_decreasing"] = round(weighted(means, decreasing=True), 2) if whole else None
    gone = {}
    for length in lengths:
        entries = scores.get(length, {}).get("tasks", {})
        words = [name for name in needed if name not in entries]
        words += [f"{name} ({e['n']} of {e['expected_n']} samples)" for name, e in entries.items() if not e["complete"]]
        gone |= {str(length): words} if words else {}
    return row | {"missing": gone}


def show(rows: list[list[str]]) -> None:
    """Columns as wide as their widest cell; the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())


def number(value) -> str:
    return "-" if value is None else f"{value:.1f}"


def report(models: dict[str, dict], summaries: dict[str, dict], lengths: list[int], names: list[str]) -> None:
    """models: {name: {length: scores.json}}."""
    print(f"RULER: mean score of {len(names)} tasks [95 % interval: bootstrap over samples]; of fewer: (number)\n")
    several = len(lengths) > 1
    head = ["", "method", *(f"{length}" for length in lengths), "effective", "wAvg inc", "wAvg dec"]
    rows = [head if several else head[:-2]]
    for name, row in summaries.items():
        cells = []
        for length in map(str, lengths):
            mean = row["lengths"].get(length)
            if mean is None:
                cells.append("-")
                continue
            low, high = mean["interval_95"]
            count = f" ({mean['tasks']})" * (mean["tasks"] != len(names))
            cells.append(f"{mean['score']:.1f} [{low:.1f}, {high:.1f}]{count}")
        effective = str(row["effective_length"] or f"<{min(lengths)}")
        averages = [number(row["weighted_increasing"]), number(row["weighted_decreasing"])]
        rows.append([name, row["method"] or "-", *cells, effective, *(averages if several else [])])
    show(rows)
    print(f"\neffective: the longest length measured whose mean reaches {THRESHOLD}")
    if several:
        print(
            f"wAvg: weighted mean over the {len(lengths)} lengths, weights 1..{len(lengths)} (inc: the longest most)"
            " or reversed; RULER's are 1/21..6/21 over its six lengths"
        )
    standin = {task for row in summaries.values() for mean in row["lengths"].values() for task in mean["standin"]}
    for length in lengths:
        print(f"\n{length} tokens")
        rows = [["", *(short(name) + "*" * (name in standin) for name in names), "nulls", "strict"]]
        for name, scores in models.items():
            if length in scores:
                entries = scores[length]["tasks"]
                nulls = f"{sum(e['nulls'] for e in entries.values())}/{sum(e['n'] for e in entries.values())}"
                cells = [number(entries[task]["score"]) if task in entries else "-" for task in names]
                rows.append([name, *cells, nulls, number(scores[length]["mean"]["strict"])])
        show(rows)
    counts = {e["n"] for scores in models.values() for one in scores.values() for e in one["tasks"].values()}
    samples = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    print(f"\n{samples} samples a task; nulls: empty answers; strict: the mean where only whole words count")
    if standin:
        print("* standin data, not RULER's: of these tasks compare models with each other, not with published numbers")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of <model>/<benchmark>/<length>/pred")
    parser.add_argument("--benchmark", default="synthetic", help="[synthetic]")
    parser.add_argument("--models", nargs="+", help="their names there [all]")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens [all]")
    parser.add_argument("--task", nargs="+", help="tasks that must be there, by spaces or commas [all]")
    args = parser.parse_args()
    try:
        tasks = read_tasks(args.benchmark)
        needed = choose(args.task, tasks)
    except ValueError as reason:
        sys.exit(f"error: {reason}")
    models = {}
    for path in sorted(args.root.glob(f"*/{args.benchmark}/*/pred/scores.json")):
        name, length, scores = path.parts[-5], path.parts[-3], read_json(path)
        if scores and length.isdecimal() and (not args.lengths or int(length) in args.lengths):
            models.setdefault(name, {})[int(length)] = scores
    wanted = args.models or list(models)
    lengths = sorted(args.lengths or {length for scores in models.values() for length in scores})
    models = {name: models[name] for name in wanted if models.get(name)}
    if not models:
        sys.exit(f"error: no scores of {' '.join(wanted) or 'any model'} in {args.root}; run.sh makes them")
    there = {task for scores in models.values() for one in scores.values() for task in one["tasks"]}
    names = [task for task in tasks if task in there or task in needed]
    summaries = {name: summarise(scores, lengths, needed) for name, scores in models.items()}
    report(models, summaries, lengths, names)

    rows = [["name", *ABOUT, "length", "score", "low", "high", "strict", "tasks", "complete", "standin", *names]]
    for name, scores in models.items():
        for length in sorted(scores):
            mean, entries = scores[length]["mean"], scores[length]["tasks"]
            about = [summaries[name][key] for key in ABOUT]
            numbers = [mean["score"], *mean["interval_95"], mean["strict"], mean["tasks"], mean["complete"]]
            each = [entries[task]["score"] if task in entries else None for task in names]
            rows.append([name, *about, length, *numbers, " ".join(mean["standin"]), *each])
    write_text(args.root / "ruler.csv", table(rows))
    content = {"benchmark": "ruler", "lengths": lengths, "tasks": names, "threshold": THRESHOLD, "models": summaries}
    write_json(args.root / "ruler.json", content)
    print(f"\n{args.root}/ruler.csv, {args.root}/ruler.json")

    gone = [
        f"{name} at {length}: {' '.join(words)}"
        for name, row in summaries.items()
        for length, words in row["missing"].items()
    ]
    gone += [f"{name}: everything" for name in wanted if name not in models]
    if gone:
        sys.exit("\n".join(f"missing: {line}" for line in gone))


if __name__ == "__main__":
    main()
