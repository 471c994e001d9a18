"""What holds for the repository as a whole."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tiny import ROOT, run

STAGES = ("continuous_finetuning", "eval_perplexity", "needle", "longbench", "ruler", "fig")
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
SCRIPTS = [path for path in TRACKED if path.endswith(".sh") or path == ".ci/run"]


# --- stages
def test_every_link_of_a_stage_is_relative_and_leads_into_common():
    for link in [ROOT / path for path in TRACKED if (ROOT / path).is_symlink()]:
        target = link.resolve()
        assert target.is_file() and not os.readlink(link).startswith("/"), link
        assert ROOT / "common" in target.parents or target.parent == link.parent, link


def test_a_stage_imports_only_its_own_files():
    modules = {}
    for stage in (*STAGES, "common"):
        files = [path for path in TRACKED if path.startswith(f"{stage}/") and path.endswith(".py")]
        modules[stage] = {Path(path).stem for path in files} - sys.stdlib_module_names  # there is methods/string.py
    for path in TRACKED:
        stage = path.split("/")[0]
        if stage not in modules or not path.endswith(".py"):
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                first = name.split(".")[0]
                assert first not in modules, f"{path} imports {name}"
                others = [other for other in modules if first in modules[other]]
                assert not others or stage in others, f"{path} imports {name} of {others}; a link is missing"


# --- launchers
def test_every_shell_script_parses_and_suits_an_old_bash():
    """macOS has bash 3.2: no mapfile, no associative arrays, no ${x,,}."""
    assert SCRIPTS
    for script in SCRIPTS:
        run("bash", "-n", ROOT / script)
        newer = re.search(r"\bmapfile\b|\breadarray\b|declare -A|\$\{\w+(,,|\^\^|@Q)\}", (ROOT / script).read_text())
        assert not newer, f"{script}: {newer}"


# --- the environment
def test_requirements_are_pinned():
    first, *lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert first == "-c constraints.txt"
    for line in lines + (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==\S+( ; .+)?", line), line
    assert "-r requirements.txt" in (ROOT / "requirements-gpu.txt").read_text().splitlines()


def test_an_unsuitable_interpreter_gets_one_line(tmp_path):
    (tmp_path / "common").mkdir()
    for name in ("env.sh", "requirements.txt", "constraints.txt", "common/settings.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    programs = tmp_path / ".venv" / "bin"
    for has_environment in (False, True):
        if has_environment:
            programs.mkdir(parents=True)
            for name in ("python", "pip"):
                (programs / name).symlink_to(shutil.which("true"))
        log = run("bash", "-c", ". ./env.sh; prepare_environment", cwd=tmp_path, expect=1, PYTHON=old)
        assert log.startswith(f"error: {old} is not a Python 3.10-3.13") and log.count("\n") == 1
        assert programs.exists() == has_environment


# --- documentation
def test_help_shows_the_docstring_of_a_script_as_it_is_written():
    scripts = [
        path for path in TRACKED if path.endswith(".py") and "\n    run_script(main)" in (ROOT / path).read_text()
    ]
    for script in scripts:  # without r, a \ at the end of a line joins it with the next
        text = (ROOT / script).read_text()
        assert ast.get_docstring(ast.parse(text), clean=False) in text, script
    stage = ROOT / "continuous_finetuning"
    docstring = ast.get_docstring(ast.parse((stage / "fine-tune.py").read_text()))
    assert docstring in run(sys.executable, "fine-tune.py", "--help", cwd=stage)


def test_readme_links_point_at_files():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    links = [link for link in links if not link.startswith("http")]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
