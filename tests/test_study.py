"""study.sh as a user runs it, on a tiny base: past a failed cell, over a deleted and a broken result, in a dry run."""

import importlib.util
import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
L = 256


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The variables of a study of seconds: a base with window 64, rows to train it on, a text to measure."""
    spec = importlib.util.spec_from_file_location("needle_conftest", ROOT / "needle" / "tests" / "conftest.py")
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    folder, draw = tmp_path_factory.mktemp("study"), random.Random(0)
    conftest.save_base(folder / "base")
    rows = [{"input_ids": [0, *(draw.randrange(2, 258) for _ in range(L - 1))]} for _ in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "text").mkdir()
    np.array([[0, *(draw.randrange(2, 258) for _ in range(299))] for _ in range(12)], "uint16").tofile(
        folder / "text" / "test.bin"
    )
    return {
        "RUN": folder / "run", "BASE": folder / "base", "DATASET": folder / "rows.jsonl", "EXTENDED": L,
        "TEXTS": folder / "text" / "test.bin", "LENGTHS": "64 128", "PERPLEXITY_FLAGS": "--max_windows 4",
        "RECIPE": "tiny", "FROZEN": "ntk_frozen", "BENCHMARKS": "perplexity", "EPOCHS": 1,
    }  # fmt: skip


def study(variables: dict, *flags) -> tuple[int, str]:
    env = {**os.environ, **{key: str(value) for key, value in variables.items()}}
    done = subprocess.run(["bash", ROOT / "study.sh", *flags], env=env, stdin=subprocess.DEVNULL, capture_output=True)
    return done.returncode, (done.stdout + done.stderr).decode()


def test_failed_deleted_and_broken_cells(tiny):
    run = tiny["RUN"]
    status, log = study(tiny | {"TRAINED": "pi nosuch"})
    assert status == 1 and "failed: finetune_42: nosuch 256" in log
    assert (run / "failures.txt").read_text() == "finetune_42: nosuch 256\n"
    table = (run / "fig" / "results.csv").read_bytes()
    assert all(f"\n{method}," in table.decode() or f",{method}," in table.decode() for method in ("pi", "ntk_frozen"))
    assert "nosuch 256" in (run / "fig" / "report.html").read_text()

    first, second = sorted((run / "results").rglob("tiny_pi_256_*.json"))
    first.unlink()
    second.write_text('{"val_perplexity": 1')
    before = {path: path.stat().st_mtime_ns for path in (run / "results").rglob("*.json") if path != second}
    status, log = study(tiny | {"TRAINED": "pi"})
    assert status == 0 and (run / "failures.txt").read_text() == ""
    assert f"{second} held no whole result; it is now {second.name}.old" in log
    assert {path: path.stat().st_mtime_ns for path in before} == before  # the others were left as they are
    assert (run / "fig" / "results.csv").read_bytes() == table


def test_killed_alone_what_it_left_at_work_is_waited_for(tiny):
    variables = tiny | {"TRAINED": "pi"}
    assert study(variables)[0] == 0
    table = (tiny["RUN"] / "fig" / "results.csv").read_bytes()
    for path in (tiny["RUN"] / "results").rglob("*.json"):
        path.unlink()
    env = {**os.environ, **{key: str(value) for key, value in variables.items()}}
    killed = subprocess.Popen(["bash", ROOT / "study.sh"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert any(b"eval_ppl.py" in line for line in killed.stdout)  # at work
    killed.kill()
    status, log = study(variables)
    assert status == 0 and "waiting for its end" in log
    assert (tiny["RUN"] / "fig" / "results.csv").read_bytes() == table


def test_a_dry_run_prints_commands_and_costs_and_writes_nothing(tmp_path):
    paper = {"PRESET": "paper", "TRAINED": "pi", "FROZEN": "ntk_frozen", "RUN": tmp_path / "run"}
    status, log = study(paper, "--dry_run")
    assert status == 0, log
    assert "| pi | 20.5 | 163.3 | 121 | 8.4 | 67.2 |" in log
    for command in (
        "bash finetune.sh --seed 42",
        "--method_name ntk_frozen",
        "eval.sh --trust_remote_code --e_len 65536",
    ):
        assert command in log
    for benchmark in ("perplexity", "longbench", "trec", "ruler"):
        assert f"\n| {benchmark} | " in log
    assert "GPU-hours" in log and not (tmp_path / "run").exists()


def test_bad_settings_get_one_line(tmp_path):
    assert study({"PRESET": "nosuch"}) == (1, "error: no preset 'nosuch'; there are: paper-64k paper pocket\n")
    status, log = study({}, "--fast")
    assert status == 1 and log.startswith("error: unknown '--fast'; the one flag is --dry_run") and log.count("\n") == 1
    status, log = study({"RUN": tmp_path / "a b"})
    assert status == 1 and "has a space in it; name a folder without" in log
