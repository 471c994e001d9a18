"""study.sh as a user runs it: with a method that fails, killed and resumed, in a dry run, with wrong settings."""

import os
import subprocess

import pytest
from gpu_methods import write_inputs

from tiny import ROOT, C, L, run


def study(*flags, **variables) -> str:
    return run("bash", "study.sh", *flags, cwd=ROOT, timeout=900, **variables)


@pytest.fixture(scope="module")
def variables(tmp_path_factory) -> dict:
    """Those of a study that takes seconds: a tiny base, rows to train it on, a text to measure."""
    folder = tmp_path_factory.mktemp("study")
    write_inputs(folder)
    return {
        "RUN": folder / "run",
        "BASE": folder / "base",
        "DATASET": folder / "rows.jsonl",
        "EXTENDED": L,
        "EPOCHS": 1,
        "RECIPE": "tiny",
        "TRAINED": "pi self_extend",
        "FROZEN": "lm_infinite",
        "JOBS": 1,
        "BENCHMARKS": "perplexity",
        "TEXTS": folder / "text" / "test.bin",
        "PERPLEXITY_LENGTHS": f"{C} {2 * C}",
        "PERPLEXITY_FLAGS": "--max_windows 4",
    }


def test_a_killed_study_resumes_and_a_failing_method_does_not_stop_it(variables):
    folder = variables["RUN"]
    env = os.environ | {name: str(value) for name, value in variables.items()}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    killed = subprocess.Popen(["bash", "study.sh"], cwd=ROOT, env=env, start_new_session=True, **pipes)
    assert any(b"fine-tune.py" in line for line in killed.stdout)
    killed.kill()  # study.sh alone: its training is still running

    log = study(**variables, expect=1)
    assert "waiting until it ends" in log
    assert "pi at 256 is already trained" in log
    assert log.count("failed: finetune_42: self_extend 256") == 1
    assert (folder / "failures.txt").read_text() == "finetune_42: self_extend 256\n"
    assert "self_extend 256" in (folder / "fig" / "report.html").read_text()
    table = (folder / "fig" / "table1.md").read_text()
    assert "| base | " in table
    assert "| pi | " in table
    assert "| lm_infinite" in table  # the kit's own modeling code is trusted
    assert "eval_ppl.py" in (folder / "logs" / "perplexity.log").read_text()


def test_a_killed_step_is_listed_and_the_study_goes_on(tmp_path):
    script = (
        '. common/steps.sh; dry_run= logs=$1 failures=$1/failures.txt; step name title . bash -c "$2"; end_study $1/fig'
    )
    log = run("bash", "-c", script, "bash", tmp_path, "kill -9 $$", cwd=ROOT, expect=1)
    assert "failed: name: exit status 137, see logs/name.log" in log and "report.html" not in log  # there is none
    (tmp_path / "failures.txt").unlink()
    assert "failed" not in run("bash", "-c", script, "bash", tmp_path, "true", cwd=ROOT)


def test_a_dry_run_prints_commands_and_the_estimate_and_writes_nothing(tmp_path):
    lengths = {"PERPLEXITY_LENGTHS": "65536 2048", "DATASET": "", "ROWS_TEXT": "presets"}
    log = study("--dry_run", PRESET="paper", TRAINED="pi", FROZEN="ntk_frozen", RUN=tmp_path / "run", **lengths)
    for text in (
        "bash finetune.sh --seed 42",
        f"prepare_data.py --dataset {ROOT}/presets",
        "GPU memory    20.5 of 79 GiB",  # the estimate
        "METHODS=ntk_frozen TARGET=32768 LONGEST_TEXT=65536",
        "slimpajama_pi_32768",
        "slimpajama_ntk_frozen",
        r"LENGTHS=65536\ 2048",
        "bash eval.sh --trust_remote_code ../continuous_finetuning/modeling --e_len 65536",
        "trec_1000shots",
        "bash run.sh synthetic --trust_remote_code ../continuous_finetuning/modeling",
    ):
        assert text in log
    assert not list(tmp_path.iterdir())


def test_evaluations_get_the_visible_gpus(tmp_path):
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    nvidia_smi.chmod(0o755)
    settings = {"PRESET": "paper", "TRAINED": "", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert r"GPUS=0\ 1\ 2 CUDA_VISIBLE_DEVICES=0\,1\,2 NPROC=3 JOBS=1" in study("--dry_run", **settings)
    log = study("--dry_run", CUDA_VISIBLE_DEVICES="4,2", NPROC=1, **settings)
    assert r"GPUS=4\ 2 CUDA_VISIBLE_DEVICES=4\,2 NPROC=1 JOBS=1" in log
    nvidia_smi.write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert "GPUs: none" in study("--dry_run", **settings)


def assert_one_line(log: str) -> None:
    assert log.startswith("error: ") and log.count("\n") == 1, log


WRONG = (
    {"PRESET": "nosuch"}, {"BENCHMARKS": "needle nosuch"}, {"RUN": "a b"}, {"RUN": "README.md"}, {"EXTENDED": ""},
    {"GPUS": "all"}, {"ROWS": ""}, {"TRAINED": "", "ROWS": ""}, {"BENCHMARKS": "kv", "KV_SETS": ""},
    {"TABLE1": "ppl"}, {"TRAINED": "pi yarnn"}, {"FROZEN": "yarn_frozen"},
    {"NPROC": "x-y"}, {"JOBS": "0"}, {"EVAL_BATCH_SIZE": "-1"}, {"PERPLEXITY_LENGTHS": "9" * 20},
)  # fmt: skip


@pytest.mark.parametrize("settings", WRONG)
def test_a_wrong_setting_gets_one_line(settings):
    assert_one_line(study(**settings, expect=1))


LAUNCHERS = {
    "study.sh --dry_run": "NPROC EXTENDED SEEDS TRAINED FROZEN ROWS PERPLEXITY_LENGTHS RULER_SAMPLES BATCH_SIZE",
    "continuous_finetuning/finetune.sh": "NPROC JOBS METHODS LENGTHS BATCH_SIZE GLOBAL_BATCH GRADIENT_ACCUMULATION "
    "SEQUENCE_PARALLEL MASTER_PORT NNODES NODE_RANK ESTIMATE",
    "continuous_finetuning/extend.sh": "METHODS",
    "eval_perplexity/eval.sh": "NPROC JOBS GPUS LENGTHS EVAL_BATCH_SIZE",
    "needle/eval.sh": "NPROC JOBS GPUS LENGTHS EVAL_BATCH_SIZE",
    "longbench/eval.sh": "NPROC JOBS GPUS EVAL_BATCH_SIZE TENSOR_PARALLEL",
    "longbench/scripts/score.sh": "JOBS",
    "ruler/run.sh model synthetic": "NPROC JOBS GPUS SEQ_LENGTHS NUM_SAMPLES TENSOR_PARALLEL",
    "ruler/eval.sh": "SEQ_LENGTHS",
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_variables_are_checked_before_bash_calculates_with_them(launcher, tmp_path):
    marker = tmp_path / "marker"
    for name in LAUNCHERS[launcher].split():
        command = {"PYTHON": "true", name: f"a[$(touch {marker})]"}
        assert_one_line(run("bash", *launcher.split(), cwd=ROOT, expect=1, **command))
        assert not marker.exists(), name
