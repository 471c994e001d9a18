"""Scores LongBench's predictions of every model and set, writes result files and prints a table.

    python eval.py                       all models under pred/
    python eval.py --models A B          these models
    python eval.py --e                   LongBench-E, under pred_e/
    python eval_trec.py                  many-shot TREC, under pred_trec/ (a link to this script)
    python eval.py --benchmark kv        key-value recall, under pred_kv/; icl: in-context learning, under pred_icl/
    python eval.py --output_dir ROOT     the folder that contains pred/ [this one]

Needs no GPU. Predictions of the paper's own code can be scored as well. For each model:

    result.json              {set: score}; with --e {set: {"0-4k", "4-8k", "8k+"}}, as LongBench-E reports it
    result_by_length.json    {set: scores by length in words, numbers of samples, total score}; LongBench only
    result_by_details.json   {set: length, score and _id of each sample}; LongBench only
    scores.json              ours: intervals, means, both first-line rules, the settings of the run

By the paper's rule only the first line of an answer counts, except for summaries and code; `score_upstream` follows
LongBench's rule, which cuts the few-shot sets only. If anything is missing or invalid, the exit status is 1.
"""

import sys
from pathlib import Path

from run import Parser, errors_of, explain, run_script, write_json

import pandas as pd

from scoring import means, score_set
from sets import ALL_SETS, FOLDERS, parse_name

SOURCES = ("official", "user", "standin")  # user: own data under an official name, or predictions without a record
BUCKETS_E = ("0-4k", "4-8k", "8k+")
# keys of a set's run that describe the model, and those that must be equal for all sets of a model
MODEL_KEYS = (
    "model method exact_attention base_model original_length trained_length trained_tokens training_seed "
    "checkpoint engine dtype attention protocol seed versions"
).split()
COMMON_KEYS = ("checkpoint", "engine", "dtype", "attention", "protocol", "max_length")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--model", "--models", nargs="+", dest="models", help="folders of predictions [all]")
    parser.add_argument("--e", action="store_true", help="LongBench-E")
    parser.add_argument("--benchmark", choices=FOLDERS, default="longbench", help="[longbench]")
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).resolve().parent, help="[this folder]")
    args = parser.parse_args()
    benchmark = "longbench_e" if args.e else args.benchmark
    if Path(sys.argv[0]).stem == "eval_trec":
        benchmark = "trec"
    root = args.output_dir / FOLDERS[benchmark]
    models = args.models or sorted({path.parent.name for path in root.glob("*/*.jsonl")})
    if not models:
        raise ValueError(f"no predictions {root}/<model>/<set>.jsonl; run pred.py, or give --output_dir")

    columns, problems = {}, []
    for model in models:
        result = evaluate(root / model, benchmark, problems)
        if result["sets"]:
            write_files(root / model, result)
            columns[model] = column(result)
    if columns:
        print("score (standard error), * incomplete; standin: stand-in data, not LongBench's")
        print(pd.DataFrame(columns).fillna("-").to_string())
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise ValueError(f"{len(problems)} problems, listed above; everything else is scored")


def evaluate(folder: Path, benchmark: str, problems: list) -> dict:
    """Scores the predictions of one model; returns the content of scores.json. Adds what is wrong to `problems`."""
    scored = {}
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        problems.append(f"no predictions {folder}/*.jsonl; run pred.py")
    for path in paths:
        try:
            with errors_of(str(path)):
                entry, unreadable = score_set(path, benchmark == "longbench_e")
                expected = entry["expected_n"] or entry["n"]
                wanted = min(entry["run"].get("limit") or expected, expected)
                enough = wanted <= entry["n"] <= expected  # an earlier run may have had a larger limit
        except ValueError as error:
            problems.append(explain(error))
            continue
        if unreadable:
            lines = "1 unreadable line is" if unreadable == 1 else f"{unreadable} unreadable lines are"
            problems.append(f"{path}: {lines} left out")
        if not enough:
            problems.append(f"{path}: {entry['n']} rows, not {wanted}; rerun pred.py")
        scored[path.stem] = entry
    sets = {name: scored[name] for name in sorted(scored, key=set_order)}
    runs = [entry["run"] for entry in sets.values() if entry["run"]]
    for key in COMMON_KEYS:
        values = sorted({str(run.get(key)) for run in runs})
        if len(values) > 1:
            listed = ", ".join(values)
            problems.append(f"{folder}: the sets have different values of {key} ({listed}); rerun pred.py")

    run = runs[0] if runs else {}
    result = {"benchmark": benchmark, "name": folder.name}
    for key in MODEL_KEYS:
        result[key] = run.get(key)
    result["sets"] = sets
    if benchmark.startswith("longbench"):
        result |= {"categories": {}, "overall": {}}
        for source in SOURCES:
            categories, overall = means(sets, source, benchmark == "longbench_e")
            result["categories"][source] = categories
            result["overall"][source] = overall
    return result


def set_order(name: str) -> tuple:
    """Sorts sets as LongBench lists them, many-shot sets by their number of shots."""
    base, count = parse_name(name)
    return list(ALL_SETS).index(base), count or 0, name


def write_files(folder: Path, result: dict) -> None:
    """Writes the files that the module's description lists."""
    totals, by_length, details = {}, {}, {}
    for name, entry in result["sets"].items():
        rounded, counts = {}, {}
        for bucket, part in entry["by_length"].items():
            rounded[bucket] = round(part["score"], 2) if part["n"] else None
            counts[f"#{bucket}"] = part["n"]
        totals[name] = total = round(entry["score"], 2)
        if result["benchmark"] == "longbench_e":
            totals[name] = {bucket: rounded[bucket] for bucket in BUCKETS_E}
        del rounded["8k+"], counts["#8k+"]  # of LongBench-E only
        by_length[name] = {**rounded, **counts, "total_score": total}
        details[name] = {"length": entry["lengths"], "score": entry["row_scores"], "_id": entry["ids"]}
    write_json(folder / "result.json", totals)
    if result["benchmark"].startswith("longbench"):
        write_json(folder / "result_by_length.json", by_length)
        write_json(folder / "result_by_details.json", details)
    write_json(folder / "scores.json", result)


def column(result: dict) -> dict:
    """A model's column of the table: its sets, and for each source of data the categories and their mean."""
    cells = {name: cell(entry) for name, entry in result["sets"].items()}
    for source, categories in result.get("categories", {}).items():
        overall = result["overall"][source]
        for name, entry in {**categories, "overall": overall}.items():
            if entry:
                cells[f"{name} ({source})"] = cell(entry)
    return cells


def cell(entry: dict) -> str:
    """The text of a table's cell: 12.3 (4.5), with * if rows are missing."""
    text = f"{entry['score']:.1f}"
    if entry["stderr"] is not None:
        text += f" ({entry['stderr']:.1f})"
    return text if entry["complete"] else text + "*"


if __name__ == "__main__":
    run_script(main)
