r"""Answers RULER's prompts with models: reads <data_dir>/<task>/validation.jsonl, writes <save_dir>/<task>.jsonl.

    python pred/call_api.py --data_dir D --save_dir S --benchmark synthetic --task vt --model_name_or_path CKPT
    python pred/call_api.py --data_dir "results/{model}/synthetic/{length}/data" \
        --save_dir "results/{model}/synthetic/{length}/pred" --max_seq_length 4096 8192 --task vt cwe \
        --model_name_or_path CKPT_A CKPT_B              (several models and lengths in one process)
    torchrun --nproc_per_node=8 pred/call_api.py ...    (the ranks share the prompts; the files are the same)
    python pred/call_api.py --server_type vllm --tensor_parallel_size 2 ...
    python pred/call_api.py --server_type openai --server_host http://localhost:8000/v1 --model_name_or_path NAME ...

Runs on a CPU (float32) or a GPU (bfloat16). Answers are greedy, consist of new tokens only and are recorded as they are
made: rerun the same command to resume, also after samples were added to the data. <save_dir>/runs/<task>.json has the
settings of a run; answers of other settings or to other data are moved to old/.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import run
from answers import add_engine_flags, answer_all, check_engine_flags, open_engine
from endpoint import Endpoint
from store import Store, read_rows
from tasks import check_row, choose_tasks, fill_in, read_tasks


def parse_args() -> argparse.Namespace:
    parser = run.Parser(__doc__)
    data = parser.add_argument_group("data; {model} and {length} in a folder stand for a model's name and the length")
    data.add_argument("--data_dir", required=True, help="folder with <task>/validation.jsonl")
    data.add_argument("--save_dir", required=True, help="folder of the predictions")
    data.add_argument(
        "--max_seq_length", type=run.positive_int, nargs="+", help="tokens [the name of the folder above --data_dir]"
    )
    data.add_argument("--benchmark", default="synthetic", help="[synthetic]")
    data.add_argument("--task", nargs="+", help="one or several, separated by spaces or commas [all]")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_name_or_path", nargs="+", required=True, help="checkpoint folders or hub ids; openai: server's names"
    )
    model.add_argument("--model_name", nargs="+", help="their names in the results [the last part of the path]")
    model.add_argument("--server_type", choices=["hf", "vllm", "openai"], default="hf", help="openai: a server [hf]")
    model.add_argument("--server_host", default="127.0.0.1", help="openai: host, or its address with /v1 [127.0.0.1]")
    model.add_argument("--server_port", type=int, default=5000, help="openai [5000]; the API key: $OPENAI_API_KEY")
    model.add_argument("--threads", type=run.positive_int, default=4, help="openai: requests at a time [4]")
    model.add_argument("--allow_beyond", action="store_true", help="go beyond the length that a checkpoint declares")
    model.add_argument("--stop_words", default="", help="an answer ends before these, separated by commas [none]")
    add_engine_flags(parser)
    args = parser.parse_args()
    check_engine_flags(args, args.server_type)
    if args.max_seq_length is None:
        name = Path(args.data_dir).resolve().parent.name
        if not name.isdecimal():
            raise ValueError("give --max_seq_length, as the folder above --data_dir is not named by it")
        args.max_seq_length = [int(name)]
    args.model_name = run.name_results(args.model_name, args.model_name_or_path, "--model_name")
    if len(args.max_seq_length) > 1 and not ("{length}" in args.data_dir and "{length}" in args.save_dir):
        raise ValueError("several lengths need {length} in --data_dir and --save_dir")
    if len(args.model_name) > 1 and "{model}" not in args.save_dir:
        raise ValueError("several models need {model} in --save_dir")
    args.stop_words = [word for word in args.stop_words.split(",") if word]
    return args


def read_data(path: Path) -> list[dict]:
    """The rows {index, input, outputs, length, ...} of a data file; `input` is the whole prompt.

    Where a file of RULER has the answer prefix apart from `input`, it is appended. Raises ValueError on other files.
    """
    if not path.is_file():
        raise ValueError(f"no data {path}; make it with data/prepare.py")
    rows = read_rows(path, check_row)
    for row in rows:
        row["index"] = int(row["index"])
        prefix = row.get("answer_prefix") or ""
        if not row["input"].endswith(prefix):
            row["input"] += prefix
    return rows


def data_identity(rows: list[dict], known: dict) -> dict:
    """A digest of as many rows as a run with the settings `known` had, so that it resumes after rows were added."""
    n = min(known.get("data_rows") or len(rows), len(rows))
    content = json.dumps([(row["index"], row["input"], row["outputs"]) for row in rows[:n]])
    return {"data_rows": n, "data_sha256": hashlib.sha256(content.encode()).hexdigest()}


def open_model(path: str, args: argparse.Namespace):
    """The engine of --server_type; reads no weights yet. Raises ValueError if a length is beyond what is declared."""
    if args.server_type == "openai":
        host = args.server_host
        url = host if host.startswith("http") else f"http://{host}:{args.server_port}/v1"
        return Endpoint(url, path, os.environ.get("OPENAI_API_KEY"), threads=args.threads)
    kind = "vllm" if args.server_type == "vllm" else "transformers"
    longest = max(args.max_seq_length)
    engine = open_engine(kind, path, args, longest)
    if engine.window and longest > engine.window:
        message = f"{longest} tokens are beyond the {engine.window} that {path} declares"
        if not args.allow_beyond:
            raise ValueError(f"{message}; add --allow_beyond to evaluate it anyway")
        run.warn_rank0(f"WARNING: {message}")
    return engine


def evaluate(name: str, args: argparse.Namespace, tasks: dict[str, dict]):
    """Answers the tasks at every length with one model.

    Raises ValueError if data are missing, the model cannot be opened, or some answers ran out of memory.
    """
    path = args.model_name_or_path[args.model_name.index(name)]
    units = []
    for length in args.max_seq_length:
        folder = fill_in(args.data_dir, name, length)
        for task in choose_tasks(args.task, tasks):
            units.append((length, task, folder / task, read_data(folder / task / "validation.jsonl")))
    engine = open_model(path, args)
    description = engine.describe()
    run.print_rank0(f"{name}: {description['method']}, {engine.name}, {engine.dtype}, {run.WORLD_SIZE} process(es)")
    errors = 0
    for length, task, data_folder, rows in units:
        data = run.read_json(data_folder / "run.json") or {}
        digest = hashlib.sha256((data_folder / "validation.jsonl").read_bytes()).hexdigest()
        if data.get("sha256", digest) != digest:
            data["source"] = "user"  # changed since prepare.py made it
        about = {"benchmark": "ruler", "name": name, **description}
        about |= {"task": task, "max_seq_length": length, "samples": len(rows), "data": data}
        about |= {"protocol": data.get("profile"), "seed": data.get("seed")}
        new_tokens = rows[0].get("tokens_to_generate") or tasks[task]["tokens_to_generate"]
        settings = engine.settings() | {"stop_words": args.stop_words, "tokens_to_generate": new_tokens}
        errors += answer_task(engine, rows, fill_in(args.save_dir, name, length), about, settings)
    if errors:
        advice = "rerun the same command to try them again, with a smaller --prefill_chunk or --cache_on_cpu"
        raise ValueError(f"{name}: {errors} answers ran out of memory; {advice}")


def answer_task(engine, rows: list[dict], folder: Path, about: dict, settings: dict) -> int:
    """Answers the rows of one task that have no answer yet; returns how many ran out of memory.

    about, settings: of the record beside the predictions; see Store.
    """
    task, length = about["task"], about["max_seq_length"]
    label = f"{length} {task}"
    record = folder / "runs" / f"{task}.json"
    known = run.broadcast(run.read_json(record) or {})
    known_settings = known.get("settings") or {}
    settings = settings | data_identity(rows, known_settings)
    about["oom_retries"] = known.get("oom_retries", []) if known_settings == settings else []
    indices = {row["index"]: row["index"] for row in rows}  # raises KeyError on the index of an odd line
    store = Store(folder / f"{task}.jsonl", settings, key=lambda row: indices[row["index"]], record=record)
    answered = run.broadcast(set(store.open(about)) if run.RANK == 0 else None)
    rows = [row for row in rows if row["index"] not in answered]
    if not rows:
        run.print_rank0(f"{label}: all {about['samples']} answers are there")
        return 0

    prompts = [row["input"] for row in rows]
    hosted = engine.config is None  # a server takes text
    new_tokens = settings["tokens_to_generate"]
    if not hosted:
        prompts = engine.tokenizer(prompts, verbose=False)["input_ids"]
        longest = max(map(len, prompts)) + new_tokens
        if longest > length:
            message = f"WARNING: {label}: a prompt and its answer take {longest} tokens of this model"
            run.warn_rank0(f"{message}; were the data made with another tokenizer?")
    num_retries = len(engine.oom_retries)
    for i, answer in answer_all(engine, prompts, new_tokens, label, stop_strings=settings["stop_words"]):
        row = rows[i]
        if answer.error:
            store.append({"index": row["index"], "error": answer.error})
            continue
        entry = {"index": row["index"], "pred": answer.text, "input": row["input"], "outputs": row["outputs"]}
        entry |= {"others": {}, "truncation": -1, "length": row.get("length", -1)}
        entry["prompt_tokens"] = answer.prefilled_tokens if hosted else len(prompts[i])
        store.append(entry | answer.costs())
    store.close()
    for retries in run.gather_all(engine.oom_retries[num_retries:]):  # waits for all ranks
        about["oom_retries"] += retries
    return run.broadcast(finish(store, about, label) if run.RANK == 0 else None)


def finish(store: Store, about: dict, label: str) -> int:
    """Merges the answers of all ranks and writes the record; returns how many ran out of memory. For rank 0."""
    answered = store.gather()
    store.write_record(about | {"errors": list(store.errors.values())})
    seconds, tokens = 0, 0
    for row in answered.values():
        seconds += row["seconds"]
        tokens += row["prompt_tokens"] + row["generated_tokens"]
    speed = tokens / max(seconds, 1e-9)
    answers = f"{len(answered)} of {about['samples']} answers"
    print(f"{label}: {answers}, {seconds:.1f} s, {speed:,.0f} tokens/s", flush=True)
    return len(store.errors)


def main():
    args = parse_args()
    tasks = read_tasks(args.benchmark)
    run.for_each_checkpoint(args.model_name, lambda name: evaluate(name, args, tasks))


if __name__ == "__main__":
    run.run_script(main)
