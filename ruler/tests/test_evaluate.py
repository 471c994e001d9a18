"""Scores: worked cases, known models through files, RULER's file formats, intervals, the table."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

import evaluate
import table
from results import read_json, write_json
from scoring import clean, contains, contains_word, effective_length, interval, percent, resample, score, weighted
from tiny import STAGE, TASKS, read_tasks, rows, save_predictions


def run(module, monkeypatch, capsys, *flags) -> tuple[str, str | None]:
    """main() of a script here: (what it printed, its error)."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, flags)])
    error = None
    try:
        module.main()
    except SystemExit as reason:
        error = str(reason)
    return capsys.readouterr().out, error


# --- one answer
def test_match_all_is_the_share_of_golds_and_match_part_any_of_them():
    golds = ["alpha", "beta", "gamma", "delta"]
    assert score("Beta and DELTA.", golds, "string_match_all") == 0.5
    assert score("Beta and DELTA.", golds, "string_match_part") == 1.0
    assert score("nothing", golds, "string_match_part") == 0.0
    assert percent([1 / 3, 1, 1]) == 77.78  # rounded to two decimals


@pytest.mark.parametrize(
    "pred, gold, loose, strict",
    [
        ("I do not know", "no", True, False),
        ("No.", "no", True, True),
        ("know, no", "no", True, True),  # a later occurrence counts
        ("category", "cat", True, False),
        ("1. cat 2. dog", "CAT", True, True),
        ("12345678", "2345678", True, False),
        ("it is _x_", "x", True, False),
        ("is quick-fox.", "quick-fox", True, True),
        ("", "cat", False, False),
    ],
)
def test_the_strict_score_wants_whole_words(pred, gold, loose, strict):
    assert (contains(pred, gold), contains_word(pred, gold)) == (loose, strict)


def test_control_characters_become_line_breaks():
    assert clean(" \x00 a\x01b\tc\x1f\n ") == "a\nb\nc"
    assert clean("\x00\x07") == ""


# --- whole files
REPLIES = {
    "oracle": lambda row: f"They are {', '.join(row['outputs']).upper()}.",
    "silent": lambda row: "",
    "first": lambda row: row["outputs"][0],
}


@pytest.fixture
def predictions(tmp_path):
    """{reply: folder} of all 13 tasks, 6 samples each."""
    folders = {}
    for name, reply in REPLIES.items():
        folders[name] = tmp_path / "results" / name / "synthetic" / "256" / "pred"
        for task in TASKS:
            save_predictions(folders[name], task, rows(task, 6), reply)
    return folders


def test_an_oracle_scores_100_and_a_silent_model_0_in_all_tasks(predictions, monkeypatch, capsys):
    assert tuple(read_tasks("synthetic")) == TASKS
    out, error = run(evaluate, monkeypatch, capsys, "--data_dir", *predictions.values(), "--benchmark", "synthetic")
    assert error is None and out.count("mean of 13 tasks") == 3
    for name, mean, nulls in (("oracle", 100.0, 0), ("silent", 0.0, 6)):
        scores = read_json(predictions[name] / "scores.json")
        assert list(scores["tasks"]) == list(TASKS) and scores["missing"] == []
        for entry in scores["tasks"].values():
            assert (entry["score"], entry["strict"], entry["nulls"], entry["n"]) == (mean, mean, nulls, 6)
        whole = scores["mean"]
        assert (whole["score"], whole["interval_95"], whole["tasks"], whole["complete"]) == (mean, [mean] * 2, 13, True)
        assert (scores["benchmark"], scores["name"], scores["length"]) == ("ruler", name, 256)


