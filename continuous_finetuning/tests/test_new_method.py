"""A method is one file: the example of the README, run as it stands there."""

import json
import re
import shutil
import sys

from conftest import STAGE, C, L, run
from test_fine_tune import flags


def test_the_readmes_example_is_a_method(base, rows, tmp_path):
    readme = (STAGE.parent / "README.md").read_text()
    [code] = re.findall(r"## A new method in one file\n.*?```python\n(.*?)```", readme, re.DOTALL)
    stage = tmp_path / "stage"
    shutil.copytree(STAGE, stage, ignore=shutil.ignore_patterns("tests", "ckpts", "data", "__pycache__"))
    (stage / "methods" / "abf.py").write_text(code)

    out = ["--model_name_or_path", base, "--model_max_length", L, "--output_dir", tmp_path / "frozen"]
    run(sys.executable, "extend.py", "--method_name", "abf", "--new_base", "1e6", *out, cwd=stage)
    config = json.loads((tmp_path / "frozen" / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 1e6}
    record = config["context_extension"]
    assert (record["method"], record["original_length"], record["trained_length"]) == ("abf", C, L)
    assert record["exact_attention"] is True  # its group in the table

    run(sys.executable, "fine-tune.py", *flags(base, rows, "abf", tmp_path / "tuned"), "--max_steps", 2, cwd=stage)
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 500_000 and config["context_extension"]["trained_tokens"] > 0
