"""Scores LongBench's predictions: of every model and set under pred/, into its files, and prints one table.

    python eval.py                       every model
    python eval.py --model NAME          one; --models A B: some
    python eval.py --e                   LongBench-E, from pred_e/
    python eval.py --output_dir ROOT     the folder that has pred/ in it [this one]

Needs no GPU and no torch, fetches nothing; predictions of the paper's own code can be scored as well. For each model:

    result.json              {set: score}; with --e {set: {"0-4k", "4-8k", "8k+"}}, as LongBench-E has it
    result_by_length.json    {set: score by length in words, number of rows, total}; null where there is no row
    result_by_details.json   {set: length, score and _id of each row}
    scores.json              ours: intervals, means, both rules for the answer's first line, what made the predictions

Scores are by the paper's rule: only the first line of an answer counts, but for summaries and code, since base models
go on talking. `score_upstream` is by LongBench's own rule, which cuts the few-shot sets alone. What is wrong or missing
is said in one line, all else is scored, and the exit status is 1. An empty answer is not wrong: it is scored, and
counted. Nor is a run with --limit: its sets are marked as incomplete.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import rapidfuzz

from scoring import BUCKETS, BUCKETS_E, Scored, interval, means, percent, read_rows, score_rows, source_of, stderr
from sets import SETS, base_set, many_shot, official_rows
from tables import TITLES, longbench_tables, trec_table

FOLDERS = {"longbench": "pred", "longbench_e": "pred_e", "trec": "pred_trec"}
# of the record of a run: what is the model's, not the set's; and what has to be the same for all sets
ABOUT = (
    "name model method exact_attention base_model original_length trained_length trained_tokens training_seed "
    "checkpoint engine dtype"
)
ABOUT = (*ABOUT.split(), "attention", "protocol", "seed", "versions")
SAME = ("checkpoint", "engine", "dtype", "attention", "protocol", "max_length")


def main(many_shot_trec: bool = False, description: str | None = __doc__):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", "--models", nargs="+", dest="models", help="folders of predictions [all]")
    if not many_shot_trec:
        parser.add_argument("--e", action="store_true", help="LongBench-E")
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).resolve().parent, help="[this folder]")
    parser.add_argument("--seed", type=int, default=42, help="of the bootstrap [42]")
    args = parser.parse_args()
    benchmark = "trec" if many_shot_trec else "longbench_e" if args.e else "longbench"
    root = args.output_dir / FOLDERS[benchmark]
    models = args.models or sorted({path.parent.name for path in root.glob("*/*.jsonl")})
    if not models:
        sys.exit(f"error: no predictions in {root}/<model>/<set>.jsonl; make them with pred.py, or give --output_dir")

    results, wrong = [], 0
    for model in models:
        began = time.perf_counter()
        scores, problems, notes = evaluate(root / model, benchmark, args.seed)
        if scores:
            results.append(scores)
            rows = sum(one["n"] for one in scores["sets"].values())
            seconds = time.perf_counter() - began
            print(f"{root / model}: {len(scores['sets'])} sets, {rows:,} rows scored in {seconds:.1f} s", flush=True)
        for line in notes:
            print(f"note: {line}", flush=True)
        for line in problems:
            print(f"error: {line}", file=sys.stderr, flush=True)
        wrong += len(problems)
    if results:
        print("\n" + (trec_table(results) if many_shot_trec else longbench_tables(results, benchmark == "longbench_e")))
    if wrong:
        sys.exit(f"error: {wrong} lines above say what is wrong or missing; everything else is scored")


def evaluate(folder: Path, benchmark: str, seed: int) -> tuple[dict | None, list[str], list[str]]:
    """Scores a model's predictions and writes its files. (what scores.json holds or None, problems, notes)."""
    problems, notes, runs, scored, sets = [], [], {}, {}, {}
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: place(path.stem)):
        name = path.stem
        try:
            if many_shot(name) != (benchmark == "trec"):
                raise ValueError(f"{name} does not belong into {folder.parent.name}/")
            rows, wrong, said = read_rows(path, name)
            run = read_run(folder / "runs" / f"{name}.json")
        except (ValueError, OSError) as reason:
            problems.append(f"{path}: {reason}")
            continue
        problems, notes = problems + wrong, notes + said
        if not rows:
            problems.append(f"{path}: no row that can be scored")
            continue
        runs[name], scored[name] = run, score_rows(name, rows, seed)
        sets[name], wrong, said = entry_of(scored[name], rows, run, benchmark == "longbench_e")
        problems, notes = problems + [f"{path}: {line}" for line in wrong], notes + [f"{path}: {line}" for line in said]
    if not sets:
        return None, problems or [f"no predictions {folder}/*.jsonl; make them with pred.py"], notes
    for key in SAME:
        values = {json.dumps(run[key]): name for name, run in runs.items() if key in run}
        if len(values) > 1:
            several = ", ".join(f"{value} of {name}" for value, name in values.items())
            problems.append(f"{folder}: the sets were not made alike: {key} is {several}; run pred.py again")

    first = next((run for run in runs.values() if run), {})
    about = {"benchmark": benchmark, "name": folder.name} | {key: first.get(key) for key in ABOUT if key != "name"}
    result = about | {
        "scorer": {
            "command": shlex.join(["python", *sys.argv]),
            "seed": seed,
            "versions": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "rapidfuzz": rapidfuzz.__version__,
            },
        },
        "sets": sets,
    }
    if benchmark != "trec":
        result |= {"categories": {}, "overall": {}}
        for source in TITLES:
            those = [(scored[name], one["complete"]) for name, one in sets.items() if one["source"] == source]
            found = means(those, source, benchmark == "longbench_e")
            result["categories"][source], result["overall"][source] = found
    write_files(folder, benchmark, scored, sets, result)
    return result, problems, notes


