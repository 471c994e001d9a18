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
def variables(tmp_path):
    (tmp_path / "launcher.sh").write_text(LAUNCHER)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / "calls").touch()
    return {"PYTHON": python, "CALLS": tmp_path / "calls", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": ""}


@pytest.fixture
def launch(tmp_path, variables):
    """launch(items, expect, **variables): (the calls of python, what was printed)."""

    def call(items, expect=0, **more):
        variables["CALLS"].write_text("")
        output = run("bash", tmp_path / "launcher.sh", STAGE, *items.split(), expect=expect, **(variables | more))
        return sorted(variables["CALLS"].read_text().splitlines()), output

    return call


def test_one_process_for_each_gpu_or_job_with_all_its_items(launch):
    assert launch("a b c")[0] == ["gpu=- threads=- evaluate.py a b c"]
    threads = max(1, os.cpu_count() // 2)
    jobs = [f"gpu=- threads={threads} evaluate.py {items}" for items in ("a c", "b")]
    assert launch("a b c", JOBS=2)[0] == jobs
    calls, _ = launch("a b c d", GPUS="0 2,3 5", OMP_NUM_THREADS=7)
    expected = [("0", "a d"), ("2,3", "b"), ("5", "c")]
    assert calls == [f"gpu={gpus} threads=7 evaluate.py {items}" for gpus, items in expected]
    [call] = launch("a b", NPROC=8)[0]
    assert call.endswith(" -m torch.distributed.run --standalone --nproc_per_node=8 evaluate.py a b")


@pytest.mark.parametrize("bad", ["bad", "dies"])
def test_after_a_failure_each_item_is_tried_alone_and_failures_are_listed_at_the_end(launch, bad):
    calls, output = launch(f"a {bad} b", expect=1)
    assert sorted(call.split(".py ")[1] for call in calls) == sorted(["a", f"a {bad} b", "b", bad])
    assert output.endswith(f"failed: {bad}\n")
    calls, output = launch(f"a {bad} b", expect=1, JOBS=3)
    assert len(calls) == 3 and output.endswith(f"failed: {bad}\n")


def test_ctrl_c_stops_everything(variables, tmp_path):
    process = subprocess.Popen(
        ["bash", tmp_path / "launcher.sh", STAGE, "bad", "slow", "b"],
        env=os.environ | variables,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if the tests run in the background
    )
    while not variables["CALLS"].read_text().endswith(".py slow\n"):  # each is tried alone
        time.sleep(0.01)
    before = variables["CALLS"].read_text()
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[1].endswith("rerun the same command to resume\n")
    assert process.returncode == 143 and variables["CALLS"].read_text() == before


def test_checkpoints_whose_results_have_one_name_are_refused(launch):
    calls, output = launch("a/model b c/model/", expect=1)
    assert calls == [] and "called model;" in output
    assert len(launch("a/checkpoint-20 b/checkpoint-20")[0]) == 1  # a_checkpoint-20 and b_checkpoint-20
