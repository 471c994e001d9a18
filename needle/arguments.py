"""The flags of needle_in_haystack.py, and the grid that they ask for."""

import argparse
import os
from pathlib import Path

import numpy as np

from facts import STYLES
from ranks import fail

LENGTHS = np.round(np.linspace(1000, 128000, 40)).astype(int).tolist()
DEPTHS = np.round(np.linspace(0, 100, 10)).astype(int).tolist()
PROVIDERS = {"llama": "transformers", "transformers": "transformers", "vllm": "vllm", "openai": "openai"}


def parse_args(description: str) -> argparse.Namespace:
    """The command line, with `provider`, `model` and the whole grid filled in; ends with one line where it is wrong."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model")
    model.add_argument("--model_path", help="checkpoint folder or hub id; with openai: where the tokenizer is")
    model.add_argument("--model_name", help="a hub id in place of --model_path; with openai: the server's name for it")
    model.add_argument("--model_provider", default="LLaMA", help="LLaMA (Transformers), vllm or openai [LLaMA]")
    model.add_argument("--trust_remote_code", action="store_true", help="run modeling code that the checkpoint brings")
    model.add_argument("--base_url", help="openai: the server's address, with /v1")
    model.add_argument("--api_key", default=os.environ.get("OPENAI_API_KEY"), help="openai [$OPENAI_API_KEY]")
    grid = parser.add_argument_group("grid")
    grid.add_argument("-s", "--s_len", type=int, default=0, help="shortest of the 40 lengths, tokens [0]")
    grid.add_argument("-e", "--e_len", type=int, default=128000, help="longest of the 40 lengths, tokens [128000]")
    grid.add_argument("--lengths", type=int, nargs="+", help="lengths in place of those, tokens")
    grid.add_argument("--depths", type=float, nargs="+", help="percent [0 11 22 33 44 56 67 78 89 100]")
    grid.add_argument("--trials", type=int, default=1, help="prompts a cell; from the second, drawn facts [1]")
    grid.add_argument("--allow_beyond", action="store_true", help="go beyond the length that the checkpoint declares")
    text = parser.add_argument_group("text")
    text.add_argument("--haystack_dir", type=Path, help="folder of .txt files [help pages of this Python, a stand-in]")
    text.add_argument("--template", choices=STYLES, default="book", help="[book]; passkey: the line of the pocket base")
    text.add_argument("--needle", help="[the paper's]; with {key} and {number}, drawn anew for each prompt")
    text.add_argument("--question", help="[the paper's]")
    text.add_argument("--answer", help="what must be found, contained in the needle [the paper's]")
    text.add_argument("--needles", type=int, default=1, help="drawn facts in a prompt, all asked for [1]")
    text.add_argument("--seed", type=int, default=0, help="of the drawn facts [0]")
    run = parser.add_argument_group("run")
    run.add_argument("--test_name", help="name of the results [the checkpoint's]")
    run.add_argument("--model_name_suffix", default="", help="put behind that name")
    run.add_argument("--output_dir", type=Path, default=Path("results"), help="[results]")
    run.add_argument("--protocol", choices=["share", "lceg"], default="share", help="lceg: its two scores as well")
    run.add_argument("--save_contexts", action="store_true", help="first trials, to contexts/ beside the results")
    run.add_argument("--max_new_tokens", type=int, default=50, help="longest answer [50]")
    run.add_argument("--prefill_chunk", type=int, default=2048, help="prompt tokens in one forward pass [2048]")
    run.add_argument("--cache_on_cpu", action="store_true", help="keep keys and values in CPU memory")
    run.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="[auto]")
    run.add_argument("--tensor_parallel_size", type=int, default=1, help="vllm: GPUs for one model [1]")
    args = parser.parse_args()

    args.provider = PROVIDERS.get(args.model_provider.lower())
    if not args.provider:
        fail(f"--model_provider {args.model_provider}: LLaMA (any local checkpoint), vllm or openai")
    if args.provider == "openai" and not (args.base_url and args.model_name and args.model_path):
        fail(
            "--model_provider openai needs --base_url (such as http://localhost:8000/v1), --model_name (the server's "
            "name for the model) and --model_path (folder or hub id with its tokenizer, to count tokens)"
        )
    if args.provider != "openai" and bool(args.model_path) == bool(args.model_name):
        fail("give --model_path (a checkpoint folder), or --model_name (a hub id)")
    args.model = (args.model_name if args.provider == "openai" else None) or args.model_path or args.model_name
    args.test_name = (args.test_name or Path(args.model).resolve().name) + args.model_name_suffix
    if "/" in args.test_name or ".old" in args.test_name:
        fail(f"--test_name {args.test_name}: it names a folder and files, so no / and no .old")
    args.lengths = args.lengths or [n for n in LENGTHS if args.s_len <= n <= args.e_len]
    args.depths = [int(d) if d == int(d) else d for d in args.depths or DEPTHS]
    if not args.lengths:
        fail(f"none of the 40 lengths from 1000 to 128000 lies in [{args.s_len}, {args.e_len}]; give --lengths")
    if not all(0 <= depth <= 100 for depth in args.depths):
        fail("--depths are percent, 0 to 100")
    for flag in ("lengths", "depths"):
        if len(set(getattr(args, flag))) < len(getattr(args, flag)):
            fail(f"--{flag} names a value twice")
    for flag in ("trials", "needles", "max_new_tokens", "tensor_parallel_size"):
        if getattr(args, flag) < 1:
            fail(f"--{flag} {getattr(args, flag)}: must be at least 1")
    if args.haystack_dir and not args.haystack_dir.exists():
        fail(f"no haystack folder {args.haystack_dir}; leave --haystack_dir out for the stand-in text")
    return args
