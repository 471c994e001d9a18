"""Scores one long window in two ways and compares time, extra memory and value: the chunked scoring of
eval_perplexity/scoring.py, and the plain loop that holds the logits of the whole window.

    python benchmarks/perplexity_window.py                         (CPU: vocabulary 32,000, window 8,192, small Llama)

The plain loop is model(ids).logits in float32, shifted cross-entropy and argmax. Each variant lives in a process of its
own, so that one's memory is not the other's; both have the same random model and tokens, and they score windows in
turn, so that both see the machine equally busy. Times are compared by the fastest window of each, the one that other
work on the machine disturbed least. Extra memory is the highest peak of a window above what was held just
before the first: resident memory, sampled every 5 ms.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "eval_perplexity"))
import scoring  # noqa: E402


@torch.inference_mode()
def full_logits(model, ids_BL1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss over the targets inside the window and hits at all positions, from the full logits. ids_BL1: [1, L + 1]."""
    logits_BLV = model(input_ids=ids_BL1[:, :-1], use_cache=False).logits.float()
    shifted_NV = logits_BLV[:, :-1].contiguous().flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(shifted_NV, ids_BL1[:, 1:-1].flatten())
    return loss, (logits_BLV.argmax(-1) == ids_BL1[:, 1:]).sum()


def chunked(model, ids_BL1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same two values by eval_perplexity/scoring.py."""
    nll_BL, hit_BL = scoring.score(model, ids_BL1)
    return nll_BL[:, :-1].double().mean(), hit_BL.sum()


class PeakMemory:
    """`peak` of this process's resident memory, bytes, while the `with` block runs."""

    def __enter__(self):
        self.process = psutil.Process()
        self.peak = 0
        self.running = True
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def sample(self):
        while self.running:
            self.peak = max(self.peak, self.process.memory_info().rss)
            time.sleep(0.005)

    def __exit__(self, *_):
        self.running = False
        self.thread.join()


def serve(args: argparse.Namespace):
    """One variant: scores a window for each line on stdin and answers with its seconds, extra bytes, loss and hits."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=args.vocab_size,
        hidden_size=args.hidden_size,
        intermediate_size=2 * args.hidden_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // 64,
        max_position_embeddings=args.seq_len,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    ids_BL1 = torch.randint(args.vocab_size, (1, args.seq_len + 1))
    run = {"full": full_logits, "chunked": chunked}[args.variant]
    run(model, ids_BL1[:, :65])  # thread pools and libraries are not the window's memory
    before = psutil.Process().memory_info().rss
    for _ in sys.stdin:
        with PeakMemory() as memory:
            began = time.perf_counter()
            loss, hits = run(model, ids_BL1)
            seconds = time.perf_counter() - began
        answer = {
            "seconds": seconds,
            "bytes": memory.peak - before,
            "loss": float(loss),
            "hits": int(hits),
        }
        print(json.dumps(answer), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab_size", type=int, default=32000)
    parser.add_argument("--seq_len", type=int, default=8192, help="tokens [8192]")
    parser.add_argument("--hidden_size", type=int, default=64, help="a multiple of 64, the head dimension [64]")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each variant [1]")
    parser.add_argument("--repeats", type=int, default=15, help="windows of each variant after a first one [15]")
    parser.add_argument("--variant", choices=["full", "chunked"], help=argparse.SUPPRESS)  # be that one's process
    args = parser.parse_args()
    if args.variant:
        return serve(args)

    print(
        f"vocabulary {args.vocab_size}, window {args.seq_len}, hidden {args.hidden_size}, layers {args.layers}, float32"
    )
    print(f"CPU, {os.cpu_count()} cores, {args.threads} thread(s), load {os.getloadavg()[0]:.1f}")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {args.repeats} windows each\n")
    words = [sys.executable, *sys.argv, "--variant"]
    variants = {
        name: subprocess.Popen([*words, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("full", "chunked")
    }
    found = {name: [] for name in variants}
    for _ in range(args.repeats + 1):
        for name, process in variants.items():
            process.stdin.write("next\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                sys.exit(f"error: the process of the {name} variant died; is there enough memory?")
            found[name].append(json.loads(answer))
    for process in variants.values():
        process.stdin.close()
        process.wait()

    seconds = {name: sorted(one["seconds"] for one in windows[1:]) for name, windows in found.items()}
    memory = {name: max(one["bytes"] for one in windows) for name, windows in found.items()}
    print("| variant | fastest, s | median, s | slowest, s | extra memory, MiB | loss | hits |\n" + 7 * "|---" + "|")
    for name, times in seconds.items():
        last = found[name][-1]
        cells = [f"{value:.2f}" for value in (times[0], statistics.median(times), times[-1])]
        cells += [f"{memory[name] / 2**20:.0f}", f"{last['loss']:.7f}", str(last["hits"])]
        print("|", " | ".join([name, *cells]), "|")
    fastest, middle = (of(seconds["full"]) / of(seconds["chunked"]) for of in (min, statistics.median))
    full_loss, loss = (found[name][-1]["loss"] for name in ("full", "chunked"))
    print(f"\n{fastest:.2f} times faster ({middle:.2f} by the medians)", end=", ")
    print(f"{memory['chunked'] / memory['full']:.3f} of the extra memory", end=", ")
    print(f"loss differs by {abs(full_loss - loss) / full_loss:.1e} (relative)")


if __name__ == "__main__":
    main()
