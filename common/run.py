"""What every evaluation does beside its work: ranks, printing, files, versions, memory, errors.

Under torchrun the ranks share the prompts or windows and exchange only a few bytes of bookkeeping, over gloo.

torch is imported where it is used, so that scripts without a model start in a tenth of the time.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    import torch

RANK = int(os.environ.get("RANK", 0))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))


# --- ranks
def print_rank0(message: str) -> None:
    """Prints on rank 0 only."""
    if RANK == 0:
        print(message, flush=True)


def warn_rank0(message: str) -> None:
    """Prints to stderr on rank 0 only."""
    if RANK == 0:
        print(message, file=sys.stderr, flush=True)


def start_ranks() -> None:
    """Joins the process group, if there are several ranks and this process has not joined yet."""
    if WORLD_SIZE > 1:
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=timedelta(days=1))


def stop_ranks() -> None:
    """Leaves the process group."""
    if WORLD_SIZE > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def barrier() -> None:
    """Waits until every rank has arrived."""
    if WORLD_SIZE > 1:
        import torch.distributed as dist

        dist.barrier()


def broadcast(value):
    """Returns rank 0's value on every rank."""
    if WORLD_SIZE == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_all(value) -> list:
    """Returns the values of all ranks, in the order of the ranks, on every rank."""
    if WORLD_SIZE == 1:
        return [value]
    import torch.distributed as dist

    values = [None] * WORLD_SIZE
    dist.all_gather_object(values, value)
    return values


# --- errors
def exit_with_error(message: str) -> None:
    """Ends the process with `error: message` and status 1.

    Under torchrun the other ranks wait a little, so that only rank 0 prints before torchrun ends them all.
    """
    if RANK > 0:
        time.sleep(10)
    sys.exit(f"error: {message}")


def run_script(main: Callable[[], None]) -> None:
    """Runs an entry script. A ValueError or OSError ends it with one line and status 1."""
    try:
        main()
    except (ValueError, OSError) as error:
        exit_with_error(str(error))
    except KeyboardInterrupt:
        print("stopped; rerun the same command to resume", file=sys.stderr)
        sys.exit(130)


def for_each_checkpoint(checkpoints: list, evaluate: Callable) -> None:
    """Calls `evaluate(checkpoint)` for one checkpoint after the other; frees its memory before the next.

    A checkpoint that fails with a ValueError or OSError is reported and the others are still evaluated; the process
    then exits with status 1. With one checkpoint, or under torchrun, where the other ranks may already wait for this
    one, the first error ends the run.
    """
    failed = []
    for checkpoint in checkpoints:
        try:
            evaluate(checkpoint)
        except (ValueError, OSError) as error:
            if len(checkpoints) == 1 or WORLD_SIZE > 1:
                raise
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed.append(str(checkpoint))
        release_memory()
    if failed:
        exit_with_error(f"{len(failed)} of {len(checkpoints)} checkpoints failed: {' '.join(failed)}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


# --- files
def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that a kill leaves either the old content or the new. Creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Writes text, UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: dict) -> None:
    """Writes JSON as `write_text` does. Raises ValueError on NaN or infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict | None:
    """The JSON object in a file; None if there is no such file or no complete object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


# --- what a result says about its run
def run_key(settings: dict) -> str:
    """16 hex digits that identify the settings of a run."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, torch, transformers and the further packages named."""
    found = {"python": platform.python_version()}
    for package in ("torch", "transformers", *packages):
        found[package] = importlib.metadata.version(package)
    return found


def command_line(secret: str | None = None) -> str:
    """The command as typed, with `secret` (an API key) replaced by ***."""
    line = shlex.join(["python", *sys.argv])
    return line.replace(secret, "***") if secret else line


# --- devices
def default_device() -> torch.device:
    """This rank's GPU, or the CPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def reset_peak_memory(device: torch.device | None) -> None:
    """Starts a new measurement of `peak_memory`. Does nothing before CUDA is initialised: nothing is allocated yet."""
    if device is not None and device.type == "cuda":
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device | None) -> int | None:
    """Bytes: the GPU's peak since `reset_peak_memory`, or on a CPU the peak resident memory of this process.

    None without a device, where another process or machine holds the model.
    """
    if device is None:
        return None
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) if torch.cuda.is_initialized() else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def release_memory() -> None:
    """Frees what a model that is no longer used has left, so that the next one finds its memory."""
    if "torch" not in sys.modules:
        return
    import torch

    gc.collect()  # a model holds references to itself
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that a GPU's or the CPU's memory is full."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def progress_bar(total: int, description: str, unit: str) -> tqdm:
    """A progress bar on rank 0: live in a terminal, a line now and then in a log."""
    interval = 0.1 if sys.stderr.isatty() else 15
    return tqdm(total=total, desc=description, unit=unit, disable=RANK > 0 or total == 0, mininterval=interval)
