"""Predictions on disk to scores: the rules of the first line, the files' keys, intervals, and whatever can be wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import eval as scorer
import scoring
from sets import LONGBENCH_E, SETS, official_rows

STAGE = Path(__file__).resolve().parents[1]
RIGHT = {  # a right answer for each metric, and what is accepted
    "qa_f1": ("Ada Bell", ["nobody", "ada bell"]),
    "rouge": ("They met. Nothing came of it.", ["They met. Nothing came of it."]),
    "classification": ("Colour word", ["Colour word"]),
    "count": ("7", ["7"]),
    "retrieval": ("Paragraph 12", ["Paragraph 12"]),
    "code_sim": ("    return x", ["    return x"]),
}
CLASSES = ["Colour word", "Dish"]


def row(name: str, i: int, pred: str | None = None, **changes) -> dict:
    right, answers = RIGHT[SETS[scoring.base_set(name)].metric]
    pred = right if pred is None else pred
    fields = {"pred": pred, "answers": answers, "all_classes": CLASSES, "length": 1000 * (i % 20), "_id": f"{name}-{i}"}
    return fields | changes


def write(folder: Path, name: str, rows: list, run: dict | None = None) -> Path:
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows))
    if run is not None:
        (folder / "runs" / f"{name}.json").write_text(json.dumps(run))
    return path


def official(n: int, **changes) -> dict:
    return {"data": {"source": "official", "rows": n, "sha256": "0"}, "limit": None, "checkpoint": "c", **changes}


def score(monkeypatch, capsys, root: Path, *flags: str, trec: bool = False) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of the scorer's main."""
    monkeypatch.setattr(sys, "argv", ["eval.py", "--output_dir", str(root), *flags])
    try:
        scorer.main(many_shot_trec=trec)
        status, message = 0, ""
    except SystemExit as stop:
        status, message = 1, f"{stop}\n"
    out, err = capsys.readouterr()
    return status, out, err + message


def read(path: Path) -> dict:
    return json.loads(path.read_text(), parse_constant=lambda value: pytest.fail(f"{path} has {value}"))


# ----------------------------------------------------------------------------- an oracle and a mute
@pytest.mark.parametrize("answers, expected", [("right", 100.0), ("empty", 0.0)])
def test_an_oracle_scores_100_and_a_mute_0_in_every_set(answers, expected, tmp_path, monkeypatch, capsys):
    pred = None if answers == "right" else ""
    for name in SETS:
        n = official_rows(name)
        write(tmp_path / "pred" / "m", name, [row(name, i, pred) for i in range(n)], official(n))
    for name in LONGBENCH_E:
        n = official_rows(name, e=True)
        write(tmp_path / "pred_e" / "m", name, [row(name, i, pred) for i in range(n)], official(n))
    for shots in (1, 25, 1000):
        name = f"trec_{shots}shots"
        write(tmp_path / "pred_trec" / "m", name, [row(name, i, pred) for i in range(200)], official(200))
    for flags, trec in (((), False), (("--e",), False), ((), True)):
        status, out, err = score(monkeypatch, capsys, tmp_path, *flags, trec=trec)
        assert status == 0, err
        assert "*" not in out
        assert ("answers are empty" in out) == (answers == "empty")

    folder = tmp_path / "pred" / "m"
    assert read(folder / "result.json") == dict.fromkeys(SETS, expected)
    scores = read(folder / "scores.json")
    assert scores["overall"]["official"]["score"] == pytest.approx(expected, abs=1e-5)
    assert scores["overall"]["official"]["complete"]
    assert scores["overall"]["standin"] is None and scores["categories"]["standin"] == {}
    assert list(scores["categories"]["official"]) == list(dict.fromkeys(facts.category for facts in SETS.values()))
    for name, one in scores["sets"].items():
        assert one["score"] == one["score_upstream"] == pytest.approx(expected, abs=1e-5)  # ROUGE's epsilon is 1e-8
        assert one["interval_95"] == pytest.approx([expected, expected], abs=1e-5)
        assert one["stderr"] == pytest.approx(0.0, abs=1e-9)
        assert one["n"] == one["expected_n"] == official_rows(name) and one["complete"]
        assert one["empty"] == (0 if expected else one["n"])
    e = read(tmp_path / "pred_e" / "m" / "result.json")
    assert e == {name: {"0-4k": expected, "4-8k": expected, "8k+": expected} for name in LONGBENCH_E}
    trec = tmp_path / "pred_trec" / "m"
    assert list(read(trec / "result.json").items()) == [(f"trec_{n}shots", expected) for n in (1, 25, 1000)]
    assert read(trec / "scores.json")["benchmark"] == "trec"
    assert not (trec / "result_by_length.json").exists()


