"""Predictions: greedy text of new tokens, RULER's format, resume, several models, memory, a server, bad input."""

from run import read_json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import call_api
from endpoint import Endpoint
from samples import rows, save_data
from store import read_lines
from transformers_engine import Transformers

TASKS = ("niah_single_1", "qa_1")


@pytest.fixture
def data(tmp_path):
    """Data of two tasks, 12 rows each; --data_dir."""
    for task in TASKS:
        save_data(tmp_path / "256" / "data", task, rows(task, 12))
    return tmp_path / "256" / "data"


@pytest.fixture
def ask(monkeypatch, call, data, checkpoint):
    """ask(save_dir, flags..., engine=None) runs call_api: (what it printed, its error). engine: instead of its own."""

    def ask(save_dir, *flags, engine=None, models=(checkpoint,)):
        flags = ["--data_dir", data, "--save_dir", save_dir, "--max_seq_length", 256, "--task", *TASKS, *flags]
        with monkeypatch.context() as patch:
            if engine:
                patch.setattr(call_api, "open_engine", lambda *args: engine)
            return call(call_api, *flags, "--model_name_or_path", *models)

    return ask


class Limited(Transformers):
    """Is interrupted once it has made `limit` answers; runs out of memory on a prompt that holds `never`."""

    limit, never, answered = 10**9, "\0", 0

    def generate(self, prompts, *args, **kwargs):
        if self.answered >= self.limit:
            raise KeyboardInterrupt
        if any(self.never in self.decode(ids) for ids in prompts):
            raise torch.OutOfMemoryError("no memory for this")
        self.answered += len(prompts)
        return super().generate(prompts, *args, **kwargs)


def answers(folder) -> dict[str, list[tuple]]:
    """What does not depend on the clock: {task: [(index, pred)]}."""
    paths = sorted(folder.glob("*.jsonl"))
    return {path.stem: [(row["index"], row["pred"]) for row in read_lines(path)[0]] for path in paths}


@pytest.fixture
def whole(ask, tmp_path):
    """The answers of an uninterrupted run."""
    assert ask(tmp_path / "whole")[1] is None
    return answers(tmp_path / "whole")


def test_rows_hold_new_tokens_in_the_format_of_ruler(whole, checkpoint, tmp_path):
    """Against generate() of Transformers, one prompt at a time without a cache shared with others."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    made = read_lines(tmp_path / "whole" / "qa_1.jsonl")[0]
    for row, asked in zip(made, rows("qa_1", 12), strict=True):
        assert list(row)[:7] == ["index", "pred", "input", "outputs", "others", "truncation", "length"]
        assert [row[key] for key in ("index", "input", "outputs", "length")] == list(asked.values())[:4]
        ids_1n = tokenizer(asked["input"], return_tensors="pt")["input_ids"]
        assert ids_1n[0, 0] == tokenizer.bos_token_id and ids_1n.shape[1] == row["prompt_tokens"]
        new_n = model.generate(ids_1n, max_new_tokens=8, do_sample=False)[0, ids_1n.shape[1] :]
        assert row["pred"] == tokenizer.decode(new_n, skip_special_tokens=True)
    computed = sum(row["prefilled_tokens"] for row in made)
    assert 0 < computed < sum(row["prompt_tokens"] for row in made)  # the common beginning once
    record = read_json(tmp_path / "whole" / "runs" / "qa_1.json")
    expected = {"benchmark": "ruler", "name": "model", "task": "qa_1", "max_seq_length": 256, "samples": 12}
    assert record | expected | {"method": "base", "protocol": "upstream", "errors": []} == record
    assert record["settings"]["tokens_to_generate"] == 8


def test_an_answer_prefix_beside_the_input_is_appended(tmp_path):
    """As in RULER's files of 2025-05 to 2026-07."""
    [row] = rows("vt", 1)
    save_data(tmp_path, "vt", [row | {"input": row["input"][:-9], "answer_prefix": " Numbers:"}])
    [read] = call_api.read_data(tmp_path / "vt" / "validation.jsonl")
    assert read == row | {"answer_prefix": " Numbers:"}


