"""data/prepare.py: the files it writes, interruptions, several processes and models, bad input."""

import hashlib
import json

import pytest
from tokenizers import Tokenizer

import download
import prepare
import sources
import standins
import tasks
import tiny
from samples import save_data
from store import read_lines
from tiny import STAGE
from tokens import Tokens

THREE = ["niah_multikey_3", "vt", "qa_1"]
FIELDS = "index input outputs length length_w_model_temp answer_prefix token_position_answer tokens_to_generate".split()
FIELDS += ["fill"]


@pytest.fixture
def run(call, tokenizer_folder):
    """Runs prepare.py in this process; returns its output and its error. Flags given again win."""

    def run(save_dir, *flags, length=2048, samples=8, workers=1):
        defaults = ["--tokenizer_path", tokenizer_folder, "--max_seq_length", length, "--num_samples", samples]
        return call(prepare, "--save_dir", save_dir, *defaults, "--workers", workers, "--task", *THREE, *flags)

    return run


def rows(folder):
    return read_lines(folder / "validation.jsonl")[0]


def contents(folder):
    return {path.parent.name: path.read_bytes() for path in sorted(folder.rglob("*.jsonl"))}


def test_rows_and_run_json(run, tmp_path, tokenizer_folder):
    printed, error = run(tmp_path)
    assert error is None and "qa_1 uses a stand-in for" in printed
    count = Tokens((tokenizer_folder / "tokenizer.json").read_text()).count_whole
    for task, new in zip(THREE, (128, 30, 32), strict=True):
        made, record = rows(tmp_path / task), json.loads((tmp_path / task / "run.json").read_text())
        assert [row["index"] for row in made] == list(range(8))
        assert list(made[0]) == FIELDS
        for row in made:
            assert row["length"] == count(row["input"]) + new <= 2048 and row["tokens_to_generate"] == new
            assert row["input"].endswith(row["answer_prefix"])
        assert record["mean_fill"] == pytest.approx(sum(row["length"] for row in made) / 8 / 2048, abs=1e-5)
        assert record["source"] == ("standin" if task == "qa_1" else "official")
        assert record["sha256"] == hashlib.sha256((tmp_path / task / "validation.jsonl").read_bytes()).hexdigest()
        assert sorted(path.name for path in (tmp_path / task).iterdir()) == ["run.json", "validation.jsonl"]


def test_same_bytes_for_any_number_of_processes_and_samples(run, tmp_path):
    run(tmp_path / "one", samples=40)
    run(tmp_path / "grown", samples=5)
    run(tmp_path / "grown", samples=40, workers=2)
    assert contents(tmp_path / "grown") == contents(tmp_path / "one")
    assert "mean fill" not in run(tmp_path / "grown", samples=3)[0]
    run(tmp_path / "grown", "--random_seed", 43, "--task", "vt")
    assert rows(tmp_path / "grown" / "vt")[0]["outputs"] != rows(tmp_path / "one" / "vt")[0]["outputs"]


