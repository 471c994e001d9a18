"""Rows cut over two ranks, killed ranks and preempted runs; a file of its own, so that it runs beside the other one."""

import json
import os
import shutil
import signal
import subprocess
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from conftest import STAGE, L, python
from test_distributed import OFFLOAD, TORCHRUN, needs, two_ranks
from test_fine_tune import GOLDEN, SMALL, flags, losses

pytestmark = needs


@pytest.mark.parametrize("method", ["ntk", "longlora", "clex"])
def test_a_row_cut_over_two_ranks(base, rows, tmp_path, method):
    """Each rank holds half of every row; the losses are one rank's. One is resumed after step 2."""
    small, _ = SMALL.get(method, ("", L))
    args = [*flags(base, rows, method, tmp_path / "two"), *small.split(), "--max_steps", 4, "--save_steps", 2]
    more = ["--deepspeed", "ds_configs/stage3.json", "--sequence_parallel_size", 2]
    two_ranks(*args, *more)
    assert losses(tmp_path / "two") == pytest.approx(GOLDEN[method][:4], abs=3e-3)
    record = json.loads((tmp_path / "two" / "config.json").read_text())["context_extension"]
    assert record["trained_tokens"] == 4 * 4 * L and record["recipe"]["global_batch"] == 4
    before, first = losses(tmp_path / "two"), load_file(tmp_path / "two" / "model.safetensors")
    if method == "ntk":
        (tmp_path / "two" / "checkpoint-4" / "whole.json").unlink()
        (tmp_path / "two" / "config.json").unlink()
        assert "going on from" in two_ranks(*args, *more)
        again = load_file(tmp_path / "two" / "model.safetensors")
        assert losses(tmp_path / "two") == before and all(torch.equal(first[name], again[name]) for name in first)


def start(*args):
    """A run on two ranks in the background."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [str(part) for part in (*TORCHRUN, *args)]
    return subprocess.Popen(command, cwd=STAGE, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process, output, steps):
    while not (output / "metrics.jsonl").exists() or len(losses(output)) < steps:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


def test_a_killed_rank_ends_the_run_and_the_same_command_goes_on(base, rows, tmp_path):
    """kill -9 of rank 1 in the middle of a step: the job ends with an error; resumed, the weights are bit-equal."""
    options = [
        *OFFLOAD,
        "--gradient_accumulation_steps",
        1,
        "--max_steps",
        12,
        "--save_steps",
        4,
        "--save_total_limit",
        1,
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    two_ranks(*flags(base, rows, "ntk", whole), *options)
    process = start(*flags(base, rows, "ntk", killed), *options)
    wait_for(process, killed, 6)
    ranks = [child for child in psutil.Process(process.pid).children() if "fine-tune.py" in " ".join(child.cmdline())]
    next(rank for rank in ranks if rank.environ()["RANK"] == "1").send_signal(signal.SIGKILL)
    log, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "SIGKILL" in log
    assert not (killed / "config.json").exists()
    half = killed / "checkpoint-11"  # as if killed while writing: one rank's part is there
    shutil.copytree(killed / "checkpoint-4", half)
    (half / "whole.json").unlink()

    log = two_ranks(*flags(base, rows, "ntk", killed), *options)
    assert "going on from" in log and f"removing {half}" in log
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert losses(whole) == losses(killed) and len(losses(whole)) == 12
    assert [folder.name for folder in killed.glob("checkpoint-*")] == ["checkpoint-12"]

    (killed / "config.json").unlink()
    log = python(
        "fine-tune.py", *flags(base, rows, "ntk", killed), *options, "--gradient_accumulation_steps", 2, expect=1
    )
    assert "was written by 2 ranks and DeepSpeed can only go on with as many, not 1" in log and "Traceback" not in log


def test_sigterm_leaves_a_checkpoint_and_the_same_command_goes_on(base, rows, tmp_path):
    """What a cluster sends before it takes the machines: torchrun hands it on, all ranks stop after the same step."""
    options = ["--gradient_accumulation_steps", 1, "--num_train_epochs", 2, "--save_strategy", "no"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    two_ranks(*flags(base, rows, "pi", whole), *options)
    process = start(*flags(base, rows, "pi", stopped), *options)
    wait_for(process, stopped, 5)
    process.send_signal(signal.SIGTERM)
    log, _ = process.communicate(timeout=120)
    steps = len(losses(stopped))
    assert process.returncode != 0 and f"stopped by SIGTERM after step {steps}. " in log
    assert (stopped / f"checkpoint-{steps}" / "whole.json").exists() and steps < 40
    assert f"going on from {stopped}/checkpoint-{steps}" in two_ranks(*flags(base, rows, "pi", stopped), *options)
    assert losses(whole) == losses(stopped) and len(losses(whole)) == 40
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()


def test_a_base_whose_heads_cannot_be_shared(base, rows, tmp_path):
    """2 query heads and 1 key-value head over 4 ranks: one line, before anything is loaded."""
    args = [*flags(base, rows, "pi", tmp_path / "out"), "--sequence_parallel_size", 4, "--estimate", "8xH100"]
    log = python("fine-tune.py", *args, "--deepspeed", "ds_configs/stage3.json", expect=1)
    assert "error: --sequence_parallel_size 4 does not divide the base's 2 query heads" in log
    assert "Traceback" not in log and not (tmp_path / "out").exists()
