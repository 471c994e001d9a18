r"""Needle in a haystack: a fact is hidden in a long text, at every length and depth of a grid, and asked for.

    python needle_in_haystack.py --s_len 0 --e_len 65536 --model_path CKPT --test_name NAME
    python needle_in_haystack.py --model_path CKPT --lengths 8192 32768 --trials 16 --haystack_dir essays
    torchrun --nproc_per_node=8 needle_in_haystack.py ...         (the cells are shared out, the result is the same)
    python needle_in_haystack.py --model_provider openai --base_url http://localhost:8000/v1 --model_name NAME \
        --model_path CKPT                                         (a server; CKPT has its tokenizer)

The same command serves a CPU (float32) and a GPU (bfloat16). Answers are recorded as they are made: a killed run
continues when the same command is given again, a larger grid or more trials go on from what is there.

Protocol (arXiv 2409.12181, after G. Kamradt and Fu et al.): 40 lengths evenly spaced from 1,000 to 128,000 tokens,
cut to [s_len, e_len], times 10 depths; one fixed needle; greedy answers of 50 tokens. Prompt and answer together take
exactly the cell's length. `score` is the share of the answer's distinct words that the response has; `rate` counts
exact matches. --protocol lceg adds the two scores of the paper's code.
"""

import argparse
import platform
import shlex
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import transformers

from arguments import parse_args
from checkpoint import KEYS, describe, fingerprint
from endpoint import Endpoint
from engine import VLLM, Transformers
from facts import STYLES, Facts, keys_of
from grid import save_contexts, work
from haystack import Prompts, build_haystack, read_texts
from ranks import RANK, WORLD, fail, say, share
from results import Answers, digest, key, write_cell
from scoring import wilson


def open_engine(args: argparse.Namespace):
    """The engine that --model_provider asks for, its weights not read yet. Raises ValueError, one line."""
    if args.provider == "openai":
        engine = Endpoint(args.base_url, args.model_name, args.model_path, args.api_key, args.trust_remote_code)
    elif args.provider == "vllm":
        engine = VLLM(args.model, max(args.lengths), args.dtype, args.tensor_parallel_size)
    else:
        engine = Transformers(
            args.model, args.trust_remote_code, args.dtype, None, args.prefill_chunk, args.cache_on_cpu
        )
    if not engine.tokenizer.is_fast:
        raise ValueError(f"{args.model} has a slow tokenizer, without offsets; save it as a fast one (tokenizer.json)")
    return engine


def check_window(args: argparse.Namespace, window: int | None):
    """Stops, or with --allow_beyond says so, where the grid goes beyond the length that the checkpoint declares."""
    beyond = [length for length in args.lengths if window and length > window]
    if beyond:
        what = f"{len(beyond)} of {len(args.lengths)} lengths, up to {max(beyond)}, are beyond the {window} tokens "
        what += f"that {args.model} declares"
        if not args.allow_beyond:
            fail(f"{what}; add --allow_beyond to measure them all the same, or cut the grid with --e_len {window}")
        say(f"WARNING: {what}")