def test_scores_between(predictions, monkeypatch, capsys):
    """Rows have 1, 2, 3, 1, 2, 3 golds; the first of them is a third, half or all of match_all, all of match_part."""
    run(evaluate, monkeypatch, capsys, "--data_dir", predictions["first"])
    scores = read_json(predictions["first"] / "scores.json")
    assert scores["tasks"]["vt"]["score"] == round(100 * (1 + 1 / 2 + 1 / 3) / 3, 2) == 61.11
    assert scores["tasks"]["qa_1"]["score"] == 100 and scores["tasks"]["qa_1"]["metric"] == "string_match_part"
    assert scores["mean"]["score"] == round((11 * 1100 / 18 + 2 * 100) / 13, 2)
    low, high = scores["mean"]["interval_95"]
    assert low < scores["mean"]["score"] < high
    assert scores["tasks"]["vt"]["row_scores"] == [1.0, 0.5, 0.333333] * 2


def test_summary_and_submission_are_what_pandas_writes(predictions, monkeypatch, capsys, tmp_path):
    folder = predictions["first"]
    save_predictions(folder, "cwe", rows("cwe", 3), lambda row: 'a "quoted", text\x0bwith a break\n' * row["index"])
    run(evaluate, monkeypatch, capsys, "--data_dir", folder)
    entries = read_json(folder / "scores.json")["tasks"]
    frame = pandas.DataFrame(
        [
            ["Tasks", *entries],
            ["Score", *(entry["score"] for entry in entries.values())],
            ["Nulls", *(f"{entry['nulls']}/{entry['n']}" for entry in entries.values())],
        ]
    )
    assert (folder / "summary.csv").read_text() == frame.to_csv(index=False)
    assert (folder / "summary.csv").read_text().startswith("0,1,2,3,4,5,6,7,8,9,10,11,12,13\nTasks,niah_single_1,")
    assert "1/3" in (folder / "summary.csv").read_text()  # cwe: one empty answer
    columns = {"Task": [], "ID": [], "Prediction": []}
    for task in entries:
        for line in (folder / f"{task}.jsonl").read_text().splitlines():
            row = json.loads(line)
            columns["Task"].append(task)
            columns["ID"].append(row["index"])
            columns["Prediction"].append(clean(row["pred"]))
    assert (folder / "submission.csv").read_bytes().decode() == pandas.DataFrame(columns).to_csv(index=False)


def test_one_task_alone_has_its_name_in_the_summarys(monkeypatch, capsys, tmp_path):
    save_predictions(tmp_path, "vt", rows("vt", 3), REPLIES["oracle"])
    run(evaluate, monkeypatch, capsys, "--data_dir", tmp_path)
    assert (tmp_path / "summary-vt.csv").read_text() == "0,1\nTasks,vt\nScore,100.0\nNulls,0/3\n"
    assert read_json(tmp_path / "scores.json")["mean"]["complete"] is False
    assert len(read_json(tmp_path / "scores.json")["missing"]) == 12


def test_what_cannot_be_scored_gets_a_line_and_the_rest_is_scored(predictions, monkeypatch, capsys, tmp_path):
    empty, mixed = tmp_path / "empty", tmp_path / "mixed"
    empty.mkdir()
    for task, checkpoint in (("vt", "a" * 16), ("cwe", "b" * 16)):
        save_predictions(mixed, task, rows(task, 3), REPLIES["oracle"])
        (mixed / "runs").mkdir(exist_ok=True)
        write_json(mixed / "runs" / f"{task}.json", {"checkpoint": checkpoint})
    goldless = tmp_path / "goldless"
    save_predictions(goldless, "vt", [row | {"outputs": []} for row in rows("vt", 3)], REPLIES["silent"])
    flags = ["--data_dir", empty, mixed, goldless, tmp_path / "none", predictions["oracle"]]
    out, error = run(evaluate, monkeypatch, capsys, *flags)
    assert error.splitlines() == [
        f"error: {empty} has no predictions of any task; pred/call_api.py makes them",
        f"error: {mixed}: vt and cwe are of different checkpoints; answer one set again",
        f"error: {goldless}/vt.jsonl: sample 0 has no gold answers",
        f"error: no folder {tmp_path / 'none'}",
    ]
    assert "mean of 13 tasks 100.00" in out and not (mixed / "scores.json").exists()


