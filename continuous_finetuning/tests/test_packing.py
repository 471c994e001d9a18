"""Training rows, ready-made or packed from text; document masks; the parts of a row that ranks share."""

import json

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import checkpoint_writer
import memory
import methods
import packing
import training
from test_own_attention import dense_logits
from tiny import C, L

VOCABULARY = 258
STARTS = [0, 3, 40, 41, 130]
ROWS = [{"input_ids": list(range(i, i + 8)), "source": i} for i in range(5)]
TEXTS = ["one document", "two", "", None, "a third one that is longer than a row, and not a multiple of it"] * 400


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


def write(path, rows):
    data = datasets.Dataset.from_list(rows)
    {".jsonl": data.to_json, ".parquet": data.to_parquet}[path.suffix](path)
    return path


FILES = ["a.jsonl", "[1]*.jsonl", "a.json", "windows.jsonl"]
FOLDERS = ["[x] of parquet", "[hub]", "save_to_disk", "dataset dict"]


@pytest.mark.parametrize("kind", FILES + FOLDERS)
def test_every_source_gives_the_same_rows(tmp_path, tokenizer, kind):
    path = tmp_path / kind
    data = datasets.Dataset.from_list(ROWS)
    if kind == "windows.jsonl":  # with a byte order mark, and a field whose type changes
        lines = [json.dumps(row | {"source": None if row["source"] < 3 else "late"}) for row in ROWS]
        path.write_text("\ufeff" + "\n\n".join(lines), newline="\r\n")
    elif kind == "a.json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif kind == "[hub]":  # as a snapshot of a dataset on the hub
        (path / "data").mkdir(parents=True)
        write(path / "data" / "train-00000-of-00001.parquet", ROWS)
    elif kind == "[x] of parquet":
        path.mkdir()
        write(path / "0.parquet", ROWS[:2])
        write(path / "1.parquet", ROWS[2:])
    elif kind == "save_to_disk":
        data.save_to_disk(path)
    elif kind == "dataset dict":
        datasets.DatasetDict(train=data).save_to_disk(path)
    else:
        write(path, ROWS)
    rows = packing.rows(packing.read(str(path)), tokenizer, 8, VOCABULARY)
    assert rows.column_names == ["input_ids"] and rows[:]["input_ids"] == [row["input_ids"] for row in ROWS]


def test_text_is_packed_in_order(tmp_path, tokenizer):
    path = write(tmp_path / "t.jsonl", [{"text": text} for text in TEXTS])
    rows = packing.rows(packing.read(str(path)), tokenizer, 16, VOCABULARY, documents=True)[:]
    texts = [text for text in TEXTS if text is not None]
    stream = [token for text in texts for token in tokenizer(text)["input_ids"]]
    assert stream.count(0) == len(texts)  # one BOS each
    ids = rows["input_ids"]
    assert all(len(row) == 16 for row in ids) and len(ids) == len(stream) // 16
    assert [token for row in ids for token in row] == stream[: len(ids) * 16]
    for row, starts in zip(ids, rows["document_starts"], strict=True):
        assert starts == [i for i, token in enumerate(row) if token == 0 or i == 0]


def test_rows_are_identified_by_their_content(tmp_path, tokenizer):
    digests = []
    for name, rows in {"a.jsonl": ROWS, "b.parquet": ROWS, "c.jsonl": [*ROWS[:4], ROWS[0]]}.items():
        data = packing.read(str(write(tmp_path / name, rows)))
        digests.append(packing.rows_sha256(packing.rows(data, tokenizer, 8, VOCABULARY)))
    assert digests[0] == digests[1] != digests[2]
    assert not checkpoint_writer.claim(tmp_path, {"rows_sha256": digests[0]})
    with pytest.raises(ValueError, match="rows_sha256 was"):
        checkpoint_writer.claim(tmp_path, {"rows_sha256": digests[2]})


def test_bad_data(tmp_path, tokenizer):
    def refused(path, message, length=8, **options):
        with pytest.raises((ValueError, OSError), match=message):
            packing.rows(packing.read(str(path)), tokenizer, length, VOCABULARY, **options)

    refused(tmp_path / "nothing", "nothing")
    (tmp_path / "x.jsonl").write_text('{"input_ids": [1, 2\nnot json')
    refused(tmp_path / "x.jsonl", "cannot be read")
    (tmp_path / "x.txt").write_text("text")
    refused(tmp_path / "x.txt", r"expected \*.parquet")
    refused(write(tmp_path / "c.jsonl", [{"content": "a"}]), "has no text, only content")
    refused(write(tmp_path / "l.jsonl", [*ROWS, {"input_ids": [1] * 7, "source": 0}]), "rows of 7 to 8 tokens")
    for name, values in {
        "input_ids": [[1, None] * 4, None, [1.5] * 8, 7, ["1"] * 8],
        "labels": [[0] * 7, [-1] * 8, [None] * 8, 3],
        "document_starts": [[0, 8], [-1], [0.5], None],
    }.items():
        for i, value in enumerate(values):
            row = {"input_ids": [1] * 8, name: value}
            path = write(tmp_path / f"{name}{i}.parquet", [row])
            refused(path, f"{name}|text", documents=name == "document_starts")
    datasets.DatasetDict(test=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "dict")
    refused(tmp_path / "dict", "one of test")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe4"}')
    refused(tmp_path / "latin.jsonl", "latin.jsonl.*line 1")
    refused(write(tmp_path / "n.jsonl", [{"text": 5}]), "[Tt]ext.* must be")
    refused(write(tmp_path / "v.jsonl", [{"input_ids": [300] * 8}]), "input_ids from 300 to 300.* 0 to 257")
    refused(write(tmp_path / "s.jsonl", [{"text": "short"}]), "fewer than 4000 tokens", length=4000)
    refused(write(tmp_path / "d.jsonl", ROWS), "--document_mask needs rows", documents=True)


