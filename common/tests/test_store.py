"""store.py: answers survive kills, and answers of other settings are never mixed in."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lock
import store
from store import Store
from tiny import STAGE

SETTINGS = {"model": "m", "lengths": (1, 2)}


@pytest.fixture
def open_store(tmp_path):
    def open_one(settings=SETTINGS, **kwargs):
        return Store(tmp_path / "answers.jsonl", settings, key=lambda entry: entry["index"], **kwargs)

    return open_one


def fill(answers: Store, indices) -> Store:
    answers.open()
    for index in indices:
        answers.append({"index": index, "text": f"é{index}"})
    answers.close()
    return answers


def names(folder: Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def test_ranks_append_and_rank_0_gathers_one_sorted_file(open_store, monkeypatch, tmp_path):
    answers = open_store()
    assert answers.open() == {}
    for rank in (0, 1, 2):
        monkeypatch.setattr(store, "RANK", rank)
        share = open_store()
        for index in (5 - rank, 2 - rank, 2):  # 2 is answered by all of them
            share.append({"index": index, "text": f"é{index}"})
        share.close()
    assert len(names(tmp_path, "*.rank*.jsonl")) == 2
    assert list(open_store().open()) == list(answers.gather()) == [0, 1, 2, 3, 4, 5]
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == [f"é{index}" for index in range(6)]
    assert names(tmp_path, "a*") == ["answers.jsonl", "answers.run.json"]
    answers.remove()
    assert names(tmp_path) == []


def test_unreadable_lines_are_dropped(open_store):
    path = fill(open_store(), range(3)).path
    first, _, third = path.read_bytes().splitlines(keepends=True)
    odd = b'\0\0\n[1]\n{"text": "no index"}\n{"index": "\\ud800"}\n'
    path.write_bytes(b"\xef\xbb\xbf" + first + odd + third + b'{"index": 3, "te')
    assert [len(store.read_lines(path)[0]), store.read_lines(path)[1]] == [3, 3]  # the last line is only cut off
    assert list(open_store().open()) == [0, 2]
    assert path.read_bytes() == first + third


def test_other_settings_are_set_aside_with_their_results(open_store, tmp_path, capsys):
    result = tmp_path / "scores.json"
    for folder, seed in (("old", 1), ("old2", 2)):
        fill(open_store({**SETTINGS, "seed": seed}, results=lambda: [result]), range(3))
        result.write_text("{}")
        assert open_store({**SETTINGS, "seed": seed + 1}, results=lambda: [result]).open() == {}
        assert f"moved to {folder}/ (other seed)" in capsys.readouterr().out
        assert names(tmp_path / folder) == ["answers.jsonl", "answers.run.json", "scores.json"]
    fill(open_store(), range(2))
    (tmp_path / "answers.run.json").unlink()
    assert open_store().open() == {} and "no record of their settings" in capsys.readouterr().out


def test_errors_are_tried_again(open_store):
    answers = fill(open_store(), [0, 1])
    answers.append({"index": 1, "error": "out of memory"})  # answered before: no error
    answers.append({"index": 2, "error": "out of memory"})
    assert list(answers.gather()) == [0, 1] and list(answers.errors) == [2]
    answers = fill(open_store(), [2])
    assert list(answers.gather()) == [0, 1, 2] and answers.errors == {}


class Killed(BaseException):
    """A kill, which no code catches."""


def kill_at(patch, call: int) -> None:
    """Makes the given rename or unlink from now on, and all after it, kill the process before it happens."""
    calls = itertools.count(1)

    def until_killed(function):
        def wrapper(*args, **kwargs):
            if next(calls) >= call:
                raise Killed
            return function(*args, **kwargs)

        return wrapper

    patch.setattr(os, "replace", until_killed(os.replace))
    patch.setattr(Path, "unlink", until_killed(Path.unlink))


@pytest.mark.parametrize("call", range(1, 7))
def test_a_kill_at_any_rename_or_unlink_loses_nothing(open_store, tmp_path, monkeypatch, call):
    """Answers of other settings are set aside, then those of two ranks are gathered."""
    result = tmp_path / "result.json"

    def run_all() -> dict:
        answers = open_store({"seed": 2}, results=lambda: [result])
        for index in sorted({0, 1, 2} - set(answers.open())):
            monkeypatch.setattr(store, "RANK", index % 2)
            share = open_store({"seed": 2})
            share.append({"index": index, "text": f"é{index}"})
            share.close()
        monkeypatch.setattr(store, "RANK", 0)
        return answers.gather()

    fill(open_store({"seed": 1}), range(4))
    before = (tmp_path / "answers.jsonl").read_bytes()
    result.write_text("{}")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, call)
        run_all()
    assert list(run_all()) == [0, 1, 2]
    assert (tmp_path / "old" / "answers.jsonl").read_bytes() == before
    assert names(tmp_path / "old") == ["answers.jsonl", "answers.run.json", "result.json"]
    assert names(tmp_path, "a*") == ["answers.jsonl", "answers.run.json"]


APPEND = """
import sys
from pathlib import Path
from store import Store
answers = Store(Path(sys.argv[1]), {"a": 1}, key=lambda entry: entry["index"])
for index in range(len(answers.open()), 10**9):
    answers.append({"index": index, "text": "x" * 5000})
    print(index, flush=True)
"""


def test_kill_9_while_appending_loses_and_repeats_nothing(open_store):
    options = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | {"PYTHONPATH": str(STAGE)}}
    before = 0
    for seconds in (0.02, 0.1):
        answers = open_store({"a": 1})
        process = subprocess.Popen([sys.executable, "-c", APPEND, answers.path], **options)
        first = int(process.stdout.readline())
        time.sleep(seconds)
        process.kill()
        printed = [first, *map(int, process.communicate()[0].split("\n")[:-1])]
        answered = answers.open()
        del answers  # releases the lock
        assert first == before and list(answered) == list(range(len(answered)))
        assert printed[-1] + 1 <= len(answered) <= printed[-1] + 2  # what was reported is there
        before = len(answered)


def test_a_lock_on_a_file_that_the_run_before_deleted_is_taken_again(tmp_path, monkeypatch):
    path, flock = tmp_path / ".lock", lock.fcntl.flock

    def flock_late(file, operation):
        monkeypatch.setattr(lock.fcntl, "flock", flock)
        path.unlink()
        flock(file, operation)

    monkeypatch.setattr(lock.fcntl, "flock", flock_late)
    held = lock.lock(path)
    assert os.path.samestat(os.fstat(held.fileno()), path.stat())
