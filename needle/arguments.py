"""The flags of needle_in_haystack.py, and the grid and the checkpoints that they name."""

import argparse
import os
from pathlib import Path

import numpy as np

from answers import add_engine_flags, check_engine_flags
from checkpoint import checkpoint_name
from facts import STYLES

LENGTHS = np.round(np.linspace(1000, 128000, 40)).astype(int).tolist()
DEPTHS = np.round(np.linspace(0, 100, 10)).astype(int).tolist()
PROVIDERS = {"llama": "transformers", "transformers": "transformers", "vllm": "vllm", "openai": "openai"}


def parse_args(description: str) -> argparse.Namespace:
    """The command line, with `lengths` and `depths` filled in and these additions:

    engine: "transformers", "vllm" or "openai".  models: folders, hub ids or a server's name.
    test_names: {model: name of its results}.

    Raises ValueError if flags do not fit together.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model")
    paths = "checkpoint folders or hub ids; openai: one with the tokenizer"
    model.add_argument("--model_path", nargs="+", required=True, help=paths)
    providers = {"choices": PROVIDERS, "default": "LLaMA", "type": str.lower}
    model.add_argument("--model_provider", **providers, help="LLaMA (Transformers), vllm or openai [LLaMA]")
    model.add_argument("--model_name", help="openai: the server's name of the model")
    model.add_argument("--base_url", help="openai: address of the server, up to and including /v1")
    model.add_argument("--api_key", default=os.environ.get("OPENAI_API_KEY"), help="openai [$OPENAI_API_KEY]")
    grid = parser.add_argument_group("grid")
    grid.add_argument("-s", "--s_len", type=int, default=0, help="shortest of the 40 lengths, tokens [0]")
    grid.add_argument("-e", "--e_len", type=int, default=128000, help="longest of the 40 lengths, tokens [128000]")
    grid.add_argument("--lengths", type=int, nargs="+", help="other lengths, tokens")
    grid.add_argument("--depths", type=float, nargs="+", default=DEPTHS, help=f"percent {DEPTHS}")
    grid.add_argument("--trials", type=int, default=1, help="prompts per cell; all but the first draw their fact [1]")
    grid.add_argument("--allow_beyond", action="store_true", help="measure lengths that a checkpoint does not declare")
    text = parser.add_argument_group("text")
    text.add_argument("--haystack_dir", type=Path, help="folder of .txt files [help pages of Python, a stand-in]")
    text.add_argument("--template", choices=STYLES, default="book", help="[book]; passkey: for the pocket base")
    text.add_argument("--needle", help="text to hide in the first trial [the paper's]")
    text.add_argument("--question", help="[the paper's]")
    text.add_argument("--answer", help="text to find, contained in the needle [the paper's]")
    text.add_argument("--max_new_tokens", type=int, default=50, help="longest answer, tokens [50]")
    text.add_argument("--seed", type=int, default=0, help="seed for the drawn facts [0]")
    result = parser.add_argument_group("result")
    result.add_argument("--test_name", help="name of the results [the checkpoint's name]")
    result.add_argument("--output_dir", type=Path, default=Path("results"), help="[results]")
    protocols = {"choices": ["share", "lceg"], "default": "share"}
    result.add_argument("--protocol", **protocols, help="lceg: also the two scores of LCEG [share]")
    add_engine_flags(parser)
    args = parser.parse_args()

    args.engine = PROVIDERS[args.model_provider]
    check_engine_flags(args, args.engine)
    choose_models(args)
    if args.lengths is None:
        args.lengths = [length for length in LENGTHS if args.s_len <= length <= args.e_len]
    if not args.lengths:
        raise ValueError(f"none of the 40 lengths (1000 to 128000) is in [{args.s_len}, {args.e_len}]; use --lengths")
    args.lengths = sorted(set(args.lengths))
    args.depths = [int(depth) if depth == int(depth) else depth for depth in sorted(set(args.depths))]
    if args.depths[0] < 0 or args.depths[-1] > 100:
        raise ValueError("--depths are percent, 0 to 100")
    if args.trials < 1:
        raise ValueError(f"--trials {args.trials}: must be at least 1")
    return args


def choose_models(args: argparse.Namespace) -> None:
    """Sets `models` and `test_names`. Raises ValueError if flags are missing or names coincide."""
    args.models = args.model_path
    if args.engine == "openai":
        if not args.base_url or not args.model_name or len(args.model_path) > 1:
            raise ValueError("--model_provider openai needs --base_url, --model_name and one --model_path (tokenizer)")
        args.models = [args.model_name]
    names = [args.test_name or checkpoint_name(model) for model in args.models]
    if len(set(names)) < len(names):
        raise ValueError(f"checkpoints have the same name ({' '.join(names)}); run them apart, with --test_name")
    args.test_names = dict(zip(args.models, names, strict=True))
