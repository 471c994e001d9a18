"""Scores: worked cases, known models through files, RULER's file formats, intervals, the table."""

import json

import numpy as np
import pandas
import pytest

import evaluate
import table
from evaluate import clean, contains, contains_word, score
from run import read_json, write_json
from samples import rows, save_predictions
from tasks import read_tasks

TASKS = tuple(read_tasks("synthetic"))


# --- one answer
def test_match_all_is_the_share_of_golds_and_match_part_any_of_them():
    golds = ["alpha", "beta", "gamma", "delta"]
    assert score("Beta and DELTA.", golds, "string_match_all") == 0.5
    assert score("Beta and DELTA.", golds, "string_match_part") == 1.0
    assert score("nothing", golds, "string_match_part") == 0.0
    assert evaluate.percent([1 / 3, 1, 1]) == 77.78  # rounded to two decimals
    assert clean(" \x00 a\x01b\tc\x1f\n ") == "a\nb\nc" and clean("\x00\x07") == ""


@pytest.mark.parametrize("pred, gold", [("No.", "no"), ("know, no", "no"), ("1. cat 2. dog", "CAT"), ("a-b.", "a-b")])
def test_the_strict_score_counts_whole_words(pred, gold):
    assert contains(pred, gold) and contains_word(pred, gold)
    inside = f"x{pred}x".replace(" ", "x")
    assert contains(inside, gold) and not contains_word(inside, gold)
    assert not contains("", gold) and not contains_word("", gold)
    for glued in (f"**{gold}**", f"_{gold}_", f"<b>{gold}</b>", f"is:{gold}.The", f"{gold}\u2014as"):
        assert contains(glued, gold) and contains_word(glued, gold)


def test_effective_length_and_weighted_means():
    scores = [90.0, 85.6, 80.0, 70.0, 60.0, 50.0]
    lengths = [4096, 8192, 16384, 32768, 65536, 131072]
    frame = pandas.DataFrame({"length": lengths, "score": scores, "tasks": 13})
    inc = (1 * 90 + 2 * 85.6 + 3 * 80 + 4 * 70 + 5 * 60 + 6 * 50) / 21  # RULER's weights, 1/21 to 6/21
    dec = (6 * 90 + 5 * 85.6 + 4 * 80 + 3 * 70 + 2 * 60 + 1 * 50) / 21
    assert list(table.summarize(frame, lengths).values()) == [8192, round(inc, 2), round(dec, 2)]
    assert list(table.summarize(frame[3:], lengths).values()) == [None, None, None]


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


def test_an_oracle_scores_100_and_a_silent_model_0_in_all_tasks(predictions, call):
    out, error = call(evaluate, "--data_dir", *predictions.values(), "--benchmark", "synthetic")
    assert error is None and out.count("mean of 13 tasks") == 3 and len(TASKS) == 13
    for name, mean, nulls in (("oracle", 100.0, 0), ("silent", 0.0, 6)):
        scores = read_json(predictions[name] / "scores.json")
        assert list(scores["tasks"]) == list(TASKS) and scores["missing"] == []
        for entry in scores["tasks"].values():
            assert (entry["score"], entry["strict"], entry["nulls"], entry["n"]) == (mean, mean, nulls, 6)
            assert entry["interval_95"] == ([60.97, 100.0] if mean else [0.0, 39.03])  # Wilson's of 6 samples
        whole = scores["mean"]
        assert (whole["score"], whole["tasks"], whole["complete"]) == (mean, 13, True)
        assert whole["interval_95"] == ([95.31, 100.0] if mean else [0.0, 4.69])  # of 78
        assert (scores["benchmark"], scores["name"], scores["length"]) == ("ruler", name, 256)


def test_scores_between(predictions, call):
    """Rows have 1, 2, 3, 1, 2, 3 golds; the first of them is a third, half or all of match_all, all of match_part."""
    call(evaluate, "--data_dir", predictions["first"])
    scores = read_json(predictions["first"] / "scores.json")
    entry = scores["tasks"]["vt"]
    assert entry["score"] == round(100 * (1 + 1 / 2 + 1 / 3) / 3, 2) == 61.11
    assert entry["row_scores"] == [1.0, 0.5, 0.333333] * 2 and entry["interval_95"][0] < 61 < entry["interval_95"][1]
    assert scores["tasks"]["qa_1"]["score"] == 100 and scores["tasks"]["qa_1"]["metric"] == "string_match_part"
    assert scores["mean"]["score"] == round((11 * 1100 / 18 + 2 * 100) / 13, 2)
    error = 100 * np.std([1, 1 / 2, 1 / 3] * 2) / np.sqrt(6) * np.sqrt(11) / 13  # of the mean of 11 such tasks
    error *= np.sqrt(6 / 5)
    assert entry["stderr"] == pytest.approx(error * 13 / np.sqrt(11), abs=1e-3)
    bounds = [scores["mean"]["score"] + sign * 2 * error for sign in (-1, 1)]  # 2: of Student's t, df 55
    assert scores["mean"]["interval_95"] == pytest.approx(bounds, abs=0.5)


