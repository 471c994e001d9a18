"""Stand-in sets: LongBench's fields, always the same bytes, and each answer can be found in the prompt alone."""

import json
import re

import pytest

import eval as longbench_eval
import make_standin
import tiny
from conftest import read_rows, run_main, write_rows
from data import load
from metrics import METRICS
from prompts import template
from sets import SETS, STANDIN_SETS, base_set

FLAGS = ["--rows", 24, "--words", 80, "--shots", 1, 5, 25, "--classes", 5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standins")
    run_main(make_standin.main, "--output_dir", folder, *FLAGS)
    return folder


def rows_of(folder, name: str) -> list[dict]:
    return read_rows(folder / f"standin_{name}.jsonl")


def test_fields_lengths_and_manifest(folder):
    manifest = json.loads((folder / "standin.json").read_text())
    names = [*STANDIN_SETS, *(f"trec_{n}shots" for n in (1, 5, 25))]
    assert set(manifest) == {f"standin_{name}" for name in names} and set(make_standin.MAKERS) == set(STANDIN_SETS)
    for name in names:
        dataset, entry = load(f"standin_{name}", folder), manifest[f"standin_{name}"]  # as pred.py reads it
        assert dataset.record["source"] == "standin" and dataset.record["sha256"] == entry["sha256"]
        assert len({row["_id"] for row in dataset.rows}) == len(dataset.rows) == entry["rows"]
        assert name not in SETS or 0.8 * 80 < entry["words"] < 1.5 * 80, (name, entry)
        for row in dataset.rows:
            texts = (row["context"], row["input"], *row["answers"])
            assert row["length"] == sum(len(text.split()) for text in texts) and all(row["answers"])


# --- solvers that read the prompt alone
def solve_retrieval(row):
    passages = re.split(r"\n\n(?=Paragraph \d+: )", row["context"])
    first = re.split(r"(?<=\.) ", row["input"])[0]
    [number] = [i for i, passage in enumerate(passages, 1) if first in passage]
    return f"Paragraph {number}"


def solve_fact(row):
    subject, name = re.search(r"the ([\w-]+) (?:for sample|in) (\w+)", row["input"]).groups()
    statement = rf"For sample {name} the {subject} is (\d+)\.|The {subject} in {name} was opened in (\d+)\."
    [answers] = re.findall(statement, row["context"])
    return "".join(answers)


def solve_trec(row):
    """The type of an example with a noun of the same type; None without one."""
    noun = row["input"].split(" ?\nType:")[0].split()[-1]
    [nouns] = [nouns for nouns in make_standin.TYPES.values() if noun in nouns]
    kinds = set(re.findall(rf" (?:{'|'.join(nouns)}) \?\nType: (.+)", row["context"]))
    assert len(kinds) <= 1 and row["input"].split("\n")[0] not in row["context"]
    return kinds.pop() if kinds else None


SOLVERS = dict.fromkeys(("qasper", "multifieldqa_en"), solve_fact)
SOLVERS |= {"passage_retrieval_en": solve_retrieval, "trec": solve_trec}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_prompt_alone_contains_the_answer(name, folder):
    rows = rows_of(folder, name)
    answers = [SOLVERS[name](row) for row in rows]
    assert answers == [row["answers"][0] for row in rows] and len(set(answers)) > 2


def test_more_shots_begin_with_fewer_and_ask_the_same(folder):
    one, five, many = (rows_of(folder, f"trec_{n}shots") for n in (1, 5, 25))
    for a, b, c in zip(one, five, many, strict=True):
        assert b["context"].startswith(a["context"]) and c["context"].startswith(b["context"])
        assert a["input"] == b["input"] == c["input"] and a["_id"] == b["_id"] == c["_id"]
        kinds = re.findall("Type: (.+)", c["context"])
        assert sorted(map(kinds.count, a["all_classes"])) == [5] * 5  # equally often
    assert all(solve_trec(row) == row["answers"][0] for row in five)  # one example of each type
    assert 0 < sum(solve_trec(row) == row["answers"][0] for row in one) < len(one) / 2  # by chance


def test_code_is_the_next_line_of_a_source_file_and_can_be_scored(folder):
    code = ["\n".join(lines) for lines in make_standin.read_source().files.values()]
    for name in ("lcc", "repobench-p"):
        for row in rows_of(folder, name):
            [answer] = row["answers"]
            assert METRICS["code_sim"](answer + "\nx", answer) == 1.0
            before = row["context"] if name == "lcc" else row["input"].split("\n", 1)[1]
            assert any(before + answer + "\n" in text for text in code), row["_id"]


def test_rows_depend_on_their_number_and_the_seed_only(folder, tmp_path, call):
    flags = ["--output_dir", tmp_path, "--sets", "lcc", "trec", "--shots", "--words", 80, "--classes", 5]
    call(make_standin.main, *flags, "--rows", 3)
    for name in ("lcc", "trec"):
        assert rows_of(tmp_path, name) == rows_of(folder, name)[:3]


def test_a_second_process_waits_and_both_are_in_the_manifest(tmp_path, call, monkeypatch):
    flags = ["--output_dir", tmp_path, "--rows", 2, "--words", 80, "--shots", "--sets"]
    second = tiny.start_second(monkeypatch, make_standin, "make_set", "make_standin.py", *flags, "lcc")
    assert not call(make_standin.main, *flags, "trec")[1]
    second[0].communicate()
    assert set(json.loads((tmp_path / "standin.json").read_text())) == {"standin_trec", "standin_lcc"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--classes", 51], "--classes: 51: must be from 2 to 50"),
        (["--shots", 1, 10**9], "--shots: 1000000000: must be from 1"),
    ],
)
def test_a_wrong_flag_is_an_error(flags, message, tmp_path, call):
    assert message in call(make_standin.main, "--output_dir", tmp_path, "--rows", 2, *flags)[1][-1]


