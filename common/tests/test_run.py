"""run.py: checkpoints one after the other, exit codes, files, memory."""

import errno
import os
import sys
import tempfile
import types

import pytest
import torch
from safetensors import SafetensorError

import run


def raises(error):
    def raise_it():
        raise error

    return raise_it


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


INPUT_ERRORS = {
    "x": ValueError("x\n  y"),
    "file.json: permission denied; ": PermissionError(errno.EACCES, "Permission denied", "file.json"),
    "file.json: no space left": OSError(errno.ENOSPC, "No space left on device", "file.json"),
    "pip install": ModuleNotFoundError("No module named 'peft'", name="peft"),
    "header": SafetensorError("incomplete header"),
    "out of memory": torch.OutOfMemoryError("CUDA out of memory"),
}


@pytest.mark.parametrize("part", INPUT_ERRORS)
def test_an_error_about_the_input_is_one_line(part):
    with pytest.raises(SystemExit) as end:
        run.run_script(raises(INPUT_ERRORS[part]))
    assert end.value.code.startswith("error: ") and part in end.value.code and "\n" not in end.value.code


def test_ctrl_c_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        run.run_script(raises(KeyboardInterrupt()))
    assert end.value.code == 130 and capsys.readouterr().err.count("\n") == 1


def test_the_traceback_of_any_other_error_is_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as end:
        run.run_script(raises(TypeError("a fault of the kit")))
    (path,) = tmp_path.iterdir()
    assert str(path) in end.value.code and "in raise_it" in path.read_text()
    monkeypatch.setenv("SHOW_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        run.run_script(raises(TypeError("a fault of the kit")))
    assert "in raise_it" in capsys.readouterr().err


def test_an_error_begins_a_line_of_its_own_below_the_bar(capsys):
    def main():
        run.progress_bar(3, "windows", "window").update()
        raise ValueError("no weights")

    with pytest.raises(SystemExit):
        run.run_script(main)
    assert capsys.readouterr().err.endswith("\n")


def test_a_wrong_flag_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "--len=sesame"])
    parser = run.Parser("What the script does.")
    parser.add_argument("--length", type=run.positive_int)
    with pytest.raises(SystemExit) as end:
        parser.parse_args()  # not taken for --length
    assert end.value.code.startswith("error: ") and "--len" in end.value.code
    assert "sesame" not in end.value.code  # it may be a key


def test_variables_of_a_launcher_are_numbers(monkeypatch):
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(SystemExit, match="RANK"):
        run.read_variable("RANK", 0)


def test_text_is_read_without_a_byte_order_mark_and_other_bytes_are_refused(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffé".encode())
    assert run.read_text(path) == "é"
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match="text.txt"):
        run.read_text(path)


def test_write_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "result.json"
    run.write_json(path, {"é": 1})
    with pytest.raises(ValueError):
        run.write_json(path, {"é": float("nan")})
    monkeypatch.delattr(os, "replace")  # as if killed just before
    with pytest.raises(AttributeError):
        run.write_text(path, "cut off")
    assert run.read_json(path) == {"é": 1}
    for text in ("[1]", "{", "[" * 100_000):
        path.write_text(text)
        assert run.read_json(path) is None
    assert run.read_json(tmp_path / "none.json") is None


def test_nothing_is_asked_of_cuda_before_it_is_initialised(monkeypatch):
    monkeypatch.setattr(torch, "cuda", types.SimpleNamespace(is_initialized=lambda: False))
    gpu = torch.device("cuda", 0)
    run.reset_peak_memory(gpu)
    assert run.peak_memory(gpu) == 0
    assert run.peak_memory(None) is None and run.peak_memory(torch.device("cpu")) > 1 << 20


def test_a_terminal_that_is_closed_does_not_end_a_run(tmp_path):
    closed = os.open(tmp_path / "log", os.O_CREAT | os.O_RDONLY)  # writing to it is an OSError
    with open(closed, "w", closefd=False) as stream:
        run.print_rank0("step 1", stream)
        os.dup2(os.open(os.devnull, os.O_WRONLY), closed)


def test_results_are_named_after_their_checkpoints():
    assert run.name_results(None, ["a/b", "org/model", "x/checkpoint-20", "y/checkpoint-20"], "--name") == [
        "b",
        "model",
        "x_checkpoint-20",
        "y_checkpoint-20",
    ]
    for names, paths in ((None, ["a/b", "c/b"]), (["x"], ["a", "b"]), ([".."], ["a"]), (["a/b"], ["a"])):
        with pytest.raises(ValueError, match="--name"):
            run.name_results(names, paths, "--name")
