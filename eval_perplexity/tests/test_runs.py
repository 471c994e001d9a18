"""Whole runs: documented commands, kills, several processes, bad input, data preparation, launchers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import content, documents, save_model, write_tokens
from tiny import STAGE, python, run

PYTHON = sys.executable


def test_readme_command(checkpoint, tokens, tmp_path):
    out = tmp_path / "results" / "pg19" / "pi_pg19.json"
    printed = python("eval_pi.py", "--seq_len", 128, "--batch_size", 1, "--base_model", checkpoint,
                     "--data_path", tokens, "--output_dir", out)  # fmt: skip
    assert f"{out}: perplexity" in printed
    result = json.loads(out.read_text())
    assert result["seconds"] > 0 and result["peak_memory_bytes"] > 1e7 and "eval_pi.py" in result["command"]
    assert os.listdir(out.parent) == ["pi_pg19.json"]  # nothing else is left behind


def test_killed_and_sharded_runs_end_like_an_undisturbed_one(evaluate, checkpoint, tokens, tmp_path):
    flags = ["--base_model", checkpoint, "--data_path", tokens, "--seq_len", 200, "--sliding_window", 2,
             "--batch_size", 2, "--output_dir"]  # fmt: skip
    whole, killed, sharded = (tmp_path / name / "one.json" for name in ("whole", "killed", "sharded"))
    evaluate(*flags, whole)

    words = [PYTHON, "eval_ppl.py", *map(str, flags), str(killed)]
    process = subprocess.Popen(words, cwd=STAGE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress = killed.with_name("one.progress.jsonl")
    deadline = time.time() + 120
    while not (progress.exists() and progress.read_text().count("\n") > 4):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    recorded = progress.read_text().count("\n")
    with progress.open("a") as file:
        file.write('{"batch": 399, "windows": [{"start": 79')  # and the last line was cut off

    # two ranks resume, and end with the same result
    shutil.copytree(killed.parent, sharded.parent)
    printed = python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "eval_ppl.py", *flags, sharded
    )
    assert printed.count(f"resuming, {recorded} of") == 1

    assert f"resuming, {recorded} of" in evaluate(*flags, killed)
    assert content(killed) == content(whole) == content(sharded)
    assert json.loads(sharded.read_text())["processes"] == 2
    assert os.listdir(killed.parent) == os.listdir(sharded.parent) == ["one.json"]
    assert "already done" in evaluate(*flags, killed)


def test_results_of_other_settings_are_set_aside(evaluate, checkpoint, tokens, tmp_path):
    out = tmp_path / "a.json"
    flags = ["--base_model", checkpoint, "--data_path", tokens, "--seq_len", 100, "--output_dir", out]
    evaluate(*flags, "--max_windows", 2)
    few = content(out)
    assert few["n_windows"] == 2 < few["n_windows_total"]
    assert "moved to old/ (other max_windows)" in evaluate(*flags)
    assert content(out)["n_windows"] == few["n_windows_total"]
    assert content(tmp_path / "old" / "a.json") == few
    out.write_text('{"val_perplexity": 1')  # broken by hand
    assert "moved to old2/ (no record" in evaluate(*flags)
    assert content(out)["n_windows"] == few["n_windows_total"]


def test_one_process_evaluates_several_checkpoints_past_a_bad_one(evaluate, checkpoint, tokens, tmp_path, capsys):
    second = save_model(tmp_path / "second", "ntk")
    flags = ["--data_path", tokens, "--seq_len", 64, "--max_windows", 2, "--output_dir"]
    with pytest.raises(SystemExit, match="1 of 3 checkpoints failed: .*none"):
        evaluate("--base_model", checkpoint, tmp_path / "none", second, *flags, tmp_path / "three")
    assert "error: no folder" in capsys.readouterr().err
    evaluate("--base_model", second, *flags, tmp_path / "one")
    name = "second_64_pg19.json"
    assert content(tmp_path / "three" / name) == content(tmp_path / "one" / name)
    assert (tmp_path / "three" / "tiny_64_pg19.json").exists()


# --- bad input
def test_bad_input_is_one_line_before_the_model(evaluate, checkpoint, tokens, tmp_path, monkeypatch, capsys):
    import eval_ppl

    def refuse(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(eval_ppl, "load_model", refuse)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((checkpoint / "config.json").read_text())
    own_code, unknown = save_model(tmp_path / "own"), save_model(tmp_path / "unknown", "ntk")
    for folder, change in [
        (own_code, lambda c: c.update(auto_map={"AutoModelForCausalLM": "modeling_own.Own"})),
        (unknown, lambda c: c["context_extension"]["rope_by_length"].update(rule="spline")),
    ]:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
    write_tokens(tmp_path / "large" / "test.bin", [*documents(9), 0, 65_000, *documents(4)])
    write_tokens(tmp_path / "sidecar" / "test.bin", documents(13), vocab_size=500)
    write_tokens(tmp_path / "changed" / "test.bin", documents(13), sha256="00")
    (tmp_path / "odd.bin").write_bytes(b"123")
    (tmp_path / "nothing.bin").write_bytes(b"")
    good = {"--base_model": checkpoint, "--data_path": tokens, "--seq_len": 128, "--output_dir": tmp_path / "out"}
    cases = [
        ({"--data_path": tmp_path / "no.bin"}, "no token file .*prepare_data.py"),
        ({"--data_path": tmp_path / "large/test.bin"}, "token id 65000.*ends at 257"),
        ({"--data_path": tmp_path / "sidecar/test.bin"}, "tokenizer of 500 tokens, the model has 258"),
        ({"--data_path": tmp_path / "changed/test.bin"}, "not the file that test.bin.json describes"),
        ({"--data_path": tmp_path / "odd.bin"}, "3 bytes, which is no whole number of uint16"),
        ({"--data_path": tmp_path / "nothing.bin"}, "0 bytes"),
        ({"--documents": 14}, "holds 13 documents, 14 were asked for"),
        ({"--documents": 0}, "must be at least 1"),
        ({"--seq_len": 5000}, "windows of 5000 tokens every 256 need more than 5256 tokens"),
        ({"--seq_len": 1}, "at least 2 tokens"),
        ({"--base_model": tmp_path / "none"}, "no folder .*none"),
        ({"--base_model": tmp_path / "empty"}, "not a checkpoint folder: no config.json"),
        ({"--base_model": tmp_path / "bare"}, r"no \*.safetensors weights"),
        ({"--base_model": own_code}, "add --trust_remote_code"),
        ({"--base_model": unknown}, "rule 'spline'; known: ntk"),
    ]
    for changes, message in cases:
        flags = [str(word) for pair in (good | changes).items() for word in pair]
        with pytest.raises(SystemExit) as stopped:
            evaluate(*flags)
        assert re.search(message, str(stopped.value)) and "\n" not in str(stopped.value), (changes, stopped.value)
        assert str(stopped.value).startswith("error: ")
    with pytest.raises(SystemExit, match="one file, for one checkpoint and length"):
        evaluate(*[w for k, v in good.items() for w in (k, v) if k != "--seq_len"], "--seq_len", 64, 128,
            "--output_dir", tmp_path / "one.json")  # fmt: skip
    for script, method, own in [
        ("eval_yarn.py", "ntk", "eval_ntk.py"),
        ("eval_pi.py", "self_extend", "eval_selfextend.py"),
        ("eval_ntk.py", "origin", "eval_pi.py"),
    ]:
        other = save_model(tmp_path / method, method)
        with pytest.raises(SystemExit, match=f"is a '{method}' checkpoint: use {own} or eval_ppl.py"):
            evaluate(
                "--base_model", other, "--data_path", tokens, "--seq_len", 64, "--output_dir", tmp_path, script=script
            )
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_an_error(checkpoint, tokens, tmp_path, evaluate):
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path / "cut")
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit, match="lacks the weights model.layers.1.mlp.up_proj.weight"):
        evaluate("--base_model", folder, "--data_path", tokens, "--seq_len", 64, "--output_dir", tmp_path / "out")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(SystemExit, match=f"cannot load {folder}: "):
        evaluate("--base_model", folder, "--data_path", tokens, "--seq_len", 64, "--output_dir", tmp_path / "out")


# --- data preparation
@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    made.train_from_iterator(["some text to learn from, the text of a book"] * 20, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    with_bos, without = folder / "bos", folder / "none"
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>").save_pretrained(with_bos)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>").save_pretrained(without)
    return with_bos, without


def prepare(monkeypatch, *flags):
    import prepare_data

    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, flags)])
    prepare_data.main()


def test_prepare_data_round_trip(tokenizer, tmp_path, monkeypatch, evaluate):
    from transformers import AutoTokenizer

    texts = [f"book {i}: " + "the text of a book, " * (5 + i) for i in range(12)]
    texts[3] += "<s> is how a document begins"  # but not here
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, text in enumerate(texts[:6]):
        (folder / f"{i}.txt").write_text(text)
    (folder / "more.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts[6:]))
    out = tmp_path / "books" / "test.bin"
    flags = ("--dataset", folder, "--tokenizer", tokenizer[0], "--text_column", "body", "--output", out)
    prepare(monkeypatch, *flags)

    tokens = np.fromfile(out, dtype="<u2")
    own = AutoTokenizer.from_pretrained(tokenizer[0])
    starts = np.flatnonzero(tokens == own.bos_token_id)
    assert [own.decode(part[1:]) for part in np.split(tokens, starts[1:])] == texts
    sidecar = json.loads(out.with_name("test.bin.json").read_text())
    assert (sidecar["source"], sidecar["dtype"], sidecar["documents"]) == ("user", "uint16", 12)
    assert (sidecar["tokens"], sidecar["vocab_size"]) == (len(tokens), len(own))
    model = save_model(tmp_path / "tiny", vocab_size=300)
    evaluate("--base_model", model, "--data_path", out, "--seq_len", 64, "--output_dir", tmp_path)
    data = content(tmp_path / "tiny_64_books.json")["data"]
    assert (data["source"], data["sha256"], data["dataset"]) == ("user", sidecar["sha256"], str(folder))

    longest = max(map(len, np.split(tokens, starts[1:])))
    prepare(monkeypatch, *flags, "--min_tokens", longest)
    assert len(np.fromfile(out, dtype="<u2")) == longest  # only that document
    prepare(monkeypatch, *flags, "--max_documents", 2)
    assert (np.fromfile(out, dtype="<u2") == tokens[: starts[2]]).all()
    prepare(monkeypatch, *flags, "--tokenizer", tokenizer[1], "--separator_token", "</s>")
    assert np.fromfile(out, dtype="<u2")[0] == own.eos_token_id
    before = out.read_bytes()
    for bad, message in [
        (("--tokenizer", tokenizer[1]), "no BOS token; .*--separator_token"),
        (("--separator_token", "<none>"), "is not one token"),
        (("--text_column", "text"), "more.jsonl, line 1: no JSON object with a 'text' field"),
        (("--dataset", tmp_path / "no.txt"), "no file .*no.txt"),
        (("--tokenizer", tmp_path), "no tokenizer in"),
        (("--min_tokens", 10**6), "no document has 1000000 tokens"),
    ]:
        with pytest.raises(SystemExit, match=f"^error: .*{message}"):
            prepare(monkeypatch, *flags, *bad)
    assert out.read_bytes() == before and sorted(os.listdir(out.parent)) == ["test.bin", "test.bin.json"]


def test_only_the_benchmark_texts_are_official(tokenizer, tmp_path, monkeypatch):
    import prepare_data

    asked = []

    def texts(*words):
        asked.append(words)
        return iter(["some text", "more text"])

    monkeypatch.setattr(prepare_data, "hub_documents", texts)
    out = tmp_path / "test.bin"
    for flags, source in [
        (["pg19"], "official"),
        (["emozilla/pg19"], "official"),
        (["emozilla/pg19", "--split", "train"], "user"),
        (["someone/pg19"], "user"),
    ]:
        prepare(monkeypatch, "--dataset", *flags, "--tokenizer", tokenizer[0], "--output", out)
        assert json.loads(out.with_name("test.bin.json").read_text())["source"] == source
    assert asked[0] == ("emozilla/pg19-test", "test", "text") and asked[2][1] == "train"


# --- launchers
def test_eval_sh_continues_past_a_failure(checkpoint, tokens, tmp_path):
    out = tmp_path / "results"
    printed = run("bash", "eval.sh", "--max_windows", 3, expect=1, CHECKPOINTS=f"{tmp_path}/none {checkpoint}", JOBS=2,
                  DATASETS=tokens, LENGTHS="64 128", OUTPUT_ROOT=out, PYTHON=PYTHON)  # fmt: skip
    assert "Traceback" not in printed and printed.splitlines()[-1] == f"failed: {tmp_path}/none"
    assert f"error: no folder {tmp_path}/none" in printed
    assert sorted(os.listdir(out / "pg19")) == ["tiny_128_pg19.json", "tiny_64_pg19.json"]


@pytest.mark.parametrize("method", ["pi", "ntk", "yarn", "clex", "landmark", "lm_infinite", "selfextend"])
def test_scripts_per_method_call_their_entry_point(method, tmp_path):
    printed = run("bash", STAGE / "scripts" / f"eval_{method}.sh", "--seed", 5, cwd=tmp_path, PYTHON="echo")
    lines = [line for line in printed.splitlines() if not line.startswith("+")]
    assert len(lines) == 2  # one process per data set
    for line, dataset in zip(lines, ("data/pg19/test.bin", "data/proof_file/test_sampled_data.bin"), strict=True):
        assert line.startswith(f"eval_{method}.py --base_model ") and line.endswith("--seed 5")
        assert "--seq_len 2048 4096 8192 16384 32768 65536" in line and f"--data_path {dataset}" in line
