"""--document_mask: a row's loss is that of its documents read one by one; ranks' parts of a row; where it cannot be."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import memory
import methods
import packing
import training
from scripts import losses, run_here, training_flags
from tiny import L

STARTS = [0, 3, 40, 41, 130]


@pytest.mark.parametrize("name", ["origin", "pi", "ntk", "yarn"])
def test_a_row_is_its_documents(base, name):
    """Relative distances are all that rope sees, so that positions may begin anew with each document."""
    config = AutoModelForCausalLM.from_pretrained(base).config
    config.rope_parameters = methods.build(name, config, L, {}).rope_parameters()
    config.use_cache = False  # as in training: with a cache there is no such mask
    model = AutoModelForCausalLM.from_pretrained(base, config=config, dtype=torch.float64).train()
    ids = torch.randint(2, 250, (L,), generator=torch.Generator().manual_seed(0)).tolist()
    batch = training.collate([{"input_ids": ids, "document_starts": STARTS}])
    hidden = model.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).last_hidden_state[0]
    plain = model.model(input_ids=batch["input_ids"]).last_hidden_state[0]
    for start, end in zip(STARTS, [*STARTS[1:], L], strict=True):
        alone = model.model(input_ids=batch["input_ids"][:, start:end]).last_hidden_state[0]
        torch.testing.assert_close(hidden[start:end], alone, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(hidden[130:], plain[130:], atol=1e-3)  # without it they see each other


def test_rows_of_one_batch_have_their_own_documents():
    rows = [{"input_ids": [5] * 6, "document_starts": starts} for starts in ([0], [0, 2, 5])]
    assert training.collate(rows)["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 0]]


def test_ranks_that_share_a_row_have_all_of_it():
    rows = [{"input_ids": list(range(i, i + 8))} for i in (0, 100)]
    parts = [training.collate(rows, part, 2) for part in (0, 1)]
    whole = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
    assert whole["input_ids"].tolist() == [row["input_ids"] for row in rows]
    assert whole["shift_labels"][0].tolist() == [1, 2, 3, 4, 5, 6, 7, -100]  # the cut loses no target
    assert whole["position_ids"].tolist() == [list(range(8))] * 2


def test_packed_text_says_where_documents_begin(tmp_path, base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = ["one document", "two", "", "a third one that is longer than a row, and not a multiple of it"] * 40
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = packing.read(str(tmp_path / "t.jsonl"))
    rows = packing.rows(data, tokenizer, 16, 258, documents=True)
    for row in rows:
        begins = [i for i, token in enumerate(row["input_ids"]) if token == tokenizer.bos_token_id or i == 0]
        assert row["document_starts"] == begins


def test_a_run(base, rows, tmp_path):
    """fine-tune.py on rows with documents: the first loss is theirs alone, and the checkpoint records it."""
    data = tmp_path / "rows.jsonl"
    lines = [json.loads(line) | {"document_starts": STARTS} for line in rows.read_text().splitlines()]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    args = [*training_flags(base, data, "pi", tmp_path / "out"), "--max_steps", 1, "--gradient_accumulation_steps", 40]
    run_here("fine-tune.py", *args, "--document_mask", "True")
    model = AutoModelForCausalLM.from_pretrained(base).train()
    model.config.rope_parameters = methods.build("pi", model.config, L, {}).rope_parameters()
    model = AutoModelForCausalLM.from_pretrained(base, config=model.config).train()
    memory.use_tiled_loss(model)
    with torch.no_grad():
        values = [model(**training.collate([line])).loss.item() for line in lines]
    assert losses(tmp_path / "out") == pytest.approx([sum(values) / len(values)], rel=1e-4)
    record = json.loads((tmp_path / "out" / "config.json").read_text())["context_extension"]
    assert record["recipe"]["document_mask"] is True
