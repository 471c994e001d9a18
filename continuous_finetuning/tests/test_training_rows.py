"""Training rows, their labels, document masks and PoSE; the parts of a row that ranks share."""

import json
from itertools import pairwise

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM

import memory
import methods
import training
import training_rows
from test_own_attention import dense_logits
from tiny import C, L

VOCABULARY = 258
STARTS = [41, 0, 3, 130, 40]
ROWS = [{"input_ids": list(range(i, i + 8)), "source": i} for i in range(5)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_list(rows)
    {".jsonl": data.to_json, ".parquet": data.to_parquet}[path.suffix](path)
    return path


SOURCES = {
    "a.jsonl": lambda path: write(path, ROWS),
    "a.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "hub": lambda path: write(path / "data" / "train-00000-of-00001.parquet", ROWS),  # as a snapshot from there
    "parquet": lambda path: [write(path / "0.parquet", ROWS[:2]), write(path / "1.parquet", ROWS[2:])],
    "save_to_disk": lambda path: datasets.Dataset.from_list(ROWS).with_format("torch").save_to_disk(path),
    "dataset dict": lambda path: datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(path),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_same_rows(tmp_path, kind):
    SOURCES[kind](tmp_path / kind)
    rows = training_rows.select(training_rows.read(str(tmp_path / kind)), 8, VOCABULARY)
    assert rows.column_names == ["input_ids"] and rows[:]["input_ids"] == [row["input_ids"] for row in ROWS]


def test_bad_data(tmp_path):
    def refused(path, message, **options):
        with pytest.raises((ValueError, OSError), match=message):
            training_rows.select(training_rows.read(str(path)), 8, VOCABULARY, **options)

    refused(tmp_path / "nothing", "nothing")
    (tmp_path / "x.jsonl").write_text('{"input_ids": [1, 2\nnot json')
    refused(tmp_path / "x.jsonl", "cannot be read")
    (tmp_path / "x.txt").write_text("text")
    refused(tmp_path / "x.txt", "expected a .parquet")
    refused(write(tmp_path / "t.jsonl", [{"text": "a"}]), "prepare_data.py")
    refused(write(tmp_path / "l.jsonl", [*ROWS, {"input_ids": [1] * 7, "source": 0}]), "rows of 7 to 8 tokens")
    bad_values = {
        "input_ids": [[1, None] * 4, None, [1.5] * 8, 7],
        "labels": [[0] * 7, [-1] * 8, 3],
        "document_starts": [[0, 8], [-1], None],
    }
    for name, values in bad_values.items():
        for i, value in enumerate(values):
            path = write(tmp_path / f"{name}{i}.parquet", [{"input_ids": [1] * 8, name: value}])
            refused(path, name, documents=name == "document_starts")
    datasets.DatasetDict(test=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "dict")
    refused(tmp_path / "dict", "train")
    refused(write(tmp_path / "v.jsonl", [{"input_ids": [300] * 8}]), "input_ids from 300 to 300.* 0 to 257")
    refused(write(tmp_path / "d.jsonl", ROWS), "--document_mask needs rows", documents=True)


# --- batches
@pytest.mark.parametrize("length", [8, 16])
def test_labels_of_the_rows_are_learned(tmp_path, length):
    """The rows are cut; ranks that share a row have all of it."""
    ids, labels = list(range(16)), [-100] * 6 + list(range(100, 110))
    path = write(tmp_path / "rows.jsonl", [{"input_ids": ids, "labels": labels, "attention_mask": [1] * 16}])
    rows = training_rows.select(training_rows.read(str(path)), length, VOCABULARY, cut=length < 16)
    whole = training.collate(list(rows))
    assert whole["input_ids"].flatten().tolist() == ids and whole["labels"].flatten().tolist() == labels
    parts = [training.collate(list(rows), part, 2) for part in (0, 1)]
    parts = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
    assert torch.equal(parts["input_ids"], whole["input_ids"])
    assert parts["position_ids"].tolist() == [list(range(length))] * len(rows)
    expected = [[*row[1:], -100] for row in whole["labels"].tolist()]  # the split loses no target
    assert parts["shift_labels"].tolist() == expected


def test_positions_start_anew_with_each_document():
    rows = [{"input_ids": [5] * 6, "document_starts": starts} for starts in ([0], [5, 0, 2])]
    assert training.collate(rows)["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 0]]


def test_documents_of_a_row_do_not_see_each_other(base):
    config = AutoModelForCausalLM.from_pretrained(base).config
    config.rope_parameters = methods.build("yarn", config, L, {}).rope_parameters()
    config.use_cache = False  # as in training: with a cache Transformers makes no such mask
    model = AutoModelForCausalLM.from_pretrained(base, config=config, dtype=torch.float64).train()
    ids = torch.randint(2, 250, (L,), generator=torch.Generator().manual_seed(0)).tolist()
    batch = training.collate([{"input_ids": ids, "document_starts": STARTS}])
    hidden = model.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).last_hidden_state[0]
    plain = model.model(input_ids=batch["input_ids"]).last_hidden_state[0]
    for start, end in pairwise([*sorted(STARTS), L]):
        alone = model.model(input_ids=batch["input_ids"][:, start:end]).last_hidden_state[0]
        torch.testing.assert_close(hidden[start:end], alone, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(hidden[130:], plain[130:], atol=1e-3)  # without the mask they do


# --- PoSE
def test_positions_of_pose():
    """Chunk and skip are uniform in the paper's ranges, ends included; the seed decides."""
    data = datasets.Dataset.from_dict({"input_ids": [[5] * C] * 4000})
    drawn = training_rows.draw_skips(data, C, L, seed=1)
    assert set(drawn["chunk"]) == set(range(1, 33)) and set(drawn["skip"]) == set(range(L - C + 1))
    batch = training.collate([drawn[i] for i in range(4000)])
    position_BL = batch["position_ids"]
    assert (position_BL[:, 0] == 0).all() and position_BL.max() == L - 1
    for position_L, chunk, skip in zip(position_BL[:5].tolist(), drawn["chunk"], drawn["skip"], strict=False):
        assert position_L == [*range(chunk), *range(chunk + skip, C + skip)]
    assert training_rows.draw_skips(data, C, L, seed=1)["skip"] == drawn["skip"]
    assert training_rows.draw_skips(data, C, L, seed=2)["skip"] != drawn["skip"]


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
