"""Predictions: documented commands, kills, several processes, settings, out of memory, bad input, the launchers."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

import engine
import pred
from arguments import read_config
from conftest import STAGE, WINDOW, command, make_row, save_base, write_rows
from prompts import template
from results import Predictions
from sets import SETS, base_set

SPEED = ("generated_tokens", "seconds", "peak_memory_bytes")
SETS_HERE = ["standin_multifieldqa_en", "standin_trec_5shots", "standin_samsum"]
LCEG_KEYS = ["pred", "answers", "all_classes", "length"]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """48 rows of a set of long answers, 20 of each other one; some prompts are beyond the window."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in zip(SETS_HERE, (48, 20, 20), strict=True):
        rows = [make_row(i, 3 + 37 * i % 150, dataset=name, all_classes=["w1", "w2"]) for i in range(count)]
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


@pytest.fixture
def run(monkeypatch, capsys, base, data):
    """run(flags...) calls main here with the tiny model; (exit status, what it printed, its errors)."""

    def call(*flags, model=("--model_path", base)):
        monkeypatch.setattr(sys, "argv", ["pred.py", *map(str, [*model, "--data_dir", data, *flags])])
        capsys.readouterr()
        try:
            pred.main()
            status = 0
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if line.startswith("error")]
        return status, printed.out, errors

    return call


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def content(root: Path) -> dict[str, list[str]]:
    """All rows below a folder as text, without what tells how fast they were made."""
    found = {}
    for path in sorted(root.glob("pred*/*/*.jsonl")):
        rows = [{key: value for key, value in row.items() if key not in SPEED} for row in read(path)]
        found[str(path.relative_to(root))] = [json.dumps(row, ensure_ascii=False) for row in rows]
    return found


@pytest.fixture(scope="module")
def whole(base, data, tmp_path_factory):
    """The predictions of an undisturbed run."""
    root = tmp_path_factory.mktemp("whole")
    flags = ["--model_path", base, "--data_dir", data, "--output_dir", root, "--dataset_name", *SETS_HERE]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pred.py", *map(str, flags)])
        pred.main()
    return root


def test_rows_and_record(whole, data):
    for name, folder in zip(SETS_HERE, ("pred", "pred_trec", "pred"), strict=True):
        rows, source = read(whole / folder / "tiny" / f"{name}.jsonl"), read(data / f"{name}.jsonl")
        assert [row["_id"] for row in rows] == [row["_id"] for row in source]  # in the order of the data
        new = SETS[base_set(name)].new_tokens
        for row, there in zip(rows, source, strict=True):
            assert list(row)[:4] == LCEG_KEYS and {key: there[key] for key in LCEG_KEYS[1:]}.items() <= row.items()
            assert row["prompt_tokens"] + new <= WINDOW and row["dataset"] == name
        assert 0 < sum(row["truncated"] for row in rows) < len(rows)
        record = json.loads((whole / folder / "tiny" / "runs" / f"{name}.json").read_text())
        assert (record["n"], record["of"], record["data"]["source"]) == (len(rows), len(rows), "standin")
        assert record["benchmark"] == ("trec" if folder == "pred_trec" else "longbench") and record["limit"] is None
        assert (record["max_length"], record["max_new_tokens"], record["protocol"]) == (WINDOW, new, "inside")
        assert (record["name"], record["method"], record["dtype"]) == ("tiny", "base", "float32")
        assert record["seconds"] == pytest.approx(sum(row["seconds"] for row in rows)) and record["errors"] == []
        assert record["truncated"] == sum(row["truncated"] for row in rows) and record["peak_memory_bytes"] > 1e7
        assert "--dataset_name standin_multifieldqa_en" in record["command"] and len(record["data"]["sha256"]) == 64


def test_one_prompt_at_a_time_gives_the_same(whole, run, tmp_path):
    assert run("--output_dir", tmp_path, "--dataset_name", *SETS_HERE[1:], "--batch_size", 1)[0] == 0
    assert content(tmp_path) == {name: rows for name, rows in content(whole).items() if SETS_HERE[0] not in name}


