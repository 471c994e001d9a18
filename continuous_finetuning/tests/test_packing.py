"""Rows: taken as they are after a check, or packed from text; every other input in one line."""

import datasets
import pytest
from transformers import AutoTokenizer

import packing

VOCAB = 258


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


def write(path, rows):
    data = datasets.Dataset.from_list(rows)
    {".jsonl": data.to_json, ".parquet": data.to_parquet}[path.suffix](path)
    return path


ROWS = [{"input_ids": list(range(i, i + 8)), "labels": [0]} for i in range(5)]


@pytest.mark.parametrize("kind", ["a.jsonl", "a.parquet", "folder of parquet", "save_to_disk", "dataset dict"])
def test_every_source_gives_the_same_rows(tmp_path, tokenizer, kind):
    path = tmp_path / kind
    data = datasets.Dataset.from_list(ROWS)
    if kind == "folder of parquet":
        path.mkdir()
        write(path / "0.parquet", ROWS[:2])
        write(path / "1.parquet", ROWS[2:])
    elif kind == "save_to_disk":
        data.save_to_disk(path)
    elif kind == "dataset dict":
        datasets.DatasetDict(train=data).save_to_disk(path)
    else:
        write(path, ROWS)
    rows = packing.rows(packing.read(str(path)), tokenizer, 8, VOCAB)
    assert rows.column_names == ["input_ids"] and rows[:]["input_ids"] == [row["input_ids"] for row in ROWS]


def test_text_is_packed_whole(tmp_path, tokenizer):
    texts = ["one document", "two", "", "a third one that is longer than a row, and not a multiple of it"] * 400
    path = write(tmp_path / "t.jsonl", [{"text": text} for text in texts])
    rows = packing.rows(packing.read(str(path)), tokenizer, 16, VOCAB)[:]["input_ids"]
    stream = [token for text in texts for token in tokenizer(text)["input_ids"]]
    assert stream.count(0) == len(texts)  # a BOS each
    assert all(len(row) == 16 for row in rows) and len(rows) == len(stream) // 16
    assert [token for row in rows for token in row] == stream[: len(rows) * 16]


def test_bad_data(tmp_path, tokenizer):
    def refuse(path, message, length=8):
        with pytest.raises((ValueError, OSError), match=message):
            packing.rows(packing.read(str(path)), tokenizer, length, VOCAB)

    refuse("./nothing.jsonl", "nothing.jsonl")
    refuse(tmp_path / "nothing", "nothing")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", r"expected \*.parquet, \*.jsonl or \*.json")
    (tmp_path / "x.jsonl").write_text('{"input_ids": [1, 2\nnot json')
    refuse(tmp_path / "x.jsonl", "cannot be read")
    (tmp_path / "x.txt").write_text("text")
    refuse(tmp_path / "x.txt", r"expected \*.parquet")
    refuse(write(tmp_path / "c.jsonl", [{"content": "a"}]), "has the columns content; it needs `input_ids`")
    refuse(write(tmp_path / "l.jsonl", [*ROWS, {"input_ids": [1] * 7, "labels": [0]}]), "row 5 .* 7 tokens, .* is 8")
    refuse(write(tmp_path / "v.jsonl", [{"input_ids": [300] * 8}]), "ids from 300 to 300, the model knows 0 to 257")
    refuse(write(tmp_path / "s.jsonl", [{"text": "short"}]), "fewer than 4000 tokens", length=4000)
