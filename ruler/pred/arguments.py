"""The flags of call_api.py."""

import argparse
import os
from pathlib import Path

from ranks import WORLD, fail

SERVERS = ("hf", "vllm", "openai")
REFUSED = {  # documented by RULER, without a meaning here that would keep the promise
    "sliding_window_size": "it belongs to TensorRT-LLM, which is not supported; the window is the checkpoint's own",
    "ssh_server": "open the tunnel yourself (ssh -L 5000:localhost:5000 HOST), then --server_host 127.0.0.1",
    "ssh_key_path": "open the tunnel yourself (ssh -i KEY -L 5000:localhost:5000 HOST)",
}


def parse_args(description: str) -> argparse.Namespace:
    """The command line, with a length for each data folder; ends with one line where it is wrong."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--data_dir", type=Path, nargs="+", required=True, help="folders with <task>/<subset>.jsonl")
    data.add_argument("--save_dir", type=Path, nargs="+", required=True, help="a folder of predictions for each")
    data.add_argument("--max_seq_length", type=int, nargs="+", help="tokens of each [the name of the folder above it]")
    data.add_argument("--benchmark", default="synthetic", help="[synthetic]")
    data.add_argument("--task", nargs="+", help="one or several, by spaces or commas [all of the benchmark]")
    data.add_argument("--subset", default="validation", help="[validation]")
    data.add_argument("--chunk_idx", type=int, default=0, help="which part of the data to answer [0]")
    data.add_argument("--chunk_amount", type=int, default=1, help="of so many; evaluate.py puts them together [1]")
    model = parser.add_argument_group("model")
    model.add_argument("--server_type", default="hf", help="hf, vllm (both in this process) or openai (a server) [hf]")
    model.add_argument("--model_name_or_path", required=True, help="checkpoint folder or hub id; openai: server's name")
    model.add_argument("--model_name", help="its name in the results [the last part of --model_name_or_path]")
    model.add_argument("--trust_remote_code", action="store_true", help="run modeling code that the checkpoint brings")
    model.add_argument("--allow_beyond", action="store_true", help="go beyond the length that the checkpoint declares")
    model.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="[auto]")
    model.add_argument("--tensor_parallel_size", type=int, default=1, help="vllm: GPUs for one model [1]")
    model.add_argument("--server_host", default="127.0.0.1", help="openai: host, or its address with /v1 [127.0.0.1]")
    model.add_argument("--server_port", type=int, default=5000, help="openai [5000]; its key: $OPENAI_API_KEY")
    model.add_argument("--threads", type=int, default=4, help="openai: requests at a time [4]")
    answers = parser.add_argument_group("answers (greedy: of top_k, top_p and the seed they do not depend)")
    answers.add_argument("--temperature", type=float, default=0.0, help="0 is what there is [0]")
    answers.add_argument("--top_k", type=int, default=32, help="accepted, without effect")
    answers.add_argument("--top_p", type=float, default=1.0, help="accepted, without effect")
    answers.add_argument("--random_seed", type=int, default=0, help="accepted, without effect")
    answers.add_argument("--stop_words", default="", help="an answer ends before these; by commas [none]")
    run = parser.add_argument_group("run")
    run.add_argument("--batch_size", type=int, help="hf: most prompts at a time; memory may allow fewer [16]")
    run.add_argument("--prefill_chunk", type=int, default=2048, help="hf: prompt tokens in one forward pass [2048]")
    run.add_argument("--cache_on_cpu", action="store_true", help="hf: keep keys and values in CPU memory")
    for flag in REFUSED:
        parser.add_argument(f"--{flag}", help=argparse.SUPPRESS)
    args = parser.parse_args()

    for flag, why in REFUSED.items():
        if getattr(args, flag) is not None:
            fail(f"--{flag}: {why}")
    if args.server_type not in SERVERS:
        fail(f"--server_type {args.server_type}: {', '.join(SERVERS)} are supported; no TensorRT, NeMo or others")
    if args.temperature != 0:
        fail(f"--temperature {args.temperature}: answers are greedy here, as in RULER's settings; leave it out")
    if len(args.data_dir) != len(args.save_dir):
        fail(f"{len(args.data_dir)} --data_dir, but {len(args.save_dir)} --save_dir; give one for each")
    if args.max_seq_length is None:
        names = [folder.resolve().parent.name for folder in args.data_dir]
        if not all(name.isdecimal() for name in names):
            fail("--max_seq_length is missing (the folder above --data_dir is not named by it)")
        args.max_seq_length = [int(name) for name in names]
    if len(args.max_seq_length) != len(args.data_dir):
        fail(f"{len(args.data_dir)} --data_dir, but {len(args.max_seq_length)} --max_seq_length; give one for each")
    if not 0 <= args.chunk_idx < args.chunk_amount:
        fail(f"--chunk_idx {args.chunk_idx}: there are --chunk_amount {args.chunk_amount} chunks, from 0")
    for flag in ("batch_size", "threads", "tensor_parallel_size"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            fail(f"--{flag} {value}: must be at least 1")
    if args.server_type == "vllm" and WORLD > 1:
        fail("vllm under torchrun: divide its work by --tensor_parallel_size, or --chunk_idx and --chunk_amount")
    args.model_name = args.model_name or Path(args.model_name_or_path).resolve().name
    args.stop = [word for word in args.stop_words.split(",") if word]
    host = args.server_host
    args.base_url = host if host.startswith("http") else f"http://{host}:{args.server_port}/v1"
    args.api_key = os.environ.get("OPENAI_API_KEY")
    return args
