"""What the benchmarks print: the rows of their tables, and the machine.

python benchmarks/machine.py        prints the machine and the versions of what the figures depend on
"""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("common", "continuous_finetuning", "common/tests", "eval_perplexity")  # of what the benchmarks import
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]
PACKAGES = ("torch", "transformers", "deepspeed", "liger-kernel", "flash-attn", "flash-attn-3", "flash-attn-4", "vllm")


def print_row(*cells) -> None:
    """One row of a Markdown table; floats get one decimal."""
    texts = [f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in cells]
    print("|", " | ".join(texts), "|", flush=True)


def print_head(*titles) -> None:
    print_row(*titles)
    print_row(*["---" for _ in titles])


def describe_machine() -> str:
    """The card or the CPU, and the versions of what the figures depend on."""
    load, _, _ = os.getloadavg()
    device = f"CPU, {os.cpu_count()} cores (load {load:.1f}), threads {torch.get_num_threads()}"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    parts = [device, f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"no {name}")
    return ", ".join(parts)


if __name__ == "__main__":
    print(describe_machine())
