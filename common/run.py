"""What the scripts share besides their own work: ranks, errors, files, versions, memory.

torch is imported where it is used, because scripts without a model start ten times faster without it.
"""

import argparse
import atexit
import contextlib
import gc
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import resource
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path


def read_variable(name: str, default: int) -> int:
    """The number in an environment variable that torchrun sets."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        sys.exit(f"error: the environment variable {name} is '{text}', not a number; unset it or use torchrun")
    return int(text)


RANK = read_variable("RANK", 0)
WORLD_SIZE = read_variable("WORLD_SIZE", 1)
LOCAL_RANK = read_variable("LOCAL_RANK", 0)

# besides ValueError and OSError, the errors of these packages come from what the user has given
INPUT_PACKAGES = ("datasets", "huggingface_hub", "jinja2", "pyarrow", "safetensors", "yaml", "zipfile")


# --- ranks
def print_rank0(message: str, file=None) -> None:
    """Prints on rank 0. A closed terminal, as when ssh ends, or a full disk of a log does not end the run."""
    if RANK == 0:
        with contextlib.suppress(OSError):
            print(message, file=file, flush=True)


def warn_rank0(message: str) -> None:
    print_rank0(message, sys.stderr)


def broadcast(value):
    """Rank 0's value, on every rank, when all have arrived. The first call joins the process group."""
    if WORLD_SIZE == 1:
        return value
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(days=1))
        atexit.register(dist.destroy_process_group)
    values = [None] * WORLD_SIZE
    dist.all_gather_object(values, value)
    return values[0]


def barrier() -> None:
    """Waits until every rank has arrived."""
    broadcast(None)


# --- errors
class Parser(argparse.ArgumentParser):
    """A parser whose --help begins with the script's docstring, and whose errors are one line.

    A flag of type Path cannot be empty: that would be the current folder.
    """

    def __init__(self, description: str):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)
        self.register("type", Path, nonempty_path)

    def error(self, message: str):
        message = re.sub(r"(--\w+)[= ](?!-)\S+", r"\1 ...", message)  # the value may be a key
        exit_with_error(f"{message} (--help lists the flags)")


def nonempty_path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give a path")
    return Path(text)


def exit_with_error(message: str) -> None:
    """Exits with status 1 after printing `error: message`."""
    if RANK > 0:
        time.sleep(10)  # torchrun stops all ranks as soon as rank 0 has printed
    end_progress_bars()
    sys.exit(f"error: {message}")


def run_script(main: Callable[[], None]) -> None:
    """Runs an entry script. An error ends it with one line and status 1; SHOW_TRACEBACK=1 prints its traceback, too."""
    try:
        main()
    except KeyboardInterrupt:
        end_progress_bars()
        print("stopped; rerun the same command to resume", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("SHOW_TRACEBACK"):
            traceback.print_exc()
        exit_with_error(explain(error))


def explain(error: BaseException) -> str:
    """One line about an error; one that is not about the input (flags, files) leaves its traceback in a file."""
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is missing; install it with: pip install -r requirements.txt"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}; check the path, its permissions and the free space"
    if out_of_memory(error):
        return f"out of memory: {first_line(error)}"
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, RuntimeError) and ("inline_container" in message or "iostream" in message):  # torch.save
        return f"a file could not be written in full; check the free space ({first_line(error)})"
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, (ValueError, OSError, ImportError)) or package in INPUT_PACKAGES:
        return message
    path = Path(tempfile.gettempdir()) / f"traceback-{os.getpid()}.txt"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return f"unexpected {type(error).__name__}: {message[:200]}; the traceback is in {path}"


def report_import_error(kind, error, trace) -> None:
    """One line instead of a traceback if a package is missing that a script imports before `run_script`."""
    if not issubclass(kind, ModuleNotFoundError):
        return sys.__excepthook__(kind, error, trace)
    print(f"error: {explain(error)}", file=sys.stderr)


sys.excepthook = report_import_error


