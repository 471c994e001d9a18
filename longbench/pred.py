r"""LongBench and many-shot TREC: the prompts of each set are answered greedily, a row a prediction.

    python pred.py --model_path CKPT --dataset_name hotpotqa trec trec_25shots       --trust_remote_code if it has code
    python pred.py --model llama2-7b-hf-slimpajama-pi-32k                            a name of config/, all 16 sets
    python pred.py --model_path CKPT --e                                             LongBench-E
    python pred.py --model_path CKPT --dataset_name lcc --limit 50 --max_length 8192
    torchrun --nproc_per_node=8 pred.py ...               (the rows are shared out, the result is the same)
    python eval.py; python eval_trec.py                   scores what is there

The same command serves a CPU (float32) and a GPU (bfloat16). Rows are recorded as they are made: a killed run continues
when the same command is given again, with more sets or a larger --limit as well; other settings move the old rows to
old/. Data: data/<set>.jsonl beside this file, else the hub's (Leooyii/longbench, THUDM/LongBench,
Leooyii/manyshots_trec), else stand-ins (make_standin.py), which have names of their own.

Protocol (arXiv 2308.14508 and 2409.12181): plain continuation of LongBench's prompts, no chat template; greedy; answers
of each set's own length, samsum's to the end of its first line. A prompt beyond the window loses its middle. Prompt and
answer together stay inside the window; --protocol lceg gives it to the prompt alone, as the paper's code did.
"""

import argparse
import importlib.metadata
import platform
import shlex
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
import transformers

from arguments import parse_args
from checkpoint import describe, fingerprint, open_config
from data import load
from engine import VLLM, Transformers
from ranks import RANK, WORLD, fail, say, share
from sets import SETS
from work import Work


def open_engine(args: argparse.Namespace):
    """The engine of --engine, its weights not read yet; fills in args.max_length. Raises ValueError, one line."""
    if args.max_length is None:
        args.max_length = getattr(open_config(args.model_path, args.trust_remote_code), "max_position_embeddings", None)
    if args.max_length is None:
        raise ValueError(f"{args.model_path} declares no window; give --max_length")
    if args.engine == "vllm":
        beyond = max(facts.new_tokens for facts in SETS.values()) if args.protocol == "lceg" else 0
        return VLLM(args.model_path, args.max_length + beyond, args.dtype, args.tensor_parallel_size)
    return Transformers(
        args.model_path,
        args.trust_remote_code,
        args.dtype,
        prefill_chunk=args.prefill_chunk,
        cache_on_cpu=args.cache_on_cpu,
        batch=args.batch_size,
    )


def open_sets(args: argparse.Namespace) -> tuple[dict, dict]:
    """({set: (rows, data)}, {set: why it cannot be used}), in every process alike; the first one fetches."""
    sets, wrong = {}, {}
    for name in args.dataset_name if RANK == 0 else ():
        try:
            sets[name] = load(name, args.data_dir, args.e)
        except (ValueError, OSError) as reason:
            wrong[name] = str(reason)
    wrong = share(wrong)
    if RANK > 0:
        sets = {name: load(name, args.data_dir, args.e) for name in args.dataset_name if name not in wrong}
    return sets, wrong


def main():
    args = parse_args(__doc__)
    if WORLD > 1:
        dist.init_process_group("gloo", timeout=timedelta(days=1))

    # --- everything that can be wrong, before the model is loaded
    try:
        engine = open_engine(args)
        about = {
            "name": args.model,
            "model": args.model_path,
            **describe(args.model_path, engine.config),
            "checkpoint": fingerprint(args.model_path, engine.config),
            "engine": engine.name,
            "dtype": engine.dtype,
            "attention": engine.attention,
            "protocol": args.protocol,
            "seed": args.seed,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "lm_eval": importlib.metadata.version("lm_eval"),
            },
            "command": shlex.join(["python", *sys.argv]),
        }
    except (ValueError, OSError) as reason:
        fail(str(reason))
    except importlib.metadata.PackageNotFoundError:
        fail("LongBench's prompts come from the package lm-eval; pip install lm-eval==0.4.13")
    sets, wrong = open_sets(args)
    works = []
    for name, (rows, data) in sets.items():
        try:
            works.append(Work(args, engine, name, rows, data, about))
        except ValueError as reason:
            wrong[name] = str(reason)
    for name, reason in wrong.items():
        warn(f"error: {name}: {reason}")
    if not works:
        fail("no set is left to predict")
    if engine.window and args.max_length > engine.window:
        say(f"WARNING: {args.max_length} tokens are beyond the {engine.window} that the checkpoint declares")
    what = f"{about['method']}, {engine.name}, {engine.dtype}, window {args.max_length}, {WORLD} process(es)"
    say(f"{args.model_path}: {what}")

    # --- the predictions
    for number, work in enumerate(works, 1):
        try:
            record = work.predict(f"{work.name} [{number}/{len(works)}]")
        except (ValueError, OSError) as reason:
            fail(str(reason))
        if record is None:
            continue
        cut = f", {record['truncated']} cut in the middle" if record["truncated"] else ""
        say(f"{work.files.path(0)}: {record['n']} of {record['of']} rows{cut}, {record['seconds']:.1f} s")
        if record["errors"]:
            wrong[work.name] = f"{len(record['errors'])} rows ran out of memory"
            how = "the same command tries them again; give a smaller --prefill_chunk, or --cache_on_cpu"
            warn(f"error: {work.name}: {wrong[work.name]}; {how}")
    if WORLD > 1:
        dist.barrier()
        dist.destroy_process_group()
    if wrong:
        fail(f"{len(wrong)} of {len(args.dataset_name)} sets are missing or not whole: {' '.join(wrong)}")


def warn(message: str):
    if RANK == 0:
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
