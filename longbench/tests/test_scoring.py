"""From predictions on disk to scores: first-line rules, files, intervals, means, and whatever can be invalid."""

import json

import numpy as np
import pytest

import eval as scorer
import scoring
from conftest import write_rows
from sets import ALL_SETS, CATEGORIES, FOLDERS, LONGBENCH_E, SETS, STANDIN_SETS, official_rows, parse_name

RIGHT = {  # a right answer for each metric, and the accepted ones
    "qa_f1": ("Ada Bell", ["nobody", "ada bell"]),
    "rouge": ("They met. Nothing came of it.", ["They met. Nothing came of it."]),
    "classification": ("Colour word", ["Colour word"]),
    "count": ("7", ["7"]),
    "retrieval": ("Paragraph 12", ["Paragraph 12"]),
    "code_sim": ("    return x", ["    return x"]),
    "contained": (" 5F-a1\nKey:", ["5f-a1"]),
    "exact": (" 3.\nKey:", ["3"]),
}


def row(name: str, i: int, pred: str | None = None, **changes) -> dict:
    right, answers = RIGHT[ALL_SETS[parse_name(name)[0]].metric]
    fields = {"pred": right if pred is None else pred, "answers": answers, "all_classes": ["Colour word", "Dish"]}
    return fields | {"length": 1000 * (i % 20), "_id": f"{name}-{i}"} | changes


@pytest.fixture
def write(tmp_path):
    """write(name, rows) writes predictions of the model `m`; run: keys of the record beside an official set's."""

    def write(name: str, rows: list, benchmark: str = "longbench", **run):
        folder = tmp_path / FOLDERS[benchmark] / "m"
        write_rows(folder / f"{name}.jsonl", rows)
        record = {"data": {"source": "official", "rows": len(rows)}, "limit": None, "checkpoint": "c", **run}
        write_rows(folder / "runs" / f"{name}.json", [record])

    return write


@pytest.fixture
def score(call, tmp_path):
    return lambda *flags, script="eval.py": call(scorer.main, "--output_dir", tmp_path, *flags, script=script)


def read(folder, name: str = "scores.json") -> dict:
    return json.loads((folder / "m" / name).read_text(), parse_constant=lambda value: pytest.fail(value))


@pytest.mark.parametrize(("pred", "expected"), [(None, 100.0), ("", 0.0)])
def test_an_oracle_scores_100_and_a_mute_0_in_every_set(pred, expected, tmp_path, write, score):
    names = {"longbench": SETS, "longbench_e": LONGBENCH_E, "trec": ("trec_1000shots", "trec_1shots", "trec_25shots")}
    names |= {"kv": ["standin_kv_4pairs"], "icl": ["standin_icl_5shots"]}
    for benchmark, sets in names.items():
        for name in sets:
            n = official_rows(name, benchmark == "longbench_e") or 24
            write(name, [row(name, i, pred) for i in range(n)], benchmark)
    flags = (["--e"], ["--benchmark", "kv"], ["--benchmark", "icl"])
    for out, errors in (score(), score(script="eval_trec.py"), *(score(*words) for words in flags)):
        assert not errors and ")*" not in out

    for benchmark in ("kv", "icl"):
        [entry] = read(tmp_path / f"pred_{benchmark}")["sets"].values()
        low, high = entry["interval_95"]
        assert (entry["n"], entry["score"], entry["source"]) == (24, expected, "standin") and high - low > 10
    assert read(tmp_path / "pred", "result.json") == dict.fromkeys(SETS, expected)
    scores = read(tmp_path / "pred")
    overall = scores["overall"]["official"]
    assert overall["score"] == pytest.approx(expected, abs=1e-5) and overall["complete"]
    assert scores["overall"]["standin"] is None and list(scores["categories"]["official"]) == list(CATEGORIES)
    for name, entry in scores["sets"].items():
        assert entry["score"] == entry["score_upstream"] == pytest.approx(expected, abs=1e-5)  # ROUGE's epsilon is 1e-8
        low, high = entry["interval_95"]
        assert (low, high)[expected > 0] == pytest.approx(expected, abs=1e-5) and 0.5 < high - low < 4
        assert entry["n"] == entry["expected_n"] == official_rows(name) and entry["complete"]
        assert entry["empty"] == (0 if expected else entry["n"])
        assert all(part["interval_95"][0] < part["interval_95"][1] for part in entry["by_length"].values())
    buckets = dict.fromkeys(("0-4k", "4-8k", "8k+"), expected)
    assert read(tmp_path / "pred_e", "result.json") == dict.fromkeys(LONGBENCH_E, buckets)
    trec = read(tmp_path / "pred_trec", "result.json")
    assert list(trec.items()) == [(f"trec_{shots}shots", expected) for shots in (1, 25, 1000)]