def end_progress_bars() -> None:
    """Begins a new line below the bars."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    for bar in list(getattr(tqdm, "_instances", [])):
        bar.close()


def for_each_checkpoint(checkpoints: list, evaluate: Callable) -> None:
    """Calls `evaluate(checkpoint)` for each checkpoint in turn, and frees its memory before the next.

    After an error the others are still evaluated; then the process exits with status 1. Under torchrun, where the other
    ranks would wait forever, the first error ends the run.
    """
    failed = []
    for checkpoint in checkpoints:
        try:
            evaluate(checkpoint)
        except Exception as error:
            if len(checkpoints) == 1 or WORLD_SIZE > 1:
                raise
            end_progress_bars()
            print(f"error: {explain(error)}", file=sys.stderr, flush=True)
            failed.append(str(checkpoint))
        if "torch" in sys.modules:
            release_memory()
    if failed:
        exit_with_error(f"{len(failed)} of {len(checkpoints)} checkpoints failed: {' '.join(failed)}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


@contextlib.contextmanager
def errors_of(action: str):
    """A context in which a library reads a user's file: whatever it raises becomes a ValueError of one line."""
    try:
        yield
    except ModuleNotFoundError:
        raise  # `explain` says how to install it
    except Exception as error:
        line = first_line(error)
        if not isinstance(error, (OSError, ValueError)):  # the text alone says little, such as the name of a key
            line = f"{type(error).__name__}: {line}"
        raise ValueError(f"{action}: {line}") from error


def checkpoint_name(name_or_path: str) -> str:
    """The name of a checkpoint in results: the last part of its path, for `checkpoint-<step>` the last two."""
    path = Path(name_or_path).resolve()
    if re.fullmatch(r"checkpoint-\d+", path.name):
        return f"{path.parent.name}_{path.name}"
    return path.name


def name_results(names: list[str] | None, paths: list[str], flag: str) -> list[str]:
    """The names of results [checkpoint_name of each]. Raises ValueError unless they can name different folders."""
    names = names or list(map(checkpoint_name, paths))
    different = set(names)
    listed = " ".join(names)
    if len(names) != len(paths) or len(different) < len(names):
        raise ValueError(f"{len(paths)} checkpoints need as many different names, not {listed}; give {flag}")
    if "/" in listed or different & {"", ".", ".."}:
        raise ValueError(f"{flag}: the name of a folder cannot contain / or be . or ..: {listed}")
    return names


def int_between(low: int, high: float = math.inf) -> Callable[[str], int]:
    """The type of a flag that is an integer of at least `low`, and at most `high` if that is given."""
    meaning = f"at least {low}" if high == math.inf else f"from {low} to {high}"

    def integer(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value}: must be {meaning}")
        return value

    return integer


positive_int = int_between(1)  # the type of a flag that counts something


# --- files
def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file atomically: a kill leaves the old content or the new. Creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: dict) -> None:
    """Replaces a file by JSON. Raises ValueError on NaN or infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises ValueError, which names the file, on other bytes."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None


def read_json(path: Path) -> dict | None:
    """The JSON object in a file; None if the file is missing, incomplete, or contains something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def check_types(record: dict, types: dict, source: str) -> None:
    """Raises ValueError, which names the source, unless the values with these keys have their types or are None."""
    for key, kind in types.items():
        if not isinstance(record.get(key), kind | None):
            raise ValueError(f"{source} has {key} = {record[key]!r}")


# --- what a result records about its run
def run_key(settings: dict) -> str:
    """16 hex digits that identify the settings of a run."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, torch, transformers and the given packages."""
    names = ("torch", "transformers", *packages)
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def command_line() -> str:
    """The command as typed, without the value of --api_key."""
    line = shlex.join(["python", *sys.argv])
    return re.sub(r"(--api_key[= ])\S+", r"\1***", line)


def progress_bar(total: int, description: str, unit: str):
    """A tqdm bar on rank 0; in a log it prints a line every 15 seconds."""
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else 15
    return tqdm(total=total, desc=description, unit=unit, disable=RANK > 0 or total == 0, mininterval=interval)


# --- devices
def default_device():
    """The torch.device of this rank's GPU, or of the CPU without any. Raises ValueError if there are too few GPUs."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    if LOCAL_RANK >= torch.cuda.device_count():
        raise ValueError(f"more processes than the {torch.cuda.device_count()} GPUs of this machine; set NPROC")
    return torch.device("cuda", LOCAL_RANK)


def reset_peak_memory(device) -> None:
    """Restarts the measurement of `peak_memory`; before CUDA is initialised nothing is allocated yet."""
    import torch

    if device is not None and device.type == "cuda" and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device) -> int | None:
    """Peak memory in bytes: of a GPU since `reset_peak_memory`, of this process on a CPU; None without a device."""
    import torch

    if device is None:
        return None
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) if torch.cuda.is_initialized() else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def release_memory() -> None:
    """Frees the memory of a model that is no longer used."""
    import torch

    gc.collect()  # a model refers to itself
    torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a GPU or CPU is full."""
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    return full or "allocate memory" in str(error)
