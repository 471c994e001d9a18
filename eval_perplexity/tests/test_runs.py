"""Whole runs: documented commands, kills, several processes, bad input, data preparation, launchers."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import STAGE, command, content, documents, save_model, write_tokens

PYTHON = sys.executable


def test_readme_command(checkpoint, tokens, tmp_path):
    out = tmp_path / "results" / "pg19" / "pi_pg19.json"
    done = command(PYTHON, "eval_pi.py", "--seq_len", 128, "--batch_size", 1, "--base_model", checkpoint,
                   "--data_path", tokens, "--output_dir", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "float32, sdpa attention on 1 x cpu" in done.stdout and f"{out}: perplexity" in done.stdout
    result = json.loads(out.read_text())
    assert result["seconds"] > 0 and result["peak_memory_bytes"] > 1e7 and "eval_pi.py" in result["command"]
    assert os.listdir(out.parent) == ["pi_pg19.json"]  # nothing else is left behind


def test_killed_and_sharded_runs_end_like_an_undisturbed_one(run, checkpoint, tokens, tmp_path):
    flags = ["--base_model", checkpoint, "--data_path", tokens, "--seq_len", 200, "--sliding_window", 2,
             "--batch_size", 2, "--output_dir"]  # fmt: skip
    whole, killed, sharded = (tmp_path / name / "one.json" for name in ("whole", "killed", "sharded"))
    run(*flags, whole)

    words = [PYTHON, "eval_ppl.py", *map(str, flags), str(killed)]
    process = subprocess.Popen(words, cwd=STAGE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress = killed.with_name("one.progress.rank0.jsonl")
    deadline = time.time() + 120
    while not (progress.exists() and progress.read_text().count("\n") > 4):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    recorded = progress.read_text().count("\n") - 1
    with progress.open("a") as file:
        file.write('{"batch": 399, "windows": [{"start": 79')  # and the last line was cut off

    # two processes take over, are seen to skip what is there, and end with the same result
    sharded.parent.mkdir()
    sharded.with_name(progress.name).write_text(progress.read_text())
    launch = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "eval_ppl.py"]
    done = command(*launch, *flags, sharded)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"continuing, {recorded} of") == 1

    assert f"continuing, {recorded} of" in run(*flags, killed)
    assert content(killed) == content(whole) == content(sharded)
    assert json.loads(sharded.read_text())["processes"] == 2
    assert os.listdir(killed.parent) == os.listdir(sharded.parent) == ["one.json"]
    assert "already done" in run(*flags, killed)


def test_progress_of_several_processes_is_gathered(tmp_path):
    from progress import Progress

    settings, out = {"seq_len": 8}, tmp_path / "one.json"
    for rank in range(3):
        writer = Progress(out, settings)
        for batch in range(rank, 9, 3):
            writer.append(rank, {"batch": batch, "windows": [{"loss": 1 / (batch + 3)}]})
        writer.close()
    lines = (tmp_path / "one.progress.rank1.jsonl").read_text()
    (tmp_path / "one.progress.rank1.jsonl").write_text(lines[:-5])  # batch 7 is cut off
    batches, foreign = Progress(out, settings).gather()
    assert sorted(batches) == [0, 1, 2, 3, 4, 5, 6, 8] and foreign == 0
    assert [batches[n]["windows"][0]["loss"] for n in (0, 8)] == [1 / 3, 1 / 11]
    assert os.listdir(tmp_path) == ["one.progress.rank0.jsonl"]
    assert Progress(out, settings).read() == (batches, 0)
    assert Progress(out, {"seq_len": 9}).gather() == ({}, 1)


def test_results_of_other_settings_are_kept_aside(run, checkpoint, tokens, tmp_path):
    flags = ["--base_model", checkpoint, "--data_path", tokens, "--seq_len", 100, "--output_dir", tmp_path / "a.json"]
    run(*flags, "--max_windows", 2)
    few = content(tmp_path / "a.json")
    assert few["n_windows"] == 2 < few["n_windows_total"]
    (tmp_path / "a.progress.rank0.jsonl").write_text('{"other": 1}\n{"batch": 0}\n')
    said = run(*flags)
    assert "starting anew" in said and "a.json.old" in said
    assert content(tmp_path / "a.json")["n_windows"] == few["n_windows_total"]
    assert content(tmp_path / "a.json.old") == few


# --- bad input
def test_bad_input_is_one_line_before_the_model(run, checkpoint, tokens, tmp_path, monkeypatch, capsys):
    import loading

    def refuse(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(loading, "load", refuse)
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
    write_tokens(tmp_path / "large" / "test.bin", [*documents(9), 1, 65_000, *documents(4)])
    write_tokens(tmp_path / "sidecar" / "test.bin", documents(13), vocab_size=500)
    write_tokens(tmp_path / "changed" / "test.bin", documents(13), sha256="00")
    (tmp_path / "odd.bin").write_bytes(b"123")
    (tmp_path / "nothing.bin").write_bytes(b"")
    good = {"--base_model": checkpoint, "--data_path": tokens, "--seq_len": 128, "--output_dir": tmp_path / "out"}
    cases = [
        ({"--data_path": tmp_path / "no.bin"}, "no token file .*prepare_data.py"),
        ({"--data_path": tmp_path / "large/test.bin"}, "token id 65000.*ends at 299"),
        ({"--data_path": tmp_path / "sidecar/test.bin"}, "tokenizer of 500 tokens, the model has 300"),
        ({"--data_path": tmp_path / "changed/test.bin"}, "not the file that test.bin.json describes"),
        ({"--data_path": tmp_path / "odd.bin"}, "3 bytes, which is no whole number of uint16"),
        ({"--data_path": tmp_path / "nothing.bin"}, "0 bytes"),
        ({"--documents": 14}, "holds 13 documents, 14 were asked for"),
        ({"--documents": 0}, "must be at least 1"),
        ({"--seq_len": 5000}, "windows of 5000 tokens every 256 need more than 5256 tokens"),
        ({"--seq_len": 1}, "at least 2 tokens"),
        ({"--base_model": tmp_path / "none"}, "no folder .*none"),
        ({"--base_model": tmp_path / "empty"}, "no checkpoint: it has no config.json"),
        ({"--base_model": tmp_path / "bare"}, r"no \*.safetensors weights"),
        ({"--base_model": own_code}, "add --trust_remote_code"),
        ({"--base_model": unknown}, "rule 'spline'; known here: ntk"),
    ]
    for changes, message in cases:
        flags = [str(word) for pair in (good | changes).items() for word in pair]
        with pytest.raises(SystemExit) as stopped:
            run(*flags)
        assert re.search(message, str(stopped.value)) and "\n" not in str(stopped.value), (changes, stopped.value)
        assert str(stopped.value).startswith("error: ")
    with pytest.raises(SystemExit, match="one file for 2 lengths; give a folder"):
        run(*[w for k, v in good.items() for w in (k, v) if k != "--seq_len"], "--seq_len", 64, 128,
            "--output_dir", tmp_path / "one.json")  # fmt: skip
    for methods, script, made, hint in [
        (("yarn",), "eval_yarn.py", "ntk", "eval_ntk.py or eval_ppl.py"),
        (("base", "origin", "pi", "longlora"), "eval_pi.py", "self_extend", "use eval_selfextend.py or eval_ppl.py"),
        (("ntk",), "eval_ntk.py", "other", "use eval_ppl.py"),
    ]:
        wrong = save_model(tmp_path / f"wrong_{made}", made)
        with pytest.raises(SystemExit, match=f"'{made}' checkpoint; {script} is for .*{hint}$"):
            run("--base_model", wrong, "--data_path", tokens, "--seq_len", 64, "--output_dir", tmp_path,
                methods=methods, script=script)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_foreign_checkpoints_are_named_by_their_rope():
    import loading
    from conftest import config

    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
    found = loading.describe("a", config(rope_parameters=yarn))
    assert (found["method"], found["original_length"], found["trained_length"]) == ("yarn", 16, 64)
    assert loading.describe("a", config())["method"] == "base"


def test_missing_weights_are_an_error(checkpoint, tokens, tmp_path, run):
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path / "cut")
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit, match="lacks the weights model.layers.1.mlp.up_proj.weight"):
        run("--base_model", folder, "--data_path", tokens, "--seq_len", 64, "--output_dir", tmp_path / "out")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(SystemExit, match=f"cannot load {folder}: "):
        run("--base_model", folder, "--data_path", tokens, "--seq_len", 64, "--output_dir", tmp_path / "out")


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


def test_prepare_data_round_trip(tokenizer, tmp_path, monkeypatch, run, checkpoint):
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
    run("--base_model", checkpoint, "--data_path", out, "--seq_len", 64, "--output_dir", tmp_path)
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
def test_eval_sh_goes_on_past_a_failure(checkpoint, tokens, tmp_path):
    out = tmp_path / "results"
    done = command("bash", "eval.sh", "--max_windows", 3, CHECKPOINTS=f"{tmp_path}/none {checkpoint}", JOBS="2",
                   DATASETS=str(tokens), LENGTHS="64 128", OUTPUT_ROOT=str(out), PYTHON=PYTHON)  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"failed: {tmp_path}/none on {tokens}"
    assert f"error: no folder {tmp_path}/none" in done.stderr and "+ " in done.stdout
    assert sorted(os.listdir(out / "pg19")) == ["tiny_128_pg19.json", "tiny_64_pg19.json"]


@pytest.mark.parametrize("method", ["pi", "ntk", "yarn", "clex", "landmark", "lm_infinite", "selfextend"])
def test_scripts_per_method_call_their_entry_point(method, tmp_path):
    done = command("bash", STAGE / "scripts" / f"eval_{method}.sh", "--seed", 5, cwd=tmp_path, PYTHON="echo")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("+")]
    folders = [(checkpoint, dataset) for checkpoint in {"pi": 3, "ntk": 2}.get(method, 1) * "x" for dataset in "ab"]
    assert len(lines) == len(folders)
    for line in lines:
        assert line.startswith(f"eval_{method}.py --base_model ") and line.endswith("--seed 5")
        assert "--seq_len 2048 4096 8192 16384 32768 65536" in line
    assert "--data_path data/pg19/test.bin" in lines[0] and "--output_dir results/pg19" in lines[0]
    assert "--output_dir results/proof_file" in lines[1]