def test_the_first_line_counts_by_the_papers_rule_and_by_longbenchs():
    """A base model continues after a right answer: which sets are cut by which rule."""
    for name, official in SETS.items():
        right, _ = RIGHT[official.metric]
        continued = row(name, 0, f"\n\n{right.strip()}\nDish 3 and more words")
        ours, upstream = (scoring.score_row(continued, name, rule) for rule in ("lceg", "upstream"))
        if name not in ("trec", "triviaqa", "samsum") and official.metric in ("qa_f1", "count", "retrieval"):
            assert ours == 1 > upstream, name  # only the paper cuts
        elif official.metric == "rouge" and name != "samsum":
            assert ours == upstream < 0.99, name  # neither cuts
        else:
            assert ours == upstream > 0.7, name


def test_predictions_of_the_papers_code_and_its_result_files(tmp_path, score):
    lengths = [0, 3999, 4000, 4001, 7999, 8000, 15999, 20000]
    rows = [row("hotpotqa", i, "Ada Bell" if i % 3 else "Ada", length=n) for i, n in enumerate(lengths)]
    for r in rows:
        del r["_id"]
    write_rows(tmp_path / "pred" / "m" / "hotpotqa.jsonl", rows)
    out, errors = score()
    assert "hotpotqa.jsonl: 8 rows, not 200" in errors[0] and "overall (user)" in out
    by_length = read(tmp_path / "pred", "result_by_length.json")["hotpotqa"]
    buckets = ["0-4k", "4-8k", "8-16k", "16-32k", "4k+"]
    assert list(by_length) == [*buckets, *(f"#{bucket}" for bucket in buckets), "total_score"]
    assert [by_length[f"#{bucket}"] for bucket in buckets] == [2, 3, 2, 1, 5]
    expected = [2 / 3 if i % 3 == 0 else 1.0 for i in range(8)]  # "Ada" for "Ada Bell": 2 * 1 * 0.5 / 1.5
    total = read(tmp_path / "pred", "result.json")["hotpotqa"]
    assert by_length["total_score"] == total == round(100 * sum(expected) / 8, 2)
    details = read(tmp_path / "pred", "result_by_details.json")["hotpotqa"]
    assert details["length"] == lengths and details["score"] == pytest.approx(expected) and len(details["_id"]) == 8


def test_stand_ins_never_mix_with_official_sets(tmp_path, write, score):
    write("lcc", [row("lcc", i) for i in range(500)])
    for name in STANDIN_SETS:
        write(f"standin_{name}", [row(name, i, "") for i in range(30)], data={"source": "standin", "rows": 30})
    out, errors = score()
    scores = read(tmp_path / "pred")
    official, standin = scores["overall"]["official"], scores["overall"]["standin"]
    assert not errors and official["score"] == 100 and standin["score"] == 0 and standin["complete"]
    code = scores["categories"]["official"]["code"]
    assert code["sets"] == ["lcc"] and not code["complete"]  # repobench-p is missing
    assert "overall (official)" in out and "overall (standin)" in out