def test_answers_are_those_of_longbenchs_call(whole, base, data):
    """samsum: eos or a newline token ends an answer of at least one token, as `generate` with min_length has it."""
    model, tokenizer = LlamaForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    newline = tokenizer("\n", add_special_tokens=False).input_ids[-1]
    ended = masked = 0
    sources = {row["_id"]: row for row in read(data / "standin_samsum.jsonl")}
    rows = [row for row in read(whole / "pred" / "tiny" / "standin_samsum.jsonl") if not row["truncated"]]
    for row in rows:
        source = sources[row["_id"]]
        text = template("samsum").format(context=source["context"], input=source["input"])
        ids = tokenizer(text, return_tensors="pt").input_ids
        made = model.generate(
            ids, max_new_tokens=128, do_sample=False, min_length=ids.shape[1] + 1,
            eos_token_id=[tokenizer.eos_token_id, newline], pad_token_id=1,
        )  # fmt: skip
        answer = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        assert row["pred"] == answer.removesuffix("\n") and row["pred"]
        ended += made[0, -1] == newline
        masked += model(ids).logits[0, -1].argmax() == newline
    assert ended and masked  # all of the rule was needed


def test_killed_and_sharded_runs_end_like_an_undisturbed_one(whole, base, data, run, tmp_path):
    killed, sharded = tmp_path / "killed", tmp_path / "sharded"
    names = ["--dataset_name", *SETS_HERE]
    flags = [*map(str, ["--model_path", base, "--data_dir", data, *names, "--output_dir"])]
    process = subprocess.Popen([sys.executable, "pred.py", *flags, killed, "--batch_size", "2"], cwd=STAGE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    rows, deadline = killed / "pred" / "tiny" / "standin_multifieldqa_en.jsonl", time.time() + 120
    while not (rows.exists() and rows.read_text().count("\n") > 9):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = rows.read_text().rpartition("\n")[0].count("\n") + 1
    assert there < 48
    with rows.open("a") as file:
        file.write('{"pred": "w1", "answers": ["w')  # the last line was cut off
    shutil.copytree(killed, sharded)

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = command(*launch, "pred.py", *flags, sharded)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"standin_multifieldqa_en: {there} of 48 rows are there") == 1
    assert f"{sharded}/pred/tiny/standin_multifieldqa_en.jsonl: 48 of 48 rows" in done.stdout
    assert re.search(r"standin_samsum \[3/3\]: +\d+%.*\d+/\d+ \[00:\d\d<", done.stderr)  # progress, with the time left
    status, out, _ = run(*names, "--output_dir", killed)
    assert status == 0 and f"standin_multifieldqa_en: {there} of 48 rows are there" in out
    assert content(killed) == content(sharded) == content(whole)
    left = sorted(path.name for path in (sharded / "pred" / "tiny").rglob("*.jsonl"))
    assert left == ["standin_multifieldqa_en.jsonl", "standin_samsum.jsonl"]  # no parts, nothing moved aside
    before = rows.read_bytes()
    assert run(*names, "--output_dir", killed)[0] == 0 and rows.read_bytes() == before


def test_a_limit_draws_rows_and_a_larger_one_goes_on(whole, run, tmp_path):
    flags = ["--output_dir", tmp_path, "--dataset_name", "standin_multifieldqa_en", "--limit"]
    path = tmp_path / "pred" / "tiny" / "standin_multifieldqa_en.jsonl"
    assert "9 of 48 rows" in run(*flags, 9)[1]
    few = path.read_text().splitlines()
    record = json.loads((path.parent / "runs" / "standin_multifieldqa_en.json").read_text())
    assert (record["n"], record["of"], record["limit"]) == (9, 48, 9) == (len(few), 48, 9)
    assert "standin_multifieldqa_en: 9 of 12 rows are there" in run(*flags, 12)[1]
    more = path.read_text().splitlines()
    assert set(few) < set(more) and len(more) == 12
    order = [row["_id"] for row in read(path)]
    assert order == sorted(order) != [f"id{i:03}" for i in range(12)]
    assert "12 of 48 rows" in run(*flags, 5)[1] and path.read_text().splitlines() == more  # nothing made is lost
    all_of_it = read(whole / path.relative_to(tmp_path))
    assert {row["pred"] for row in read(path)} <= {row["pred"] for row in all_of_it}
    assert "7 of 48 rows" in run(*flags, 7, "--seed", 1)[1]
    assert [row["_id"] for row in read(path)] != order[:7]


