"""Whole grids: oracle and empty models, documented commands, kills, several processes, servers, bad input, eval.sh."""

import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

import endpoint
import grid
import needle_in_haystack
from arguments import DEPTHS, LENGTHS
from conftest import STAGE, C, edit_config, save_base
from facts import STYLES
from results import Answers

PAPER = STYLES["book"].fixed
LCEG_KEYS = ["model", "context_length", "depth_percent", "version", "needle", "model_response", "score",
             "test_duration_seconds", "test_timestamp_utc"]  # fmt: skip
# what tells only how long it took, and in how many processes
TIMES = ("test_duration_seconds", "test_timestamp_utc", "peak_memory_bytes", "command", "processes")
TRIAL_TIMES = ("seconds", "utc", "peak_memory_bytes", "prefilled_tokens")


class Fake:
    """An engine that answers by a function of the prompt's text."""

    name, attention, dtype, record, prefilled = "fake", None, None, None, 0
    size = 3  # prompts in a group

    def __init__(self, folder, reply):
        self.reply, self.asked = reply, []
        self.config, self.tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        self.window = None

    def plan(self, prompts, max_new_tokens, ranks=1):
        return [sorted(range(len(prompts)), key=lambda i: prompts[i])]

    def batches(self, order, prompts, max_new_tokens):
        return [order[at : at + self.size] for at in range(0, len(order), self.size)]

    def generate(self, prompts, max_new_tokens, stop=()):
        self.prefilled += sum(map(len, prompts))
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in prompts]
        self.asked += texts
        return [self.reply(text) for text in texts]


def oracle(text: str) -> str:
    """Reads the prompt, as a perfect model would."""
    question = text[text.rindex("Question:") :]
    if "San Francisco" in question:
        return re.search(r"best thing to do in San Francisco is (.*)\n", text)[1]
    names = re.findall("[A-Z][a-z]+", question.split(" of ")[1].split("?")[0])
    return ", ".join(re.search(rf"magic number of {name} is (\d+)\.", text)[1] for name in names)


def command(*words, **environment):
    return subprocess.run([*map(str, words)], cwd=STAGE, env=os.environ | environment, capture_output=True, text=True)


def results(folder: Path) -> dict[tuple, dict]:
    found = [json.loads(path.read_text()) for path in folder.glob("*_results.json")]
    return {(result["context_length"], result["depth_percent"]): result for result in found}


def content(folder: Path) -> dict[tuple, dict]:
    """Results without times."""
    kept = {}
    for cell, result in results(folder).items():
        trials = [{k: v for k, v in trial.items() if k not in TRIAL_TIMES} for trial in result["trials"]]
        kept[cell] = {k: v for k, v in result.items() if k not in TIMES} | {"trials": trials}
    return kept


@pytest.fixture
def run(monkeypatch, capsys):
    """run(flags...) calls main here; returns what it printed. `engine` in place of a model."""

    def call(*flags, engine=None):
        monkeypatch.setattr(sys, "argv", ["needle_in_haystack.py", *map(str, flags)])
        if engine:
            monkeypatch.setattr(needle_in_haystack, "open_engine", lambda args: engine)
        needle_in_haystack.main()
        return capsys.readouterr().out

    return call


# --- the scores of known models
@pytest.mark.parametrize("needles", [1, 3])
def test_an_oracle_scores_1_everywhere_and_a_silent_model_0(run, base, tmp_path, needles):
    flags = ["--model_path", base, "--lengths", 1000, 2000, 3000, "--trials", 3, "--needles", needles]
    where = ["--output_dir", tmp_path / "results", "--protocol", "lceg", "--test_name"]
    out = run(*flags, *where, "oracle", engine=Fake(base, oracle))
    run(*flags, *where, "silent", engine=Fake(base, lambda text: ""))
    assert "score 1.000" in out and "exact 90/90" in out and "stand-in data" in out
    cells = results(tmp_path / "results" / "oracle")
    assert sorted(cells) == [(n, d) for n in (1000, 2000, 3000) for d in DEPTHS]
    for result in cells.values():
        assert (result["score"], result["rate"], result["n"], result["exact"]) == (1, 1, 3, 3)
        assert result["rate_interval_95"] == pytest.approx([0.43849, 1.0], abs=1e-4)  # Wilson, 3 of 3
        assert list(result)[:9] == LCEG_KEYS and result["protocol"] == "lceg"
        assert result["data"]["source"] == "standin" and len(result["data"]["sha256"]) == 64
        if needles == 1:
            assert result["needle"] == PAPER.needle and result["lceg_overlap"] == pytest.approx(11 / 12)
            assert result["model_response"] == PAPER.answer and 6 < result["lceg_rouge1_f_x10"] < 10
    for result in results(tmp_path / "results" / "silent").values():
        assert (result["score"], result["rate"], result["lceg_overlap"], result["lceg_rouge1_f_x10"]) == (0, 0, 0, 0)


