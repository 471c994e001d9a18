"""run.py: checkpoints one after the other, exit codes, files, memory."""

import errno
import os
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from unittest.mock import Mock

import run

import pytest
import torch
from safetensors import SafetensorError

from tiny import ROOT


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
    "file.json: permission denied": PermissionError(errno.EACCES, "Permission denied", "file.json"),
    "pip install": ModuleNotFoundError("No module named 'peft'", name="peft"),
    "header": SafetensorError("incomplete header"),
    "free space": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),  # a full disk
    "out of memory": torch.OutOfMemoryError("CUDA out of memory"),
}


@pytest.mark.parametrize("part", INPUT_ERRORS)
def test_an_error_about_the_input_is_one_line_below_the_bar(part, capsys):
    run.progress_bar(3, "windows", "window").update()
    with pytest.raises(SystemExit) as end:
        run.run_script(Mock(side_effect=INPUT_ERRORS[part]))
    assert end.value.code.startswith("error: ") and part in end.value.code and "\n" not in end.value.code
    assert capsys.readouterr().err.endswith("\n")


def test_the_traceback_of_any_other_error_is_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SHOW_TRACEBACK", "1")
    with pytest.raises(SystemExit) as end:
        run.run_script(Mock(side_effect=TypeError("a fault of the kit")))
    (path,) = tmp_path.iterdir()
    assert str(path) in end.value.code and "in run_script" in path.read_text()
    assert "in run_script" in capsys.readouterr().err


def test_a_wrong_flag_is_one_line(monkeypatch):
    parser = run.Parser("What the script does.")
    parser.add_argument("--length", type=run.positive_int)
    for flag in ("--len=sesame", "--length=0", "--length=x"):  # --len is not taken for --length
        monkeypatch.setattr(sys, "argv", ["script.py", flag])
        with pytest.raises(SystemExit) as end:
            parser.parse_args()
        assert end.value.code.startswith("error: ") and "--len" in end.value.code
        assert "sesame" not in end.value.code  # it may be a key
    parser.add_argument("--folder", type=Path)
    monkeypatch.setattr(sys, "argv", ["script.py", "--folder="])  # Path("") is the current folder
    with pytest.raises(SystemExit, match="^error: argument --folder: it is empty"):
        parser.parse_args()
    monkeypatch.setattr(sys, "argv", ["script.py", "--api", "sesame"])
    with pytest.raises(SystemExit, match="^error: unrecognized arguments: --api ...") as end:
        parser.parse_args()
    assert "sesame" not in end.value.code


WITHOUT_NUMPY = "import sys; sys.modules['numpy'] = None; sys.path[0] = '../needle'; import needle_plot"
ENDS = [("import run", "RANK is 'one'"), ("import run, nowhere", "package nowhere is"), (WITHOUT_NUMPY, "numpy is")]


@pytest.mark.parametrize("code, line", ENDS)
def test_what_ends_a_script_before_it_runs_is_one_line(code, line):
    rank = {"RANK": "one"} if "RANK" in line else {}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "common", env=os.environ | rank, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert line in done.stderr


def test_a_rank_ends_when_torchrun_is_killed():
    rank = [sys.executable, "-c", "import lock, time; print('ready', flush=True); time.sleep(60)"]
    torchrun = [sys.executable, "-c", f"import subprocess; subprocess.run({rank}, start_new_session=True)"]
    options = {"cwd": ROOT / "common", "env": os.environ | {"TORCHELASTIC_RUN_ID": "1"}, "stdout": subprocess.PIPE}
    start = time.monotonic()
    with subprocess.Popen(torchrun, **options) as parent:
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
        assert parent.stdout.read() == b""  # until the rank has ended, too
    assert time.monotonic() - start < 30


def test_files_are_replaced_as_a_whole_and_broken_ones_are_found(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "result.json"
    run.write_json(path, {"é": 1})
    with pytest.raises(ValueError):
        run.write_json(path, {"é": float("nan")})
    with monkeypatch.context() as patch, pytest.raises(AttributeError):
        patch.delattr(os, "replace")  # as if killed just before
        run.write_text(path, "cut off")
    assert run.read_json(path) == {"é": 1}
    for text in ("[1]", "{"):
        run.write_text(path, text)
        assert run.read_json(path) is None
    assert run.read_json(tmp_path / "none.json") is None
    path.write_bytes("\ufeffé".encode())
    assert run.read_text(path) == "é"
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match="result.json"):
        run.read_text(path)


def test_nothing_is_asked_of_cuda_before_it_is_initialised(monkeypatch):
    monkeypatch.setattr(torch, "cuda", types.SimpleNamespace(is_initialized=lambda: False))
    gpu = torch.device("cuda", 0)
    run.reset_peak_memory(gpu)
    assert run.peak_memory(gpu) == 0
    assert run.peak_memory(None) is None and run.peak_memory(torch.device("cpu")) > 1 << 20


def test_a_terminal_that_is_closed_does_not_end_a_run(tmp_path):
    (tmp_path / "log").touch()
    with (tmp_path / "log").open() as read_only:  # writing to it is an OSError
        run.print_rank0("step 1", read_only)


def test_results_are_named_after_their_checkpoints():
    names = run.name_results(None, ["a/b", "org/model", "x/checkpoint-20", "y/checkpoint-20"], "--name")
    assert names == ["b", "model", "x_checkpoint-20", "y_checkpoint-20"]
    for names, paths in ((None, ["a/b", "c/b"]), (["x"], ["a", "b"]), ([".."], ["a"]), (["a/b"], ["a"])):
        with pytest.raises(ValueError, match="--name"):
            run.name_results(names, paths, "--name")
