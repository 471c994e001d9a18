r"""Answers RULER's prompts with models: reads <data_dir>/<task>/validation.jsonl, writes <save_dir>/<task>.jsonl.

    python pred/call_api.py --data_dir D --save_dir S --benchmark synthetic --task vt --max_seq_length 4096 \
        --model_name_or_path CKPT
    python pred/call_api.py --data_dir "results/{model}/synthetic/{length}/data" \
        --save_dir "results/{model}/synthetic/{length}/pred" --max_seq_length 4096 8192 --task vt cwe \
        --model_name_or_path CKPT_A CKPT_B              (several models and lengths in one process)
    torchrun --nproc_per_node=8 pred/call_api.py ...    (the ranks share the prompts; the files are the same)
    python pred/call_api.py --server_type vllm --tensor_parallel_size 2 ...
    python pred/call_api.py --server_type openai --server_host http://localhost:8000/v1 --model_name_or_path NAME ...

Answers are greedy and recorded as they are made: rerun the same command to resume, also after samples were added to the
data. <save_dir>/runs/<task>.json has the settings of a run; answers of other settings or data are moved to old/.
"""

import os
import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import run

from answers import add_engine_flags, answer_all, open_engine
from endpoint import Endpoint
from records import read_rows
from store import Store
from tasks import check_fields, check_row, choose_tasks, fill_in, read_tasks


def parse_args():
    parser = run.Parser(__doc__)
    data = parser.add_argument_group("data; {model} and {length} in a folder stand for a model's name and the length")
    data.add_argument("--data_dir", required=True, help="folder with <task>/validation.jsonl")
    data.add_argument("--save_dir", required=True, help="folder of the predictions")
    data.add_argument("--max_seq_length", type=run.positive_int, nargs="+", required=True, help="tokens")
    data.add_argument("--benchmark", default="synthetic", help="[synthetic]")
    data.add_argument("--task", nargs="+", help="one or several, separated by spaces or commas [all]")
    model = parser.add_argument_group("model")
    model.add_argument("--model_name_or_path", nargs="+", required=True, help="folders, hub ids or a server's names")
    model.add_argument("--model_name", nargs="+", help="their names in the results [the last part of the path]")
    model.add_argument("--server_type", choices=["hf", "vllm", "openai"], default="hf", help="openai: a server [hf]")
    address = "openai: address up to /v1 [http://127.0.0.1:5000/v1]; the API key: $OPENAI_API_KEY"
    model.add_argument("--server_host", default="http://127.0.0.1:5000/v1", help=address)
    add_engine_flags(parser)
    args = parser.parse_args()
    args.model_name = run.name_results(args.model_name, args.model_name_or_path, "--model_name")
    check_fields(args.data_dir, "--data_dir", length=args.max_seq_length)
    check_fields(args.save_dir, "--save_dir", length=args.max_seq_length, model=args.model_name)
    return args


def read_data(path: Path) -> list:
    """The rows of a data file; `input` is the whole prompt, also where a file of RULER has the answer prefix apart."""
    if not path.is_file():
        raise ValueError(f"no data {path}; make it with data/prepare.py")
    rows = read_rows(path, check_row)
    for row in rows:
        row["index"] = int(row["index"])
        prefix = row.get("answer_prefix") or ""
        if not row["input"].endswith(prefix):
            row["input"] += prefix
    return rows


def open_model(path: str, args):
    """The engine of --server_type; reads no weights yet."""
    if args.server_type == "openai":
        return Endpoint(args.server_host, path, os.environ.get("OPENAI_API_KEY"))
    kind = args.server_type.replace("hf", "transformers")
    longest = max(args.max_seq_length)
    engine = open_engine(kind, path, args, longest)
    if engine.window and longest > engine.window:
        run.warn_rank0(f"WARNING: {longest} tokens are beyond the {engine.window} that {path} declares")
    return engine


def evaluate(name: str, args, tasks: dict) -> None:
    """Answers the tasks at every length with one model. Raises ValueError if some answers ran out of memory."""
    units = []
    names = choose_tasks(args.task, tasks)
    for length, task in product(args.max_seq_length, names):
        folder = fill_in(args.data_dir, name, length) / task
        rows = read_data(folder / "validation.jsonl")
        data = run.read_json(folder / "run.json") or {}  # empty for data of other code
        new_tokens = rows[0].get("tokens_to_generate") or tasks[task]["tokens_to_generate"]
        notes = {
            "task": task,
            "max_seq_length": length,
            "samples": len(rows),
            "data": data,
            "protocol": data.get("profile"),
            "seed": data.get("seed"),
        }
        units.append((rows, new_tokens, notes))
    model = args.model_name.index(name)
    engine = open_model(args.model_name_or_path[model], args)
    description = {"benchmark": "ruler", "name": name, **engine.describe()}
    run.print_rank0(f"{name}: {description['method']}, {engine.name}, {engine.dtype}, {run.WORLD_SIZE} process(es)")
    errors = 0
    for rows, new_tokens, notes in units:
        folder = fill_in(args.save_dir, name, notes["max_seq_length"])
        errors += answer_task(engine, rows, new_tokens, folder, description | notes)
    if errors:
        advice = "rerun the same command to try them again, with a smaller --prefill_chunk or --cache_on_cpu"
        raise ValueError(f"{name}: {errors} answers ran out of memory; {advice}")


def answer_task(engine, rows: list, new_tokens: int, folder: Path, notes: dict) -> int:
    """Answers the rows without an answer; returns how many ran out of memory. notes: for the predictions' record."""
    task, n = notes["task"], notes["samples"]
    label = f"{notes['max_seq_length']} {task}"
    settings = engine.settings() | {"tokens_to_generate": new_tokens}
    settings["first_row"] = run.run_key(rows[0])  # stands for the data, since samples may be added
    indices = {row["index"]: row["index"] for row in rows}  # raises KeyError on the index of an odd line
    record = folder / "runs" / f"{task}.json"
    store = Store(folder / f"{task}.jsonl", settings, key=lambda row: indices[row["index"]], record=record)
    answered = run.broadcast(set(store.open(notes)) if run.RANK == 0 else None)
    rows = [row for row in rows if row["index"] not in answered]
    if not rows:
        run.print_rank0(f"{label}: all {n} answers are there")
        return 0

    prompts = [row["input"] for row in rows]
    hosted = engine.config is None  # a server takes text
    if not hosted:
        prompts = engine.tokenizer(prompts, verbose=False)["input_ids"]
    for i, answer in answer_all(engine, prompts, new_tokens, label):
        row = rows[i]
        if answer.error:
            store.append({"index": row["index"], "error": answer.error})
            continue
        entry = {
            "index": row["index"],
            "pred": answer.text,
            "input": row["input"],
            "outputs": row["outputs"],
            "others": {},
            "truncation": -1,
            "length": row.get("length", -1),
        }
        entry["prompt_tokens"] = answer.costs["prefilled_tokens"] if hosted else len(prompts[i])
        store.append(entry | answer.costs)
    store.close()
    run.barrier()
    if run.RANK == 0:
        answered = store.gather()
        store.write_record(notes | {"errors": list(store.errors.values())})
        print(f"{label}: {len(answered)} of {n} answers", flush=True)
    return run.broadcast(len(store.errors))


def main():
    args = parse_args()
    tasks = read_tasks(args.benchmark)
    run.for_each_checkpoint(args.model_name, lambda name: evaluate(name, args, tasks))


if __name__ == "__main__":
    run.run_script(main)
