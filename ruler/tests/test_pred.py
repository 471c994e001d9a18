"""Predictions: greedy text of new tokens, RULER's format, resume, several models, memory, servers, bad input."""

import http.server
import json
import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import call_api
import tiny
from run import read_json
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
        flags = ["--data_dir", data, "--save_dir", save_dir, "--task", *TASKS, *flags]
        with monkeypatch.context() as patch:
            if engine:
                patch.setattr(call_api, "open_engine", lambda *args: engine)
            return call(call_api, *flags, "--model_name_or_path", *models)

    return ask


def answers(folder, *tasks) -> dict[str, list[tuple]]:
    """What does not depend on the clock: {task: [(index, pred, length)]}."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        found[path.stem] = [(row["index"], row["pred"], row["length"]) for row in read_lines(path)[0]]
    return found


@pytest.fixture
def whole(ask, tmp_path):
    """The predictions of an uninterrupted run."""
    assert ask(tmp_path / "whole")[1] is None
    return answers(tmp_path / "whole")


# --- what is written
def test_rows_hold_the_new_tokens_in_rulers_format(whole, checkpoint, tmp_path):
    """Against generate() of Transformers, one prompt at a time without a cache shared with others."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    assert list(whole) == list(TASKS)
    for task in TASKS:
        made = read_lines(tmp_path / "whole" / f"{task}.jsonl")[0]
        assert [row["index"] for row in made] == list(range(12))
        for row, asked in zip(made, rows(task, 12), strict=True):
            assert list(row)[:7] == ["index", "pred", "input", "outputs", "others", "truncation", "length"]
            assert (row["input"], row["outputs"], row["length"]) == (asked["input"], asked["outputs"], asked["length"])
            ids_1n = tokenizer(asked["input"], return_tensors="pt")["input_ids"]
            assert ids_1n[0, 0] == tokenizer.bos_token_id and ids_1n.shape[1] == row["prompt_tokens"]
            new_n = model.generate(ids_1n, max_new_tokens=8, do_sample=False)[0, ids_1n.shape[1] :]
            assert row["pred"] == tokenizer.decode(new_n, skip_special_tokens=True)
        computed = sum(row["prefilled_tokens"] for row in made)
        assert 0 < computed < sum(row["prompt_tokens"] for row in made)  # the common beginning once
        record = read_json(tmp_path / "whole" / "runs" / f"{task}.json")
        assert (record["benchmark"], record["name"], record["task"], record["max_seq_length"]) == (
            "ruler", "model", task, 256,
        )  # fmt: skip
        assert record["settings"]["tokens_to_generate"] == 8 and record["errors"] == record["oom_retries"] == []
        assert (record["method"], record["protocol"], record["samples"]) == ("base", "upstream", 12)


def test_a_prefix_kept_apart_is_put_back_and_a_templates_bos_not_doubled(ask, data, tmp_path):
    """RULER's files of 2025-05 to 2026-07 have the answer prefix beside the input."""
    plain = rows("vt", 3)
    save_data(data, "vt", [row | {"input": row["input"][:-9], "answer_prefix": " Numbers:"} for row in plain])
    save_data(data, "cwe", [row | {"input": "<s>" + row["input"], "answer_prefix": " Numbers:"} for row in plain])
    save_data(data, "fwe", plain)
    ask(tmp_path / "pred", "--task", "vt,cwe,fwe")
    made = answers(tmp_path / "pred")
    assert made["vt"] == made["cwe"] == made["fwe"]


def test_answers_end_before_a_stop_word(ask, whole, tmp_path):
    full = [pred for _, pred, _ in whole["qa_1"]]
    stop = next(character for character in full[0][1:] if character.isascii() and character not in ",\x00")
    ask(tmp_path / "pred", "--task", "qa_1", "--stop_words", stop)
    cut = [pred for _, pred, _ in answers(tmp_path / "pred")["qa_1"]]
    assert cut == [text.split(stop)[0] for text in full] and cut[0] != full[0]


