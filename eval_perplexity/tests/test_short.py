"""Short tasks through a real run of lm-eval, and the table of changes from the base."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import eval_short
import tiny
from conftest import full_losses, save_model

TASK = """
task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def short(run_main, tmp_path):
    """short(flags...) runs eval_short.py on a local task; returns the table of changes by task."""
    rng = np.random.default_rng(0)
    items = []
    for _ in range(16):
        words = ["".join(map(chr, rng.integers(97, 123, 6))) for _ in range(3)]
        items.append({"question": words[0], "choices": words[1:], "answer": int(rng.integers(2))})
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "letters.yaml").write_text(TASK.format(data=data))

    def call(*flags):
        where = ["--include_path", tmp_path / "tasks", "--output_dir", tmp_path / "out"]
        run_main(eval_short.main, "--tasks", "letters", *where, *flags)
        return pd.read_csv(tmp_path / "out" / "short.csv").set_index("task")

    call.items = items
    return call


@torch.no_grad()
def test_a_local_task_its_resume_and_the_changes(short, checkpoint, tmp_path, monkeypatch):
    other = save_model(tmp_path / "other", "ntk", initializer_range=0.5)
    table = short("--base_model", checkpoint, other)
    hits = []
    for folder in (checkpoint, other):
        model = AutoModelForCausalLM.from_pretrained(folder)
        eval_short.RopeSetter(model).set(eval_short.rope_at(model.config, tiny.C))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        hits.append([likeliest(model, tokenizer, item) == item["answer"] for item in short.items])
        result = json.loads((tmp_path / "out" / folder.name / "scores.json").read_text())
        assert result["sets"]["letters"]["row_scores"] == hits[-1]
        assert result["benchmark"] == "short" and result["length"] == tiny.C and result["attention"] == "sdpa"
    difference = 100 * (np.array(hits[1], float) - np.array(hits[0], float))
    half = 2.1314495 * difference.std(ddof=1) / 4  # Student's t of 15 degrees of freedom
    line = table.loc["letters"]
    assert (line.model, line.n) == ("other", 16) and difference.any()
    expected = (100 * np.mean(hits[0]), difference.mean(), difference.mean() - half, difference.mean() + half)
    assert (line.base, line.change, line.low, line.high) == pytest.approx(expected)

    result_path = tmp_path / "out" / "other" / "scores.json"
    result_path.unlink()  # as after a kill: the task is recorded, the result is not written
    for name, factor in (("tiny", 1.0), ("other", 1.1)):  # the losses of three documents
        losses = {"sum": [20.0 * factor, 30.0 * factor, 40.0], "targets": [10, 10, 10]}
        path = tmp_path / "heldout" / f"{name}_{tiny.C}_heldout.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"val_perplexity": 8.0, "document_losses": losses}))
    with monkeypatch.context() as patch:
        patch.setattr(eval_short, "load_model", None)
        table = short("--base_model", other, "--perplexity", tmp_path)
    assert json.loads(result_path.read_text())["sets"]["letters"]["row_scores"] == hits[1]
    assert table.change[f"loss at {tiny.C}, heldout"] == pytest.approx(5 / 30) and "letters" in table.index
    with pytest.raises(SystemExit, match="^error: lm-eval cannot run the task nosuch"):
        short("--base_model", other, "--tasks", "nosuch")


def likeliest(model, tokenizer, item: dict) -> int:
    """The choice with the higher log-likelihood after the question."""
    sums = []
    for choice in item["choices"]:
        losses, _ = full_losses(model, tokenizer(item["question"] + choice).input_ids)
        sums.append(losses[-len(choice) :].sum())
    return int(np.argmin(sums))