def test_other_settings_move_earlier_rows_aside(run, data, tmp_path):
    flags = ["--output_dir", tmp_path, "--dataset_name", "standin_trec_5shots"]
    folder = tmp_path / "pred_trec" / "tiny"
    write_rows(folder / "standin_trec_5shots.jsonl", [{"pred": "x", "answers": ["w1"], "all_classes": [], "length": 1}])
    out = run(*flags)[1]
    assert f"are now {folder}/old/standin_trec_5shots.jsonl (without a record of their run)" in out
    assert read(folder / "old" / "standin_trec_5shots.jsonl")[0]["pred"] == "x"
    first = (folder / "standin_trec_5shots.jsonl").read_bytes()

    out = run(*flags, "--protocol", "lceg", "--max_length", 300)[1]
    assert f"are now {folder}/old2/standin_trec_5shots.jsonl (other max_length, protocol)" in out
    assert (folder / "old2" / "standin_trec_5shots.jsonl").read_bytes() == first
    assert (folder / "old2" / "standin_trec_5shots.json").exists()
    rows = read(folder / "standin_trec_5shots.jsonl")
    assert max(row["prompt_tokens"] for row in rows) == 300  # the answer goes beyond

    shutil.copytree(data, tmp_path / "data")
    write_rows(tmp_path / "data" / "standin_trec_5shots.jsonl", [make_row(0, all_classes=["w1"])])
    out = run(*flags, "--data_dir", tmp_path / "data", "--max_new_tokens", 7)[1]
    assert "(other data, max_length, max_new_tokens, protocol)" in out and "1 of 1 rows" in out
    [row] = read(folder / "standin_trec_5shots.jsonl")
    assert row["generated_tokens"] <= 7 and len(list(folder.glob("old*"))) == 3


def test_rows_out_of_memory_are_tried_again(whole, run, monkeypatch, tmp_path):
    flags = ["--output_dir", tmp_path, "--dataset_name", "standin_trec_5shots", "standin_samsum"]
    answers = engine.Transformers.answers

    def small(self, prompts, *args):
        if any(len(ids) > WINDOW - 70 for ids in prompts):  # trec's longest
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.\nmore")
        return answers(self, prompts, *args)

    monkeypatch.setattr(engine.Transformers, "answers", small)
    status, out, errors = run(*flags)
    record = json.loads((tmp_path / "pred_trec" / "tiny" / "runs" / "standin_trec_5shots.json").read_text())
    failed = len(record["errors"])
    assert 0 < failed < 20 and record["n"] == 20 - failed and "20 of 20 rows" in out  # samsum's
    assert record["errors"][0]["error"] == "out of memory: CUDA out of memory. Tried to allocate 20 MiB."
    advice = "the same command tries them again; give a smaller --prefill_chunk, or --cache_on_cpu"
    assert errors == [f"error: standin_trec_5shots: {failed} rows ran out of memory; {advice}"]
    assert status == "error: 1 of 2 sets are missing or not whole: standin_trec_5shots"
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", record["command"].split()[1:])  # the same command
    pred.main()
    assert content(tmp_path) == {name: rows for name, rows in content(whole).items() if "multifieldqa" not in name}


