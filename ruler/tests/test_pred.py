"""Predictions: greedy text of new tokens, RULER's format, resume, processes, chunks, memory, servers, bad input."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import call_api
import evaluate
from results import Predictions, read_json, read_rows
from tiny import STAGE, WINDOW, rows, save_checkpoint, save_data

TASKS = ("niah_single_1", "qa_1")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def data(tmp_path):
    """Data of two tasks, 12 rows each; --data_dir."""
    for task in TASKS:
        save_data(tmp_path / "256" / "data", task, rows(task, 12))
    return tmp_path / "256" / "data"


@pytest.fixture
def ask(monkeypatch, capsys, data, checkpoint):
    """ask(save_dir, flags..., engine=None) calls main here: (what it printed, its error or None). `engine`: in place
    of the checkpoint's."""

    def call(save_dir, *flags, engine=None, model=checkpoint):
        flags = ["--data_dir", data, "--save_dir", save_dir, "--model_name_or_path", model, *flags]
        monkeypatch.setattr(sys, "argv", ["call_api.py", *map(str, flags)])
        with monkeypatch.context() as patch:
            if engine:
                patch.setattr(call_api, "open_engine", lambda args: engine)
            error = None
            try:
                call_api.main()
            except SystemExit as reason:
                error = str(reason)
        return capsys.readouterr().out, error

    return call


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


@pytest.fixture
def whole(ask, data, tmp_path):
    """The predictions of an uninterrupted run."""
    save_dir = tmp_path / "whole"
    assert ask(save_dir, "--task", "niah_single_1,qa_1")[1] is None
    return content(save_dir)


# --- what is written
def test_rows_hold_the_new_tokens_in_rulers_format(whole, checkpoint, data, tmp_path):
    """Against generate() of Transformers, one prompt at a time without a cache shared with others."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    assert list(whole) == ["niah_single_1.jsonl", "qa_1.jsonl"]
    for task in TASKS:
        made = [json.loads(line) for line in whole[f"{task}.jsonl"].decode().splitlines()]
        assert [row["index"] for row in made] == list(range(12))
        for row, asked in zip(made, rows(task, 12), strict=True):
            assert list(row) == ["index", "pred", "input", "outputs", "others", "truncation", "length"]
            assert (row["input"], row["outputs"], row["length"]) == (asked["input"], asked["outputs"], asked["length"])
            assert (row["others"], row["truncation"]) == ({}, -1)
            ids_1n = tokenizer(asked["input"], return_tensors="pt")["input_ids"]
            assert ids_1n[0, 0] == tokenizer.bos_token_id and ids_1n.shape[1] + 8 == row["length"]
            new_n = model.generate(ids_1n, max_new_tokens=8, do_sample=False)[0, ids_1n.shape[1] :]
            assert row["pred"] == tokenizer.decode(new_n, skip_special_tokens=True)
        note = read_json(tmp_path / "whole" / "runs" / f"{task}.json")
        assert (note["benchmark"], note["name"], note["task"], note["max_seq_length"]) == ("ruler", "model", task, 256)
        assert (note["timed"], note["data_rows"], note["tokens_to_generate"], note["errors"]) == (12, 12, 8, [])
        assert note["prompt_tokens"] == sum(row["length"] - 8 for row in made) and note["tokens_per_second"] > 0
        assert note["method"] == "base" and note["protocol"] == "upstream" and note["data"]["source"] == "official"


def test_one_prompt_at_a_time_gives_the_same(ask, whole, tmp_path):
    ask(tmp_path / "one", "--task", *TASKS, "--batch_size", 1)
    assert content(tmp_path / "one") == whole


def test_a_prefix_kept_apart_is_put_back_and_a_templates_bos_not_doubled(ask, data, tmp_path, checkpoint):
    """RULER's files of 2025-05 to 2026-07 have the answer prefix beside the input."""
    plain = rows("vt", 3)
    save_data(data, "vt", [row | {"input": row["input"][:-9], "answer_prefix": " Numbers:"} for row in plain])
    save_data(data, "cwe", [row | {"input": "<s>" + row["input"], "answer_prefix": " Numbers:"} for row in plain])
    save_data(data, "fwe", plain)
    ask(tmp_path / "pred", "--task", "vt,cwe,fwe")
    vt, cwe, fwe = (read_rows(tmp_path / "pred" / f"{task}.jsonl") for task in ("vt", "cwe", "fwe"))
    assert vt == fwe and [row["pred"] for row in cwe.values()] == [row["pred"] for row in fwe.values()]


