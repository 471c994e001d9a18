"""Peak memory of a checkpoint at growing lengths: does its attention cost memory by the token or by the token squared?

    python benchmarks/attention_memory.py --model_path OUT --trust_remote_code                  (one CPU)
    python benchmarks/attention_memory.py --model_path OUT --trust_remote_code --device cuda \\
        --lengths 4096 8192 16384 32768                                                        (one GPU, bfloat16)

For each length, in a process of its own: the hidden states of one text of random tokens, given whole without a cache
(as perplexity is measured) and in two halves with a cache (as the engine reads a long prompt). Peak memory is above
what was held before: on a GPU what PyTorch allocated, on a CPU resident memory, sampled every millisecond. The last
line gives the exponent p of memory ~ length^p between the first and the last length: 1 is linear.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))
from attention import CACHED  # noqa: E402

WAYS = {"whole": 1, "in two halves": 2}


class PeakMemory:
    """Peak memory above its start, bytes, while the `with` block runs: `extra`. Also its `seconds`."""

    def __init__(self, device: torch.device):
        self.device, self.process = device, psutil.Process()

    def held(self) -> int:
        return self.process.memory_info().rss

    def __enter__(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        else:
            self.start = self.peak = self.held()
            self.running, self.thread = True, threading.Thread(target=self.sample)
            self.thread.start()
        self.began = time.perf_counter()
        return self

    def sample(self):
        while self.running:
            self.peak = max(self.peak, self.held())
            time.sleep(0.001)

    def __exit__(self, *_):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.peak = torch.cuda.max_memory_allocated()
        else:
            self.running = False
            self.thread.join()
        self.seconds = time.perf_counter() - self.began
        self.extra = self.peak - self.start


@torch.inference_mode()
def read(model, ids_BL: torch.Tensor, pieces: int) -> bool:
    """Hidden states of ids_BL, int64 [1, L], given in `pieces`, with a cache if more than one; True if all finite."""
    cache, finite = None, True
    for piece_BL in ids_BL.chunk(pieces, dim=1):
        done = model.base_model(input_ids=piece_BL, past_key_values=cache, use_cache=pieces > 1)
        cache = done.past_key_values
        finite &= bool(done.last_hidden_state[:, -1].isfinite().all())
    return finite


def measure(args: argparse.Namespace) -> dict:
    """One length in one way, in this process: extra bytes, seconds, whether the hidden states were finite."""
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    options = {"trust_remote_code": args.trust_remote_code, "use_safetensors": True, "dtype": dtype}
    model = AutoModelForCausalLM.from_pretrained(args.model_path, **options).eval().to(device)
    if not args.trust_remote_code:  # a plain checkpoint: what the engine runs it with
        model.set_attn_implementation(CACHED)
    generator = torch.Generator().manual_seed(0)
    ids_BL = torch.randint(5, model.config.vocab_size, (1, args.lengths[0]), generator=generator).to(device)
    read(model, ids_BL[:, :256], WAYS[args.way])  # libraries and thread pools are not the text's memory
    with PeakMemory(device) as memory:
        finite = read(model, ids_BL, WAYS[args.way])
    return {"bytes": memory.extra, "seconds": memory.seconds, "finite": finite}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", required=True, help="checkpoint folder")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192, 16384], help="tokens")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="cpu (float32) or cuda (bfloat16)")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the modeling file inside the checkpoint")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)  # measure this one, print JSON
    args = parser.parse_args()
    if args.way:
        return print(json.dumps(measure(args)))
    if min(args.lengths) < 2:
        sys.exit("error: --lengths takes numbers of tokens above 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no GPU here; leave --device out to measure on the CPU")
    folder = Path(args.model_path)
    if not (folder / "config.json").is_file():
        sys.exit(f"error: {folder} is no checkpoint folder: it has no config.json")
    if "auto_map" in json.loads((folder / "config.json").read_text()) and not args.trust_remote_code:
        sys.exit(f"error: {folder} brings its own modeling code; read it, then add --trust_remote_code")
    config = AutoConfig.from_pretrained(args.model_path, trust_remote_code=args.trust_remote_code)

    method = (getattr(config, "context_extension", None) or {"method": "base"})["method"]
    device = f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    print(f"{method}: {config.num_hidden_layers} layers, hidden {config.hidden_size}")
    print(torch.cuda.get_device_name() if args.device == "cuda" else device, end="; ")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}\n")
    print("| tokens |" + "".join(f" {way}, MiB | KiB per token | s |" for way in WAYS) + "\n" + "|---" * 7 + "|")
    found = {way: [] for way in WAYS}
    for length in args.lengths:
        row = f"| {length} |"
        for way in WAYS:
            command = [sys.executable, __file__, "--model_path", args.model_path, "--device", args.device, "--way", way]
            command += ["--trust_remote_code"] * args.trust_remote_code + ["--lengths", str(length)]
            # glibc: freed memory goes back at once, so that resident memory is what is held
            env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            done = subprocess.run(command, capture_output=True, text=True, env=env)
            if done.returncode:
                sys.exit(f"error: {length} tokens {way} failed:\n{done.stderr[-2000:]}")
            one = json.loads(done.stdout.splitlines()[-1])
            if not one["finite"]:
                sys.exit(f"error: hidden states are not finite at {length} tokens {way}")
            found[way].append(max(1, one["bytes"]))
            row += f" {one['bytes'] / 2**20:.1f} | {one['bytes'] / 2**10 / length:.2f} | {one['seconds']:.2f} |"
        print(row, flush=True)
    if len(args.lengths) > 1 and args.lengths[0] != args.lengths[-1]:
        stretch = math.log(args.lengths[-1] / args.lengths[0])
        growth = [f"{way} {math.log(sizes[-1] / sizes[0]) / stretch:.2f}" for way, sizes in found.items()]
        print(f"\nmemory ~ length^p, p: {', '.join(growth)}")


if __name__ == "__main__":
    main()
