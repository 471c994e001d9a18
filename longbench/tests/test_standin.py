"""Stand-in sets: LongBench's schema, the same bytes every time, and each answer to be found in the prompt alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import make_standin
import standins
from data import load
from metrics import METRICS
from scoring import NO_STANDIN
from sets import CATEGORIES, SETS

STAGE = Path(__file__).resolve().parents[1]
FIELDS = {"input", "context", "answers", "length", "dataset", "language", "all_classes", "_id"}


def make(monkeypatch, folder: Path, *flags) -> Path:
    monkeypatch.setattr(sys, "argv", ["make_standin.py", "--output_dir", str(folder), *map(str, flags)])
    make_standin.main()
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{"short" or "long": folder}: sets for a tiny model and some of LongBench's lengths."""
    patch = pytest.MonkeyPatch()
    root = tmp_path_factory.mktemp("standin")
    short = make(patch, root / "short", "--rows", 40, "--words", 80, "--shots", 1, 5, 25, "--classes", 5)
    long = make(patch, root / "long", "--rows", 12, "--shots", 200)
    patch.undo()
    return {"short": short, "long": long}


def rows_of(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"standin_{name}.jsonl").read_text().splitlines()]


def test_there_is_a_stand_in_for_all_but_summaries():
    assert set(make_standin.MAKERS) == set(SETS) - set(NO_STANDIN)
    assert {SETS[name].category for name in make_standin.MAKERS} == set(CATEGORIES) - {"summarization"}


@pytest.mark.parametrize("size", ["short", "long"])
def test_schema_lengths_and_manifest(size, made):
    folder, shots = made[size], {"short": (1, 5, 25), "long": (200,)}[size]
    manifest = json.loads((folder / "standin.json").read_text())
    names = [*make_standin.MAKERS, *(f"trec_{n}shots" for n in shots)]
    assert list(manifest) == [f"standin_{name}" for name in names]
    for name in names:
        rows, data = load(f"standin_{name}", folder)  # as pred.py reads it
        entry = manifest[f"standin_{name}"]
        assert data["source"] == "standin" and data["sha256"] == entry["sha256"] and data["rows"] == entry["rows"]
        assert len({row["_id"] for row in rows}) == len(rows)
        assert len({(row["context"], row["input"]) for row in rows}) > 0.9 * len(rows), name
        for row in rows:
            assert set(row) == FIELDS and all(row["answers"])
            assert row["length"] == sum(len(text.split()) for text in (row["context"], row["input"], *row["answers"]))
        if name in SETS:
            wanted = 80 if size == "short" else SETS[name].words
            most = 1.5 if size == "short" else 1.1  # a sentence more or less
            assert 0.8 * wanted < entry["words"] < most * wanted, (name, entry)


# ----------------------------------------------------------------------------- a solver that reads the prompt alone
def solve_count(row):
    passages = re.split(r"\n\n(?=Paragraph \d+: )", row["context"])
    return str(len({re.sub(r"^Paragraph \d+: ", "", passage) for passage in passages}))


def solve_retrieval(row):
    passages = re.split(r"\n\n(?=Paragraph \d+: )", row["context"])
    first = re.split(r"(?<=\.) ", row["input"])[0]
    (found,) = [i for i, passage in enumerate(passages, 1) if first in passage]  # one passage, no other
    return f"Paragraph {found}"


def solve_one_hop(row):
    """The question's two names, and the one statement with both."""
    text = row["input"] if row["dataset"].endswith("triviaqa") else row["context"]
    question = re.search(r"Question:\n(.+)", row["input"])[1] if text is row["input"] else row["input"]
    what, place = re.search(r"(?:the|once) ([\w-]+) (?:of|for sample|in) (\w+)", question).groups()
    statements = [
        rf"The {what} of {place} is (\w+)\.",
        rf"For sample {place} the {what} is (\w+)\.",
        rf"The {what} in {place} was opened in (\w+)\.",
        rf"(\w+) was once {what} of {place}\.",
    ]
    (found,) = [answer for statement in statements for answer in re.findall(statement, text)]
    return found


def solve_hops(row):
    """From the question's name along the facts, as long as one leads on."""
    name = re.search(r"(?:painter|author|writer|builder) of (\w+)", row["input"])[1]
    steps = 0
    while fact := re.findall(rf"{name} (?:was|is|lies) (?:\w+ )*?(?:by|in|to|river) ([A-Z]\w+)\.", row["context"]):
        (name,) = fact
        steps += 1
    assert steps == (3 if row["dataset"].endswith("musique") else 2)
    return name


def solve_trec(row):
    """The type of an example with the same noun; None without one."""
    noun = row["input"].split(" ?\nType:")[0].split()[-1]
    kind = next((kind for kind, nouns in standins.TYPES.items() if noun in nouns.split()), None)
    nouns = "|".join(standins.TYPES[kind].split())
    found = set(re.findall(rf" (?:{nouns}) \?\nType: (.+)", row["context"]))
    assert len(found) <= 1 and row["input"].split("\n")[0] not in row["context"]
    return found.pop() if found else None


SOLVERS = {"passage_count": solve_count, "passage_retrieval_en": solve_retrieval, "trec": solve_trec}
SOLVERS |= dict.fromkeys(("narrativeqa", "qasper", "multifieldqa_en", "triviaqa"), solve_one_hop)
SOLVERS |= dict.fromkeys(("hotpotqa", "2wikimqa", "musique"), solve_hops)