def place(name: str) -> tuple:
    """LongBench's order of the sets, many-shot sets by their number of shots; unknown ones last."""
    try:
        shots = int("".join(filter(str.isdigit, name))) if many_shot(name) else 0
        return list(SETS).index(base_set(name)), shots, name
    except ValueError:
        return len(SETS), 0, name


def read_run(path: Path) -> dict:
    """The record of a set's run, {} without one. Raises ValueError if it is not whole."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is not JSON; run pred.py again") from None


def entry_of(one: Scored, rows: list[dict], run: dict, e: bool) -> tuple[dict, list[str], list[str]]:
    """(a set's entry in scores.json, problems, notes)."""
    n, source, expected = len(rows), source_of(one.name, run), official_rows(one.name, e)
    if source != "official":
        expected = run.get("data", {}).get("rows", expected)
    wanted = min((rows for rows in (run.get("limit"), expected) if rows), default=n)
    problems, notes = [], []
    if n != wanted:
        problems.append(f"{n} rows, not {wanted}; run pred.py again")
    elif expected and n < expected:
        notes.append(f"{n} of {expected} rows, by --limit")
    if one.empty:
        notes.append(f"{one.empty} of {n} answers are empty")
    if one.recursion:
        notes.append(f"{one.recursion} rows on which the library rouge fails, and LongBench gives 0, are scored")
    entry = {
        "source": source,
        "n": n,
        "expected_n": expected,
        "complete": n == expected and not run.get("errors"),
        "metric": SETS[base_set(one.name)].metric,
        "score": percent(one.row_N),
        "score_upstream": percent(one.upstream_N),
        "stderr": stderr(one.row_N),
        "interval_95": interval(one.draws_B),
        "interval_95_upstream": interval(one.upstream_B),
        "by_length": one.buckets(BUCKETS | BUCKETS_E if e else BUCKETS),
        "empty": one.empty,
        "recursion_cases": one.recursion,
        "ids": [row.get("_id") for row in rows],
        "row_scores": one.row_N.tolist(),
        "row_scores_upstream": one.upstream_N.tolist(),
        **{key: run.get(key) for key in ("seconds", "tokens_per_second", "peak_memory_bytes")},
        "run": {key: value for key, value in run.items() if key not in ABOUT},
    }
    return entry, problems, notes


def write_files(folder: Path, benchmark: str, scored: dict[str, Scored], sets: dict, result: dict) -> None:
    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 2)

    totals, by_length = {}, {}
    for name, one in sets.items():
        buckets = one["by_length"]
        totals[name] = rounded(one["score"])
        if benchmark == "longbench_e":
            totals[name] = {bucket: rounded(buckets[bucket]["score"]) for bucket in BUCKETS_E}
        by_length[name] = {bucket: rounded(buckets[bucket]["score"]) for bucket in BUCKETS}
        by_length[name] |= {f"#{bucket}": buckets[bucket]["n"] for bucket in BUCKETS}
        by_length[name]["total_score"] = rounded(one["score"])
    details = {
        name: {"length": one.length_N.astype(int).tolist(), "score": one.row_N.tolist(), "_id": sets[name]["ids"]}
        for name, one in scored.items()
    }
    write_json(folder / "result.json", totals)
    if benchmark != "trec":
        write_json(folder / "result_by_length.json", by_length)
        write_json(folder / "result_by_details.json", details)
    write_json(folder / "scores.json", result)


def write_json(path: Path, content: dict) -> None:
    """Writes so that a kill leaves the old file or the new one."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    main()
