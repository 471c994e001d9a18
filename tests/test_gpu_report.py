"""benchmarks/gpu.sh on a CPU, in a copy of the stages without links (`cp -rL`): three checkpoints pass every stage."""

import re
import shutil
import sys

import pytest

from tiny import ROOT, python, run


@pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed builds its CPU optimizer with g++: install it")
def test_the_tiny_report_is_complete(tmp_path):
    kit = tmp_path / "kit"
    kit.mkdir()
    run("bash", "-c", f"git ls-files | tar -chT - | tar -xC {kit}", cwd=ROOT)
    variables = {"PYTHON": sys.executable, "RESULTS": tmp_path, "TMPDIR": tmp_path, "PARTS": "methods speed training"}
    run("bash", "benchmarks/gpu.sh", "--tiny", cwd=kit, timeout=900, **variables)
    [report] = tmp_path.glob("*.md")
    text = report.read_text()
    assert "| extend |  |  | ok |" in text
    for stage in ("train", "ZeRO-3"):
        assert f"| {stage} |  | ok |  |" in text
    for stage in ("perplexity", "needle", "longbench", "ruler"):
        assert f"| {stage} | ok | ok | ok |" in text
    for what, rows in {"decoding": 9, "prefill": 4, "perplexity": 2}.items():  # each has a time
        timed = rf"^\| {what} \| [^|]+ \| \d+ \| [\d,]+ \| [\d.,]+ \| "
        assert len(re.findall(timed, text, re.MULTILINE)) == rows, text
    assert text.count("| origin | ") == 9 and "out of memory" not in text and "cannot open" not in text

    [base] = tmp_path.glob("*/base")  # beside the results of all stages
    figures = tmp_path / "figures"
    python("make_figures.py", "--results", base.parent, "--output_dir", figures, cwd=kit / "fig")
    table = (figures / "table1.md").read_text()
    for benchmark in ("Perplexity", "Needle", "LongBench", "RULER"):
        assert benchmark in table