def main():
    args = parse_args(__doc__)
    cells = [(length, depth) for length in args.lengths for depth in args.depths]
    folder = args.output_dir / args.test_name

    # --- everything that can be wrong, before the model is loaded
    try:
        facts = Facts(args.template, args.needle, args.question, args.answer, args.needles, args.seed)
        texts, data = read_texts(args.haystack_dir)
        engine = open_engine(args)
        names = keys_of(args.template, engine.tokenizer)
        check_window(args, engine.window)
        hosted = dict.fromkeys(KEYS[1:])
        about = {"method": "hosted", **hosted} if engine.config is None else describe(args.model, engine.config)
        identity = f"{args.model}@{args.base_url}" if engine.config is None else fingerprint(args.model, engine.config)
    except (ValueError, OSError) as reason:
        fail(str(reason))
    if data["source"] == "standin":
        say(
            "no --haystack_dir: the haystack is this Python's help pages (stand-in data, English prose). The essays of "
            "the paper are not shipped; put their .txt files into a folder and name it"
        )
    settings = {
        "checkpoint": identity,
        "engine": engine.name,
        "dtype": engine.dtype,
        "attention": engine.attention,
        "haystack_sha256": data["sha256"],
        "template": STYLES[args.template].template,
        "facts": facts.settings(),
        "max_new_tokens": args.max_new_tokens,
        "seed": args.seed,
    }
    run = {
        "protocol": args.protocol,
        "seed": args.seed,
        "data": data,
        "model": args.model,
        **about,
        "engine": engine.name,
        "dtype": engine.dtype,
        "attention": engine.attention,
        "max_new_tokens": args.max_new_tokens,
        "template": args.template,
        "fingerprint": digest(settings),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "command": command(args.api_key),
        "processes": WORLD,
    }

    # --- what is there already
    if WORLD > 1:
        dist.init_process_group("gloo", timeout=timedelta(days=1))
    answers, entries = Answers(folder, settings), {}
    if RANK == 0:
        entries, moved = answers.gather()
        if moved:
            say(f"{folder} held answers of other settings or of another checkpoint; they are now in {moved}")
    entries = share(entries)
    wanted = [(*cell, trial) for trial in range(args.trials) for cell in cells]
    todo = [one for one in wanted if "error" in entries.get(one, {"error": None})]
    if len(todo) < len(wanted):
        say(f"{folder}: {len(wanted) - len(todo)} of {len(wanted)} answers are there")

    # --- the prompts and the answers
    try:
        if todo or args.save_contexts:
            prompts = Prompts(
                engine.tokenizer,
                build_haystack(engine.tokenizer, texts, max(args.lengths)),
                STYLES[args.template].template,
                args.max_new_tokens,
            )
            if max(args.lengths) > prompts.haystack.unit:
                say(f"the haystack has {prompts.haystack.unit} tokens; it is repeated for longer prompts")
        if args.save_contexts and RANK == 0:
            save_contexts(args, prompts, facts, names, cells)
        if todo:
            say(f"{args.model}: {about['method']}, {engine.name}, {engine.dtype}, {WORLD} process(es)")
            work(args, engine, prompts, facts, names, todo, entries, answers, run)
    except (ValueError, OSError) as reason:
        fail(str(reason))
    answers.close()
    if WORLD > 1:
        dist.barrier()
        dist.destroy_process_group()
    if RANK == 0:
        entries, _ = answers.gather()
        report(args, folder, [entries[one] for one in wanted], run)


def command(api_key: str | None) -> str:
    """The command line, without the key."""
    hidden = {api_key: "***", f"--api_key={api_key}": "--api_key=***"}
    return shlex.join(["python", *(hidden.get(word, word) for word in sys.argv)])


def report(args: argparse.Namespace, folder: Path, entries: list[dict], run: dict):
    """Writes all cells once more (a kill may have come before one was), says the mean score, and what failed."""
    for cell in sorted({key(entry)[:2] for entry in entries}):
        write_cell(folder, [e for e in entries if key(e)[:2] == cell], args.protocol == "lceg", run)
    good = [entry for entry in entries if "error" not in entry]
    if good:
        n, total, exact = len(good), sum(e["score"] for e in good), sum(e["exact"] for e in good)
        low, high = wilson(total, n)
        computed, whole = sum(e["prefilled_tokens"] for e in good), sum(e["prompt_tokens"] for e in good)
        seconds = sum(entry["seconds"] for entry in good)
        spared = f"; computed {computed:,.0f} of the prompts' {whole:,} tokens" if computed else ""
        say(f"{folder}: score {total / n:.3f} [{low:.3f}, {high:.3f}], exact {exact}/{n}, {seconds:.0f} s{spared}")
    if len(good) < len(entries):
        lengths = sorted({entry["length"] for entry in entries if "error" in entry})
        fail(
            f"{len(entries) - len(good)} of {len(entries)} prompts ran out of memory, at lengths {lengths}; the others "
            "are recorded. The same command tries them again: give a smaller --prefill_chunk, or --cache_on_cpu"
        )


if __name__ == "__main__":
    main()