def test_file_names_lengths_and_depths_of_the_papers_code(run, base, tmp_path):
    assert LENGTHS[:4] == [1000, 4256, 7513, 10769] and LENGTHS[19] == 62872 and len(LENGTHS) == 40
    assert DEPTHS == [0, 11, 22, 33, 44, 56, 67, 78, 89, 100]
    flags = ["--s_len", 2000, "--e_len", 8000, "--depths", 11, 12.5, "--output_dir", tmp_path / "results"]
    run("--model_path", base, *flags, "--test_name", "NTK-32k", "--save_contexts", engine=Fake(base, oracle))
    names = [f"NTK-32k_len_{n}_depth_{d}_results.json" for n in (4256, 7513) for d in (1100, 1250)]
    assert sorted(os.listdir(tmp_path / "results" / "NTK-32k")) == sorted([*names, "answers.jsonl"])
    context = (tmp_path / "contexts" / "NTK-32k" / "NTK-32k_len_4256_depth_1250_context.txt").read_text()
    assert context.count(PAPER.needle) == 1 and "<book>" not in context and "<s>" not in context


# --- as a user would run it
def test_documented_command(base, tmp_path):
    flags = ["--s_len", 0, "--e_len", 1500, "--model_provider", "LLaMA", "--model_path", base, "--test_name", "tiny"]
    more = ["--allow_beyond", "--max_new_tokens", 3, "--output_dir", tmp_path]
    done = command(sys.executable, "needle_in_haystack.py", *flags, *more)
    assert done.returncode == 0, done.stderr
    assert f"1 of 1 lengths, up to 1000, are beyond the {C} tokens" in done.stdout
    cells = results(tmp_path / "tiny")
    assert sorted(cells) == [(1000, depth) for depth in DEPTHS]
    for result in cells.values():
        assert result["prompt_tokens"] + 3 == 1000 and result["method"] == "base" and result["dtype"] == "float32"
        assert result["peak_memory_bytes"] > 1e7 and "--test_name tiny" in result["command"]
    computed = sum(result["trials"][0]["prefilled_tokens"] for result in cells.values())
    assert computed < 0.65 * sum(result["prompt_tokens"] for result in cells.values())  # beginnings computed once