def test_several_models_and_lengths_in_one_process(ask, whole, checkpoint, other, tmp_path):
    """A model that cannot be opened is reported; the others are answered as they are alone."""
    for task in TASKS:
        save_data(tmp_path / "128" / "data", task, rows(task, 2))
    flags = ["--data_dir", tmp_path / "{length}" / "data", "--max_seq_length", 128, 256]
    out, error = ask(tmp_path / "{model}" / "{length}", *flags, models=(checkpoint, tmp_path / "gone", other))
    assert error.startswith("error: 1 of 3 checkpoints failed: gone") and f"no folder {tmp_path}/gone" in out
    assert answers(tmp_path / "model" / "256") == whole != answers(tmp_path / "other" / "256")
    assert [len(entries) for entries in answers(tmp_path / "other" / "128").values()] == [2, 2]


def test_a_server_gets_the_text_of_each_prompt(ask, tmp_path, monkeypatch):
    def post(self, path, body):
        assert body | {"max_tokens": 8, "temperature": 0} == body
        return 200, {"choices": [{"text": f"I read {len(body['prompt'])}"}]}

    monkeypatch.setattr(Endpoint, "post", post)
    assert ask(tmp_path / "pred", "--server_type", "openai", "--task", "qa_1", models=("served",))[1] is None
    expected = [f"I read {len(row['input'])}" for row in rows("qa_1", 12)]
    assert [pred for _, pred in answers(tmp_path / "pred")["qa_1"]] == expected
    assert read_json(tmp_path / "pred" / "runs" / "qa_1.json")["method"] == "hosted"


def test_an_interrupted_run_resumes_to_the_same_answers(ask, whole, checkpoint, tmp_path):
    save_dir, engine = tmp_path / "pred", Limited(str(checkpoint), batch_size=4)
    engine.limit = 6
    assert "rerun the same command to resume" in ask(save_dir, engine=engine)[0]
    with (save_dir / "niah_single_1.jsonl").open("a") as file:
        file.write('{"index": 9, "pred"')  # cut off by a kill
    engine = Limited(str(checkpoint), batch_size=4)
    for _ in range(2):
        assert ask(save_dir, engine=engine)[1] is None and engine.answered == 4 + 12 and answers(save_dir) == whole


def test_more_samples_resume_and_other_answers_are_moved_aside(ask, data, whole, tmp_path, checkpoint, other):
    save_dir, flags, engine = tmp_path / "pred", ["--task", "qa_1"], Limited(str(checkpoint))
    save_data(data, "qa_1", rows("qa_1", 5))
    ask(save_dir, *flags)
    save_data(data, "qa_1", rows("qa_1", 12))
    ask(save_dir, *flags, engine=engine)
    assert engine.answered == 7 and answers(save_dir) == {"qa_1": whole["qa_1"]}
    save_data(data, "qa_1", [row | {"outputs": ["other"]} for row in rows("qa_1", 12)])
    out, _ = ask(save_dir, *flags, models=(other,))
    assert "earlier answers moved to old/ (other checkpoint, first_row)" in out
    assert answers(save_dir / "old") == {"qa_1": whole["qa_1"]} != answers(save_dir)


def test_answers_without_memory_are_noted_and_tried_again(ask, whole, checkpoint, tmp_path):
    save_dir, engine = tmp_path / "pred", Limited(str(checkpoint))
    engine.never = rows("qa_1", 12)[5]["outputs"][0]
    out, error = ask(save_dir, engine=engine)
    assert error.startswith("error: model: 2 answers ran out of memory; rerun") and "256 qa_1: 11 of 12 answers" in out
    [noted] = read_json(save_dir / "runs" / "qa_1.json")["errors"]
    assert noted == {"index": 5, "error": "out of memory: no memory for this"}
    assert ask(save_dir)[1] is None and answers(save_dir) == whole  # with enough of it
    assert read_json(save_dir / "runs" / "qa_1.json")["errors"] == []


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--benchmark", "other"], "no benchmark other"),
        (["--task", "qa_1,vt"], "no data {data}/vt/validation.jsonl; make it with "),
        (["--max_seq_length", 1, 2], "several lengths need {{length}} in --data_dir"),
        (["--task", "fwe"], "{data}/fwe"),
    ],
)
def test_bad_input_ends_with_one_line_and_leaves_nothing(ask, data, tmp_path, flags, message):
    save_data(data, "fwe", [{"index": 0, "input": "a", "outputs": "b"}])
    error = ask(tmp_path / "pred", *flags)[1]
    assert error.startswith("error: " + message.format(data=data)) and "\n" not in error
    assert not (tmp_path / "pred").exists()
