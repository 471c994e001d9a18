"""benchmarks/gpu.sh on a CPU: every part finishes and reports, so that it is right the first time it meets a GPU."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_tiny_report_is_complete(tmp_path):
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh", "--tiny"],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable, "RESULTS": str(tmp_path), "PARTS": "methods speed training"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    [report] = tmp_path.glob("*.md")
    text = report.read_text()
    assert done.returncode == 0, text + done.stderr[-2000:]
    for stage in ("train or extend", "perplexity", "needle", "longbench", "ruler"):
        assert f"| {stage} | ok | ok |" in text
    assert text.count("| kit | ") == 5 and "| lm_infinite | 1 | 100 |" in text
    assert text.count("| origin | sdpa |") == 9 and "out of memory" not in text
