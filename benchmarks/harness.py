"""What the benchmarks share: model shapes, the time and memory of a call, and the rows of a report.

python benchmarks/harness.py        prints the machine and the versions of what the figures depend on
"""

import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("common", "continuous_finetuning", "common/tests")]
from attention import choose_attention  # noqa: E402
from run import default_device, first_line, out_of_memory, peak_memory, release_memory, reset_peak_memory  # noqa: E402

DEVICE = default_device()
CUDA = DEVICE.type == "cuda"
DTYPE = "bfloat16" if CUDA else "float32"
FASTEST_ATTENTION = choose_attention("auto", DEVICE, DTYPE)
ATTENTIONS = ["sdpa"] if FASTEST_ATTENTION == "sdpa" else ["sdpa", FASTEST_ATTENTION]
SHAPES = {  # what differs from LlamaConfig's defaults, which are those of Llama-2-7B
    "tiny": dict(hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4, vocab_size=258),
    "7b": dict(),
}
PACKAGES = ("torch", "transformers", "deepspeed", "liger-kernel", "flash-attn", "flash-attn-3", "flash-attn-4", "vllm")


def model_config(shape: str, window: int) -> LlamaConfig:
    """A Llama of one of SHAPES, without EOS, so that answers never end early. window: tokens."""
    return LlamaConfig(**SHAPES[shape], max_position_embeddings=window, eos_token_id=None)


def random_model(config: LlamaConfig, attention: str = "sdpa", model_class=LlamaForCausalLM):
    """A model with random weights, created on the device: bfloat16 on a GPU, float32 on a CPU."""
    torch.manual_seed(0)
    config._attn_implementation = attention
    torch.set_default_dtype(getattr(torch, DTYPE))
    with DEVICE:
        model = model_class(config)
    torch.set_default_dtype(torch.float32)
    return model.eval()


def fastest(function: Callable, repetitions: int = 2) -> float:
    """Seconds of the fastest call of function()."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        if CUDA:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def print_row(*cells) -> None:
    """One row of a Markdown table; floats get one decimal."""
    texts = [f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in cells]
    print(f"| {' | '.join(texts)} |", flush=True)


def print_head(*titles) -> None:
    print_row(*titles)
    print_row(*["---"] * len(titles))


def measure(label: list, function: Callable, *args, **options) -> None:
    """Prints a row: the label, the values that the function returns and the peak memory in GiB; or why it failed."""
    release_memory()
    reset_peak_memory(DEVICE)
    try:
        print_row(*label, *function(*args, **options), peak_memory(DEVICE) / 2**30)
    except (RuntimeError, MemoryError, ValueError, ImportError) as error:
        print_row(*label, "out of memory" if out_of_memory(error) else first_line(error))


def describe_machine() -> str:
    """The card or the CPU, and the versions of what the figures depend on."""
    cpu = f"CPU, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), threads {torch.get_num_threads()}"
    parts = [torch.cuda.get_device_name() if CUDA else cpu, f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"no {name}")
    return ", ".join(parts)


if __name__ == "__main__":
    print(describe_machine())