def test_an_interrupted_run_resumes_with_the_same_bytes(run, tmp_path, monkeypatch):
    run(tmp_path / "whole")
    row = prepare.Task.row
    with monkeypatch.context() as patch:  # in the middle of vt
        patch.setattr(prepare.Task, "row", lambda task, i: row(task, i) if task.job.name != "vt" or i < 5 else 1 / 0)
        assert "ZeroDivisionError" in run(tmp_path / "killed")[1]
    assert set(contents(tmp_path / "killed")) == {"niah_multikey_3"}
    first = (tmp_path / "killed" / "niah_multikey_3" / "validation.jsonl").stat().st_ino
    run(tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert (tmp_path / "killed" / "niah_multikey_3" / "validation.jsonl").stat().st_ino == first


def test_models_with_one_tokenizer_share_the_data_of_all_lengths(run, tmp_path, tokenizer_of, tokenizer_folder):
    save_dir = tmp_path / "{model}" / "{length}"
    flags = ["--tokenizer_path", tokenizer_folder, tokenizer_of("llama3"), tokenizer_folder]
    flags += ["--model_name", "a", "b", "c", "--max_seq_length", 1024, 2048, "--task", "vt"]
    assert run(save_dir, *flags)[1] is None
    paths = [tmp_path / name / "2048" / "vt" / "validation.jsonl" for name in "abc"]
    assert paths[0].stat().st_ino == paths[2].stat().st_ino and paths[0].read_bytes() != paths[1].read_bytes()
    before = paths[0].read_bytes()
    run(save_dir, "--model_name", "c", "--task", "vt", samples=9)  # more samples for one of them
    assert paths[0].read_bytes() == before and len(rows(paths[2].parent)) == 9
    one, two = (rows(tmp_path / "a" / length / "vt")[3] for length in ("1024", "2048"))
    assert one["outputs"] == two["outputs"] and one["length"] <= 1024 < two["length"] <= 2048


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """The empty folder in place of data/json/."""
    folder = tmp_path / "json"
    folder.mkdir()
    for module in (sources, download):
        monkeypatch.setattr(module, "FOLDER", folder)
    sources.read_source.cache_clear()
    yield folder
    sources.read_source.cache_clear()


def test_texts_of_the_user(run, texts, tmp_path):
    data = standins.squad(articles=30)
    data["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = True
    pairs = standins.hotpotqa(40)
    pairs[0]["context"][0][1].append(" Long." * 2000)
    pairs[0]["supporting_facts"] = [[pairs[0]["context"][0][0], 0]]
    essay = {"text": "Alpha comes first. " * 3 + "Beta says\n\n so. " * 40}
    for content, name in ((essay, "essays"), (data, "squad"), (pairs, "hotpotqa")):
        (texts / sources.FILE_NAMES[name]).write_text(json.dumps(content))
    printed, error = run(tmp_path, "--task", "qa_1", "qa_2", "niah_single_2", "--tokens_to_generate", 8)
    assert error is None and "stand-in" not in printed
    assert json.loads((tmp_path / "niah_single_2" / "run.json").read_text())["source"] == "user"
    first, answerable = rows(tmp_path / "qa_1")[0], data["data"][0]["paragraphs"][0]["qas"][1]
    assert answerable["question"] in first["input"] and first["outputs"] == [answerable["answers"][0]["text"]]
    assert first["tokens_to_generate"] == 8
    first = rows(tmp_path / "qa_2")[0]["input"]  # question 0 has a document that is too long
    for title, sentences in pairs[1]["context"]:  # all ten of them
        assert pairs[1]["question"] in first and f"{title}\n{''.join(sentences)}" in first
    assert "Beta says so. Alpha comes first." in rows(tmp_path / "niah_single_2")[7]["input"]


def test_downloaded_files_are_found_and_official_ones_known_by_their_digest(texts, tmp_path, monkeypatch, call):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(standins.squad(articles=2)))
    monkeypatch.setattr(sources, "OFFICIAL", {hashlib.sha256(path.read_bytes()).hexdigest()})
    monkeypatch.setattr(download, "URLS", {"squad": path.as_uri()})
    monkeypatch.setattr(download, "FILE_NAMES", {"squad": "squad.json"})
    assert call(download)[0] == f"{texts}/squad.json: official\n"


@pytest.mark.parametrize("content", ["", '{"data": 1}', '{"text": " "}'])
def test_a_file_of_another_form_is_named(run, texts, tmp_path, content):
    for kind, task in (("squad", "qa_1"), ("hotpotqa", "qa_2"), ("essays", "niah_single_2")):
        path = texts / sources.FILE_NAMES[kind]
        path.write_text(content)
        assert f"{path} does not have the form" in run(tmp_path / "out", "--task", task)[1]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--task", "nope"], "unknown task nope; known: niah_single_1, "),
        (["--tokenizer_path", STAGE / "data"], "no tokenizer in"),
        (["--save_dir", ""], "--save_dir is empty; give a folder"),
        (["--max_seq_length", 1024, 2048], "several lengths need {length} in --save_dir"),
        (["--task", "qa_1", "--num_samples", 1921], "1920 of 1920 questions fit 2048 tokens; give --num_samples 1920"),
        (["--benchmark", "own", "--task", "a"], "the args of the task a are wrong"),
        (["--benchmark", "odd"], "odd.yaml"),
        (["--benchmark", "nosuch"], "nosuch.yaml"),
    ],
)
def test_bad_input_ends_with_one_line(run, tmp_path, monkeypatch, flags, message):
    if "--benchmark" in flags:
        monkeypatch.setattr(tasks, "STAGE", tmp_path)
    (tmp_path / "own.yaml").write_text("a: {task: niah}")
    (tmp_path / "odd.yaml").write_text("vt: {task: other}")
    error = run(tmp_path / "out", *flags)[1]
    assert error.startswith("error: ") and "\n" not in error and message in error
    assert not contents(tmp_path)


def test_a_second_process_waits_and_makes_nothing(run, tmp_path, tokenizer_folder, monkeypatch):
    flags = ["--save_dir", tmp_path, "--tokenizer_path", tokenizer_folder, "--max_seq_length", 1024, "--task", "vt"]
    flags += ["--num_samples", 3, "--workers", 1]
    second = tiny.start_second(monkeypatch, prepare.os, "replace", "data/prepare.py", *flags)
    assert run(tmp_path, *flags)[1] is None
    printed = second[0].communicate()[0]
    assert "all files are there" in printed and "mean fill" not in printed


def test_data_of_others_and_a_tokenizer_that_cannot_be_counted(run, tmp_path, tokenizer_folder):
    save_data(tmp_path, "vt", [{}])
    (tmp_path / "vt" / "run.json").unlink()
    assert "was not made by this script" in run(tmp_path, "--task", "vt")[1]
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.add_tokens(["grass is green"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    error = run(tmp_path / "out", "--tokenizer_path", tmp_path, "--task", "niah_single_1", "vt", workers=2)[1]
    assert "tokens that span several words" in error and not list(tmp_path.rglob("out/*/validation.jsonl"))