def test_means_are_of_sets_then_of_categories_with_a_narrower_interval(tmp_path, write, score):
    rng = np.random.default_rng(2)
    for i, name in enumerate(["hotpotqa", "2wikimqa", "musique", "lcc"]):
        write(name, [row(name, k, None if rng.random() < 0.2 * (i + 1) else "") for k in range(200)])
    score()
    scores = read(tmp_path / "pred")
    sets = [entry["score"] for entry in scores["sets"].values()]
    mean, overall = scores["categories"]["official"]["multi-doc"], scores["overall"]["official"]
    assert mean["score"] == pytest.approx(np.mean(sets[:3])) and mean["complete"]
    assert overall["score"] == pytest.approx((np.mean(sets[:3]) + sets[3]) / 2) and not overall["complete"]
    errors = [entry["stderr"] for entry in scores["sets"].values()]
    assert mean["stderr"] == pytest.approx(np.linalg.norm(errors[:3]) / 3)
    assert overall["stderr"] == pytest.approx(np.hypot(mean["stderr"], errors[3]) / 2)
    low, high = overall["interval_95"]
    assert high - low == pytest.approx(2 * 1.96 * overall["stderr"], rel=0.05)


def test_invalid_predictions_are_reported_and_the_rest_is_scored(tmp_path, write, score):
    data = {"source": "official", "rows": 200}
    good = [row("musique", i) for i in range(200)]
    write("musique", good)
    write("qasper", ["{not json", *(row("qasper", i) for i in range(199))], data=data)
    write("trec", [row("trec", i, all_classes=None) for i in range(200)])
    write("passage_retrieval_en", [row("lcc", i) for i in range(200)])
    write("nonsense", good)
    write("hotpotqa", ["[" * 100_000, row("hotpotqa", 0) | {"pred": None}])
    write("2wikimqa", good[:20], data=data, limit=10)  # of the last run; an earlier one had 20
    write("narrativeqa", [row("narrativeqa", 0, "wrong"), *(row("narrativeqa", i) for i in range(200))])
    write("lcc", [row("lcc", i) for i in range(500)], checkpoint="another")
    _, errors = score("--models", "m", "absent")
    problems = [
        "hotpotqa.jsonl: row 1 is not a prediction",
        "nonsense.jsonl: unknown set nonsense",
        "passage_retrieval_en.jsonl: row 1 is not a prediction: the answer ' return x'",
        "qasper.jsonl: 1 unreadable line is left out",
        "qasper.jsonl: 199 rows, not 200",
        "trec.jsonl: row 1 is not a prediction: TypeError",
        "m: the sets have different values of checkpoint",
    ]
    for problem, error in zip(problems, errors[:-2], strict=True):
        assert f"/{problem}" in error
    assert errors[-2] == f"error: no predictions {tmp_path}/pred/absent/*.jsonl; run pred.py" and "8 pro" in errors[-1]
    sets = read(tmp_path / "pred")["sets"]
    assert sets["musique"]["score"] == sets["narrativeqa"]["score"] == 100 and sets["narrativeqa"]["n"] == 200
    assert not sets["qasper"]["complete"] and not sets["2wikimqa"]["complete"] and sets["lcc"]["complete"]
    assert score("--output_dir", tmp_path / "empty")[1][-1].startswith("error: no predictions")


ODD_RUNS = [{"data": ["official"]}, {"data": {"rows": "x"}}, {"limit": "all"}, {"checkpoint": ["c"]}, {"seconds": "x"}]
ODD_RUNS += [{"seconds": float("nan")}, {"versions": "3.11"}, {"command": "\ud800"}, [1]]


@pytest.mark.parametrize("odd", ODD_RUNS)
def test_a_set_with_an_odd_record_is_named_and_the_rest_is_scored(tmp_path, write, score, odd):
    for name in ("musique", "2wikimqa"):
        write(name, [row(name, i) for i in range(200)])
    write_rows(tmp_path / "pred" / "m" / "runs" / "musique.json", [odd])
    _, errors = score()
    assert len(errors) == 2 and errors[0].startswith(f"error: {tmp_path}/pred/m/musique.jsonl: ")
    assert list(read(tmp_path / "pred")["sets"]) == ["2wikimqa"]
    write("musique", [row("musique", 0, _id=["a"])])
    assert "musique.jsonl: row 1 is not a prediction" in score()[1][0]
