"""Every checkpoint that a file names is one that finetune.sh or extend.sh writes, by the README's commands."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tiny import ROOT

README = (ROOT / "README.md").read_text()
PAPER_RUNS = (ROOT / "continuous_finetuning" / "paper_runs.md").read_text()
SCRIPTS = sorted(path.name for path in (ROOT / "eval_perplexity" / "scripts").glob("eval_*.sh") if path.is_symlink())


def arguments(command: str, stage: str, tmp_path: Path) -> list[str]:
    """All words that a command, run in a stage's folder, passes to Python."""
    calls, python = tmp_path / "calls", tmp_path / "python"
    calls.write_text("")
    python.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" >>{calls}\n')
    python.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "PYTHON": str(python)}
    subprocess.run(["bash", "-c", command], cwd=ROOT / stage, env=env, check=True, capture_output=True)
    return calls.read_text().splitlines()


def checkpoints(words) -> set[str]:
    """Those of the words that are paths below continuous_finetuning/, relative to it."""
    return {word.split("continuous_finetuning/")[1] for word in words if "continuous_finetuning/ckpts" in word}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> set[str]:
    """Folders below continuous_finetuning/ that the launchers' defaults and the README's commands write."""
    commands = re.findall(r"`([A-Z]\w+=[^`<]* bash finetune.sh[^`]*)`", PAPER_RUNS)
    assert len(commands) >= 8
    folders = set()
    for command in ["bash finetune.sh", "bash extend.sh", *commands]:
        words = arguments(command, "continuous_finetuning", tmp_path_factory.mktemp("calls"))
        folders |= {words[i + 1] for i, word in enumerate(words) if word == "--output_dir"}
    return folders


def test_launchers_follow_the_rule(written):
    name = "llama2-7b-hf-slimpajama"
    runs = [f"{method}_32768" for method in ("origin", "pi", "ntk", "yarn", "clex", "longlora")]
    runs += ["ntk_65536", "landmark_512", "ntk_frozen", "lm_infinite_frozen", "self_extend_frozen"]
    assert {f"ckpts/{name}/{name}_{run}" for run in runs} < written
    assert f"ckpts/{name}-2b/{name}-2b_ntk_65536" in written


def test_longbench_and_ruler(written, tmp_path):
    models = json.loads((ROOT / "longbench" / "config" / "model2path.json").read_text()).values()
    names = re.findall(r"^ +([\w.-]+)\) MODEL_PATH", (ROOT / "ruler" / "config_models.sh").read_text(), re.MULTILINE)
    loop = f"for name in {' '.join(names)}; do bash run.sh $name synthetic; done"
    for paths in (models, arguments(loop, "ruler", tmp_path)):
        assert len(checkpoints(paths)) > 5
        assert checkpoints(paths) <= written


def test_perplexity(written, tmp_path):
    assert len(SCRIPTS) > 5
    for script in SCRIPTS:
        paths = checkpoints(arguments(f"bash scripts/{script}", "eval_perplexity", tmp_path))
        assert paths, script
        assert paths <= written, script


def test_readme(written):
    names = {Path(folder).name for folder in written}
    assert set(re.findall(r"llama2-7b-hf-slimpajama(?:-2b)?_[a-z]\w*", README)) <= names
