"""pool.sh with a launcher of two lines and a fake python that writes down how it was called."""

import os
import signal
import subprocess
import time

import pytest

from tiny import STAGE, run

LAUNCHER = """
. "$1/pool.sh"; shift
evaluate() { "${launch[@]}" evaluate.py "$@"; }
pool "$@"
finish
"""
PYTHON = """#!/usr/bin/env bash
echo "gpu=${CUDA_VISIBLE_DEVICES:--} threads=${OMP_NUM_THREADS:--} $*" >>"$CALLS"
case " $* " in
*" dies "*) kill -9 $$ ;;
*" bad "*) exit 1 ;;
*" slow "*) exec sleep 60 ;;
esac
"""


@pytest.fixture
def launch(tmp_path):
    """launch(items, expect, **variables): (the calls of python, what was printed)."""
    (tmp_path / "launcher.sh").write_text(LAUNCHER)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    calls = tmp_path / "calls"

    def call(items, expect=0, **variables):
        calls.write_text("")
        environment = {"PYTHON": tmp_path / "python", "CALLS": calls, "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"OMP_NUM_THREADS": ""} | variables
        output = run("bash", tmp_path / "launcher.sh", STAGE, *items.split(), expect=expect, **environment)
        return sorted(calls.read_text().splitlines()), output

    return call


def test_one_process_for_each_gpu_or_job_with_all_its_items(launch):
    assert launch("a b c")[0] == ["gpu=- threads=- evaluate.py a b c"]
    threads = max(1, os.cpu_count() // 2)
    jobs = [f"gpu=- threads={threads} evaluate.py {items}" for items in ("a c", "b")]
    assert launch("a b c", JOBS=2)[0] == jobs
    assert launch("a b c", JOBS=2, OMP_NUM_THREADS=7)[0][0] == "gpu=- threads=7 evaluate.py a c"
    calls, _ = launch("a b c d", GPUS="0 2,3 5")
    assert [call.split(" threads")[0] + call.split(".py")[1] for call in calls] == ["gpu=0 a d", "gpu=2,3 b", "gpu=5 c"]
    assert launch("a", GPUS="0 1")[0][0].startswith("gpu=0 ")
    [call] = launch("a b", NPROC=8)[0]
    assert call.endswith(" -m torch.distributed.run --standalone --nproc_per_node=8 evaluate.py a b")
    assert "not 'two'" in launch("a", expect=1, JOBS="two")[1]


@pytest.mark.parametrize("bad", ["bad", "dies"])
def test_after_a_failure_each_item_is_tried_alone_and_failures_are_listed_at_the_end(launch, bad):
    calls, output = launch(f"a {bad} b", expect=1)
    assert sorted(call.split(".py ")[1] for call in calls) == sorted(["a", f"a {bad} b", "b", bad])
    assert output.endswith(f"failed: {bad}\n")
    calls, output = launch(f"a {bad} b", expect=1, JOBS=3)
    assert len(calls) == 3 and output.endswith(f"failed: {bad}\n")


@pytest.mark.parametrize("items", ["slow b", "bad slow b"])  # the latter: while each is tried alone
def test_ctrl_c_stops_everything(launch, tmp_path, items):
    launch("a")
    calls, environment = tmp_path / "calls", os.environ | {"PYTHON": str(tmp_path / "python"), "JOBS": "1"}
    environment["CALLS"] = str(calls)
    calls.write_text("")
    command = ["bash", tmp_path / "launcher.sh", STAGE, *items.split()]
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not calls.read_text().endswith((" slow b\n", " slow\n")) or calls.read_text().endswith("bad slow b\n"):
        time.sleep(0.01)
    before = calls.read_text()
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[1].endswith("rerun the same command to resume\n")
    assert process.returncode == 143 and calls.read_text() == before
