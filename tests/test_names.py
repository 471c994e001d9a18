"""Checkpoint folders have one name everywhere: every name that a file mentions is one that finetune.sh or extend.sh
writes, by the README's commands."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tiny import ROOT

STAGE = ROOT / "continuous_finetuning"
PYTHON = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >>"$CALLS"\n'
README = (ROOT / "README.md").read_text()
PAPER_RUNS = (ROOT / "continuous_finetuning" / "paper_runs.md").read_text()
SETTINGS = "METHODS LENGTHS RECIPE OUTPUT_ROOT BASE DATASET NPROC GPUS JOBS DEEPSPEED ESTIMATE CHECKPOINTS SLURM_NNODES"


@pytest.fixture
def words(tmp_path):
    """words(command, folder): all words that the command passes to python, run in the folder with a fake python."""
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)

    def call(command: str, folder: Path) -> list[str]:
        calls = tmp_path / "calls"
        calls.write_text("")
        env = {name: value for name, value in os.environ.items() if name not in SETTINGS.split()}
        env |= {"PYTHON": str(tmp_path / "python"), "CALLS": str(calls)}
        subprocess.run(["bash", "-c", command], cwd=folder, env=env, check=True, capture_output=True)
        return calls.read_text().splitlines()

    return call


@pytest.fixture
def written(words) -> set[str]:
    """Folders below continuous_finetuning/ that the README's commands write."""
    commands = re.findall(r"^\|.*`([A-Z]\w+=\S* [^`]*bash finetune.sh[^`]*)`", PAPER_RUNS, re.MULTILINE)
    assert len(commands) == 8
    folders = set()
    for command in ["bash finetune.sh", *commands, "bash extend.sh"]:
        passed = words(command, STAGE)
        folders |= {passed[i + 1] for i, word in enumerate(passed) if word == "--output_dir"}
    return folders


def below_the_stage(paths) -> set[str]:
    return {path.split("continuous_finetuning/")[1] for path in paths if "continuous_finetuning/" in path}


def test_the_rule(written):
    root, name = "ckpts/llama2-7b-hf-slimpajama", "llama2-7b-hf-slimpajama"
    methods = ("origin", "pi", "ntk", "yarn", "clex", "longlora")
    assert {f"{root}/{name}_{method}_32768" for method in methods} < written
    assert {f"{root}/{name}_ntk_65536", f"{root}-2b/{name}-2b_ntk_65536", f"{root}/{name}_landmark_512"} < written
    assert {f"{root}/{name}_{method}_frozen" for method in ("ntk", "lm_infinite", "self_extend")} < written


def test_longbench(written):
    paths = json.loads((ROOT / "longbench" / "config" / "model2path.json").read_text())
    assert len(below_the_stage(paths.values())) > 5
    assert below_the_stage(paths.values()) <= written


def test_ruler(words, written):
    names = re.findall(r"^ +([\w.-]+)\) MODEL_PATH", (ROOT / "ruler" / "config_models.sh").read_text(), re.MULTILINE)
    folder = "../continuous_finetuning/ckpts/llama2-7b-hf-slimpajama"  # run.sh's own default
    assert folder in (ROOT / "ruler" / "run.sh").read_text()
    loop = f'for name in {" ".join(names)}; do MODEL_SELECT $name {folder}; "$PYTHON" $MODEL_PATH; done'
    paths = below_the_stage(words(f". ./config_models.sh; {loop}", ROOT / "ruler"))
    assert len(paths) > 5 and paths <= written


SCRIPTS = {path.name for path in (ROOT / "eval_perplexity" / "scripts").glob("eval_*.sh")} - {"eval_method.sh"}


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_perplexity(words, written, script):
    paths = below_the_stage(words(f"bash scripts/{script}", ROOT / "eval_perplexity"))
    assert paths and paths <= written


def test_readme(written):
    names = {Path(folder).name for folder in written}
    assert set(re.findall(r"llama2-7b-hf-slimpajama(?:-2b)?_[a-z]\w*", README)) <= names
