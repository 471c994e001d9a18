"""Sets, their rows from files and from the hub's datasets (a stub), their prompts and the truncation of these."""

import hashlib

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoTokenizer

import prompts
from conftest import make_row, write_rows
from data import load
from sets import LONGBENCH_E, SETS, expand

LETTERS = "".join(chr(97 + i % 26) for i in range(300))


def rows_of(name: str, count: int) -> list[dict]:
    return [make_row(i, dataset=name, all_classes=["w0"]) for i in range(count)]


def test_names_of_sets():
    assert sum(official.rows for official in SETS.values()) == 3750
    assert expand(["trec", "longbench", "lcc"], False) == ["trec", *[name for name in SETS if name != "trec"]]
    assert expand(["longbench"], True) == list(LONGBENCH_E) and len(expand(["manyshots_trec"], False)) == 15


@pytest.mark.parametrize(
    ("name", "dataset", "count", "source", "benchmark"),
    [
        ("hotpotqa", "mine", 200, "user", "longbench"),  # own data under an official name
        ("qasper_e", "qasper", 224, "official", "longbench_e"),
        ("trec_5shots", "trec", 200, "official", "trec"),
        ("standin_trec_7shots", "standin_trec", 1, "standin", "trec"),
    ],
)
def test_local_files(tmp_path, name, dataset, count, source, benchmark):
    path = write_rows(tmp_path / f"{name}.jsonl", rows_of(dataset, count))
    read = load(name.removesuffix("_e"), tmp_path, e=name.endswith("_e"))
    assert len(read.rows) == count and read.rows[-1]["answers"] == [f"w{count - 1}"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read.record == {"source": source, "sha256": digest, "rows": count, "path": str(path)}
    assert read.benchmark == benchmark


def test_rows_without_an_id_of_their_own_get_one(tmp_path):
    rows = rows_of("standin_lcc", 4)
    del rows[1]["_id"]
    rows[3]["_id"] = rows[2]["_id"]
    write_rows(tmp_path / "standin_lcc.jsonl", rows)
    ids = [row["_id"] for row in load("standin_lcc", tmp_path).rows]
    assert ids == ["id000", "standin_lcc:1", "id002", "id002:3"]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("standin_lcc", '{"input": "a"', "standin_lcc.jsonl, line 2 is not a JSON object"),
        ("standin_lcc", make_row(1, answers="one"), "line 2 is not a row .*TypeError"),
        ("standin_lcc", make_row(1, length=float("nan")), "line 2 is not a row"),
        ("standin_lcc", make_row(1, _id={"oid": 1}), "line 2 is not a row"),
        ("standin_qasper", make_row(1, answers=["one", 1]), "line 2 is not a row"),
        ("qmsum", make_row(1, answers=[None]), "line 2 is not a row"),
        ("lcc", make_row(1, answers=[1]), "line 2 is not a row"),
        ("standin_kv_1pairs", make_row(1, answers=[1]), "line 2 is not a row"),
        ("trec", make_row(1), "is not a row"),  # no classes
        ("passage_retrieval_en", make_row(1, answers=["5"]), "is not of the form 'Paragraph 12'"),
        ("hotpotqa", make_row(1), "has 2 rows, not 200"),
        ("standin_qasper", None, "make it with python make_standin.py"),
        ("standin_", None, "unknown set standin_"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path, name, row, message):
    if row is not None:
        write_rows(tmp_path / f"{name}.jsonl", [make_row(0), row])
    with pytest.raises(ValueError, match=message):
        load(name, tmp_path)


def test_missing_files_are_fetched_from_the_hub(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repo, **flags):
        asked.append((repo, flags["allow_patterns"]))
        if repo == "Leooyii/manyshots_trec":
            raise LocalEntryNotFoundError("cannot be reached\nmore")
        return tmp_path / "cache"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    write_rows(tmp_path / "cache" / "data" / "hotpotqa.jsonl", rows_of("hotpotqa", 200))
    for _ in range(2):
        assert load("hotpotqa", tmp_path / "data").record["source"] == "official"
    assert asked == [("Leooyii/longbench", ["*hotpotqa.jsonl"])]
    for name in ("gov_report", "trec_1shots"):
        with pytest.raises(ValueError, match=rf"{name}\.jsonl; put the file there, .* Leooyii/.*"):
            load(name, tmp_path / "data")


def test_all_templates_are_byte_equal_to_longbenchs(monkeypatch):
    assert list(prompts.DIGESTS) == list(SETS)  # of its dataset2prompt.json
    for name in SETS:
        assert "{context}" in prompts.template(name)  # raises if it is another one
    monkeypatch.setitem(prompts.DIGESTS, "lcc", "another")
    with pytest.raises(ValueError, match=r"pip install lm-eval==0\.4\.13"):
        prompts.template.__wrapped__("lcc")


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


@pytest.mark.parametrize("limit", [100, 101])
@pytest.mark.parametrize(("protocol", "answer"), [("lceg", 0), ("inside", 32)])
def test_the_middle_is_cut_as_in_longbench(tokenizer, limit, protocol, answer):
    def ids_of(text):
        return prompts.prompt_ids(tokenizer, text, limit, 32, protocol)

    room = limit - answer
    ids = tokenizer(LETTERS).input_ids  # <s> and a token a byte
    half = room // 2
    cut, truncated = ids_of(LETTERS)
    assert truncated and tokenizer.decode(cut, skip_special_tokens=True) == LETTERS[: half - 1] + LETTERS[-half:]
    assert len(cut) == 2 * half and cut[0] == ids[0] == 0  # an odd limit loses one token
    assert ids_of(LETTERS[: room - 1]) == (ids[:room], False) and ids_of(LETTERS[:room])[1]


def test_only_the_papers_prompts_exceed_the_window(tokenizer):
    accents = "é" * 300  # two tokens each: half a letter becomes U+FFFD, which is three
    assert len(prompts.prompt_ids(tokenizer, accents, 102, 32, "lceg")[0]) > 102  # as the paper's code
    assert 102 - 8 <= len(prompts.prompt_ids(tokenizer, accents, 102, 32, "inside")[0]) + 32 <= 102
    with pytest.raises(ValueError, match="a window of 33 tokens has no room"):
        prompts.prompt_ids(tokenizer, LETTERS, 33, 32, "inside")