def test_summary_and_submission_are_what_rulers_script_writes(predictions, call, tmp_path):
    folder = predictions["first"]
    save_predictions(folder, "cwe", rows("cwe", 3), lambda row: 'a "quoted", text\x0bwith a break\n' * row["index"])
    call(evaluate, "--data_dir", folder)
    summary = (folder / "summary.csv").read_text().splitlines()
    assert summary[0] == "0,1,2,3,4,5,6,7,8,9,10,11,12,13" and summary[1].startswith("Tasks,niah_single_1,")
    assert summary[2].startswith("Score,61.11,") and summary[3].count("0/6") == 12 and "1/3" in summary[3]
    submission = pandas.read_csv(folder / "submission.csv", keep_default_na=False)
    assert list(submission) == ["Task", "ID", "Prediction"] and len(submission) == 12 * 6 + 3
    assert list(submission[submission["Task"] == "cwe"]["Prediction"])[1] == 'a "quoted", text\nwith a break'
    save_predictions(tmp_path, "vt", rows("vt", 3), REPLIES["oracle"])
    call(evaluate, "--data_dir", tmp_path)
    assert (tmp_path / "summary-vt.csv").read_text() == "0,1\nTasks,vt\nScore,100.0\nNulls,0/3\n"


def test_costs_are_summed_over_the_samples(call, tmp_path):
    cost = {"prompt_tokens": 90, "generated_tokens": 10, "seconds": 0.5, "peak_memory_bytes": 2}
    save_predictions(tmp_path, "vt", rows("vt", 3), REPLIES["oracle"], **cost)
    write_json(tmp_path / "runs" / "vt.json", {"samples": 5, "settings": {"engine": "vllm"}})
    call(evaluate, "--data_dir", tmp_path)
    scores = read_json(tmp_path / "scores.json")
    entry = scores["tasks"]["vt"]
    assert (entry["seconds"], entry["tokens_per_second"], entry["peak_memory_bytes"]) == (1.5, 200.0, 2)
    assert (entry["complete"], entry["expected_n"], scores["engine"]) == (False, 5, "vllm")


def test_a_folder_that_cannot_be_scored_is_reported_and_the_others_are_scored(predictions, call, tmp_path):
    empty, mixed = tmp_path / "empty", tmp_path / "mixed"
    for task, checkpoint in (("vt", "a" * 16), ("cwe", "b" * 16)):
        save_predictions(mixed, task, rows(task, 3), REPLIES["oracle"])
        write_json(mixed / "runs" / f"{task}.json", {"settings": {"checkpoint": checkpoint}})
    out, error = call(evaluate, "--data_dir", empty, mixed, predictions["oracle"])
    assert f"error: {empty} has no predictions of any task" in out
    assert f"error: {mixed}: vt and cwe are of different checkpoints" in out
    assert error.startswith("error: 2 of 3 checkpoints failed")
    assert "mean of 13 tasks 100.00" in out and not (mixed / "scores.json").exists()


FIELDS = [{"pred": 5}, {"pred": "\ud800"}, {"outputs": "a"}, {"outputs": []}, {"index": [0]}]
RECORDS = [{"samples": "six"}, {"settings": [1]}, {"data": "official"}]


@pytest.mark.parametrize("fields, record", [({}, record) for record in RECORDS] + [(odd, {}) for odd in FIELDS])
def test_one_odd_file_is_named_and_the_rest_is_scored(predictions, call, tmp_path, fields, record):
    folder = predictions["oracle"]
    (folder / "vt.jsonl").write_text(json.dumps({"index": 0, "pred": "a", "outputs": ["a"]} | fields) + "\n")
    write_json(folder / "runs" / "vt.json", record)
    out, error = call(evaluate, "--data_dir", folder)
    assert error.startswith(f"error: {folder}: left out: {folder}/vt.jsonl") and "\n" not in error
    assert "mean of 12 tasks 100.00" in out and read_json(folder / "scores.json")["missing"] == ["vt"]
    (folder / "scores.json").write_text('{"mean": 5, "tasks": {}}')
    assert f"left out: {folder}/scores.json" in call(table, "--root", tmp_path / "results")[1]


def test_the_table_has_every_model_and_length_and_reports_missing_scores(call, tmp_path):
    for name, length, tasks in (("good", 256, TASKS), ("good", 512, TASKS), ("half", 256, TASKS[:2])):
        folder = tmp_path / name / "synthetic" / str(length) / "pred"
        for task in tasks:
            save_predictions(folder, task, rows(task, 4), REPLIES["oracle" if name == "good" else "first"])
            source = {"source": "standin" if task == "qa_1" else "official"}
            write_json(folder / "runs" / f"{task}.json", {"method": "pi", "data": source})
        call(evaluate, "--data_dir", folder)
    out, error = call(table, "--root", tmp_path, "--models", "good", "half", "gone")
    lines = [line.split() for line in out.splitlines()]
    assert ["good", "pi", *["100.0", "[93.1,", "100.0]"] * 2, "512", "100.0", "100.0"] in lines
    [half] = [line for line in lines if line[:2] == ["half", "pi"]]
    assert half[2] == "70.8" and half[5:] == ["(2)", "-", "-", "-", "-"]
    assert "stand-in data, not RULER's: qa_1;" in out
    assert error.splitlines() == [
        f"missing: half at 256: {', '.join(TASKS[2:])}",
        "missing: half at 512: everything",
        "missing: gone at 256: everything",
        "missing: gone at 512: everything",
    ]
    assert call(table, "--root", tmp_path, "--models", "good")[1] is None
    assert read_json(tmp_path / "ruler.json")["models"]["good"]["effective_length"] == 512
    assert list(pandas.read_csv(tmp_path / "ruler.csv")["length"]) == [256, 512]
    assert "error: no scores of any model in" in call(table, "--root", tmp_path / "nothing")[1]
