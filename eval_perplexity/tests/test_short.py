"""Short tasks through a real run of lm-eval, and the table of changes from the base."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import eval_short
import tiny
from conftest import save_model
from run import run_script

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
def short(monkeypatch, capsys):
    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["eval_short.py", *map(str, flags)])
        run_script(eval_short.main)
        return capsys.readouterr().out

    return call


@torch.no_grad()
def test_a_local_task_its_resume_and_the_changes(short, checkpoint, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    items = []
    for _ in range(16):
        words = ["".join(map(chr, rng.integers(97, 123, 6))) for _ in range(3)]
        items.append({"question": words[0], "choices": words[1:], "answer": int(rng.integers(2))})
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "letters.yaml").write_text(TASK.format(data=data))
    other = save_model(tmp_path / "other", "ntk", initializer_range=0.5)
    out, flags = tmp_path / "out", ["--tasks", "letters", "--include_path", tmp_path / "tasks"]

    short("--base_model", checkpoint, other, *flags, "--output_dir", out)
    hits = []
    for folder in (checkpoint, other):
        model = AutoModelForCausalLM.from_pretrained(folder)
        eval_short.RopeSetter(model).set(eval_short.rope_at(model.config, tiny.C))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        hits.append([likeliest(model, tokenizer, item) == item["answer"] for item in items])
        result = json.loads((out / folder.name / "scores.json").read_text())
        assert result["sets"]["letters"]["row_scores"] == hits[-1]
        assert result["benchmark"] == "short" and result["length"] == tiny.C and result["attention"] == "sdpa"
    difference = 100 * (np.array(hits[1], float) - np.array(hits[0], float))
    assert difference.any()
    [line] = pd.read_csv(out / "short.csv").itertuples()
    half = 2.1314495 * difference.std(ddof=1) / 4  # Student's t of 15 degrees of freedom
    assert (line.model, line.task, line.n) == ("other", "letters", 16)
    assert line.base == pytest.approx(100 * np.mean(hits[0]))
    assert (line.change, line.low, line.high) == pytest.approx(
        (difference.mean(), difference.mean() - half, difference.mean() + half)
    )

    (out / "other" / "scores.json").unlink()  # as after a kill: the task is recorded, the result is not written
    monkeypatch.setattr(eval_short, "run_task", None)
    short("--base_model", other, *flags, "--output_dir", out)
    assert json.loads((out / "other" / "scores.json").read_text())["sets"]["letters"]["row_scores"] == hits[1]
    monkeypatch.setattr(eval_short, "load_model", None)
    assert "already done" in short("--base_model", other, *flags, "--output_dir", out)
    for name, factor in (("tiny", 1.0), ("other", 1.1)):  # the losses of three documents
        losses = {"sum": [20.0 * factor, 30.0 * factor, 40.0], "targets": [10, 10, 10]}
        perplexity = {"val_perplexity": 8.0, "document_losses": losses}
        path = tmp_path / "heldout" / f"{name}_{tiny.C}_heldout.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(perplexity))
    table = short("--output_dir", out, "--perplexity", tmp_path)
    change = pd.read_csv(out / "short.csv").set_index("task").change[f"loss at {tiny.C}, heldout"]
    assert change == pytest.approx(5 / 30) and "letters" in table
    with pytest.raises(SystemExit, match="lm-eval has no task nosuch"):
        monkeypatch.undo()
        monkeypatch.setattr(sys, "argv", ["eval_short.py", "--base_model", str(other), "--tasks", "nosuch"])
        sys.argv += ["--output_dir", str(out)]
        run_script(eval_short.main)


def likeliest(model, tokenizer, item: dict) -> int:
    """The choice with the higher log-likelihood after the question."""
    sums = []
    for choice in item["choices"]:
        ids = tokenizer(item["question"] + choice).input_ids
        log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        sums.append(sum(log_p[i - 1, ids[i]] for i in range(len(ids) - len(choice), len(ids))))
    return int(np.argmax(sums))
