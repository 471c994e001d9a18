"""Scores LongBench's predictions: of every model and set under pred/, into result files, and prints a table.

    python eval.py                       every model
    python eval.py --model NAME          one; --models A B: several
    python eval.py --e                   LongBench-E, from pred_e/
    python eval.py --output_dir ROOT     the folder that contains pred/ [this one]

Needs no GPU and downloads nothing; predictions of the paper's own code can be scored as well. For each model:

    result.json              {set: score}; with --e {set: {"0-4k", "4-8k", "8k+"}}, as LongBench-E has it
    result_by_length.json    {set: score by length in words, number of rows, total}; null without rows
    result_by_details.json   {set: length, score and _id of each row}
    scores.json              ours: intervals, means, both rules for the first line, what made the predictions

Scores follow the paper's rule: only the first line of an answer counts, except for summaries and code, as base models
continue after it. `score_upstream` follows LongBench's own rule, which cuts the few-shot sets only. What is missing or
invalid is reported, everything else is scored, and the exit status is 1. Empty answers count as answers. Sets made with
--limit are marked as incomplete.
"""

import argparse
import json
import sys
from pathlib import Path

from run import command_line, run_script, versions, write_json
from scoring import BUCKETS, BUCKETS_E, SOURCES, means, score_set
from sets import CATEGORIES, FOLDERS, SETS, base_set, shots_of

TITLES = {
    "official": "LongBench's data",
    "user": "the user's own data, or predictions without a record",
    "standin": "stand-in data, not LongBench's",
}
# keys of a run's record that belong to the model, and those that must be equal for all sets
ABOUT = (
    "model", "method", "exact_attention", "base_model", "original_length", "trained_length", "trained_tokens",
    "training_seed", "checkpoint", "engine", "dtype", "attention", "protocol", "seed", "versions",
)  # fmt: skip
SAME = ("checkpoint", "engine", "dtype", "attention", "protocol", "max_length")


def main(many_shot_trec: bool = False, description: str | None = __doc__):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", "--models", nargs="+", dest="models", help="folders of predictions [all]")
    if not many_shot_trec:
        parser.add_argument("--e", action="store_true", help="LongBench-E")
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).resolve().parent, help="[this folder]")
    parser.add_argument("--seed", type=int, default=42, help="seed for the bootstrap [42]")
    args = parser.parse_args()
    benchmark = "trec" if many_shot_trec else "longbench_e" if args.e else "longbench"
    root = args.output_dir / FOLDERS[benchmark]
    models = args.models or sorted({path.parent.name for path in root.glob("*/*.jsonl")})
    if not models:
        raise ValueError(f"no predictions {root}/<model>/<set>.jsonl; make them with pred.py, or give --output_dir")

    results, problems = [], 0
    for model in models:
        result, wrong = evaluate(root / model, benchmark, args.seed)
        for problem in wrong:
            print(f"error: {problem}", file=sys.stderr, flush=True)
        problems += len(wrong)
        if result["sets"]:
            results.append(result)
            rows = sum(entry["n"] for entry in result["sets"].values())
            empty = sum(entry["empty"] for entry in result["sets"].values())
            print(f"{root / model}: {len(result['sets'])} sets, {rows:,} rows scored, {empty} answers are empty")
    print_tables(results, benchmark)
    if problems:
        raise ValueError(f"{problems} problems, listed above; everything else is scored")