def test_killed_and_sharded_runs_end_like_an_undisturbed_one(base, tmp_path, run):
    flags = ["--model_path", base, "--test_name", "tiny", "--lengths", 400, 700, 1100, "--trials", 4,
             "--allow_beyond", "--max_new_tokens", 8, "--output_dir"]  # fmt: skip
    whole, killed, sharded = (tmp_path / name for name in ("whole", "killed", "sharded"))
    run(*flags, whole)
    expected = content(whole / "tiny")
    assert len(expected) == 30 and all(result["n"] == 4 for result in expected.values())

    process = subprocess.Popen([sys.executable, "needle_in_haystack.py", *map(str, [*flags, killed])], cwd=STAGE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    answers, deadline = killed / "tiny" / "answers.jsonl", time.time() + 120
    while not (answers.exists() and answers.read_text().count("\n") > 35):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = answers.read_text().rpartition("\n")[0].count("\n")
    assert there < 120
    with answers.open("a") as file:
        file.write('{"length": 400, "depth": 0, "tri')  # the last line was cut off
    shutil.copytree(killed, sharded)

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = command(*launch, "needle_in_haystack.py", *flags, sharded)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{there} of 120 answers are there") == 1
    assert f"{there} of 120 answers are there" in run(*flags, killed)
    assert content(killed / "tiny") == content(sharded / "tiny") == expected
    assert [path.name for path in (sharded / "tiny").glob("*.jsonl*")] == ["answers.jsonl"]


def test_finished_answers_are_kept_by_larger_grids_and_never_lost(run, base, tmp_path):
    folder, flags = tmp_path / "oracle", ["--model_path", base, "--test_name", "oracle", "--output_dir", tmp_path]
    run(*flags, "--lengths", 1000, engine=Fake(base, oracle))
    before = (folder / "answers.jsonl").read_text().splitlines()
    again = Fake(base, oracle)
    run(*flags, "--lengths", 1000, engine=again)
    assert again.asked == []
    more = Fake(base, oracle)
    run(*flags, "--lengths", 1000, 1500, "--trials", 2, "--depths", 0, 50, 100, engine=more)
    assert len(more.asked) == 3 + 6 + 1  # depth 50 is new, 0 and 100 at 1000 tokens were there
    assert set(before) <= set((folder / "answers.jsonl").read_text().splitlines())
    assert len(results(folder)) == 10 + 1 + 3  # the cells of the first grid as well

    out = run(*flags, "--lengths", 1000, "--max_new_tokens", 20, engine=Fake(base, oracle))
    assert "answers of other settings" in out and len(results(tmp_path / "oracle.old")) == 14
    run(*flags, "--lengths", 1000, "--max_new_tokens", 21, engine=Fake(base, oracle))
    assert len(results(tmp_path / "oracle.old2")) == len(results(folder)) == 10
    (folder / "answers.jsonl").unlink()  # results of the paper's code have none
    run(*flags, "--lengths", 1000, "--max_new_tokens", 21, engine=Fake(base, oracle))
    assert len(results(tmp_path / "oracle.old3")) == 10


def test_out_of_memory_in_a_cell_is_recorded_and_the_grid_goes_on(run, base, tmp_path):
    def small(text):
        if len(text) > 1500:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.\nmore")
        return oracle(text)

    flags = ["--model_path", base, "--test_name", "small", "--lengths", 1000, 2000, "--output_dir", tmp_path]
    engine = Fake(base, small)
    engine.size = 1
    with pytest.raises(
        SystemExit, match=r"^error: 10 of 20 prompts ran out of memory, at lengths \[2000\]; .*tries them"
    ):
        run(*flags, engine=engine)
    cells = results(tmp_path / "small")
    assert all(result["score"] == (1 if length == 1000 else None) for (length, _), result in cells.items())
    assert cells[2000, 0]["n"] == 0 and cells[2000, 0]["trials"][0]["error"].startswith("out of memory: CUDA")
    better = Fake(base, oracle)
    assert "exact 20/20" in run(*flags, engine=better) and len(better.asked) == 10

    def broken(text):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):  # another error is no such cell
        run(*flags, "--seed", 1, engine=Fake(base, broken))
    assert grid.out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))


