"""Stand-in sets: LongBench's fields, always the same bytes, and each answer can be found in the prompt alone."""

import json
import re

import pytest

import make_standin
import tiny
from conftest import read_rows, run_main
from data import load
from metrics import METRICS
from prompts import template
from sets import SETS, STANDIN_SETS

FLAGS = ["--rows", 24, "--words", 80, "--shots", 1, 5, 25, "--classes", 5, "--pairs", 4, 40, "--icl_shots", 5, 25]
MANY_SHOTS = [f"trec_{n}shots" for n in (1, 5, 25)]
RECALL = ["kv_4pairs", "kv_40pairs", "icl_5shots", "icl_25shots"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standins")
    run_main(make_standin.main, "--output_dir", folder, *FLAGS)
    return folder


def rows_of(folder, name: str) -> list[dict]:
    return read_rows(folder / f"standin_{name}.jsonl")


def test_fields_lengths_and_manifest(folder):
    manifest = json.loads((folder / "standin.json").read_text())
    names = [*STANDIN_SETS, *MANY_SHOTS, *RECALL]
    assert set(manifest) == {f"standin_{name}" for name in names}
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


def solve_shots(row):
    """The type or label of an example with a noun of the same type; None without one."""
    prompt = template(row["dataset"].removeprefix("standin_")).format(**row)
    noun = row["input"].split(" ?\n")[0].split()[-1]
    [nouns] = [nouns for nouns in make_standin.TYPES.values() if noun in nouns]
    kinds = set(re.findall(rf" (?:{'|'.join(nouns)}) \?\n(?:Type|Label): (.+)", prompt))
    assert len(kinds) <= 1 and prompt.count(row["input"].split("\n")[0]) == 1
    return kinds.pop() if kinds else None


def solve_recall(row):
    prompt = template("kv").format(**row)
    values, _ = json.JSONDecoder().raw_decode(prompt, prompt.index("{"))
    *shown, key = re.findall(r'^Key: "(.*)"$', prompt, re.M)
    assert len(values) == 40 and len(shown) == 2 and key not in shown
    assert all(f'Key: "{other}"\nValue: "{values[other]}"' in prompt for other in shown)
    return values[key]


SOLVERS = {"qasper": solve_fact, "multifieldqa_en": solve_fact, "passage_retrieval_en": solve_retrieval}
SOLVERS |= {"trec": solve_shots, "icl_5shots": solve_shots, "icl_25shots": solve_shots, "kv_40pairs": solve_recall}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_prompt_alone_contains_the_answer(name, folder):
    rows = rows_of(folder, name)
    answers = [SOLVERS[name](row) for row in rows]
    assert answers == [row["answers"][0] for row in rows] and len(set(answers)) > 2


def test_more_shots_begin_with_fewer_and_ask_the_same(folder):
    for names in (MANY_SHOTS, RECALL[2:]):
        fewer, many = rows_of(folder, names[-2]), rows_of(folder, names[-1])
        for a, b in zip(fewer, many, strict=True):
            assert b["context"].startswith(a["context"]) and a["answers"] == b["answers"]
            assert a["input"] == b["input"] and a["_id"] == b["_id"]
            kinds = re.findall("(?:Type|Label): (.+)", b["context"])
            assert [kinds.count(kind) for kind in set(kinds)] == [5] * 5  # equally often
    contexts = "".join(row["context"] for row in rows_of(folder, "icl_5shots"))
    assert len(set(re.findall(r" (?:river|stream) \?\nLabel: (\d)", contexts))) > 2  # of one type: each row has its own
    one, five = (rows_of(folder, name) for name in MANY_SHOTS[:2])
    assert all(solve_shots(row) == row["answers"][0] for row in five)  # one example of each type
    assert 0 < sum(solve_shots(row) == row["answers"][0] for row in one) < len(one) / 2  # by chance


def test_code_is_the_next_line_of_a_source_file_and_can_be_scored(folder):
    code = ["\n".join(lines) for lines in make_standin.Source(5).files.values()]
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


def test_a_wrong_flag_is_an_error(tmp_path, call):
    _, errors = call(make_standin.main, "--output_dir", tmp_path, "--classes", 51)
    assert "--classes: 51: must be from 2 to 50" in errors[-1]
