"""Scores: worked cases, known models through files, RULER's file formats, intervals, the table."""

from run import read_json, write_json

import pytest

import evaluate
from evaluate import clean, contains, score
from samples import rows, save_predictions, write_lines
from tasks import read_tasks

TASKS = tuple(read_tasks("synthetic"))
REPLIES = {
    "oracle": lambda row: f"They are {', '.join(row['outputs']).upper()}.",
    "silent": lambda row: "",
    "first": lambda row: row["outputs"][0],
}


def test_match_all_is_the_share_of_golds_and_match_part_any_of_them():
    golds = ["alpha", "beta", "gamma", "delta"]
    assert score("Beta and DELTA.", golds, "string_match_all") == 0.5
    assert score("Beta and DELTA.", golds, "string_match_part") == 1.0
    assert clean(" \x00 a\x01b\tc\x1f\n ") == "a\nb\nc" and clean("\x00\x07") == ""


@pytest.mark.parametrize("pred, gold", [("No.", "no"), ("know, no", "no"), ("1. cat 2. dog", "CAT"), ("a-b.", "a-b")])
def test_the_strict_score_counts_whole_words(pred, gold):
    inside = f"x{pred}x".replace(" ", "x")
    assert contains(inside, gold) and not contains(inside, gold, strict=True)
    for text in (pred, f"**{gold}**", f"_{gold}_", f"<b>{gold}</b>", f"is:{gold}.The", f"{gold}\u2014as"):
        assert contains(text, gold) and contains(text, gold, strict=True)


@pytest.fixture
def predict(tmp_path):
    """predict(reply, tasks, n, length, **record) saves predictions and returns their folder."""

    def predict(reply, tasks=TASKS, n=6, length=256, **record):
        folder = tmp_path / reply / "synthetic" / str(length) / "pred"
        for task in tasks:
            save_predictions(folder, task, rows(task, n), REPLIES[reply])
            if record:
                write_json(folder / "runs" / f"{task}.json", record)
        return folder

    return predict


def test_an_oracle_scores_100_and_a_silent_model_0_in_all_tasks(predict, call):
    folders = [predict("oracle"), predict("silent")]
    assert call(evaluate, "--data_dir", *folders, "--benchmark", "synthetic")[1] is None
    for folder, mean, nulls in zip(folders, (100.0, 0.0), (0, 6), strict=True):
        scores = read_json(folder / "scores.json")
        assert list(scores["tasks"]) == list(TASKS) and len(TASKS) == 13
        for entry in scores["tasks"].values():
            assert (entry["score"], entry["strict"], entry["nulls"], entry["n"]) == (mean, mean, nulls, 6)
            assert entry["interval_95"] == ([60.97, 100.0] if mean else [0.0, 39.03])  # Wilson's of 6 samples
        whole = scores["mean"]
        assert (whole["score"], whole["tasks"]) == (mean, 13)
        assert whole["interval_95"] == ([95.31, 100.0] if mean else [0.0, 4.69])  # of 78
        assert (scores["benchmark"], scores["name"], scores["length"]) == ("ruler", folder.parts[-4], 256)


def test_scores_between_and_the_summary_of_rulers_script(predict, call):
    """Rows have 1, 2, 3, 1, 2, 3 golds; the first of them is a third, half or all of match_all, all of match_part."""
    folder = predict("first")
    call(evaluate, "--data_dir", folder)
    scores = read_json(folder / "scores.json")
    entry = scores["tasks"]["vt"]
    assert entry["score"] == round(100 * (1 + 1 / 2 + 1 / 3) / 3, 2) == 61.11
    assert entry["row_scores"] == [1.0, 0.5, 0.333333] * 2 and entry["interval_95"][0] < 61 < entry["interval_95"][1]
    assert scores["tasks"]["qa_1"]["score"] == 100  # string_match_part
    assert scores["mean"]["score"] == round((11 * 1100 / 18 + 2 * 100) / 13, 2)
    summary = (folder / "summary.csv").read_text().splitlines()
    assert summary[0] == "0,1,2,3,4,5,6,7,8,9,10,11,12,13" and summary[1].startswith("Tasks,niah_single_1,")
    assert summary[2].startswith("Score,61.11,") and summary[3] == "Nulls" + 13 * ",0/6"
    folder = predict("silent", ["vt"], 3)
    call(evaluate, "--data_dir", folder)
    assert (folder / "summary-vt.csv").read_text() == "0,1\nTasks,vt\nScore,0.0\nNulls,3/3\n"


