"""Predictions: answers, records, kills, ranks, several checkpoints, settings, out of memory, bad input, launchers."""

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

import pred
import tiny
import transformers_engine
from conftest import WINDOW, make_row, read_rows, run_main, write_rows
from prompts import template
from sets import SETS, parse_name

COSTS = ("prefilled_tokens", "generated_tokens", "seconds", "peak_memory_bytes", "batch_size")
NAMES = {"standin_multifieldqa_en": "pred", "standin_trec_5shots": "pred_trec", "standin_samsum": "pred"}  # folders


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """24 rows of a set with long answers, 12 of the others; some prompts are longer than the window."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in zip(NAMES, (24, 12, 12), strict=True):
        rows = [make_row(i, 3 + 37 * i % 150, dataset=name, all_classes=["w1", "w2"]) for i in range(count)]
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def whole(base, data, tmp_path_factory):
    """The predictions of an undisturbed run."""
    root = tmp_path_factory.mktemp("whole")
    run_main(pred.main, "--model_path", base, "--data_dir", data, "--output_dir", root, "--dataset_name", *NAMES)
    return root


@pytest.fixture
def run(call, base, data, tmp_path):
    """run(flags...) calls pred.py for the tiny model; its output and errors. Flags given again win."""
    return lambda *flags: call(
        pred.main, "--model_path", base, "--data_dir", data, "--output_dir", tmp_path, "--dataset_name", *flags
    )


def content(root) -> dict[str, list[dict]]:
    """All rows below a folder, without their costs."""
    files = {}
    for path in sorted(root.glob("pred*/*/*.jsonl")):
        rows = read_rows(path)
        files[str(path.relative_to(root))] = [{k: v for k, v in row.items() if k not in COSTS} for row in rows]
    return files


def record_of(root, name: str, model: str = "tiny") -> dict:
    return json.loads((root / NAMES[name] / model / "runs" / f"{name}.json").read_text())


def test_rows_and_record(whole, data):
    for name, folder in NAMES.items():
        rows, sources = read_rows(whole / folder / "tiny" / f"{name}.jsonl"), read_rows(data / f"{name}.jsonl")
        assert [row["_id"] for row in rows] == [row["_id"] for row in sources]  # in the order of the data
        new_tokens = SETS[parse_name(name)[0]].new_tokens
        for row, source in zip(rows, sources, strict=True):
            assert list(row)[:4] == ["pred", "answers", "all_classes", "length"]  # the paper's
            assert all(row[key] == source[key] for key in list(row)[1:4])
            assert row["prompt_tokens"] + new_tokens <= WINDOW
        record = record_of(whole, name)
        assert record["n"] == record["of"] == len(rows)
        assert 0 < record["truncated"] == sum(row["truncated"] for row in rows) < len(rows)
        assert record["seconds"] == pytest.approx(sum(row["seconds"] for row in rows)) and record["errors"] == []


def test_samsums_answers_are_those_of_longbenchs_call(whole, base, data):
    """EOS or a newline token ends an answer of at least one token, as in `generate` with min_length."""
    model, tokenizer = LlamaForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    newline = tokenizer("\n", add_special_tokens=False).input_ids[-1]
    flags = {"max_new_tokens": 128, "do_sample": False, "eos_token_id": [tokenizer.eos_token_id, newline]}
    sources = read_rows(data / "standin_samsum.jsonl")
    ended = 0
    for row, source in zip(read_rows(whole / "pred" / "tiny" / "standin_samsum.jsonl"), sources, strict=True):
        if row["truncated"]:
            continue
        ids = tokenizer(template("samsum").format(**source), return_tensors="pt").input_ids
        generated = model.generate(ids, min_length=ids.shape[1] + 1, pad_token_id=1, **flags)
        answer = tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True)
        assert row["pred"] == answer.removesuffix("\n") and row["pred"]
        ended += generated[0, -1] == newline
    assert ended


def test_stopped_and_sharded_runs_end_like_an_undisturbed_one(whole, base, data, run, monkeypatch, tmp_path):
    stopped, sharded = tmp_path / "stopped", tmp_path / "sharded"
    append = pred.Store.append

    def stop_at_the_seventh(store, entry):
        append(store, entry)
        if store.path.read_text().count("\n") == 7:
            raise ValueError("stopped")

    flags = [*NAMES, "--output_dir"]
    with monkeypatch.context() as patch:
        patch.setattr(pred.Store, "append", stop_at_the_seventh)
        assert run(*flags, stopped)[1]
    rows = stopped / "pred" / "tiny" / "standin_multifieldqa_en.jsonl"
    with rows.open("a") as file:
        file.write('{"pred": "w1", "answers": ["w')  # as a kill leaves it
    shutil.copytree(stopped, sharded)

    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "pred.py"]
    tiny.python(*launch, "--model_path", base, "--data_dir", data, "--dataset_name", *flags, sharded)
    out, errors = run(*flags, stopped)
    assert not errors and "7 of 24 rows are already answered" in out
    assert content(stopped) == content(sharded) == content(whole)
    assert not [*sharded.rglob("*.rank*"), *sharded.rglob("old")]
    before = rows.read_bytes()
    assert not run(*flags, stopped)[1] and rows.read_bytes() == before


def test_a_larger_limit_adds_rows_and_other_settings_or_data_start_again(run, data, tmp_path):
    flags = ["standin_multifieldqa_en", "--max_new_tokens", 4, "--limit"]
    path = tmp_path / "pred" / "tiny" / "standin_multifieldqa_en.jsonl"
    assert "9 of 24 rows" in run(*flags, 9)[0]
    few = path.read_text().splitlines()
    assert "9 of 12 rows are already answered" in run(*flags, 12)[0]
    more = path.read_text().splitlines()
    assert set(few) < set(more) and len(more) == 12
    assert "12 of 24 rows" in run(*flags, 5)[0] and path.read_text().splitlines() == more  # nothing is lost
    out = run(*flags, 24, "--protocol", "lceg", "--max_length", 300)[0]
    assert "moved to old/ (other max_length, protocol)" in out
    assert (path.parent / "old" / path.name).read_text().splitlines() == more
    assert max(row["prompt_tokens"] for row in read_rows(path)) == 300  # the answer exceeds the window
    rows = read_rows(data / path.name)
    write_rows(tmp_path / path.name, [rows[0] | {"context": "changed"}, *rows[1:]])
    assert "moved to old2/ (other data, max_length, protocol)" in run(*flags, 1, "--data_dir", tmp_path)[0]


def test_rows_out_of_memory_are_tried_again(whole, run, monkeypatch, tmp_path):
    flags = ["standin_trec_5shots", "standin_samsum"]
    generate_ids = transformers_engine.Transformers.generate_ids

    def small(self, prompts, *args):
        if any(len(ids) > WINDOW - 70 for ids in prompts):  # trec's longest
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.\nmore")
        return generate_ids(self, prompts, *args)

    with monkeypatch.context() as patch:
        patch.setattr(transformers_engine.Transformers, "generate_ids", small)
        out, errors = run(*flags)
    record = record_of(tmp_path, "standin_trec_5shots")
    failed = len(record["errors"])
    assert 0 < failed < 12 and record["n"] == 12 - failed and "12 of 12 rows" in out  # samsum's
    assert "rows of standin_trec_5shots ran out of memory" in errors[-1]
    assert not run(*flags)[1] and content(tmp_path).items() <= content(whole).items()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["lsht"], "unknown set lsht"),
        (["standin_samsum", "--max_length", 128], "a window of 128 tokens has no room"),
        (["standin_samsum", "--engine", "vllm"], "vLLM is not installed"),
        (["standin_samsum", "--model", "a", "b"], "1 checkpoints need as many different names"),
    ],
)
def test_bad_input_gives_an_error(run, tmp_path, flags, message):
    assert message in run(*flags)[1][-1]
    assert not list(tmp_path.glob("pred/*/*.jsonl"))


def test_names_of_config(base, call, data, monkeypatch, tmp_path):
    assert "llama3 is not in config/model2path.json" in call(pred.main, "--model", "llama3")[1][-1]
    config = {"model2path.json": {"mine": str(base)}, "model2maxlen.json": {"mine": 256}}
    monkeypatch.setattr(pred, "read_config", config.get)
    flags = ["--data_dir", data, "--output_dir", tmp_path, "--dataset_name", "standin_trec_5shots", "--limit", 1]
    assert not call(pred.main, "--model", "mine", *flags)[1]
    record = record_of(tmp_path, "standin_trec_5shots", "mine")
    assert (record["max_length"], record["model"], record["name"]) == (256, str(base), "mine")
    bloom = tiny.edit_config(
        shutil.copytree(base, tmp_path / "bloom"), model_type="bloom", max_position_embeddings=None
    )
    assert "bloom declares no window; give --max_length" in call(pred.main, "--model_path", bloom, *flags)[1][-1]


def test_launchers(tmp_path):
    words = tiny.run("bash", "scripts/eval_llama2.sh", "--limit", "3", PYTHON="echo").splitlines()[0].split()[2:]
    models = words[words.index("--model") + 1 : words.index("--dataset_name")]
    assert set(models) <= set(pred.read_config("model2path.json")) and words[-2:] == ["--limit", "3"]
    out = tiny.run("bash", "eval.sh", PYTHON="echo", GPUS="3 5", MODELS="a b c", SCORE="no", BATCH_SIZE="4")
    lines = sorted(line for line in out.splitlines() if line.startswith("+"))
    assert [line.split("--dataset_name")[0].split()[4:] for line in lines] == [["a", "c"], ["b"]]
    assert "--batch_size 16" in lines[0]  # BATCH_SIZE is the training's
    out = tiny.run("bash", "eval.sh", PYTHON="false", JOBS="2", CHECKPOINTS="a b", OUTPUT_ROOT=tmp_path, expect=1)
    assert all(f"failed: {name}" in out for name in ("a", "b", "the scores"))