# --- bad input
def test_bad_input_is_one_line_before_the_model(run, base, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(needle_in_haystack.Transformers, "load", refuse)
    for name in ("empty", "latin", "blank"):
        (tmp_path / name).mkdir()
    (tmp_path / "latin" / "a.txt").write_bytes("Zoë".encode("latin-1"))
    (tmp_path / "blank" / "a.txt").write_text(" \n")
    own_code = edit_config(save_base(tmp_path / "own"), auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    wide = save_base(tmp_path / "wide", max_position_embeddings=2000)
    good = {"--model_path": wide, "--lengths": [1000], "--output_dir": tmp_path / "out"}
    cases = [
        ({"--haystack_dir": tmp_path / "none"}, "no haystack folder .*none"),
        ({"--haystack_dir": tmp_path / "empty"}, "no .txt files in"),
        ({"--haystack_dir": tmp_path / "latin"}, "a.txt is not UTF-8"),
        ({"--haystack_dir": tmp_path / "blank"}, "are empty"),
        ({"--lengths": [1000, 2048]}, "1 of 2 lengths, up to 2048, are beyond the 2000 tokens .*--allow_beyond"),
        ({"--answer": "eat cake"}, "--answer 'eat cake' is not contained in --needle"),
        ({"--lengths": [1000, 64]}, "length 64 is too short: template, needle and answer alone take"),
        ({"--template": "passkey"}, "0 words of one token"),
        ({"--lengths": [1000, 1000]}, "--lengths names a value twice"),
        ({"--depths": [0, 101]}, "percent, 0 to 100"),
        ({"--trials": [0]}, "--trials 0: must be at least 1"),
        ({"--lengths": None, "--s_len": 10, "--e_len": 20}, r"none of the 40 lengths .* in \[10, 20\]"),
        ({"--model_provider": "Claude"}, "--model_provider Claude: LLaMA"),
        ({"--model_provider": "openai"}, "needs --base_url"),
        ({"--model_name": "a/b"}, "give --model_path .*or --model_name"),
        ({"--model_path": tmp_path / "none"}, "no folder .*none"),
        ({"--model_path": own_code}, "add --trust_remote_code"),
        ({"--test_name": "a/b"}, "no / and no .old"),
        ({"--prefill_chunk": 1}, "prefill_chunk 1"),
    ]
    for changes, message in cases:
        flags = []
        for flag, value in (good | changes).items():
            flags += [flag, *(value if isinstance(value, list) else [value])] if value is not None else []
        with pytest.raises(SystemExit) as stopped:
            run(*flags)
        assert re.search(message, str(stopped.value)) and "\n" not in str(stopped.value), (changes, stopped.value)
        assert str(stopped.value).startswith("error: ")
    assert not list((tmp_path / "out").rglob("*_results.json"))


# --- a server
@pytest.fixture
def server(monkeypatch):
    """A server with chats only, busy at first; `server.key` is the key that it asks for."""
    monkeypatch.setattr(endpoint, "WAITS", (0, 0))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.seen.append((self.path, body))
            status, answer = 200, {}
            if len(made.seen) == 1:
                status = 503
            elif self.headers.get("Authorization") != "Bearer sesame":
                status, answer = 401, {"error": "wrong\nkey"}
            elif self.path == "/v1/completions":
                status = 404
            else:
                answer = {"choices": [{"message": {"content": oracle(body["messages"][0]["content"])}}]}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    made = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    made.seen, made.url = [], f"http://127.0.0.1:{made.server_port}/v1"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_server_is_asked_like_a_model(run, base, server, tmp_path):
    flags = ["--model_provider", "OpenAI", "--base_url", server.url, "--model_name", "big", "--model_path", base]
    out = run(*flags, "--lengths", 1000, "--api_key", "sesame", "--output_dir", tmp_path)
    assert "exact 10/10" in out
    [(_, first), *_] = server.seen
    assert first["model"] == "big" and first["temperature"] == 0 and first["max_tokens"] == 50
    assert not first["prompt"].startswith("<s>") and first["prompt"].endswith("Answer:")
    assert [path for path, _ in server.seen] == ["/v1/completions"] * 2 + ["/v1/chat/completions"] * 10
    assert "sesame" not in "".join(path.read_text() for path in (tmp_path / "big").iterdir())
    cell = results(tmp_path / "big")[1000, 56]
    assert (cell["method"], cell["engine"], cell["model"]) == ("hosted", "openai", "big")
    with pytest.raises(SystemExit, match="completions: 401 .*wrong"):
        run(*flags, "--lengths", 1500, "--api_key", "guess", "--output_dir", tmp_path)
    server.shutdown()
    with pytest.raises(SystemExit, match="no answer"):
        run(*flags[:2], "--base_url", "http://127.0.0.1:9/v1", *flags[4:], "--lengths", 1500, "--output_dir", tmp_path)


# --- the launcher
def test_launcher_runs_all_checkpoints_and_names_those_that_failed(base, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    shutil.copytree(base, good)
    bad.mkdir()
    done = command(
        "bash", "eval.sh", "--trials", 2, "--max_new_tokens", 2, "--depths", 0, 100,
        CHECKPOINTS=f"{good} {bad} {base}", LENGTHS="400 500", OUTPUT_ROOT=str(tmp_path / "results"),
        FIGURES=str(tmp_path / "img"), PYTHON=sys.executable, JOBS="2", HAYSTACK="",
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1] == f"failed: {bad}"
    assert "has no config.json" in done.stderr
    for name in ("good", base.name):
        assert sorted(results(tmp_path / "results" / name)) == [(n, d) for n in (400, 500) for d in (0, 100)]
    assert {"needle.png", "needle.svg", "needle.pdf", "needle.csv"} <= set(os.listdir(tmp_path / "img"))


def test_a_broken_file_is_named_kept_and_made_again(tmp_path, capsys):
    def answers():
        return Answers(tmp_path / "m", {"a": 1}).gather()[0]

    one = {"length": 100, "depth": 0.0, "trial": 0, "score": 1.0}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "answers.jsonl").write_text(f'{{"a": 1}}\n{json.dumps(one)}\ngarbage\n{{"leng')
    assert answers() == {(100, 0.0, 0): one}
    assert "answers.jsonl: line 3 and 0 more are broken; kept as answers.jsonl.broken" in capsys.readouterr().out
    assert answers() == {(100, 0.0, 0): one} and not capsys.readouterr().out  # said once
