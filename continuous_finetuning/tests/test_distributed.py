"""DeepSpeed and sequence parallelism on two CPU ranks, as a user starts them: torchrun, the shipped JSON files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conftest import STAGE, L, python, run
from test_fine_tune import GOLDEN, METHODS, SMALL, flags, losses

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux"),
    pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed builds its CPU optimizer with g++: install it"),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "fine-tune.py"]
OFFLOAD = ["--deepspeed", "ds_configs/stage3_offload.json"]


def two_ranks(*args, **kwargs):
    log = run(*TORCHRUN, *args, **kwargs)
    assert "Traceback" not in log or kwargs.get("expect")
    return log


def whole_weights(output, base):
    """Plain Transformers opens `output`, and no weight is the base's any more: all were trained, gathered and saved."""
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        assert after[name].numel() >= before[name].numel() > 0 and torch.isfinite(after[name]).all()
        assert after[name].shape != before[name].shape or not torch.equal(after[name].float(), before[name]), name
    model = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True).eval()
    assert torch.isfinite(model(torch.arange(2, 60)[None]).logits[..., :258]).all()
    return after


CASES = [(method, "") for method in METHODS] + [("longlora", "--low_rank_training True")]


@pytest.mark.parametrize("method, more", CASES, ids=lambda case: case.replace("--", "") or "full")
def test_every_method_under_zero3_with_both_offloads(base, rows, tmp_path, method, more):
    """Four steps on two ranks, optimizer and parameters in host memory, equal four on one."""
    small, _ = SMALL.get(method, ("", L))
    args = [*flags(base, rows, method, tmp_path / "two"), *small.split(), *more.split(), "--max_steps", 4]
    two_ranks(*args, "--gradient_accumulation_steps", 1, *OFFLOAD)
    expected = GOLDEN[method][:4]
    if method == "clex" or more:  # clex draws anew for each batch; the golden losses are of full training
        args[args.index("--output_dir") + 1] = tmp_path / "one"
        python("fine-tune.py", *args, "--gradient_accumulation_steps", 1, "--per_device_train_batch_size", 4)
        expected = losses(tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(expected, abs=3e-3)
    if "low_rank" not in more:
        whole_weights(tmp_path / "two", base)
    else:
        one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=2e-4, rtol=1e-3, msg=name)
        adapter = load_file(tmp_path / "two" / "adapter" / "adapter_model.safetensors")
        assert all(tensor.numel() for tensor in adapter.values())
        assert {"lora", "embed", "norm"} <= {
            part for name in adapter for part in ("lora", "embed", "norm") if part in name
        }


@pytest.mark.parametrize("config", ["stage2", "stage3"])
def test_the_other_configs(base, rows, tmp_path, config):
    """Without offload; bfloat16, tiled MLP and activations in host memory along with stage 3."""
    more = "--bf16 True --offload_activations True --tiled_mlp True".split() if config == "stage3" else []
    args = [*flags(base, rows, "pi", tmp_path / "out"), "--gradient_accumulation_steps", 1, "--max_steps", 4]
    two_ranks(*args, *more, "--deepspeed", f"ds_configs/{config}.json")
    weights = whole_weights(tmp_path / "out", base)
    assert {w.dtype for w in weights.values()} == {torch.bfloat16 if more else torch.float32}
    assert losses(tmp_path / "out") == pytest.approx(GOLDEN["pi"][:4], abs=0.05 if more else 2e-3)


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