@pytest.mark.parametrize("size", ["short", "long"])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_prompt_alone_has_the_answer(name, size, made):
    rows = rows_of(made[size], name)
    found = [solve(row) for solve, row in ((SOLVERS[name], row) for row in rows)]
    assert found == [row["answers"][0] for row in rows]
    assert len(set(found)) > 2  # not always the same


def test_facts_are_hidden_all_over_the_text(made):
    rows = rows_of(made["long"], "narrativeqa")
    places = [row["context"].index(row["answers"][0]) / len(row["context"]) for row in rows]
    assert min(places) < 0.3 and max(places) > 0.7


def test_many_shots_hold_fewer_and_ask_the_same(made):
    one, five, many = (rows_of(made["short"], f"trec_{n}shots") for n in (1, 5, 25))
    for a, b, c in zip(one, five, many, strict=True):
        assert b["context"].startswith(a["context"]) and c["context"].startswith(b["context"])
        assert a["input"] == b["input"] == c["input"] and a["_id"] == b["_id"] == c["_id"]
        assert [row["context"].count("Type: ") for row in (a, b, c)] == [1, 5, 25]
        kinds = re.findall("Type: (.+)", c["context"])
        assert sorted(map(kinds.count, a["all_classes"])) == [5] * 5  # equally often
    assert all(solve_trec(row) == row["answers"][0] for row in five)  # as many as there are types: each is there
    assert 0 < sum(solve_trec(row) == row["answers"][0] for row in one) < len(one) / 2  # by chance


def test_types_do_not_give_themselves_away():
    assert len(standins.TYPES) == len(standins.kinds(50)) == 50 and len(standins.kinds(7)) == 7
    nouns = [noun for pair in standins.TYPES.values() for noun in pair.split()]
    assert len(set(nouns)) == 100
    for kind in standins.TYPES:
        assert not any(kind != other and kind in other for other in standins.TYPES)  # none is part of another
        assert not set(kind.lower().split()) & set(standins.TYPES[kind].split())


@pytest.mark.parametrize("size", ["short", "long"])
def test_code_is_the_next_line_of_a_source_file_and_can_be_scored(size, made):
    source, _ = make_standin.read_source(None)
    for name in ("lcc", "repobench-p"):
        for row in rows_of(made[size], name):
            (answer,) = row["answers"]
            assert METRICS["code_sim"](answer, answer) == 1.0 and METRICS["code_sim"](answer + "\nx", answer) == 1.0
            before = row["context"] if name == "lcc" else row["input"].split("\n", 1)[1]
            assert any(before + answer + "\n" in text for text in source.code.values()), row["_id"]
            if name == "repobench-p":
                current = row["input"].split("\n")[0]
                assert row["context"].startswith("# ") and current not in row["context"].split("\n")


# ----------------------------------------------------------------------------- the same bytes, the user's view
def test_the_same_command_in_another_process_gives_the_same_bytes(made, tmp_path):
    flags = "--rows 40 --words 80 --shots 1 5 25 --classes 5".split()
    env = {"PYTHONHASHSEED": "7", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, STAGE / "make_standin.py", "--output_dir", tmp_path, *flags]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in made["short"].iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_fewer_rows_and_sets_are_the_beginning_of_more_and_the_seed_counts(made, tmp_path, monkeypatch):
    short = ["--shots", "--rows", 3, "--words", 80]
    folder = make(monkeypatch, tmp_path, "--sets", "standin_lcc", "trec", *short, "--classes", 5)
    assert sorted(path.name for path in folder.iterdir()) == ["standin.json", "standin_lcc.jsonl", "standin_trec.jsonl"]
    assert rows_of(folder, "lcc") == rows_of(made["short"], "lcc")[:3]
    make(monkeypatch, folder, "--sets", "lcc", *short, "--seed", 1)
    assert rows_of(folder, "lcc")[0]["context"] != rows_of(made["short"], "lcc")[0]["context"]
    manifest = json.loads((folder / "standin.json").read_text())
    assert manifest["standin_lcc"]["seed"] == 1 and manifest["standin_trec"]["seed"] == 42


def test_code_that_a_model_was_trained_on_can_be_left_out(tmp_path, monkeypatch):
    source, about = make_standin.read_source(None)
    names = list(source.code)
    corpus = tmp_path / "corpus.jsonl"  # sections of files, as make_base_model.py writes them
    corpus.write_text("".join(json.dumps({"text": source.code[name][:8000]}) + "\n" for name in names[::2]))
    left, fewer = make_standin.read_source(corpus)
    assert list(left.code) == names[1::2] and fewer["files"] < about["files"]
    assert fewer["text_sha256"] != about["text_sha256"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--sets", "samsum"], "--sets samsum is a summary, which has no stand-in"),
        (["--sets", "lccc"], "--sets lccc is no set of LongBench"),
        (["--words", "5"], "--words 5 is not from 40"),
        (["--classes", "51"], "--classes 51 is not from 2 to 50"),
        (["--shots", "0"], "--shots takes numbers from 1 on"),
        (["--exclude", "absent.jsonl"], "--exclude absent.jsonl is not a file of JSON lines with `text`"),
        (["--sets", "passage_retrieval_en", "--words", "100000"], "passages of 3223 words, not 30"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, message, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        make(monkeypatch, tmp_path, "--rows", 2, *flags)
    said = capsys.readouterr().err + (stop.value.code if isinstance(stop.value.code, str) else "")
    assert message in said and len(said.strip().splitlines()) == 1