def test_answers_end_before_a_stop_word(ask, whole, tmp_path):
    full = [json.loads(line)["pred"] for line in whole["qa_1.jsonl"].decode().splitlines()]
    stop = next(character for character in full[0][1:] if character.isascii() and character not in ",\x00")
    ask(tmp_path / "pred", "--task", "qa_1", "--stop_words", stop)
    cut = [row["pred"] for row in read_rows(tmp_path / "pred" / "qa_1.jsonl").values()]
    assert cut == [text.split(stop)[0] for text in full] and cut[0] != full[0]


def test_a_tokenizer_without_bos_gets_a_line(ask, checkpoint, tmp_path):
    bare = save_checkpoint(tmp_path / "bare")
    tokenizer = json.loads((bare / "tokenizer.json").read_text())
    (bare / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    out, error = ask(tmp_path / "pred", "--task", "qa_1", model=bare)
    assert error is None and "its tokenizer puts no BOS before a text: prompts begin without\n" in out
    longest = max(row["length"] for row in rows("qa_1", 12))
    out, error = ask(tmp_path / "short", "--task", "qa_1", "--max_seq_length", longest - 1, model=bare)
    assert error is None and "WARNING" not in out  # one token less each
    assert "BOS" not in ask(tmp_path / "with", "--task", "qa_1")[0]


# --- going on
class Broken:
    """An engine that does as the checkpoint's until it has made `after` answers, then raises `error`; later asked for
    more than `room` prompts, or for a prompt that holds `never`, it is out of memory."""

    def __init__(self, engine, after=10**9, error=None, room=10**9, never=None):
        self.engine, self.left, self.error, self.room, self.never = engine, after, error, room, never
        self.sizes = []

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def generate(self, prompts, new, stop=()):
        self.sizes.append(len(prompts))
        if self.left <= 0:
            raise self.error
        if self.never and any(self.never in self.engine.tokenizer.decode(ids) for ids in prompts):
            raise torch.OutOfMemoryError("no memory for this")
        self.left -= len(prompts)
        return self.engine.generate(prompts, new, stop)


def open_tiny(checkpoint, **flags):
    from engine import Transformers

    return Transformers(str(checkpoint), **flags)


def test_an_interrupted_run_goes_on_to_the_same_bytes(ask, whole, checkpoint, tmp_path):
    save_dir = tmp_path / "pred"
    with pytest.raises(KeyboardInterrupt):
        ask(save_dir, "--task", *TASKS, engine=Broken(open_tiny(checkpoint, batch=4), 6, KeyboardInterrupt()))
    path = save_dir / "niah_single_1.jsonl"
    there = path.read_text().splitlines(keepends=True)
    assert len(there) == 8
    path.write_text("".join(there) + there[3][:40])  # cut off by a kill
    engine = Broken(open_tiny(checkpoint, batch=4))
    out, error = ask(save_dir, "--task", *TASKS, engine=engine)
    assert error is None and sum(engine.sizes) == 4 + 12 and content(save_dir) == whole
    out, _ = ask(save_dir, "--task", *TASKS, engine=Broken(open_tiny(checkpoint), 0, AssertionError("asked")))
    assert out.count("all 12 answers are there") == 2 and content(save_dir) == whole


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(ask, data, checkpoint, tmp_path):
    save_data(data, "vt", rows("vt", 200))
    save_dir, words = tmp_path / "killed", ["--task", "vt", "--batch_size", "1"]
    flags = ["--data_dir", data, "--save_dir", save_dir, "--model_name_or_path", checkpoint, *words]
    process = subprocess.Popen([sys.executable, "pred/call_api.py", *map(str, flags)], cwd=STAGE)
    path = save_dir / "vt.jsonl"
    while process.poll() is None and not (path.is_file() and path.read_bytes().count(b"\n") > 5):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 5 < len(read_rows(path)) < 200
    out, error = ask(save_dir, *words)
    assert error is None and "vt: 200" not in out
    ask(tmp_path / "whole", *words)
    assert content(save_dir) == content(tmp_path / "whole")


def test_more_samples_go_on_and_other_answers_are_moved_aside(ask, data, whole, checkpoint, tmp_path):
    save_dir = tmp_path / "pred"
    save_data(data, "qa_1", rows("qa_1", 5))
    ask(save_dir, "--task", "qa_1")
    save_data(data, "qa_1", rows("qa_1", 12))
    engine = Broken(open_tiny(checkpoint))
    out, _ = ask(save_dir, "--task", "qa_1", engine=engine)
    assert sum(engine.sizes) == 7 and "moved" not in out
    assert content(save_dir)["qa_1.jsonl"] == whole["qa_1.jsonl"]
    assert read_json(save_dir / "runs" / "qa_1.json")["timed"] == 12

    other = save_checkpoint(tmp_path / "other", seed=1)
    out, _ = ask(save_dir, "--task", "qa_1", model=other)
    assert f"now in {save_dir / 'replaced'}" in out
    assert (save_dir / "replaced" / "qa_1.1.jsonl").read_bytes() == whole["qa_1.jsonl"]
    assert content(save_dir)["qa_1.jsonl"] != whole["qa_1.jsonl"]
    save_data(data, "qa_1", [row | {"outputs": ["other"]} for row in rows("qa_1", 12)])
    ask(save_dir, "--task", "qa_1", model=other)
    assert sorted(path.name for path in (save_dir / "replaced").iterdir()) == [
        "qa_1.1.json", "qa_1.1.jsonl", "qa_1.2.json", "qa_1.2.jsonl",
    ]  # fmt: skip


def test_chunks_are_put_together(ask, data, whole, monkeypatch, tmp_path):
    save_dir = tmp_path / "pred"
    for chunk in (2, 0, 1):
        ask(save_dir, "--task", *TASKS, "--chunk_idx", chunk, "--chunk_amount", 3)
    assert sorted(content(save_dir)) == [f"{task}-{chunk}.jsonl" for task in TASKS for chunk in range(3)]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data_dir", str(save_dir)])
    evaluate.main()
    assert content(save_dir) == whole
    entry = read_json(save_dir / "scores.json")["tasks"]["qa_1"]
    assert (entry["n"], entry["timed"], entry["complete"]) == (12, 12, True)
    # files that prepare.py made for each chunk
    chunked = tmp_path / "chunked" / "256" / "data"
    for chunk in range(3):
        (save_data(chunked, "qa_1", rows("qa_1", 12)) / "qa_1" / "validation.jsonl").unlink()
        lines = [json.dumps(row) + "\n" for row in rows("qa_1", 12)[4 * chunk : 4 * chunk + 4]]
        (chunked / "qa_1" / f"validation-{chunk}.jsonl").write_text("".join(lines))
        chunk_flags = ["--chunk_idx", chunk, "--chunk_amount", 3]
        ask(tmp_path / "pred2", "--task", "qa_1", "--data_dir", chunked, *chunk_flags)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data_dir", str(tmp_path / "pred2")])
    evaluate.main()
    assert content(tmp_path / "pred2") == {"qa_1.jsonl": whole["qa_1.jsonl"]}


# --- memory
def test_what_does_not_fit_in_memory_is_recorded_apart_and_the_rest_goes_on(ask, data, whole, checkpoint, tmp_path):
    save_dir, gold = tmp_path / "pred", rows("qa_1", 12)[5]["outputs"][0]
    out, error = ask(save_dir, "--task", *TASKS, engine=Broken(open_tiny(checkpoint), never=gold))
    assert error.startswith("error: 2 answers ran out of memory, first 256 niah_single_1 5; the others are recorded.")
    assert "256 qa_1: 11 answers" in out
    assert sorted(read_rows(save_dir / "qa_1.jsonl")) == [i for i in range(12) if i != 5]
    [failed] = read_json(save_dir / "runs" / "qa_1.json")["errors"]
    assert failed == {"index": 5, "error": "out of memory: no memory for this"}
    out, error = ask(save_dir, "--task", *TASKS)  # with enough of it
    assert error is None and content(save_dir) == whole
    assert read_json(save_dir / "runs" / "qa_1.json")["errors"] == []


def test_a_model_that_does_not_fit_gets_one_line(ask, checkpoint, tmp_path):
    engine = open_tiny(checkpoint)

    def load():
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore of it")

    engine.load = load
    error = ask(tmp_path / "pred", "--task", "qa_1", engine=engine)[1]
    assert error == "error: the model itself does not fit in memory: CUDA out of memory."


def test_a_smaller_batch_after_out_of_memory_is_recorded(ask, whole, checkpoint, tmp_path):
    engine = open_tiny(checkpoint, batch=8)
    original = engine.answers

    def tight(prompts, *rest):
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("no memory for so many")
        return original(prompts, *rest)

    engine.answers = tight
    assert ask(tmp_path / "pred", "--task", *TASKS, engine=engine)[1] is None
    assert content(tmp_path / "pred") == whole
    reduced = read_json(tmp_path / "pred" / "runs" / "niah_single_1.json")["reduced"]
    assert [note["prompts"] for note in reduced] == [8, 4]
    assert read_json(tmp_path / "pred" / "runs" / "qa_1.json")["reduced"] == []  # it stays small


# --- a server
class Server(http.server.BaseHTTPRequestHandler):
    chats_only = False
    asked = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        chat = self.path == "/v1/chat/completions"
        answer = {"message": {"content": "chatted"}} if chat else {"text": f"I read {len(body.get('prompt', ''))}"}
        self.send_response(404 if self.chats_only and not chat else 200)
        self.end_headers()
        usage = {"prompt_tokens": 50, "completion_tokens": 3}
        self.wfile.write(json.dumps({"choices": [answer], "usage": usage}).encode())

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("chats_only", [False, True])
def test_a_server_gets_the_text_of_each_prompt(ask, tmp_path, monkeypatch, chats_only):
    monkeypatch.setattr(Server, "chats_only", chats_only)
    monkeypatch.setattr(Server, "asked", [])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = ["--server_type", "openai", "--server_host", "127.0.0.1", "--server_port", server.server_port]
    out, error = ask(tmp_path / "pred", "--task", "qa_1", "--stop_words", "x,y", *where, model="served")
    server.shutdown()
    assert error is None
    texts = [row["input"] for row in rows("qa_1", 12)]
    made = read_rows(tmp_path / "pred" / "qa_1.jsonl")
    if chats_only:
        assert {row["pred"] for row in made.values()} == {"chatted"}
        asked = [body["messages"][0]["content"] for path, body in Server.asked if "chat" in path]
    else:
        assert [made[i]["pred"] for i in range(12)] == [f"I read {len(text)}" for text in texts]
        asked = [body["prompt"] for _, body in Server.asked]
    assert sorted(asked) == sorted(texts)
    expected = {"model": "served", "max_tokens": 8, "temperature": 0, "stop": ["x", "y"]}
    assert Server.asked[-1][1].items() >= expected.items()
    note = read_json(tmp_path / "pred" / "runs" / "qa_1.json")
    assert (note["engine"], note["method"], note["prompt_tokens"], note["new_tokens"]) == ("openai", "hosted", 600, 36)


# --- vLLM
def test_vllm_gives_the_same_text(ask, tmp_path):
    pytest.importorskip("vllm", reason="vllm is not installed here (requirements-gpu.txt); compared where it is")
    model, texts = save_checkpoint(tmp_path / "model", hidden_size=128), {}  # heads of 64, for vLLM on a CPU
    for server_type in ("hf", "vllm"):
        flags = ["--task", *TASKS, "--server_type", server_type, "--dtype", "float32"]
        assert ask(tmp_path / server_type, *flags, model=model)[1] is None
        made = [read_rows(tmp_path / server_type / f"{task}.jsonl") for task in TASKS]
        texts[server_type] = [row["pred"] for task in made for row in task.values()]
    assert texts["hf"] == texts["vllm"] and len(set(texts["hf"])) > 12


# --- bad input
@pytest.mark.parametrize(
    "flags, line",
    [
        (["--task", "vt,nah"], "unknown task nah; known: niah_single_1, niah_single_2, "),
        (["--benchmark", "other"], "no benchmark other: "),
        (["--task", "qa_1,vt,cwe"], "no data {data}/vt/validation.jsonl and 1 more; make it with "),
        (["--temperature", "0.7"], "--temperature 0.7: answers are greedy here"),
        (["--server_type", "trtllm"], "--server_type trtllm: hf, vllm, openai are supported; no TensorRT, NeMo or"),
        (["--sliding_window_size", "4096"], "--sliding_window_size: it belongs to TensorRT-LLM"),
        (["--max_seq_length", WINDOW + 1], f"{WINDOW + 1} tokens are beyond the {WINDOW} that {{model}} declares; "),
        (["--max_seq_length", "1", "2"], "1 --data_dir, but 2 --max_seq_length; give one for each"),
        (["--chunk_idx", "3", "--chunk_amount", "3"], "--chunk_idx 3: there are --chunk_amount 3 chunks, from 0"),
        (["--batch_size", "0"], "--batch_size 0: must be at least 1"),
        (["--model_name_or_path", "/no/where"], "no folder /no/where; give a checkpoint folder or a hub id"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(ask, data, checkpoint, tmp_path, flags, line):
    flags = flags if "--task" in flags else ["--task", "qa_1", *flags]
    error = ask(tmp_path / "pred", *flags)[1]
    assert error.startswith("error: " + line.format(data=data, model=checkpoint)) and "\n" not in error
    assert not (tmp_path / "pred").exists()


def test_bad_files_get_one_line(ask, data, checkpoint, tmp_path):
    path = data / "qa_1" / "validation.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-30])
    error = ask(tmp_path / "pred", "--task", "qa_1")[1]
    assert error.startswith(f"error: {path}, line 12: no row of data (JSONDecodeError") and "\n" not in error
    path.write_text("")
    assert ask(tmp_path / "pred", "--task", "qa_1")[1] == f"error: {path} is empty; make it with prepare.py"
    path.write_text(whole)
    bare = save_checkpoint(tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    error = ask(tmp_path / "pred", "--task", "qa_1", model=bare)[1]
    assert error.startswith(f"error: no tokenizer in {bare}: ") and "\n" not in error
    assert not list((tmp_path / "pred").glob("*.jsonl"))


def test_beyond_the_declared_length_only_when_asked_to(ask, data, tmp_path):
    flags = ["--task", "qa_1", "--max_seq_length", WINDOW + 1, "--allow_beyond"]
    out, error = ask(tmp_path / "pred", *flags)
    assert error is None and f"WARNING: {WINDOW + 1} tokens are beyond the {WINDOW}" in out
    out, error = ask(tmp_path / "short", "--task", "qa_1", "--max_seq_length", 64)
    longest = max(row["length"] for row in rows("qa_1", 12))
    assert f"take {longest} tokens of this model, more than 64; were they made with another tokenizer?" in out


def test_a_broken_file_is_named_kept_and_made_again(tmp_path, capsys):
    data = [{"index": i, "input": "q", "outputs": ["a"]} for i in range(2)]
    predictions = Predictions(tmp_path, "vt", {"a": 1}, {})
    predictions.note(2)
    (tmp_path / "vt.jsonl").write_text("garbage\n" + json.dumps(data[1] | {"pred": "2"}) + '\n{"ind')
    assert list(predictions.gather(data)[0]) == [1]
    assert "vt.jsonl: line 1 and 0 more are broken; kept as vt.jsonl.broken, made again" in capsys.readouterr().out
    assert list(predictions.gather(data)[0]) == [1] and not capsys.readouterr().out  # said once
