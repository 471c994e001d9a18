"""The flags of pred.py, and what they and config/ say of the model."""

import argparse
import json
from pathlib import Path

from ranks import WORLD, fail
from sets import LONGBENCH_E, SETS

STAGE = Path(__file__).resolve().parent


def parse_args(description: str) -> argparse.Namespace:
    """The command line, with `model` (the name of the results), `model_path`, `dataset_name` and, where config/ has it,
    `max_length` filled in; ends with one line where it is wrong."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model")
    model.add_argument("--model", help="a name of config/model2path.json; with --model_path: name of the results")
    model.add_argument("--model_path", help="checkpoint folder or hub id")
    model.add_argument("--trust_remote_code", action="store_true", help="run modeling code that the checkpoint brings")
    data = parser.add_argument_group("data")
    data.add_argument("--dataset_name", nargs="+", help="sets, trec_<N>shots, standin_<set> [LongBench's 16]")
    data.add_argument("--e", action="store_true", help="LongBench-E [its 13 sets]")
    data.add_argument("--data_dir", type=Path, default=STAGE / "data", help="folder of <set>.jsonl [data]")
    data.add_argument("--limit", type=int, help="rows of each set, drawn; more rows go on from fewer [all]")
    data.add_argument("--seed", type=int, default=42, help="of that draw [42]")
    protocol = parser.add_argument_group("protocol")
    protocol.add_argument("--max_length", type=int, help="window, tokens [config/model2maxlen.json, the checkpoint's]")
    protocol.add_argument("--max_new_tokens", type=int, help="cut the sets' own lengths of answers to so many tokens")
    protocol.add_argument(
        "--protocol",
        choices=["inside", "lceg"],
        default="inside",
        help="inside: prompt and answer within --max_length; lceg: the prompt alone, as in the paper's code [inside]",
    )
    run = parser.add_argument_group("run")
    run.add_argument("--output_dir", type=Path, default=STAGE, help="where pred/, pred_e/, pred_trec/ stand [here]")
    run.add_argument("--engine", choices=["transformers", "vllm"], default="transformers", help="[transformers]")
    run.add_argument("--batch_size", type=int, default=16, help="answers decoded together, if memory allows [16]")
    run.add_argument("--prefill_chunk", type=int, default=2048, help="prompt tokens in one forward pass [2048]")
    run.add_argument("--cache_on_cpu", action="store_true", help="keep keys and values in CPU memory")
    run.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="[auto]")
    run.add_argument("--tensor_parallel_size", type=int, default=1, help="vllm: GPUs for one model [1]")
    args = parser.parse_args()

    if not args.model and not args.model_path:
        fail("give --model_path (a checkpoint folder or hub id) or --model (a name of config/model2path.json)")
    if not args.model_path:
        paths = read_config("model2path.json")
        if args.model not in paths:
            fail(f"--model {args.model} is not in config/model2path.json, which has {' '.join(paths)}; or --model_path")
        path = paths[args.model]
        args.model_path = str((STAGE / path).resolve()) if path.startswith("..") else path
    if args.max_length is None:
        args.max_length = read_config("model2maxlen.json").get(args.model)
    args.model = args.model or Path(args.model_path).resolve().name
    if "/" in args.model or args.model in ("", ".", ".."):
        fail(f"--model {args.model}: it names a folder of results, so no /")
    if args.engine == "vllm" and WORLD > 1:
        fail("--engine vllm is one process, not torchrun's: give --tensor_parallel_size, or GPUS to eval.sh")
    for flag in ("limit", "max_length", "max_new_tokens", "batch_size", "tensor_parallel_size"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            fail(f"--{flag} {getattr(args, flag)}: must be at least 1")
    args.dataset_name = list(dict.fromkeys(args.dataset_name or (LONGBENCH_E if args.e else SETS)))
    return args


def read_config(name: str) -> dict:
    """A file of config/. Ends with one line if it cannot be read."""
    path = STAGE / "config" / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        fail(f"cannot read {path}: {reason}")