def test_several_models_and_lengths_in_one_process(ask, whole, data, checkpoint, tmp_path):
    """A model that cannot be opened is reported; the others are answered as they are alone."""
    other = tiny.save_base(tmp_path / "other", max_position_embeddings=512, initializer_range=0.2)
    for task in TASKS:
        save_data(tmp_path / "128" / "data", task, rows(task, 2))
    out, error = ask(
        tmp_path / "{model}" / "{length}" / "pred", "--data_dir", tmp_path / "{length}" / "data",
        "--max_seq_length", 128, 256, models=(checkpoint, tmp_path / "gone", other),
    )  # fmt: skip
    assert error.startswith("error: 1 of 3 checkpoints failed: gone") and f"no folder {tmp_path}/gone" in out
    assert answers(tmp_path / "model" / "256" / "pred") == whole != answers(tmp_path / "other" / "256" / "pred")
    assert [len(entries) for entries in answers(tmp_path / "other" / "128" / "pred").values()] == [2, 2]


# --- resuming
class Broken:
    """The checkpoint's engine until it has made `after` answers, then it raises `error`; it has no memory for a prompt
    that holds `never`."""

    def __init__(self, engine, after=10**9, error=None, never=None):
        self.engine, self.left, self.error, self.never = engine, after, error, never
        self.answered = 0

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def generate(self, prompts, new_tokens, **stops):
        if self.left <= 0:
            raise self.error
        if self.never and any(self.never in self.engine.tokenizer.decode(ids) for ids in prompts):
            raise torch.OutOfMemoryError("no memory for this")
        self.left -= len(prompts)
        self.answered += len(prompts)
        return self.engine.generate(prompts, new_tokens, **stops)


def open_tiny(checkpoint, **flags):
    return Transformers(str(checkpoint), **flags)


def test_an_interrupted_run_resumes_to_the_same_answers(ask, whole, checkpoint, tmp_path):
    save_dir = tmp_path / "pred"
    ask(save_dir, engine=Broken(open_tiny(checkpoint, batch_size=4), 6, KeyboardInterrupt()))
    path = save_dir / "niah_single_1.jsonl"
    there = path.read_text().splitlines(keepends=True)
    assert len(there) == 8
    path.write_text("".join(there) + there[3][:40])  # cut off by a kill
    engine = Broken(open_tiny(checkpoint, batch_size=4))
    out, error = ask(save_dir, engine=engine)
    assert error is None and engine.answered == 4 + 12 and answers(save_dir) == whole
    out, _ = ask(save_dir, engine=Broken(open_tiny(checkpoint), 0, AssertionError("asked")))
    assert out.count("all 12 answers are there") == 2 and answers(save_dir) == whole


def test_more_samples_resume_and_other_answers_are_moved_aside(ask, data, whole, tmp_path, checkpoint):
    save_dir = tmp_path / "pred"
    flags = ["--task", "qa_1"]
    save_data(data, "qa_1", rows("qa_1", 5))
    ask(save_dir, *flags)
    save_data(data, "qa_1", rows("qa_1", 12))
    engine = Broken(open_tiny(checkpoint))
    out, _ = ask(save_dir, *flags, engine=engine)
    assert engine.answered == 7 and "moved" not in out and answers(save_dir) == {"qa_1": whole["qa_1"]}

    other = tiny.save_base(tmp_path / "other", max_position_embeddings=512, initializer_range=0.2)
    out, _ = ask(save_dir, *flags, models=(other,))
    assert "earlier answers moved to old/ (other checkpoint)" in out
    assert answers(save_dir / "old") == {"qa_1": whole["qa_1"]} != answers(save_dir)
    save_data(data, "qa_1", [row | {"outputs": ["other"]} for row in rows("qa_1", 12)])
    out, _ = ask(save_dir, *flags, models=(other,))
    assert "earlier answers moved to old2/ (other data_sha256)" in out