def test_longbench_e_and_official_many_shots_have_folders_of_their_own(run, tmp_path):
    rows = [make_row(i, dataset="trec", all_classes=["w1", "w2"]) for i in range(300)]
    write_rows(tmp_path / "data" / "trec_e.jsonl", rows)
    write_rows(tmp_path / "data" / "trec_25shots.jsonl", rows[:200])
    flags = ["--data_dir", tmp_path / "data", "--output_dir", tmp_path, "--limit", 2, "--dataset_name"]
    assert run(*flags, "trec", "--e")[0] == run(*flags, "trec_25shots")[0] == 0
    for folder, name, count in (("pred_e", "trec", 300), ("pred_trec", "trec_25shots", 200)):
        record = json.loads((tmp_path / folder / "tiny" / "runs" / f"{name}.json").read_text())
        assert (record["data"]["source"], record["n"], record["of"]) == ("official", 2, count)
        assert record["benchmark"] == {"pred_e": "longbench_e", "pred_trec": "trec"}[folder]
        assert len(read(tmp_path / folder / "tiny" / f"{name}.jsonl")) == 2


@pytest.mark.parametrize(("protocol", "longest"), [("inside", 300), ("lceg", 812)])
def test_vllm_is_told_the_longest_text(monkeypatch, base, protocol, longest):
    monkeypatch.setattr(sys, "argv", ["pred.py", "--model_path", str(base), "--engine", "vllm", "--max_length", "300",
                                      "--protocol", protocol, "--tensor_parallel_size", "2"])  # fmt: skip
    monkeypatch.setattr(pred, "VLLM", lambda *arguments: arguments)
    assert pred.open_engine(pred.parse_args("")) == (str(base), longest, "auto", 2)


# --- bad input
def test_what_is_wrong_with_a_set_gets_a_line_and_the_others_go_on(run, data, tmp_path):
    write_rows(tmp_path / "data" / "standin_lcc.jsonl", [make_row(0)])
    write_rows(tmp_path / "data" / "lcc.jsonl", [make_row(0)])
    (tmp_path / "data" / "standin_trec.jsonl").write_text('{"input": "a"}\n')
    names = ["lsht", "standin_lcc", "standin_trec", "lcc", "standin_qmsum"]
    status, out, errors = run("--data_dir", tmp_path / "data", "--output_dir", tmp_path, "--dataset_name", *names)
    assert status == "error: 4 of 5 sets are missing or not whole: lsht standin_trec lcc standin_qmsum"
    assert [line.split()[1] for line in errors] == ["lsht:", "standin_trec:", "lcc:", "standin_qmsum:"]
    assert "standin_trec.jsonl, line 1: no field 'context'" in errors[1] and "has 1 rows, lcc has 500" in errors[2]
    assert "standin_lcc.jsonl: 1 of 1 rows" in out


def test_bad_flags_and_checkpoints_get_one_line(run, tmp_path):
    where = ["--output_dir", tmp_path, "--dataset_name", "standin_samsum"]
    own = save_base(tmp_path / "own")
    config = json.loads((own / "config.json").read_text()) | {"auto_map": {"AutoModelForCausalLM": "modeling.Own"}}
    (own / "config.json").write_text(json.dumps(config))
    for flags, model, message in [
        ([], [], "give --model_path .*"),
        ([], ["--model", "llama3"], "--model llama3 is not in config/model2path.json, which has llama2-7b-hf .*"),
        ([], ["--model_path", tmp_path / "none"], f"no folder {tmp_path}/none; give a checkpoint folder or a hub id"),
        ([], ["--model_path", own], f"{own} brings its own modeling code; read it, then add --trust_remote_code"),
        (["--limit", 0], None, "--limit 0: must be at least 1"),
        (["--max_length", 128], None, "no set is left to predict"),
        (["--engine", "vllm"], None, "vLLM is not installed: .*"),
    ]:
        status, _, errors = run(*where, *flags, **({} if model is None else {"model": model}))
        assert re.fullmatch(f"error: {message}", status), status
    assert not (tmp_path / "pred").exists()
    status, _, errors = run(*where, "--max_length", 128)
    assert errors == ["error: standin_samsum: a window of 128 tokens has no room for a prompt beside 128 new tokens"]
    out = run(*where, "--max_length", 2 * WINDOW, "--limit", 1)[1]
    assert f"WARNING: {2 * WINDOW} tokens are beyond the {WINDOW} that the checkpoint declares" in out