# ----------------------------------------------------------------------------- rules and files
def test_the_first_line_counts_by_the_papers_rule_and_by_longbenchs(tmp_path):
    """A base model goes on after a right answer: what is cut when."""
    for name, facts in SETS.items():
        right, _ = RIGHT[facts.metric]
        one = scoring.score_rows(name, [row(name, 0, "\n\n" + right.strip() + "\nDish 3 and more words")], 42)
        only_lceg = name not in ("trec", "triviaqa", "samsum") and facts.metric in ("qa_f1", "count", "retrieval")
        if only_lceg:
            assert one.row_N[0] == 1 > one.upstream_N[0], name
        elif facts.metric == "rouge" and name != "samsum":
            assert one.row_N[0] == one.upstream_N[0] < 0.99, name  # neither cuts
        else:
            assert one.row_N[0] == one.upstream_N[0] > 0.7, name


def test_files_have_the_papers_keys_and_round_alike(tmp_path, monkeypatch, capsys):
    lengths = [0, 3999, 4000, 4001, 7999, 8000, 15999, 20000]
    rows = [row("hotpotqa", i, "Ada Bell" if i % 3 else "Ada", length=n) for i, n in enumerate(lengths)]
    for r in rows:
        del r["_id"]  # as the paper's code writes them, without a record of the run either
    write(tmp_path / "pred" / "m", "hotpotqa", rows)
    status, out, err = score(monkeypatch, capsys, tmp_path)
    assert status == 1 and "hotpotqa.jsonl: 8 rows, not 200" in err and "without a record of" in out

    folder = tmp_path / "pred" / "m"
    by_length = read(folder / "result_by_length.json")["hotpotqa"]
    assert list(by_length) == "0-4k 4-8k 8-16k 16-32k 4k+ #0-4k #4-8k #8-16k #16-32k #4k+ total_score".split()
    assert [by_length[f"#{b}"] for b in ("0-4k", "4-8k", "8-16k", "16-32k", "4k+")] == [2, 3, 2, 1, 5]
    two_thirds = 2 * 1 * 0.5 / 1.5  # "Ada" for "Ada Bell"
    expected = [two_thirds if i % 3 == 0 else 1.0 for i in range(8)]
    assert by_length["0-4k"] == round(100 * np.mean(expected[:2]), 2)
    assert by_length["total_score"] == read(folder / "result.json")["hotpotqa"] == round(100 * sum(expected) / 8, 2)
    details = read(folder / "result_by_details.json")["hotpotqa"]
    assert details["length"] == lengths and details["score"] == pytest.approx(expected) and len(details["_id"]) == 8
    (folder / "hotpotqa.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:2]))
    score(monkeypatch, capsys, tmp_path)
    assert read(folder / "result_by_length.json")["hotpotqa"]["16-32k"] is None


def test_stand_ins_never_mix_with_official_sets(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "pred" / "m"
    write(folder, "lcc", [row("lcc", i) for i in range(500)], official(500))
    write(folder, "standin_lcc", [row("lcc", i, "") for i in range(30)], {"data": {"source": "standin", "rows": 30}})
    status, out, err = score(monkeypatch, capsys, tmp_path)
    assert status == 0, err
    scores = read(folder / "scores.json")
    assert scores["overall"]["official"]["score"] == 100 and scores["overall"]["standin"]["score"] == 0
    assert scores["categories"]["official"]["code"]["sets"] == ["lcc"]
    assert not scores["categories"]["official"]["code"]["complete"]  # repobench-p is missing
    assert scores["sets"]["standin_lcc"]["complete"] and scores["sets"]["standin_lcc"]["source"] == "standin"
    first, second = out.index("LongBench's data"), out.index("stand-in data, not LongBench's")
    assert first < second and "none for summaries (GovReport QMSum MultiNews SAMSum)" in out
    assert re.search(r"^m +100\.0$", out[first:second], re.MULTILINE) and re.search(
        r"^m +0\.0$", out[second:], re.MULTILINE
    )


def test_rows_on_which_rouge_fails_are_counted(tmp_path, monkeypatch, capsys):
    text = " ".join(f"w{i}" for i in range(1200))
    rows = [row("qmsum", i, *([text] if i == 1 else []), **({"answers": [text]} if i == 1 else {})) for i in range(200)]
    write(tmp_path / "pred" / "m", "qmsum", rows, official(200))
    status, out, _ = score(monkeypatch, capsys, tmp_path)
    one = read(tmp_path / "pred" / "m" / "scores.json")["sets"]["qmsum"]
    assert (
        status == 0 and one["recursion_cases"] == 1 and one["score"] == pytest.approx(100) and "1 rows on which" in out
    )


# ----------------------------------------------------------------------------- intervals
def test_intervals_and_errors():
    rng = np.random.default_rng(0)
    row_N = (rng.random(400) < 0.3).astype(np.float64)
    p = row_N.mean()
    assert scoring.stderr(row_N) == pytest.approx(100 * np.sqrt(p * (1 - p) / 399))
    low, high = scoring.interval(scoring.bootstrap(row_N, "lcc", 42))
    assert low == pytest.approx(100 * p - 1.96 * scoring.stderr(row_N), abs=0.5)
    assert high == pytest.approx(100 * p + 1.96 * scoring.stderr(row_N), abs=0.5)
    assert np.array_equal(scoring.bootstrap(row_N, "lcc", 42), scoring.bootstrap(row_N, "lcc", 42))
    assert not np.array_equal(scoring.bootstrap(row_N, "lcc", 42), scoring.bootstrap(row_N, "qmsum", 42))
    assert scoring.stderr(row_N[:1]) is None


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    rng, inside = np.random.default_rng(1), 0
    for i in range(200):
        low, high = scoring.interval(scoring.bootstrap((rng.random(100) < 0.5).astype(np.float64), f"s{i}", 42))
        inside += low <= 50 <= high
    assert 180 <= inside <= 198


def test_means_are_of_sets_then_of_categories_with_a_narrower_interval():
    rng = np.random.default_rng(2)
    names = ["hotpotqa", "2wikimqa", "musique", "lcc"]
    scored = []
    for i, name in enumerate(names):
        row_N = (rng.random(200) < 0.2 * (i + 1)).astype(np.float64)
        scored.append((scoring.Scored(name, row_N, row_N, np.zeros(200), 0, 0, 42), True))
    categories, overall = scoring.means(scored, "official", False)
    sets = [100 * one.row_N.mean() for one, _ in scored]
    assert categories["multi-doc"]["score"] == pytest.approx(np.mean(sets[:3])) and categories["multi-doc"]["complete"]
    assert overall["score"] == pytest.approx((np.mean(sets[:3]) + sets[3]) / 2) and not overall["complete"]
    low, high = categories["multi-doc"]["interval_95"]
    error = np.sqrt(sum(scoring.stderr(one.row_N) ** 2 for one, _ in scored[:3])) / 3
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_mean_of_stand_ins_is_complete_without_summaries():
    names = [name for name in SETS if name not in scoring.NO_STANDIN]
    ones = np.ones(5)
    scored = [(scoring.Scored(f"standin_{name}", ones, ones, ones, 0, 0, 42), True) for name in names]
    categories, overall = scoring.means(scored, "standin", False)
    assert overall["complete"] and overall["score"] == 100 and "summarization" not in categories
    assert not scoring.means(scored[1:], "standin", False)[1]["complete"]
    assert not scoring.means(scored, "official", False)[1]["complete"]


# ----------------------------------------------------------------------------- what can be wrong
def test_whatever_is_wrong_is_said_in_one_line_and_the_rest_is_scored(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "pred" / "m"
    good = [row("musique", i) for i in range(200)]
    write(folder, "musique", good, official(200))
    broken = ["{not json", "[]", json.dumps({"pred": "x"}), row("qasper", 3, pred=5), row("qasper", 4, answers=[])]
    write(folder, "qasper", [*broken, *(row("qasper", i) for i in range(5, 200))], official(200))
    write(folder, "trec", [row("trec", i, all_classes=None) for i in range(200)], official(200))
    write(folder, "passage_retrieval_en", [row("lcc", i) for i in range(200)], official(200))
    write(folder, "nonsense", good)
    write(folder, "trec_5shots", [row("trec", 0)])
    write(folder, "hotpotqa", good[:199], official(200))
    write(folder, "2wikimqa", good[:20], official(200, limit=20))
    write(
        folder,
        "narrativeqa",
        [row("narrativeqa", 0, "wrong"), *(row("narrativeqa", i) for i in range(200))],
        official(200),
    )
    path = write(folder, "qmsum", [row("qmsum", i) for i in range(200)], official(200))
    path.write_text(path.read_text()[:-30])
    write(folder, "lcc", [row("lcc", i) for i in range(500)], official(500, checkpoint="another"))
    write(folder, "gov_report", [row("gov_report", i) for i in range(200)])
    (folder / "runs" / "gov_report.json").write_text("{")
    status, out, err = score(monkeypatch, capsys, tmp_path, "--models", "m", "absent")
    assert status == 1
    lines = err.splitlines()
    for part in [
        "qasper.jsonl, line 1: not JSON",
        "qasper.jsonl, line 2: not a JSON object",
        "qasper.jsonl, line 3: no field 'answers'",
        "qasper.jsonl, line 4: the field 'pred' is 5",
        "qasper.jsonl, line 5: 'answers' is not a list of texts",
        "qasper.jsonl: 195 rows, not 200",
        "trec.jsonl, line 1 and 199 more: the field 'all_classes' is null",
        "trec.jsonl: no row that can be scored",
        "passage_retrieval_en.jsonl, line 1 and 199 more: the answer '    return x' is not of the form",
        "nonsense.jsonl: unknown set nonsense",
        "trec_5shots.jsonl: trec_5shots does not belong into pred/",
        "hotpotqa.jsonl: 199 rows, not 200",
        "qmsum.jsonl, line 200: cut off; run pred.py again",
        "qmsum.jsonl: 199 rows, not 200",
        "gov_report.json is not JSON",
        "the sets were not made alike: checkpoint is",
        f"no predictions {tmp_path / 'pred' / 'absent'}",
    ]:
        assert sum(part in line for line in lines) == 1, (part, err)
    assert "narrativeqa.jsonl: 1 rows left out, a later one has the same _id" in out
    assert "2wikimqa.jsonl: 20 of 200 rows, by --limit" in out
    assert "Traceback" not in err and out.count("* incomplete") == 1
    sets = read(folder / "scores.json")["sets"]
    assert sets["musique"]["score"] == sets["narrativeqa"]["score"] == 100 and sets["narrativeqa"]["n"] == 200
    assert not any(sets[name]["complete"] for name in ("qasper", "hotpotqa", "2wikimqa", "qmsum"))


def test_nothing_to_score_is_one_line(tmp_path, monkeypatch, capsys):
    status, _, err = score(monkeypatch, capsys, tmp_path)
    assert status == 1 and err == (
        f"error: no predictions in {tmp_path}/pred/<model>/<set>.jsonl; make them with pred.py, or give --output_dir\n"
    )


# ----------------------------------------------------------------------------- as a user runs it
def test_score_sh_scores_everything_without_torch(tmp_path):
    for folder, name in (("pred", "lcc"), ("pred_e", "lcc"), ("pred_trec", "trec_5shots")):
        n = official_rows(name, folder == "pred_e")
        write(tmp_path / folder / "m", name, [row(name, i) for i in range(n)], official(n))
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    env = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "OUTPUT_ROOT": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(["bash", STAGE / "scripts" / "score.sh"], env=env, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert [line[:12] for line in done.stdout.splitlines() if line.startswith(("LongBench", "many"))] == [
        "LongBench, L",
        "LongBench-E,",
        "many-shot TR",
    ]
    for folder in ("pred", "pred_e", "pred_trec"):
        assert read(tmp_path / folder / "m" / "scores.json")["sets"]
    (tmp_path / "pred" / "m" / "lcc.jsonl").write_text("")
    done = subprocess.run(["bash", STAGE / "scripts" / "score.sh"], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "lcc.jsonl: no row" in done.stderr and "many-shot TREC" in done.stdout
