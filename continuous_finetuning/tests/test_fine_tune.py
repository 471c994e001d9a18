"""fine-tune.py as a user runs it: golden losses, the README's flags, kill and resume, ranks, bad input."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import arguments
import checkpoint
import methods
import training
from conftest import STAGE, C, L, python, run

GOLDEN = json.loads((Path(__file__).parent / "golden_losses.json").read_text())
METHODS = sorted(GOLDEN)
# what a method needs at this size besides the common flags, and the length of its rows
SMALL = {
    # at the others' rate its network amplifies rounding a thousand times a step
    "clex": ("--max_factor 8 --time_dt 0.1 --learning_rate 1e-5", L),
    "landmark": ("--model_max_length 64 --mem_freq 7 --top_k 2", 64),
}
RECIPE = """--per_device_train_batch_size 2 --gradient_accumulation_steps 2 --learning_rate 3e-3 --warmup_steps 2
            --lr_scheduler_type constant_with_warmup --weight_decay 0.0 --adam_epsilon 1e-4""".split()


def flags(base, rows, method, output):
    return [
        *f"--model_name_or_path {base} --dataset_dir {rows} --method_name {method}".split(),
        *f"--model_max_length {L} --output_dir {output}".split(),
        *RECIPE,
    ]


def losses(output):
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=METHODS)
def ten_steps(request, base, rows, tmp_path_factory):
    output = tmp_path_factory.mktemp("golden") / request.param
    small, _ = SMALL.get(request.param, ("", L))
    log = python("fine-tune.py", *flags(base, rows, request.param, output), "--max_steps", 10, *small.split())
    return request.param, output, log


def test_golden_losses(ten_steps):
    """Ten steps on a fixed seed give the recorded losses; the tolerance is for another CPU's rounding."""
    method, output, _ = ten_steps
    assert losses(output) == pytest.approx(GOLDEN[method], abs=2e-3)


def test_golden_losses_tell_the_methods_apart():
    for method in METHODS:
        for other in METHODS:
            if method < other:
                assert max(abs(a - b) for a, b in zip(GOLDEN[method], GOLDEN[other], strict=True)) > 0.02


def test_the_checkpoint_is_whole(ten_steps, base):
    method, output, _ = ten_steps
    config = AutoConfig.from_pretrained(output, trust_remote_code=True)
    record = config.context_extension
    assert record["method"] == method and record["base_model"] == str(base)
    length = SMALL.get(method, ("", L))[1]
    assert (record["original_length"], record["trained_length"]) == (C, length)
    assert record["trained_tokens"] == 10 * 4 * length
    assert (
        record["recipe"]["learning_rate"] == (1e-5 if method == "clex" else 3e-3)
        and record["recipe"]["global_batch"] == 4
    )
    assert config.use_cache and config.max_position_embeddings == length
    assert not GenerationConfig.from_pretrained(output).do_sample
    assert AutoTokenizer.from_pretrained(output).get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()
    assert not list(output.glob("*.bin")) and not list(output.glob("*.partial"))
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys() and all(not torch.equal(before[name], after[name]) for name in before)
    model = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True).eval()
    assert torch.isfinite(model(torch.arange(2, 60)[None]).logits[..., : len(before["lm_head.weight"])]).all()