# --- names and launchers
def test_names_of_config_and_of_the_launcher():
    paths, limits = read_config("model2path.json"), read_config("model2maxlen.json")
    assert list(paths) == list(limits) and set(limits.values()) == {4096, 32768} and limits["llama2-7b-hf"] == 4096
    done = command("bash", "scripts/eval_llama2.sh", "--limit", "3", PYTHON="echo", JOBS="1")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if not line.startswith("+")]
    assert len(lines) == 10 and all(line[2] in paths and line[-2:] == ["--limit", "3"] for line in lines)
    assert all(line[line.index("--dataset_name") + 1 : -2] == list(SETS) for line in lines)
    done = command("bash", "eval.sh", PYTHON="echo", GPUS="3 5", MODELS="a b c", SCORE="no")
    assert sorted(line.split()[2] for line in done.stdout.splitlines() if not line.startswith("+")) == ["a", "b", "c"]
    done = command("bash", "eval.sh", PYTHON="false", JOBS="2", CHECKPOINTS="a b")
    assert done.returncode == 1
    assert sorted(done.stderr.splitlines()[-3:]) == ["failed: a", "failed: b", "failed: the scores"], done.stderr


def test_a_name_of_config_brings_its_path_and_its_window(run, base, monkeypatch, tmp_path):
    config = {"model2path.json": {"mine": str(base)}, "model2maxlen.json": {"mine": 256}}
    monkeypatch.setattr("arguments.read_config", config.get)
    status, _, _ = run("--output_dir", tmp_path, "--dataset_name", "standin_trec_5shots", model=["--model", "mine"])
    record = json.loads((tmp_path / "pred_trec" / "mine" / "runs" / "standin_trec_5shots.json").read_text())
    assert status == 0 and record["max_length"] == 256 and record["model"] == str(base) and record["name"] == "mine"


def test_eval_sh_predicts_and_scores(base, tmp_path):
    standins = [sys.executable, "make_standin.py", "--output_dir", tmp_path / "data", "--rows", 4, "--words", 40]
    done = command(*standins, "--sets", "passage_count", "trec", "--shots", 2)
    assert done.returncode == 0, done.stderr
    settings = {"CHECKPOINTS": str(base), "OUTPUT_ROOT": str(tmp_path)}
    names = ["standin_passage_count", "standin_trec", "standin_trec_2shots"]
    flags = ["--data_dir", tmp_path / "data", "--max_new_tokens", 8]
    done = command("bash", "eval.sh", *flags, **settings, DATASETS=" ".join(names), PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert set(json.loads((tmp_path / "pred" / "tiny" / "result.json").read_text())) == set(names[:2])
    assert set(json.loads((tmp_path / "pred_trec" / "tiny" / "result.json").read_text())) == set(names[2:])


def test_a_broken_file_is_named_kept_and_made_again(tmp_path, capsys):
    def begin():
        return Predictions(tmp_path, "lcc", {"a": 1}).begin(["x", "y"], {})[0]

    begin()
    (tmp_path / "lcc.jsonl").write_text('{"pred": "1", "_id": "x"}\n{"pred": "2", "_i\n{"pred": "3", "_id"')
    assert list(begin()) == ["x"]
    assert "lcc.jsonl: line 2 and 0 more are broken; kept as lcc.jsonl.broken, made again" in capsys.readouterr().out
    assert (tmp_path / "lcc.jsonl.broken").read_text().endswith('"3", "_id"')
    assert list(begin()) == ["x"] and not capsys.readouterr().out  # said once