def test_answers_without_memory_are_noted_and_tried_again(ask, whole, checkpoint, tmp_path):
    save_dir, gold = tmp_path / "pred", rows("qa_1", 12)[5]["outputs"][0]
    out, error = ask(save_dir, engine=Broken(open_tiny(checkpoint), never=gold))
    assert error.startswith("error: model: 2 answers ran out of memory; rerun") and "256 qa_1: 11 of 12 answers" in out
    assert read_json(save_dir / "runs" / "qa_1.json")["errors"] == [
        {"index": 5, "error": "out of memory: no memory for this"}
    ]
    out, error = ask(save_dir)  # with enough of it
    assert error is None and answers(save_dir) == whole
    assert read_json(save_dir / "runs" / "qa_1.json")["errors"] == []


# --- a server
class Server(http.server.BaseHTTPRequestHandler):
    asked = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        self.send_response(200)
        self.end_headers()
        reply = {"choices": [{"text": f"I read {len(body['prompt'])}"}]}
        reply["usage"] = {"prompt_tokens": 50, "completion_tokens": 3}
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *args):
        pass


def test_a_server_gets_the_text_of_each_prompt(ask, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = ["--server_type", "openai", "--server_host", "127.0.0.1", "--server_port", server.server_port]
    error = ask(tmp_path / "pred", "--task", "qa_1", "--stop_words", "x,y", *where, models=("served",))[1]
    server.shutdown()
    assert error is None
    texts = [row["input"] for row in rows("qa_1", 12)]
    assert [pred for _, pred, _ in answers(tmp_path / "pred")["qa_1"]] == [f"I read {len(text)}" for text in texts]
    assert sorted(body["prompt"] for _, body in Server.asked) == sorted(texts)
    expected = {"model": "served", "max_tokens": 8, "temperature": 0, "stop": ["x", "y"]}
    assert Server.asked[-1][1].items() >= expected.items()
    record = read_json(tmp_path / "pred" / "runs" / "qa_1.json")
    assert (record["settings"]["engine"], record["method"]) == ("openai", "hosted")


def test_vllm_gives_the_same_text(ask, tmp_path):
    pytest.importorskip("vllm", reason="vllm is not installed here (requirements-gpu.txt); compared where it is")
    model, texts = tiny.save_base(tmp_path / "model", max_position_embeddings=512, hidden_size=128), {}
    for server_type in ("hf", "vllm"):
        flags = ["--server_type", server_type, "--dtype", "float32"]
        assert ask(tmp_path / server_type, *flags, models=(model,))[1] is None
        texts[server_type] = answers(tmp_path / server_type)
    assert texts["hf"] == texts["vllm"]


# --- bad input
@pytest.mark.parametrize(
    "flags, line",
    [
        (["--task", "vt,nah"], "unknown task nah; known: niah_single_1, niah_single_2, "),
        (["--benchmark", "other"], "no benchmark other: "),
        (["--task", "qa_1,vt"], "no data {data}/vt/validation.jsonl; make it with "),
        (["--max_seq_length", 513], "513 tokens are beyond the 512 that {model} declares; add --allow_beyond"),
        (["--max_seq_length", 1, 2], "several lengths need {{length}} in --data_dir and --save_dir"),
        (["--model_name", "a", "b"], "as many different --model_name as --model_name_or_path are needed"),
        (["--batch_size", 0], "--batch_size 0: must be at least 1"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(ask, data, checkpoint, tmp_path, flags, line):
    error = ask(tmp_path / "pred", *flags)[1]
    assert error.startswith("error: " + line.format(data=data, model=checkpoint)) and "\n" not in error
    assert not (tmp_path / "pred").exists()


def test_a_broken_data_file_gets_one_line(ask, data, tmp_path):
    path = data / "qa_1" / "validation.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-30])
    error = ask(tmp_path / "pred", "--task", "qa_1")[1]
    assert error.startswith(f"error: {path}, line 12 is not a row of data (JSONDecodeError") and "\n" not in error


def test_what_is_longer_than_it_should_be_is_said(ask, tmp_path):
    out, error = ask(tmp_path / "beyond", "--max_seq_length", 513, "--allow_beyond")
    assert error is None and "WARNING: 513 tokens are beyond the 512" in out
    out, error = ask(tmp_path / "short", "--task", "qa_1", "--max_seq_length", 64)
    longest = max(row["length"] for row in rows("qa_1", 12))
    assert f"take {longest} tokens of this model; were the data made with another tokenizer?" in out
