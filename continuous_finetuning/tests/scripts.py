"""Runs the stage's scripts in the test's own process: a start of Python takes longer than training a tiny model."""

import contextlib
import io
import itertools
import json
import runpy
import signal
import sys
from pathlib import Path

import pytest
import torch
from accelerate.utils import other

from tiny import STAGE, L

GOLDEN = json.loads((Path(__file__).parent / "golden_losses.json").read_text())
METHODS = sorted(GOLDEN)
SMALL = {  # flags that a method needs at this size, beside the recipe's
    # at the others' rate its network amplifies rounding a thousand times a step
    "clex": "--max_factor 8 --time_dt 0.1 --learning_rate 1e-5".split(),
    "landmark": "--model_max_length 64 --mem_freq 7 --top_k 2".split(),
}
RECIPE = """--per_device_train_batch_size 2 --gradient_accumulation_steps 2 --learning_rate 3e-3 --warmup_steps 2
            --lr_scheduler_type constant_with_warmup --weight_decay 0.0 --adam_epsilon 1e-4""".split()


def allocated_bytes(model, **batch) -> tuple[int, int]:
    """(the most bytes at a time, the largest tensor's bytes) that a step allocates on the CPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        model(**batch).loss.backward()
    events = profile.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(itertools.accumulate(sizes)), max(sizes)


def run_here(script: str, *flags, expect: int = 0) -> str:
    """Runs a script of the stage as `python script flags...`; returns what it printed. Asserts its exit status."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    printed, status = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, flags)])
        patch.setattr(other, "is_deepspeed_available", other.is_deepspeed_available)  # fine-tune.py changes it
        patch.chdir(STAGE)
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                runpy.run_path(script, run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if isinstance(status, str):  # sys.exit("error: ...")
        printed.write(status + "\n")
        status = 1
    assert (status or 0) == expect, f"exit status {status}:\n{printed.getvalue()}"
    return printed.getvalue()


def fails(script: str, *flags) -> str:
    """Runs a script that must end with one line; returns that line."""
    lines = run_here(script, *flags, expect=1).splitlines()
    assert lines[-1].startswith("error: ") and "Traceback" not in lines, lines
    return lines[-1]


def training_flags(base, rows, method, output) -> list[str]:
    """Flags of fine-tune.py for a tiny run."""
    flags = ["--model_name_or_path", base, "--dataset_dir", rows, "--method_name", method, "--model_max_length", L]
    return [str(flag) for flag in [*flags, "--output_dir", output, *RECIPE, *SMALL.get(method, [])]]


def extend_flags(base, method, output, *more) -> list:
    """The command line of extend.py; later flags replace earlier ones."""
    command = ["extend.py", "--model_name_or_path", base, "--method_name", method, "--output_dir", output]
    return [*command, "--model_max_length", L, *more]


def extend(base, method, output, *more) -> Path:
    run_here(*extend_flags(base, method, output, *more))
    return output


def losses(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]
