r"""RULER's questions put to a model: reads <data_dir>/<task>/validation.jsonl, writes <save_dir>/<task>.jsonl.

    python pred/call_api.py --data_dir D --save_dir S --benchmark synthetic --task vt --model_name_or_path CKPT
    python pred/call_api.py --data_dir R/4096/data R/8192/data --save_dir R/4096/pred R/8192/pred \
        --task vt,cwe,fwe --model_name_or_path CKPT                 (all in one process: the weights are read once)
    torchrun --nproc_per_node=8 pred/call_api.py ...                (the prompts are shared out, the files are the same)
    python pred/call_api.py --server_type vllm --tensor_parallel_size 2 ...
    python pred/call_api.py --server_type openai --server_host http://localhost:8000/v1 --model_name_or_path NAME ...

The same command serves a CPU (float32) and a GPU (bfloat16); run.sh gives it. Answers are greedy, of new tokens only,
and recorded as they are made: a killed run continues when the same command is given again, more samples go on from
what is there. Beside the predictions, runs/<task>.json says what made them, in what time and memory.
"""

import argparse
import platform
import shlex
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
import transformers

from answers import answer, chunk_of, data_file, encode, read_data
from arguments import parse_args
from checkpoint import KEYS, describe, fingerprint
from endpoint import Endpoint
from engine import VLLM, Transformers
from ranks import RANK, WORLD, fail, say, share
from results import Predictions, read_json
from tasks import choose, read_tasks


def open_engine(args: argparse.Namespace):
    """The engine that --server_type asks for, its weights not read yet. Raises ValueError, one line."""
    if args.server_type == "openai":
        return Endpoint(args.base_url, args.model_name_or_path, args.api_key, args.threads)
    if args.server_type == "vllm":
        return VLLM(args.model_name_or_path, max(args.max_seq_length), args.dtype, args.tensor_parallel_size)
    batch = {"batch": args.batch_size} if args.batch_size else {}
    return Transformers(
        args.model_name_or_path,
        args.trust_remote_code,
        args.dtype,
        prefill_chunk=args.prefill_chunk,
        cache_on_cpu=args.cache_on_cpu,
        **batch,
    )


def check_window(args: argparse.Namespace, window: int | None):
    """Stops, or with --allow_beyond says so, where a length is beyond the one that the checkpoint declares."""
    beyond = [length for length in args.max_seq_length if window and length > window]
    if beyond:
        what = f"{', '.join(map(str, beyond))} tokens are beyond the {window} that {args.model_name_or_path} declares"
        if not args.allow_beyond:
            fail(f"{what}; add --allow_beyond to measure it all the same")
        say(f"WARNING: {what}")


def main():
    args = parse_args(__doc__)

    # --- everything that can be wrong, before the model is loaded
    try:
        tasks = read_tasks(args.benchmark)
        names = choose(args.task, tasks)
        chunk = (args.chunk_idx, args.chunk_amount)
        units = []  # (data file, folder of predictions, length, task)
        for data_dir, save_dir, length in zip(args.data_dir, args.save_dir, args.max_seq_length, strict=True):
            units += [(data_file(data_dir, name, args.subset, *chunk), save_dir, length, name) for name in names]
        missing = [str(path) for path, *_ in units if not path.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(f"no data {missing[0]}{more}; make it with data/prepare.py")
        engine = open_engine(args)
        check_window(args, engine.window)
        if engine.config is None:
            about = dict.fromkeys(KEYS) | {"method": "hosted"}
            identity = f"{args.model_name_or_path}@{args.base_url}"
        else:
            about = describe(args.model_name_or_path, engine.config)
            identity = fingerprint(args.model_name_or_path, engine.config)
    except (ValueError, OSError) as reason:
        fail(str(reason))
    settings = {
        "checkpoint": identity,
        "engine": engine.name,
        "dtype": engine.dtype,
        "attention": engine.attention,
        "stop_words": args.stop,
    }
    about = {
        "benchmark": "ruler",
        "name": args.model_name,
        "model": args.model_name_or_path,
        **about,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "command": shlex.join(["python", *sys.argv]),
        "processes": WORLD,
        "chunk_idx": args.chunk_idx,
        "chunk_amount": args.chunk_amount,
    }
    if WORLD > 1:
        dist.init_process_group("gloo", timeout=timedelta(days=1))
    say(f"{args.model_name}: {about['method']}, {engine.name}, {engine.dtype}, {WORLD} process(es)")
    if engine.config is not None and engine.tokenizer("a")["input_ids"][0] != engine.tokenizer.bos_token_id:
        say("its tokenizer puts no BOS before a text: prompts begin without")

    failed = []
    for unit in units:
        try:
            failed += run(args, engine, *unit, tasks[unit[-1]], settings, about)
        except (ValueError, OSError) as reason:
            fail(str(reason))
    if WORLD > 1:
        dist.destroy_process_group()
    if failed and RANK == 0:
        fail(
            f"{len(failed)} answers ran out of memory, first {failed[0]}; the others are recorded. The same command "
            "tries them again: give a smaller --prefill_chunk, or --cache_on_cpu"
        )


def run(args, engine, path: Path, save_dir: Path, length: int, task: str, about_task, settings, about) -> list[str]:
    """Answers what is not answered yet of one task at one length; returns which answers failed."""
    every = read_data(path)
    new = every[0].get("tokens_to_generate") or about_task["tokens_to_generate"]
    data = chunk_of(every, path, args.subset, args.chunk_idx, args.chunk_amount)
    made = read_json(path.with_name("run.json")) or {}
    about = about | {
        "task": task,
        "max_seq_length": length,
        "protocol": made.get("profile"),
        "seed": made.get("seed"),
        "data": made,
    }
    name = task if args.chunk_amount == 1 else f"{task}-{args.chunk_idx}"
    predictions = Predictions(save_dir, name, settings | {"tokens_to_generate": new}, about)

    done = None
    if RANK == 0:
        save_dir.mkdir(parents=True, exist_ok=True)
        rows, moved = predictions.gather(data)
        done = set(rows)
        if moved:
            say(f"{save_dir}: the answers to {task} were of other settings, data or another checkpoint; now in {moved}")
    done = share(done)
    todo = [row for row in data if row["index"] not in done]
    if not todo:
        say(f"{length} {task}: all {len(data)} answers are there")
        return []

    # --- the prompts and the answers
    texts = [row["input"] for row in todo]
    prompts = texts if engine.config is None else encode(engine.tokenizer, texts)
    longest = max(map(len, prompts)) + new
    if engine.config is not None and longest > length:
        what = f"{path}: a prompt and its answer take {longest} tokens of this model, more than {length}"
        if engine.name == "vllm":
            raise ValueError(f"{what}; make the data with this model's tokenizer")
        say(f"WARNING: {what}; were they made with another tokenizer?")
    if RANK == 0:
        predictions.note(len(every))
    work = answer(engine, prompts, todo, new, args.stop, predictions, f"{length} {task}")
    if RANK == 0:
        predictions.gather(data)
        predictions.note(len(every), work)
        speed = f"{(work['prompt_tokens'] + work['new_tokens']) / max(work['seconds'], 1e-9):,.0f} tokens/s"
        say(f"{length} {task}: {work['timed'] - len(work['errors'])} answers, {work['seconds']:.1f} s, {speed}")
    return [f"{length} {task} {error['index']}" for error in work["errors"]]


if __name__ == "__main__":
    main()