ANSWERS = {"oracle": lambda row: row["answers"][0] + "\nKey:", "mute": lambda row: ""}


@pytest.mark.parametrize("answer_of", ANSWERS.values(), ids=ANSWERS)
def test_key_values_and_shuffled_labels(answer_of, folder, tmp_path, capsys):
    """An oracle that reads the prompt alone scores 100, a mute model 0; more shots have the labels of fewer."""
    flags = ["--sets", "--shots", "--pairs", 4, 40, "--icl_shots", 5, 25, "--classes", 5, "--rows", 12]
    run_main(make_standin.main, "--output_dir", tmp_path, *flags)
    for name in ("kv_4pairs", "kv_40pairs", "icl_5shots", "icl_25shots"):
        dataset = load(f"standin_{name}", tmp_path)
        for row in dataset.rows:
            prompt = template(base_set(dataset.name)).format(**row)
            if name.startswith("kv"):
                _, known = prompt.split("\n", 1)
                values, _ = json.JSONDecoder().raw_decode(known)
                *shown, key = re.findall(r'^Key: "(.*)"$', prompt, re.M)
                assert len(values) == int(name[3:-5]) and len(shown) == 2 and key not in shown
                assert all(f'Key: "{other}"\nValue: "{values[other]}"' in prompt for other in shown)
                answer = values[key]
            else:
                noun = row["input"].split(" ?\nLabel:")[0].split()[-1]
                [nouns] = [nouns for nouns in make_standin.TYPES.values() if noun in nouns]
                found = re.findall(rf" (?:{'|'.join(nouns)}) \?\nLabel: (.+)", row["context"])
                labels = re.findall(r"Label: (\d+)", row["context"])
                assert {labels.count(label) for label in set(labels)} == {len(labels) / 5}  # balanced
                [answer] = set(found)
            assert row["answers"] == [answer]
        predictions = [{**row, "pred": f" {answer_of(row)}"} for row in dataset.rows]
        write_rows(tmp_path / f"pred_{base_set(dataset.name)}" / "m" / f"standin_{name}.jsonl", predictions)
    for benchmark in ("kv", "icl"):
        run_main(longbench_eval.main, "--output_dir", tmp_path, "--benchmark", benchmark)
        scores = json.loads((tmp_path / f"pred_{benchmark}" / "m" / "scores.json").read_text())
        entries = scores["sets"].values()
        assert [entry["score"] for entry in entries] == [100 if answer_of(dataset.rows[0]) else 0] * 2
        assert all(entry["n"] == 12 and entry["interval_95"][1] - entry["interval_95"][0] > 10 for entry in entries)
    five, more = (rows_of(tmp_path, f"icl_{n}shots") for n in (5, 25))
    assert all(
        b["context"].startswith(a["context"]) and a["answers"] == b["answers"] for a, b in zip(five, more, strict=True)
    )
    assert len({row["context"].split("\n")[1] for row in five}) > 2  # each row has its own labels
