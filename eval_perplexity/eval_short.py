"""What extension costs on short texts: MMLU, HellaSwag, ARC and GSM8K by the installed lm-eval, and a table of changes.

    python eval_short.py --base_model BASE CKPT_A CKPT_B --output_dir results_short
    python eval_short.py --base_model BASE CKPT_A --tasks my_task --include_path my_tasks/ --output_dir out

Writes {output_dir}/{model}/scores.json, a task at a time: rerun the same command to resume. short.csv has, for each
model and task, the score of the base, the change from it, and its 95 % interval, paired over the items. With
--perplexity, a folder of eval_ppl.py's results, also the loss (log of perplexity) at the original length, paired over
the documents. A prompt has at most the base's window, and its rope is that of this length.
"""

import time
from pathlib import Path

import run

import pandas as pd
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from checkpoint import add_trust_flag, describe, load_model
from lock import lock
from rope import RopeSetter, rope_at
from scoring import open_checkpoint
from stats import mean_over_documents, mean_over_tasks
from store import Store
from tokenizer import open_tokenizer

SHOTS = {"mmlu": 5, "hellaswag": 10, "arc_easy": 25, "arc_challenge": 25, "gsm8k": 5}  # examples in the prompt
METRICS = ("acc_norm", "acc", "exact_match")  # the first of these that a task has is its score


def evaluate_checkpoint(args, manager, name_or_path: str) -> None:
    """Runs the tasks that the checkpoint's result lacks, and writes the result."""
    config, settings = open_checkpoint(name_or_path, args.trust_remote_code)
    settings |= {"limit": args.limit, "include_path": str(args.include_path)}
    description = describe(name_or_path, config)
    device = run.default_device()
    name = run.checkpoint_name(name_or_path)
    path = args.output_dir / name / "scores.json"
    store = Store(path.with_name("tasks.jsonl"), settings, lambda entry: entry["task"], results=lambda: [path])
    finished = store.open()
    missing = [task for task in args.tasks if task not in finished]
    length = description["original_length"] or config.max_position_embeddings
    if missing:
        model = load_model(name_or_path, config, settings["dtype"], settings["attention"], device)
        RopeSetter(model).set(rope_at(config, length))
        tokenizer = open_tokenizer(name_or_path)
        adapter = HFLM(model, tokenizer=tokenizer, batch_size=args.batch_size, max_length=length)
    for task in missing:
        run.reset_peak_memory(device)
        start_time = time.perf_counter()
        entry = run_task(args, manager, adapter, task)
        entry["seconds"] = round(time.perf_counter() - start_time, 3)
        entry["peak_memory_bytes"] = run.peak_memory(device)
        store.append(entry)
        print(f"{name}: {task} {entry['score']:.2f}, {entry['n']} items", flush=True)
    result = {
        "benchmark": "short",
        "name": name,
        "model": name_or_path,
        **description,
        **settings,
        "length": length,
        "protocol": "lm-eval",
        "seed": 1234,
        "engine": "transformers",
        "versions": run.versions("lm_eval"),
        "command": run.command_line(),
        "sets": store.gather(),
    }
    run.write_json(path, result)


def run_task(args, manager, adapter: HFLM, task: str) -> dict:
    """The entry of a task, or group of tasks, in scores.json: its items' mean score, 0 to 100, with its interval.

    Raises ValueError if lm-eval cannot run it.
    """
    with run.errors_of(f"lm-eval cannot run the task {task}"):
        settings = {"num_fewshot": SHOTS.get(task), "limit": args.limit, "bootstrap_iters": 0}
        results = simple_evaluate(adapter, tasks=[task], task_manager=manager, **settings)
        ids, scores = [], []
        for subtask, samples in results["samples"].items():
            first = samples[0]
            metrics = [name for name in METRICS if name in first]
            if not metrics:
                raise ValueError(f"it has none of the scores {', '.join(METRICS)}")
            metric = metrics[0]
            for sample in samples:
                if sample["filter"] == first["filter"]:
                    ids.append(f"{subtask}:{sample['doc_id']}")
                    scores.append(float(sample[metric]))
    low, high = mean_over_tasks([scores]).interval()
    return {
        "task": task,
        "source": "user" if args.include_path else "official",
        "n": len(scores),
        "metric": metric,
        "num_fewshot": SHOTS.get(task),
        "complete": args.limit is None,
        "score": 100 * sum(scores) / len(scores),
        "interval_95": [100 * low, 100 * high],
        "ids": ids,
        "row_scores": scores,
        "versions": results["versions"],
    }


