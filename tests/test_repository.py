"""What holds for the repository as a whole."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = [name for name in ("continuous_finetuning", "eval_perplexity", "needle", "longbench", "ruler", "fig")]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
SCRIPTS = [path for path in TRACKED if path.endswith(".sh") or path == ".ci/run"]


def test_every_shell_script_parses():
    assert SCRIPTS
    for script in SCRIPTS:
        done = subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_no_stage_imports_another():
    modules = {stage: {path.stem for path in (ROOT / stage).rglob("*.py")} for stage in STAGES}
    for path in TRACKED:
        stage = path.split("/")[0]
        if stage not in STAGES or not path.endswith(".py"):
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                first = name.split(".")[0]
                assert first not in STAGES, f"{path} imports {name}"
                others = [other for other in STAGES if other != stage and first in modules[other]]
                assert not others or first in modules[stage], f"{path} imports {name} of {others}"


def test_the_copies_that_let_a_stage_be_lifted_out_are_identical():
    for name in ("engine.py", "checkpoint.py", "ranks.py"):
        texts = {(ROOT / stage / name).read_bytes() for stage in ("needle", "longbench", "ruler")}
        assert len(texts) == 1, f"{name} differs between needle, longbench and ruler"


def test_requirements_are_pinned():
    first, *lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert first == "-c constraints.txt"
    for line in lines + (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==\S+( ; .+)?", line), line
    assert "-r requirements.txt" in (ROOT / "requirements-gpu.txt").read_text().splitlines()


def test_deepspeed_configs_leave_the_recipe_to_the_command_line():
    for path in (ROOT / "continuous_finetuning" / "ds_configs").glob("*.json"):
        config = json.loads(path.read_text())
        assert "scheduler" not in config and "optimizer" not in config and "offload_param" not in config, path
        assert config["train_micro_batch_size_per_gpu"] == config["gradient_accumulation_steps"] == "auto"


def environment(tmp_path, *commands, **variables):
    """Runs env.sh's functions in an empty folder, as quickstart.sh does; returns (exit status, stderr)."""
    for name in ("env.sh", "requirements.txt", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    script = " && ".join([". ./env.sh", *commands])
    variables = {**os.environ, **variables}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_an_unsuitable_interpreter_gets_one_line(tmp_path):
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    status, _, error = environment(tmp_path, "prepare_environment", PYTHON=str(old))
    assert status == 1 and not (tmp_path / ".venv").exists()
    assert error.startswith(f"error: {old} is not a Python 3.10-3.13") and error.count("\n") == 1


def test_a_suitable_interpreter_is_taken(tmp_path):
    status, out, _ = environment(tmp_path, "find_python", PYTHON=sys.executable)
    assert status == 0 and out.strip() == sys.executable


def test_readme_links_point_at_files():
    readme = (ROOT / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", readme) if not link.startswith("http")]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


LAUNCHERS = [path for path in SCRIPTS if path.endswith(".sh") and path != "test.sh"]


@pytest.mark.parametrize("script", LAUNCHERS)
def test_launchers_work_with_an_old_bash(script):
    """macOS ships bash 3.2: no mapfile, no associative arrays, no ${x,,}."""
    text = (ROOT / script).read_text()
    assert not re.search(r"\bmapfile\b|\breadarray\b|declare -A|\$\{\w+(,,|\^\^)\}", text)
