"""What ends a run before its time, other than a kill: a loss that is no number, a full disk."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import training
from conftest import python, run
from test_fine_tune import flags, losses


@pytest.mark.parametrize("every, found", [(1, "a weight is not"), (2, "the loss is not")])
def test_a_loss_that_is_no_number_ends_the_run_with_its_last_good_weights(base, rows, tmp_path, every, found):
    """A learning rate at which weights overflow: one line, status 1, and no checkpoint with such weights."""
    output = tmp_path / "out"
    args = [*flags(base, rows, "pi", output), "--max_steps", 40, "--save_steps", every, "--save_total_limit", 1]
    log = python("fine-tune.py", *args, "--learning_rate", 1e38, "--max_grad_norm", 0, expect=1)
    assert f"{found} a finite number" in log and "--learning_rate" in log and "Traceback" not in log
    assert not (output / "config.json").exists()
    last = training.last_whole_checkpoint(output)
    assert f"{last} is whole" in log
    assert all(torch.isfinite(w).all() for w in load_file(last / "model.safetensors").values())


def test_a_loss_that_is_no_number_on_one_of_two_ranks_ends_both(base, rows, tmp_path):
    """A base whose one embedding is not a number, met by the rows of one rank."""
    broken = shutil.copytree(base, tmp_path / "base")
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][200] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    data = tmp_path / "rows.jsonl"
    lines = rows.read_text().splitlines()[:8]
    ids = json.loads(lines[0])["input_ids"]
    data.write_text("\n".join([*lines[:7], json.dumps({"input_ids": [200, *ids[1:]]})]) + "\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "fine-tune.py"]
    args = [*flags(broken, data, "pi", tmp_path / "out"), "--gradient_accumulation_steps", 1, "--num_train_epochs", 5]
    log = run(*command, *args, expect=1)
    assert log.count("error: the loss is not a finite number") == 1
    assert not (tmp_path / "out" / "metrics.jsonl").exists() or len(losses(tmp_path / "out")) == 1  # 2 steps an epoch


@pytest.mark.parametrize("when", ["checkpoint", "final"])
def test_a_full_disk_ends_the_run_with_one_line(base, rows, tmp_path, when):
    """Simulated by a limit on the size of files, which gives the same error as a full disk but for its number."""
    output = tmp_path / "out"
    steps = 1 if when == "checkpoint" else 100
    args = [*flags(base, rows, "pi", output), "--max_steps", 3, "--save_steps", steps]
    if when == "final":
        args += ["--save_strategy", "no"]
    limited = f'ulimit -f 200; exec "{sys.executable}" fine-tune.py "$@"'
    log = run("bash", "-c", limited, "bash", *args, expect=1)
    assert f"error: cannot write to {output} (" in log and "File too large" in log and "Traceback" not in log
    assert "There is no checkpoint yet; make room and run the same command again" in log
    assert not list(output.glob("checkpoint-*")) and not (output / "config.json").exists()
    python("fine-tune.py", *args)
    assert (output / "config.json").exists()
    assert not list(output.glob("*.partial"))


@pytest.mark.parametrize(
    "reason, ends",
    [
        (OSError(28, "No space left on device"), True),
        (RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError(2, "No such file"), False),
    ],
)
def test_what_counts_as_a_full_disk(tmp_path, monkeypatch, capsys, reason, ends):
    monkeypatch.setattr(training.os, "_exit", lambda status: (_ for _ in ()).throw(SystemExit(status)))
    with pytest.raises(SystemExit if ends else type(reason)):
        with training.full_disk(tmp_path):
            if not ends:
                raise reason
            raise ValueError("wrapped by a library") from reason
    assert ("make room" in capsys.readouterr().err) == ends