def test_fallbacks_are_said(ten_steps, base, rows, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: nothing to fall back from")
    _, _, log = ten_steps
    assert "--use_flash_attn: no GPU here" in log and "Traceback" not in log


def test_readme_command(base, rows, tmp_path):
    """The command in the README as written, but for paths, length, the number of processes and DeepSpeed."""
    output = tmp_path / "out"
    readme = (STAGE.parent / "README.md").read_text()
    block = re.search(r"```bash\ntorchrun --nproc_per_node=8 (fine-tune.py.*?)```", readme, re.DOTALL)[1]
    command = shlex.split(block.replace("\\\n", " "), comments=True)
    here = {"model_name_or_path": base, "output_dir": output, "dataset_dir": rows, "model_max_length": L}
    for flag, value in here.items():
        command[command.index(f"--{flag}") + 1] = value
    at = command.index("--deepspeed")
    assert (STAGE / command[at + 1]).exists()
    del command[at : at + 2]
    log = python(*command, WANDB_DIR=str(tmp_path), WANDB_MODE="offline")
    if not torch.cuda.is_available():
        assert "--bf16: no GPU" in log and "--tf32: no GPU" in log
    assert len(losses(output)) == 3  # 80 rows, 32 a step
    assert (tmp_path / "wandb").exists()
    assert python(*command, WANDB_DIR=str(tmp_path), WANDB_MODE="offline").endswith("is trained already\n")


def test_kill_and_resume_gives_the_same_weights(base, rows, tmp_path):
    options = ["--num_train_epochs", 3, "--save_strategy", "steps", "--save_steps", 7, "--save_total_limit", 1]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    python("fine-tune.py", *flags(base, rows, "ntk", whole), *options)
    command = [sys.executable, "fine-tune.py", *flags(base, rows, "ntk", killed), *options]
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=STAGE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (killed / "metrics.jsonl").exists() or len(losses(killed)) < 17:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "config.json").exists()  # unfinished: no stage takes it for a checkpoint
    half = killed / "checkpoint-9999"  # as if killed while writing
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")

    log = python("fine-tune.py", *flags(base, rows, "ntk", killed), *options)
    assert "going on from" in log and "removing" in log and not half.exists()
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert losses(whole) == losses(killed) and len(losses(whole)) == 60
    assert json.loads((whole / "config.json").read_text()) == json.loads((killed / "config.json").read_text())