def test_the_scorer_starts_without_torch(predictions):
    code = (
        f"import runpy, sys; sys.path.insert(0, 'eval'); sys.argv += ['--data_dir', {str(predictions['oracle'])!r}];"
        "runpy.run_path('eval/evaluate.py', run_name='__main__');"
        "assert not {'torch', 'transformers', 'pandas', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=STAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- intervals and averages
def test_the_interval_is_the_bootstraps():
    values = [1.0] * 70 + [0.0] * 30
    low, high = interval(resample(values, 0))
    half = 100 * 1.96 * np.sqrt(0.7 * 0.3 / 100)  # the normal approximation, 8.98
    assert low == pytest.approx(70 - half, abs=1.1) and high == pytest.approx(70 + half, abs=1.1)
    assert interval(resample(values, 0)) == [low, high]  # seeded
    draws = np.random.default_rng(0).integers(0, 100, (2000, 100), dtype=np.int32)  # a naive loop over the same draws
    means = sorted(sum(values[i] for i in draw) / 100 for draw in draws)
    assert low == pytest.approx(100 * means[50], abs=1) and high == pytest.approx(100 * means[-50], abs=1)


def test_effective_length_and_weighted_averages():
    means = {4096: 90.0, 8192: 85.6, 16384: 80.0, 32768: 70.0, 65536: 60.0, 131072: 50.0}
    assert effective_length(means) == 8192 and effective_length({4096: 85.5}) is None
    inc = (1 * 90 + 2 * 85.6 + 3 * 80 + 4 * 70 + 5 * 60 + 6 * 50) / 21  # RULER's weights, 1/21 to 6/21
    dec = (6 * 90 + 5 * 85.6 + 4 * 80 + 3 * 70 + 2 * 60 + 1 * 50) / 21
    assert weighted(means) == pytest.approx(inc) and weighted(means, decreasing=True) == pytest.approx(dec)


def test_the_table_has_every_model_and_length_and_says_what_is_missing(monkeypatch, capsys, tmp_path):
    root = tmp_path / "results"
    for name, length, tasks in (("good", 256, TASKS), ("good", 512, TASKS), ("half", 256, TASKS[:2])):
        folder = root / name / "synthetic" / str(length) / "pred"
        for task in tasks:
            save_predictions(folder, task, rows(task, 4), REPLIES["oracle" if name == "good" else "first"])
            (folder / "runs").mkdir(exist_ok=True)
            source = {"source": "standin" if task == "qa_1" else "official"}
            write_json(folder / "runs" / f"{task}.json", {"method": "pi", "trained_length": 512, "data": source})
        run(evaluate, monkeypatch, capsys, "--data_dir", folder)
    out, error = run(table, monkeypatch, capsys, "--root", root, "--models", "good", "half", "gone")
    lines = [line.split() for line in out.splitlines()]
    assert ["good", "pi", "100.0", "[100.0,", "100.0]", "100.0", "[100.0,", "100.0]", "512", "100.0", "100.0"] in lines
    [half] = [line for line in lines if line[:2] == ["half", "pi"]]
    assert half[2] == "70.8" and half[5:] == ["(2)", "-", "<256", "-", "-"]
    assert "qa_1*" in out and "standin" in out and "over the 2 lengths, weights 1..2" in out
    assert error.splitlines() == [
        f"missing: half at 256: {' '.join(TASKS[2:])}",
        f"missing: half at 512: {' '.join(TASKS)}",
        "missing: gone: everything",
    ]
    assert run(table, monkeypatch, capsys, "--root", root, "--models", "good")[1] is None
    models = read_json(root / "ruler.json")["models"]
    assert list(models) == ["good"] and models["good"]["effective_length"] == 512
    frame = pandas.read_csv(root / "ruler.csv")
    assert list(frame["length"]) == [256, 512] and list(frame["standin"]) == ["qa_1", "qa_1"]
    error = run(table, monkeypatch, capsys, "--root", Path(tmp_path / "nothing"))[1]
    assert error == f"error: no scores of any model in {tmp_path / 'nothing'}; run.sh makes them"
