"""run.py: checkpoints one after the other, exit codes, files, memory."""

import os
import types

import pytest
import torch

import run


def test_a_bad_checkpoint_does_not_stop_the_others(capsys):
    done = []

    def evaluate(checkpoint):
        if checkpoint == "bad":
            raise ValueError("no weights")
        done.append(checkpoint)

    run.for_each_checkpoint(["a", "b"], evaluate)
    with pytest.raises(SystemExit) as end:
        run.for_each_checkpoint(["bad", "c"], evaluate)
    assert end.value.code == "error: 1 of 2 checkpoints failed: bad"
    assert done == ["a", "b", "c"] and capsys.readouterr().err == "error: no weights\n"


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("x"), "error: x"), (OSError("y"), "error: y"), (KeyboardInterrupt(), 130)]
)
def test_run_script_ends_with_one_line(error, code):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        run.run_script(main)
    assert end.value.code == code  # sys.exit prints a text and exits with 1


def test_write_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "result.json"
    run.write_json(path, {"é": 1})
    with pytest.raises(ValueError):
        run.write_json(path, {"é": float("nan")})
    monkeypatch.delattr(os, "replace")  # as if killed just before
    with pytest.raises(AttributeError):
        run.write_text(path, "cut off")
    assert run.read_json(path) == {"é": 1}
    for text in ("[1]", "{"):
        path.write_text(text)
        assert run.read_json(path) is None
    assert run.read_json(tmp_path / "none.json") is None


def test_nothing_is_asked_of_cuda_before_it_is_initialised(monkeypatch):
    monkeypatch.setattr(torch, "cuda", types.SimpleNamespace(is_initialized=lambda: False))
    gpu = torch.device("cuda", 0)
    run.reset_peak_memory(gpu)
    assert run.peak_memory(gpu) == 0
    assert run.peak_memory(None) is None and run.peak_memory(torch.device("cpu")) > 1 << 20