@pytest.mark.parametrize(
    "method, more",
    [("longlora", "--low_rank_training True"), ("landmark", "--model_max_length 64 --mem_freq 7 --top_k 2")],
)
def test_adapters_and_landmarks_resume_too(base, rows, tmp_path, method, more):
    options = [*more.split(), "--max_steps", 6, "--save_strategy", "steps", "--save_steps", 3]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for output in (whole, cut):
        python("fine-tune.py", *flags(base, rows, method, output), *options)
    (cut / "checkpoint-6" / "whole.json").unlink()  # as killed after step 3, while checkpoint-6 was written
    (cut / "config.json").unlink()
    (cut / "model.safetensors").unlink()
    assert "going on from" in python("fine-tune.py", *flags(base, rows, method, cut), *options)
    assert (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()


def test_ctrl_c_leaves_a_checkpoint(base, rows, tmp_path):
    command = [sys.executable, "fine-tune.py", *flags(base, rows, "pi", tmp_path), "--num_train_epochs", 20]
    process = subprocess.Popen(
        [str(part) for part in command], cwd=STAGE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (tmp_path / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    log, _ = process.communicate(timeout=60)
    step = len(losses(tmp_path))
    assert (
        process.returncode == 1 and f"stopped by SIGINT after step {step}. {tmp_path}/checkpoint-{step} is whole" in log
    )
    assert "Traceback" not in log


def test_every_log_line_has_the_speed(ten_steps):
    """Tokens seen, tokens/s, model FLOP/s and peak memory, consistent with each other."""
    method, output, _ = ten_steps
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    length = SMALL.get(method, ("", L))[1]
    assert [line["tokens_seen"] for line in lines] == [4 * length * (i + 1) for i in range(10)]
    ratios = [line["model_tflops"] * 1e12 / line["tokens_per_second"] for line in lines]
    assert ratios == pytest.approx([ratios[0]] * 10, rel=2e-3) and ratios[0] > 4e5  # 70,000 weights, 6 each
    assert all(0.05 < line["peak_memory_gib"] < 20 for line in lines)


@pytest.mark.parametrize(
    "tracker, message",
    [
        ("nope", "error: --report_to nope: give one of wandb, trackio, tensorboard, none"),
        ("tensorboard", "error: --report_to tensorboard needs the package: pip install tensorboard"),
        ("trackio", "error: --report_to trackio needs the package: pip install trackio"),
    ],
)
def test_trackers(monkeypatch, tracker, message):
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    argv = ["--model_name_or_path", "b", "--dataset_dir", "d", "--method_name", "pi", "--output_dir", "o"]
    with pytest.raises(SystemExit) as stop:
        arguments.parse([*argv, "--report_to", tracker], "")
    assert str(stop.value) == message


def test_two_ranks_equal_one(base, rows, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    python("fine-tune.py", *flags(base, rows, "yarn", one), "--max_steps", 5)
    args = [*flags(base, rows, "yarn", two), "--max_steps", 5, "--gradient_accumulation_steps", 1]
    run(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "fine-tune.py", *args)
    assert losses(one) == pytest.approx(losses(two), rel=1e-4)
    assert json.loads((two / "config.json").read_text())["context_extension"]["trained_tokens"] == 5 * 4 * L


@pytest.mark.parametrize(
    "change, message",
    [
        (["--method_name", "nope"], "error: no method 'nope'; there are: "),
        (["--method_name", "ntk_frozen"], "error: ntk_frozen is not trained; apply it with extend.py"),
        (["--dataset_dir", "./nowhere"], "error: no file or folder ./nowhere"),
        (["--model_max_length", "128"], "error: row 0 of --dataset_dir has 256 tokens, --model_max_length is 128"),
        (["--model_max_length", "64"], "error: --model_max_length 64 is not above the base's own window of 64"),
        (["--model_name_or_path", "./nowhere"], "error: no folder ./nowhere"),
        (["--low_rank_training", "True"], "error: --low_rank_training: pi trains all weights"),
        (["--evaluation_strategy", "steps"], "error: --evaluation_strategy: there is no evaluation set"),
        (["--deepspeed", "no.json"], "error: no DeepSpeed config no.json"),
        (["--learning_rat", "1"], "error: unrecognized arguments: --learning_rat 1"),
    ],
)
def test_bad_input(base, rows, tmp_path, monkeypatch, change, message):
    """One line, before a model is loaded and with nothing written."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("fine_tune", STAGE / "fine-tune.py")
    fine_tune = importlib.util.module_from_spec(spec)
    sys.modules["fine_tune"] = fine_tune  # dataclasses look their module up
    spec.loader.exec_module(fine_tune)
    monkeypatch.setattr(methods.ContextExtension, "load", lambda *a, **k: pytest.fail("model loaded"))
    output = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", [str(a) for a in ["fine-tune.py", *flags(base, rows, "pi", output), *change]])
    with pytest.raises(SystemExit) as stop:
        fine_tune.main()
    assert str(stop.value).startswith(message) and "\n" not in str(stop.value)
    assert not output.exists()


def test_another_methods_run_is_not_overwritten(base, rows, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"method_name": "pi"}))
    log = python("fine-tune.py", *flags(base, rows, "ntk", tmp_path), expect=1)
    assert "holds another run: method_name was pi, now it is ntk" in log and "Traceback" not in log


def test_a_second_run_waits_for_the_first(base, rows, tmp_path):
    command = [sys.executable, "fine-tune.py", *flags(base, rows, "pi", tmp_path), "--max_steps", "1"]
    held = checkpoint.lock(tmp_path)
    second = subprocess.Popen(list(map(str, command)), cwd=STAGE, stdout=subprocess.PIPE, text=True)
    for line in second.stdout:
        if "waiting for its end" in line:
            break
    else:
        raise AssertionError("it did not wait")
    time.sleep(0.3)
    assert second.poll() is None and not (tmp_path / "run.json").exists()
    held.close()
    assert "done" in second.communicate()[0] and second.returncode == 0


def test_only_whole_checkpoints_count(tmp_path):
    for step, is_whole in [(5, True), (10, True), (20, False)]:
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")  # rank 0 may have come so far, another not
        if is_whole:
            (folder / "whole.json").write_text("{}")
    assert training.last_whole_checkpoint(tmp_path).name == "checkpoint-10"
    assert training.last_whole_checkpoint(tmp_path / "checkpoint-5") is None