# --- batches
def test_ranks_that_share_a_row_have_all_of_it():
    rows = [{"input_ids": list(range(i, i + 8))} for i in (0, 100)]
    parts = [training.collate(rows, part, 2) for part in (0, 1)]
    whole = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
    assert whole["input_ids"].tolist() == [row["input_ids"] for row in rows]
    assert whole["shift_labels"][0].tolist() == [1, 2, 3, 4, 5, 6, 7, -100]  # the split loses no target
    assert whole["position_ids"].tolist() == [list(range(8))] * 2


@pytest.mark.parametrize("cut", [False, True])
def test_labels_of_the_rows_are_learned(tmp_path, tokenizer, cut):
    ids, labels = list(range(16)), [-100] * 6 + list(range(100, 110))
    path = write(tmp_path / "rows.jsonl", [{"input_ids": ids, "labels": labels, "attention_mask": [1] * 16}])
    rows = packing.rows(packing.read(str(path)), tokenizer, 8 if cut else 16, VOCABULARY, cut=cut)
    batch = training.collate(list(rows))
    assert batch["input_ids"].flatten().tolist() == ids and batch["labels"].flatten().tolist() == labels
    if not cut:
        parts = [training.collate(list(rows), part, 2)["shift_labels"] for part in (0, 1)]
        assert torch.cat(parts, dim=1)[0].tolist() == [*labels[1:], -100]


def test_positions_start_anew_with_each_document():
    rows = [{"input_ids": [5] * 6, "document_starts": starts} for starts in ([0], [5, 0, 2])]
    assert training.collate(rows)["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 0]]


@pytest.mark.parametrize("name", ["pi", "yarn"])
def test_documents_of_a_row_do_not_see_each_other(base, name):
    config = AutoModelForCausalLM.from_pretrained(base).config
    config.rope_parameters = methods.build(name, config, L, {}).rope_parameters()
    config.use_cache = False  # as in training: with a cache Transformers makes no such mask
    model = AutoModelForCausalLM.from_pretrained(base, config=config, dtype=torch.float64).train()
    ids = torch.randint(2, 250, (L,), generator=torch.Generator().manual_seed(0)).tolist()
    batch = training.collate([{"input_ids": ids, "document_starts": STARTS}])
    hidden = model.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).last_hidden_state[0]
    plain = model.model(input_ids=batch["input_ids"]).last_hidden_state[0]
    for start, end in zip(STARTS, [*STARTS[1:], L], strict=True):
        alone = model.model(input_ids=batch["input_ids"][:, start:end]).last_hidden_state[0]
        torch.testing.assert_close(hidden[start:end], alone, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(hidden[130:], plain[130:], atol=1e-3)  # without the mask they do


# --- PoSE
def test_positions_of_pose():
    """Chunk and skip are uniform in the paper's ranges, ends included; the seed decides."""
    data = datasets.Dataset.from_dict({"input_ids": [[5] * C] * 4000})
    drawn = packing.draw_skips(data, C, L, seed=1)
    assert set(drawn["chunk"]) == set(range(1, 33)) and set(drawn["skip"]) == set(range(L - C + 1))
    batch = training.collate([drawn[i] for i in range(4000)])
    position_BL = batch["position_ids"]
    assert (position_BL[:, 0] == 0).all() and position_BL.max() == L - 1
    for position_L, chunk, skip in zip(position_BL[:5].tolist(), drawn["chunk"], drawn["skip"], strict=False):
        assert position_L == [*range(chunk), *range(chunk + skip, C + skip)]
    assert packing.draw_skips(data, C, L, seed=1)["skip"] == drawn["skip"]
    assert packing.draw_skips(data, C, L, seed=2)["skip"] != drawn["skip"]


def test_the_second_chunk_of_pose_sees_the_first(base):
    """The training loss equals a dense float64 reference; without the mask of ones, chunks would not see each other."""
    rows = []
    for chunk, skip in ((20, 150), (3, 0), (32, 1)):
        ids = torch.randint(2, 250, (C,), generator=torch.Generator().manual_seed(chunk)).tolist()
        rows.append({"input_ids": ids, "chunk": chunk, "skip": skip})
    batch = training.collate(rows)
    losses, separate = [], []
    for ids_L, position_L, row in zip(batch["input_ids"], batch["position_ids"], rows, strict=True):
        distance_LL, index = position_L[:, None] - position_L, torch.arange(C)
        causal_LL = distance_LL >= 0
        in_chunk_LL = (index[:, None] < row["chunk"]) == (index < row["chunk"])
        for seen_LL, results in ((causal_LL, losses), (causal_LL & in_chunk_LL, separate)):
            logits_LV = dense_logits(base, ids_L, distance_LL, seen_LL)
            results.append(torch.nn.functional.cross_entropy(logits_LV[:-1], ids_L[1:]).item())
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).train()
    memory.use_tiled_loss(model)
    assert model(**batch).loss.item() == pytest.approx(sum(losses) / 3, abs=1e-4)
    assert abs(sum(separate) - sum(losses)) / 3 > 1e-2
