"""benchmarks/gpu.sh on a CPU, in a copy of the stages without links (`cp -rL`): every method passes every stage."""

import os
import re
import shutil
import subprocess
import sys

from tiny import ROOT, python

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()


def test_the_tiny_report_is_complete(tmp_path):
    kit = tmp_path / "kit"
    for path in TRACKED:
        (kit / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, kit / path)
    variables = {"PYTHON": sys.executable, "RESULTS": tmp_path, "TMPDIR": tmp_path, "PARTS": "methods speed training"}
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh", "--tiny"],
        cwd=kit,
        env=os.environ | {name: str(value) for name, value in variables.items()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )
    [report] = tmp_path.glob("*.md")
    text = report.read_text()
    assert done.returncode == 0, text + done.stderr[-2000:]
    assert "| extend |  | ok |" in text
    for stage in ("perplexity", "needle", "longbench", "ruler"):
        assert f"| {stage} | ok | ok |" in text
    for what, rows in {"decoding": 13, "prefill": 4, "perplexity": 2}.items():  # each has a time
        timed = rf"^\| {what} \| [^|]+ \| \d+ \| [\d,]+ \| [\d.,]+ \| "
        assert len(re.findall(timed, text, re.MULTILINE)) == rows, text
    assert text.count("| origin | ") == 10 and "out of memory" not in text and "cannot open" not in text

    [base] = tmp_path.glob("*/base")  # beside the results of all stages
    figures = tmp_path / "figures"
    python("make_figures.py", "--results", base.parent, "--output_dir", figures, cwd=kit / "fig")
    table = (figures / "table1.md").read_text()
    for benchmark in ("Perplexity", "Needle", "LongBench", "RULER"):
        assert benchmark in table