def read_measures(args) -> pd.DataFrame:
    """All results: model, method, task, id of an item or document, value (loss: its sum) and number of targets."""
    tables = []
    for path in sorted(args.output_dir.glob("*/scores.json")):
        result = run.read_json(path)
        model = {"model": path.parent.name, "method": result["method"]}
        for task, entry in result["sets"].items():
            table = pd.DataFrame({"id": entry["ids"], "value": entry["row_scores"], "task": task, **model})
            table["value"] *= 100
            table["targets"] = 1.0
            tables.append(table)
        if args.perplexity:
            tables += read_losses(args.perplexity, model, result["length"])
    return pd.concat(tables, ignore_index=True)


def read_losses(folder: Path, model: dict, length: int) -> list:
    """A table for each token file: the model's losses of the documents at one length, from eval_ppl.py's results."""
    tables = []
    for path in sorted(folder.rglob(f"{model['model']}_{length}_*.json")):
        result = run.read_json(path) or {}
        losses = result.get("document_losses")
        if losses and "longppl" not in path.name:
            table = pd.DataFrame({"value": losses["sum"], "targets": losses["targets"], **model})
            table["task"] = f"loss at {length}, {path.parent.name}"
            table["id"] = table.index
            tables.append(table)
    return tables


def write_table(args) -> None:
    """Writes short.csv from all results in --output_dir, and prints it."""
    measures = read_measures(args)
    is_base = measures.method == "base"
    base = measures[is_base]
    n_bases = base.model.nunique()
    if n_bases != 1:
        print(f"no table: {args.output_dir} has the results of {n_bases} bases, not of one")
        return
    pairs = measures[~is_base].merge(base, on=["task", "id", "targets"], suffixes=("", "_base"))
    lines = []
    for (model, task), own in pairs.groupby(["model", "task"], sort=False):
        base_mean = own.value_base.sum() / own.targets.sum()
        change = mean_over_documents(own.value - own.value_base, own.targets)
        low, high = change.interval() or (None, None)
        lines.append((model, task, base_mean, change.mean_M[0], low, high, change.n))
    table = pd.DataFrame(lines, columns=["model", "task", "base", "change", "low", "high", "n"])
    table.to_csv(args.output_dir / "short.csv", index=False, lineterminator="\n")
    print(table.to_string(index=False, float_format="{:.3f}".format))


def main() -> None:
    parser = run.Parser(__doc__)
    parser.add_argument("--base_model", required=True, nargs="+", help="checkpoint folders or hub ids, with the base")
    add_trust_flag(parser)
    parser.add_argument("--tasks", nargs="+", default=list(SHOTS), help=f"tasks of lm-eval [{' '.join(SHOTS)}]")
    parser.add_argument("--include_path", type=Path, help="folder of further tasks, in lm-eval's YAML format")
    parser.add_argument("--limit", type=run.positive_int, help="the first N items of each task [all]")
    parser.add_argument("--batch_size", type=run.positive_int, default=1, help="[1]")
    parser.add_argument("--perplexity", type=Path, help="folder of eval_ppl.py's results")
    parser.add_argument("--output_dir", required=True, type=Path)
    args = parser.parse_args()
    run.name_results(None, sorted(set(args.base_model)), "each its own --output_dir")
    manager = TaskManager(include_path=args.include_path and str(args.include_path))

    def evaluate(name_or_path: str) -> None:
        evaluate_checkpoint(args, manager, name_or_path)
        locked = lock(args.output_dir / ".short.lock")  # other processes may write the table, too
        write_table(args)
        locked.close()

    run.for_each_checkpoint(args.base_model, evaluate)


if __name__ == "__main__":
    run.run_script(main)