def evaluate(folder: Path, benchmark: str, seed: int) -> tuple[dict, list[str]]:
    """Scores a model's predictions and writes its files; (what scores.json contains, what is missing or invalid)."""
    scored, problems = {}, []
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: place(path.stem)):
        try:
            scored[path.stem], wrong = score_set(path, seed, benchmark == "longbench_e")
        except (ValueError, OSError) as error:
            wrong = [str(error)]
        problems += [f"{path}: {problem}" for problem in wrong]
    sets = {name: one.entry for name, one in scored.items()}
    runs = {name: entry["run"] for name, entry in sets.items()}
    for key in SAME:
        values = {json.dumps(run[key]): name for name, run in runs.items() if key in run}
        if len(values) > 1:
            several = ", ".join(f"{value} of {name}" for value, name in values.items())
            problems.append(f"{folder}: sets of different runs: {key} is {several}; rerun pred.py")
    first = next((run for run in runs.values() if run), {})
    result = {"benchmark": benchmark, "name": folder.name} | {key: first.get(key) for key in ABOUT}
    result["scorer"] = {"command": command_line(), "seed": seed, "versions": versions("numpy", "rapidfuzz")}
    result["sets"] = sets
    if benchmark != "trec":
        result |= {"categories": {}, "overall": {}}
        for source in SOURCES:
            of_sets = means(scored, source, benchmark == "longbench_e")
            result["categories"][source], result["overall"][source] = of_sets
    if sets:
        write_files(folder, benchmark, result)
    elif not problems:
        problems.append(f"no predictions {folder}/*.jsonl; make them with pred.py")
    return result, problems


def place(name: str) -> tuple:
    """The place of a set in LongBench's order, many-shot sets by their number of shots; unknown sets come last."""
    try:
        return list(SETS).index(base_set(name)), shots_of(name) or 0, name
    except ValueError:
        return len(SETS), 0, name


def write_files(folder: Path, benchmark: str, result: dict) -> None:
    """Writes the files of the module's description."""

    def rounded(entry: dict) -> float | None:
        return None if entry["score"] is None else round(entry["score"], 2)

    totals, by_length, details = {}, {}, {}
    for name, entry in result["sets"].items():
        buckets = entry["by_length"]
        totals[name] = rounded(entry)
        if benchmark == "longbench_e":
            totals[name] = {bucket: rounded(buckets[bucket]) for bucket in BUCKETS_E}
        papers = [bucket for bucket in BUCKETS if bucket != "8k+"]
        by_length[name] = {bucket: rounded(buckets[bucket]) for bucket in papers}
        by_length[name] |= {f"#{bucket}": buckets[bucket]["n"] for bucket in papers}
        by_length[name]["total_score"] = rounded(entry)
        details[name] = {"length": entry["lengths"], "score": entry["row_scores"], "_id": entry["ids"]}
    write_json(folder / "result.json", totals)
    if benchmark != "trec":
        write_json(folder / "result_by_length.json", by_length)
        write_json(folder / "result_by_details.json", details)
    write_json(folder / "scores.json", result)


# --- tables
def print_tables(results: list[dict], benchmark: str) -> None:
    """For each source of data: models x sets (or shots), and models x means."""
    for source in SOURCES:
        title = {"trec": "many-shot TREC", "longbench_e": "LongBench-E"}.get(benchmark, "LongBench")
        title = f"{title}, {TITLES[source]}: score (standard error), * incomplete"
        rows = {}
        for result in results:
            of_source = {name: entry for name, entry in result["sets"].items() if entry["source"] == source}
            if of_source:
                rows[result["name"]] = of_source
        columns = sorted({name for row in rows.values() for name in row}, key=place)
        print_table(title, {name: column_label(name) for name in columns}, rows)
        if rows and benchmark != "trec":
            rows = {
                result["name"]: result["categories"][source] | {"overall": result["overall"][source]}
                for result in results
                if result["overall"][source]
            }
            print_table("means", {name: name for name in (*CATEGORIES, "overall")}, rows)


def column_label(name: str) -> str:
    shots = shots_of(name)
    return SETS[base_set(name)].label if shots is None else f"{shots} shots"


def print_table(title: str, columns: dict[str, str], rows: dict[str, dict]) -> None:
    """columns: {key: label}.  rows: {model: {key: entry of scores.json}}. Columns without an entry are left out."""
    columns = {key: label for key, label in columns.items() if any(row.get(key) for row in rows.values())}
    if not columns:
        return
    lines = [["model", *columns.values()]]
    for model, row in rows.items():
        lines.append([model, *(cell(row.get(key)) for key in columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}")
    for line in lines:
        print("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]))


def cell(entry: dict | None) -> str:
    if entry is None:
        return "-"
    error = "" if entry["stderr"] is None else f" ({entry['stderr']:.1f})"
    return f"{entry['score']:.1f}{error}{'' if entry['complete'] else '*'}"


if __name__ == "__main__":
    run_script(main)
