"""The figure and its table, drawn from result files that the test writes."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

import make_figures

SCRIPT = Path(make_figures.__file__)


def result(model, method, trained_tokens, length, perplexity, **changes):
    interval = {"perplexity": perplexity * 1.5, "perplexity_interval_95": [perplexity * 1.4, perplexity * 1.6]}
    return {
        "val_perplexity": perplexity,
        "perplexity_interval_95": [perplexity * 0.9, perplexity * 1.1],
        "seq_len": length,
        "last_64": {"loss": 1.0, **interval},
        "model": f"ckpts/{model}",
        "method": method,
        "trained_tokens": trained_tokens,
        "original_length": 128,
        "trained_length": 512,
        "n_windows": 100,
        "seed": 2,
        "data": {"path": "base/data/heldout/test.bin", "source": "standin"},
        **changes,
    }


MODELS = [("base", "base", 0), ("yarn_512", "yarn", 1000), ("yarn_frozen", "yarn", 0), ("ntk_frozen", "ntk_frozen", 0)]


@pytest.fixture
def results(tmp_path):
    for model, method, tokens in MODELS:
        for length in (64, 128, 512):
            changes = {"trained_length": 128} if method == "base" else {}
            path = tmp_path / "results" / f"{model}_{length}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(result(model, method, tokens, length, 20 + length / 64, **changes)))
    return tmp_path / "results"


def run(results, output):
    command = [sys.executable, SCRIPT, "--results", results, "--output_dir", output]
    return subprocess.run(command, capture_output=True, text=True)


def test_figure_table_and_csv(results, tmp_path):
    done = run(results, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows[0] == "| model | 64 | 128 | 512 |"
    assert [row.split(" | ")[0] for row in rows[1:]] == ["| base", "| yarn", "| ntk (frozen)", "| yarn (frozen)"]
    assert rows[1] == "| base | 21.00 / 31.50 | 22.00 / 33.00 | 28.00 / 42.00 |"
    assert "standin data" in done.stdout
    image = matplotlib.image.imread(tmp_path / "out" / "perplexity.png")
    assert image.shape[1] > 1500 and 0.5 < image[..., :3].mean() < 0.999  # drawn on, and not blank
    with (tmp_path / "out" / "perplexity.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 12 and {row["source"] for row in table} == {"standin"}
    assert float(table[0]["mean"]) == 21.0


def test_two_runs_of_one_method_are_told_apart(results):
    (results / "yarn_other_64.json").write_text(json.dumps(result("yarn_other", "yarn", 5, 64, 30.0)))
    text = make_figures.table(make_figures.read(results))
    assert "| yarn, yarn_512 | 21.00" in text and "| yarn, yarn_other | 30.00 / 45.00 | – | – |" in text


def test_missing_values_leave_a_gap(results, tmp_path):
    changes = {"val_perplexity": None, "perplexity_interval_95": None, "last_64": None}
    (results / "base_64.json").write_text(json.dumps(result("base", "base", 0, 64, 1.0, **changes)))
    points = make_figures.read(results)
    make_figures.draw(points, tmp_path / "p.png")
    assert "| base | – / – | 22.00" in make_figures.table(points)


def test_files_that_are_not_whole_are_named(results, capsys):
    (results / "cut.json").write_text('{"val_perplexity": 1.0, "seq_')
    (results / "other_stage.json").write_text('{"score": 1}')
    assert len(make_figures.read(results)) == 12
    assert "cut.json" in capsys.readouterr().out


def test_nothing_to_draw(tmp_path):
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 1 and done.stderr.startswith("error: no perplexity results in")
    assert done.stderr.count("\n") == 1
