"""Whole grids: known models, the documented command, kill and resume, two ranks, a server, bad input, eval.sh."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import needle_in_haystack
import tiny
from endpoint import Endpoint
from facts import PAPER
from haystack import read_texts
from needle_in_haystack import DEPTHS, LENGTHS
from stats import mean_over_grid
from transformers_engine import Transformers

COSTS = ["test_duration_seconds", "test_timestamp_utc"]
LCEG_KEYS = ["model", "context_length", "depth_percent", "version", "needle", "model_response", "score", *COSTS]
COSTS += "peak_memory_bytes command processes seconds utc prefilled_tokens batch_size".split()


class FakeEngine(Endpoint):
    """An engine that answers by a function of the prompt's text."""

    def __init__(self, folder, reply):
        super().__init__("http://fake/v1", "fake", None, AutoTokenizer.from_pretrained(folder), threads=3)
        self.reply = reply
        self.asked = []

    def generate(self, prompts, max_new_tokens):
        texts = [self.to_text(ids) for ids in prompts]
        self.asked += texts
        return [self.reply(text) for text in texts]


def oracle(text: str) -> str:
    """Reads the prompt, as a perfect model would."""
    question = text[text.rindex("Question:") :]
    if "San Francisco" in question:
        return re.search(r"best thing to do in San Francisco is (.*)\n", text)[1]
    name = re.search(r" of (\w+)\?", question)[1]
    return re.search(rf"magic number of {name} is (\d+)\.", text)[1]


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls main() with these flags and returns what it printed. engine: takes the place of the model."""

    def call(flags: str, engine=None) -> str:
        monkeypatch.setattr(sys, "argv", ["needle_in_haystack.py", *flags.split()])
        with monkeypatch.context() as patch:
            if engine:
                patch.setattr(needle_in_haystack, "open_model", lambda model, args: engine)
            needle_in_haystack.main()
        return capsys.readouterr().out

    return call


def read_results(folder: Path) -> dict[tuple, dict]:
    """{(length, depth): result}."""
    results = [json.loads(path.read_text()) for path in folder.glob("*_results.json")]
    return {(result["context_length"], result["depth_percent"]): result for result in results}


def without_costs(results: dict) -> dict:
    for result in results.values():
        for entry in (result, *result["trials"]):
            for key in COSTS:
                entry.pop(key, None)
    return results


def test_an_oracle_scores_1_and_a_silent_model_0(run, base, tmp_path):
    flags = f"--model_path {base} --lengths 1000 2000 --trials 3 --protocol lceg --output_dir {tmp_path} --test_name"
    run(f"{flags} silent", FakeEngine(base, lambda text: ""))
    out = run(f"{flags} oracle", FakeEngine(base, oracle))
    assert "score 1.000" in out and "exact 60/60" in out and "stand-in data" in out
    for result in read_results(tmp_path / "oracle").values():
        assert result["score"] == result["rate"] == 1 and result["n"] == result["exact"] == 3
        assert result["rate_interval_95"] == pytest.approx([0.43849, 1.0], abs=1e-4)  # Wilson, 3 of 3
        assert list(result)[:9] == LCEG_KEYS and result["data"]["source"] == "standin"
        assert result["needle"] == PAPER.needle and result["model_response"] == PAPER.answer
        assert result["lceg_overlap"] == pytest.approx(11 / 12) and 6 < result["lceg_rouge1_f_x10"] < 10
    for result in read_results(tmp_path / "silent").values():
        assert result["score"] == result["rate"] == result["lceg_overlap"] == result["lceg_rouge1_f_x10"] == 0


def test_documented_command(run, base, tmp_path):
    assert LENGTHS[:4] == [1000, 4256, 7513, 10769] and LENGTHS[19] == 62872 and len(LENGTHS) == 40
    assert DEPTHS == [0, 11, 22, 33, 44, 56, 67, 78, 89, 100]
    flags = f"-s 0 --e_len 1500 --model_provider LLaMA --model_path {base} --test_name NTK-32k --allow_beyond"
    printed = run(f"{flags} --max_new_tokens 3 --output_dir {tmp_path} --trials 2")
    assert "WARNING: length 1000 exceeds the window" in printed
    names = {f"NTK-32k_len_1000_depth_{100 * depth}_results.json" for depth in DEPTHS}
    assert {path.name for path in (tmp_path / "NTK-32k").glob("[!.]*")} == {*names, "answers.jsonl", "run.json"}
    cells = read_results(tmp_path / "NTK-32k").values()
    for result in cells:
        assert result["prompt_tokens"] + 3 == 1000 and result["method"] == "base" and result["dtype"] == "float32"
        assert result["peak_memory_bytes"] > 1e7 and "--test_name NTK-32k" in result["command"]
    for trial in range(2):  # common beginnings
        assert sum(cell["trials"][trial]["prefilled_tokens"] for cell in cells) < 0.7 * 10 * 997


def test_trials_have_texts_of_their_own_and_are_what_the_interval_resamples(run, base, tmp_path):
    engine = FakeEngine(base, lambda text: oracle(text) if len(engine.asked) % 3 else "")
    flags = f"--model_path {base} --test_name a --lengths 3000 4000 --depths 90 100 --trials 4 --output_dir {tmp_path}"
    out = run(flags, engine)
    beginnings = [text.split("<book>")[1][:200] for text in engine.asked]
    assert all(len(set(beginnings[4 * trial : 4 * trial + 4])) == 1 for trial in range(4))
    assert len(set(beginnings)) == 4 and read_texts(None)[0]["assert"].startswith(beginnings[0])
    cells = read_results(tmp_path / "a")
    score_CT = [[trial["score"] for trial in cell["trials"]] for cell in cells.values()]
    low, high = mean_over_grid(score_CT, drawn_text=True).interval()
    assert f"score {np.mean(score_CT):.3f} [{low:.3f}, {high:.3f}]" in out
    assert all(cell["drawn_text"] for cell in cells.values())


def test_a_server_answers_like_a_model(run, base, tmp_path, monkeypatch):
    def post(endpoint, path, body):
        assert endpoint.api_key == "sesame" and path == "completions" and body["model"] == "org/big"
        assert not body["prompt"].startswith("<s>") and body["prompt"].endswith("Answer:")
        return 200, {"choices": [{"text": oracle(body["prompt"])}]}

    monkeypatch.setattr(Endpoint, "post", post)
    flags = "--model_provider openai --base_url http://host/v1 --model_name org/big --api_key sesame"
    assert "exact 10/10" in run(f"{flags} --model_path {base} --lengths 1000 --output_dir {tmp_path}")
    assert read_results(tmp_path / "big")[1000, 56]["method"] == "hosted"
    assert "sesame" not in "".join(path.read_text() for path in (tmp_path / "big").iterdir())


# --- resume, ranks
def test_stopped_and_sharded_runs_end_like_an_undisturbed_one(run, base, tmp_path, monkeypatch):
    flags = f"--model_path {base} --test_name tiny --lengths 400 1100 --trials 2 --allow_beyond --max_new_tokens 8"
    undisturbed, stopped, sharded = (tmp_path / name for name in ("undisturbed", "stopped", "sharded"))
    run(f"{flags} --output_dir {undisturbed}")
    expected = without_costs(read_results(undisturbed / "tiny"))
    assert [result["n"] for result in expected.values()] == [2] * 20
    append, path = needle_in_haystack.Store.append, stopped / "tiny" / "answers.jsonl"

    def stop_after_17(store, entry):
        append(store, entry)
        if path.read_text().count("\n") == 17:
            raise ValueError("stopped")

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="stopped"):
        patch.setattr(needle_in_haystack.Store, "append", stop_after_17)
        run(f"{flags} --output_dir {stopped}")
    with path.open("a") as file:
        file.write('{"length": 400, "depth": 0, "tri')  # a line cut off by a kill
    shutil.copytree(stopped, sharded)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    out = tiny.run(*launch, "needle_in_haystack.py", *flags.split(), "--output_dir", sharded)
    assert out.count("17 of 40 answers are there") == 1
    assert "17 of 40 answers are there" in run(f"{flags} --output_dir {stopped}")
    for folder in (stopped, sharded):
        assert without_costs(read_results(folder / "tiny")) == expected
    assert [path.name for path in (sharded / "tiny").glob("*.jsonl*")] == ["answers.jsonl"]


def test_a_second_run_waits_and_answers_nothing_again(run, base, tmp_path, monkeypatch):
    flags = f"--model_path {base} --lengths 1000 --allow_beyond --max_new_tokens 3 --output_dir {tmp_path}"
    script = "needle_in_haystack.py"
    second = tiny.start_second(monkeypatch, needle_in_haystack.Store, "append", script, *flags.split())
    run(flags)
    assert "10 of 10 answers are there" in second[0].communicate()[0] and second[0].returncode == 0


def test_larger_grids_reuse_answers_and_other_settings_start_again(run, base, tmp_path):
    folder = tmp_path / "oracle"
    flags = f"--model_path {base} --test_name oracle --output_dir {tmp_path} --lengths 1000"
    larger = FakeEngine(base, oracle)
    run(flags, FakeEngine(base, oracle))
    run(f"{flags} 1500 --trials 2 --depths 0 50 50.001 100", larger)  # 50 twice: a name has two digits
    assert len(larger.asked) == 1 + 3 + 6  # depth 50 is new; 0 and 100 at 1000 tokens were there
    cells = read_results(folder)
    assert len(cells) == 10 + 1 + 3  # the cells of the first grid as well
    assert [cells[1000, depth]["drawn_text"] for depth in (11, 50)] == [False, True]
    out = run(f"{flags} --max_new_tokens 20", FakeEngine(base, oracle))
    assert "moved to old/ (other max_new_tokens)" in out
    assert len(read_results(folder / "old")) == 14 and len(read_results(folder)) == 10


def test_prompts_that_run_out_of_memory_are_recorded_and_retried(run, base, tmp_path):
    def reply(text):
        if len(text) > 1500:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.\nmore")
        return oracle(text)

    flags = f"--model_path {base} --test_name small --lengths 1000 2000 --output_dir {tmp_path}"
    with pytest.raises(ValueError, match="^10 of 20 prompts ran out of memory"):
        run(flags, FakeEngine(base, reply))
    answered, failed = (read_results(tmp_path / "small")[length, 0] for length in (1000, 2000))
    assert answered["score"] == 1 and failed["score"] is None and failed["n"] == 0
    assert failed["trials"][0]["error"].startswith("out of memory: CUDA")
    retry = FakeEngine(base, oracle)
    assert "exact 20/20" in run(flags, retry) and len(retry.asked) == 10


# --- bad input
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--haystack_dir none", "no text in none"),
        ("--haystack_dir latin", "a.txt is not UTF-8"),
        ("--lengths 1000 2048", "length 2048 exceeds the window of wide, 2000 tokens; add --allow_beyond"),
        ("--lengths 1000 64", "length 64 is too short"),
        ("--answer cake", "together"),
        ("--needle bread --question What --answer cake", "does not contain --answer 'cake'"),
        ("--template passkey", "0 words of one token"),
        ("--depths nan", "percent, 0 to 100"),
        ("--model_provider openai", "needs --base_url"),
        ("--model_path wide other --test_name a", "--test_name"),
    ],
)
def test_bad_input_ends_with_one_line_before_the_model_is_loaded(run, tmp_path, monkeypatch, flags, message):
    tiny.save_base(tmp_path / "wide", max_position_embeddings=2000)
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "a.txt").write_text("Zoë", encoding="latin-1")
    monkeypatch.delattr(Transformers, "load")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, SystemExit), match=message) as caught:
        run(f"--model_path wide --lengths 1000 {flags}")
    assert "\n" not in str(caught.value) and not list(tmp_path.rglob("*_results.json"))


def test_launcher_passes_everything_on():
    variables = {"CHECKPOINTS": "a b", "LENGTHS": "400 500", "OUTPUT_ROOT": "root", "FIGURES": "img"}
    out = tiny.run("bash", "eval.sh", "--trials", 2, PYTHON="echo", HAYSTACK="essays", EVAL_BATCH_SIZE=4, **variables)
    grid = "--batch_size 4 --allow_beyond --lengths 400 500 --haystack_dir essays --trials 2"
    assert f"\nneedle_in_haystack.py --model_path a b --output_dir root {grid}\n" in out
    assert "\nneedle_plot.py --results root --output_dir img\n" in out
    out = tiny.run("bash", "eval.sh", PYTHON="false", LENGTHS="", expect=1)
    assert "--s_len 0 --e_len 65536" in out and "failed: the picture" in out