ODD_ROWS = [{"pred": 5}, {"pred": "\ud800"}, {"outputs": "a"}, {"outputs": []}, {"index": [0]}, {"seconds": "x"}]
ODD_RECORDS = [{"samples": "six"}, {"settings": [1]}, {"data": "official"}, {"name": 5}, {"checkpoint": ["a"]}]
ODD_RECORDS += [{"max_seq_length": "x"}, {"seed": float("nan")}, {"data": {"source": float("nan")}}, [1]]


@pytest.mark.parametrize("odd, record", [(row, {}) for row in ODD_ROWS] + [({}, record) for record in ODD_RECORDS])
def test_odd_files_and_folders_are_named_and_the_others_are_scored(predict, call, tmp_path, odd, record):
    broken, mixed, good = predict("oracle"), predict("first", ["vt"], settings={"checkpoint": "a"}), predict("silent")
    write_lines(broken / "vt.jsonl", [{"index": 0, "pred": "a", "outputs": ["a"]} | odd])
    write_lines(broken / "runs" / "vt.json", [record])
    save_predictions(mixed, "cwe", rows("cwe", 1), REPLIES["first"])
    error = call(evaluate, "--data_dir", tmp_path / "empty", mixed, broken, good)[1]
    empty, other_checkpoint, named = error.splitlines()
    assert empty == f"left out: {tmp_path}/empty has no predictions of any task"
    assert other_checkpoint.startswith(f"left out: {mixed}: the tasks have different values of checkpoint")
    assert named.startswith(f"left out: {broken}/vt.jsonl")
    assert (good / "scores.json").exists() and not (mixed / "scores.json").exists()
    assert read_json(broken / "scores.json")["tasks"].keys() == set(TASKS) - {"vt"}


def test_the_table_has_every_model_and_length_and_reports_incomplete_tasks(predict, call):
    data = {"source": "standin"}
    folders = [predict("oracle", TASKS, 4, length, method="pi", data=data) for length in (256, 512)]
    folders.append(predict("first", TASKS[:1], 4, samples=5, settings={"engine": "vllm"}))
    cost = {"prompt_tokens": 90, "generated_tokens": 10, "seconds": 0.5, "peak_memory_bytes": 2}
    save_predictions(folders[2], TASKS[0], rows(TASKS[0], 4), REPLIES["first"], **cost)
    out, error = call(evaluate, "--data_dir", *folders)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f"256 oracle pi 100.0 93.1 {14 * '100.0 '}0" in lines
    [first] = [line for line in lines if line.startswith("256 first - 70.8")]
    assert first.endswith(f"70.8 {12 * '- '}0")
    assert "oracle: effective length 512" in out and "first: effective" not in out
    assert f"stand-in data, not RULER's: {' '.join(sorted(TASKS))};" in out
    assert error == f"incomplete: {folders[2]}/{TASKS[0]}.jsonl: 4 of 5 samples"
    scores = read_json(folders[2] / "scores.json")
    entry = scores["tasks"][TASKS[0]]
    assert (entry["seconds"], entry["tokens_per_second"], entry["peak_memory_bytes"]) == (2.0, 200.0, 2)
    assert (entry["complete"], entry["expected_n"], scores["engine"]) == (False, 5, "vllm")
