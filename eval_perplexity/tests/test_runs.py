"""Whole runs: documented commands, kills, several processes, bad input, data preparation, launchers."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import eval_ppl
import prepare_data
from conftest import content, documents, write_tokens
from store import Store
from tiny import STAGE, python, run, start_second

LINKS = sorted(path.name for path in STAGE.glob("eval_*.py") if path.is_symlink())


def test_readme_command(evaluate, tmp_path):
    out = tmp_path / "results" / "pg19" / "pi_pg19.json"
    printed = evaluate("--seq_len", 128, "--batch_size", 1, "--output_dir", out, script="eval_pi.py")
    assert f"{out}: perplexity" in printed
    result = json.loads(out.read_text())
    assert result["seconds"] > 0 and result["peak_memory_bytes"] > 1e7 and "eval_pi.py" in result["command"]
    assert os.listdir(out.parent) == ["pi_pg19.json"]  # nothing else is left in the folder
    with pytest.raises(SystemExit, match="^error: eval_yarn.py does not take .*, a base checkpoint"):
        evaluate("--seq_len", 128, "--output_dir", tmp_path / "yarn", script="eval_yarn.py")
    assert len(LINKS) == 7 and {(STAGE / name).resolve().name for name in LINKS} == {"eval_ppl.py"}


class Killed(BaseException):
    """A kill, which no code catches."""


def test_killed_and_sharded_runs_end_like_an_undisturbed_one(evaluate, checkpoint, tokens, tmp_path, monkeypatch):
    flags = ["--base_model", checkpoint, "--data_path", tokens, "--seq_len", 200, "--sliding_window", 50]
    flags += ["--batch_size", 2, "--output_dir"]
    whole, killed, sharded, other = (tmp_path / name / "one.json" for name in ("whole", "killed", "sharded", "other"))
    evaluate(*flags, whole)
    recorded, append = [], Store.append

    def append_five(store, entry):
        if len(recorded) == 5:  # half of the third batch
            raise Killed
        recorded.append(entry)
        append(store, entry)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Store, "append", append_five)
        evaluate(*flags, killed)
    assert not killed.exists()
    with killed.with_name("one.progress.jsonl").open("a") as file:
        file.write('{"start": 0}\n{"start": 79')  # a line that is no whole record, and a last line that is cut off

    # two ranks resume, and end with the same result
    shutil.copytree(killed.parent, sharded.parent)
    shutil.copytree(killed.parent, other.parent)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert python(*torchrun, "eval_ppl.py", *flags, sharded).count("resuming, 5 of") == 1
    assert "resuming, 5 of" in evaluate(*flags, killed)
    assert content(killed) == content(whole) == content(sharded)
    assert json.loads(sharded.read_text())["processes"] == 2
    assert os.listdir(killed.parent) == os.listdir(sharded.parent) == ["one.json"]
    assert "already done" in evaluate(*flags, killed)
    assert "resuming, 5 of" in evaluate(*flags, other, "--batch_size", 3)
    assert content(other)["val_loss"] == pytest.approx(content(whole)["val_loss"], rel=1e-5)


def test_results_of_other_settings_are_set_aside_and_one_document_has_no_interval(evaluate, tmp_path):
    out = tmp_path / "a.json"
    flags = ["--seq_len", 30, "--sliding_window", 5, "--documents", 1, "--output_dir", out]
    evaluate(*flags, "--max_windows", 2)
    few = content(out)
    assert few["perplexity_interval_95"] is None and few["n_sampled_documents"] == 1
    assert "moved to old/ (other max_windows)" in evaluate(*flags)
    assert few["n_windows"] == 2 < few["n_windows_total"] == content(out)["n_windows"]
    assert content(tmp_path / "old" / "a.json") == few


def test_losses_that_are_not_finite_are_an_error(evaluate, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit, match=r"^error: the losses of \S+/broken are not finite"):
        evaluate("--base_model", folder, "--seq_len", 128, "--max_windows", 4, "--output_dir", tmp_path / "out")


# --- bad input
def test_bad_input_is_one_line_before_the_model(evaluate, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_ppl, "load_scored_model", lambda *_: pytest.fail("the model was loaded"))
    large = write_tokens(tmp_path / "large" / "test.bin", [*documents(9), 0, 65_000, *documents(4)])
    other = write_tokens(tmp_path / "other" / "test.bin", documents(13), sha256="0")
    empty = write_tokens(tmp_path / "empty" / "test.bin", [])
    copy = shutil.copytree(checkpoint, tmp_path / "tiny")
    broken = [write_tokens(tmp_path / name / "test.bin", documents(13)) for name in ("cut", "type")]
    for path, sidecar in zip(broken, ('{"sha', '{"dtype": "uint99"}'), strict=True):
        path.with_name("test.bin.json").write_text(sidecar)
    wide = write_tokens(tmp_path / "wide" / "test.bin", documents(13), "int32", dtype="uint16")
    np.save(tmp_path / "test.npy", np.array(documents(13), dtype="uint16"))
    cases = [
        (["--data_path", broken[0]], "test.bin.json is broken"),
        (["--data_path", broken[1]], "test.bin.json is broken"),
        (["--data_path", other], "test.bin.json does not describe"),
        (["--data_path", empty], "has 0 bytes"),
        (["--data_path", wide], "wider integers than uint16"),
        (["--data_path", tmp_path / "test.npy", "--documents", 1], "npy file"),
        (["--data_path", tmp_path / "no.bin"], "no token file .*prepare_data.py"),
        (["--data_path", large], "token id 65000.*the model has 258 tokens"),
        (["--base_model", checkpoint, copy], "--output_dir"),
        (["--base_model", tmp_path / "none"], "no folder .*none"),
        (["--documents", 14], "holds 13 documents, not 14"),
        (["--seq_len", 5000], "windows of 5000 tokens every 256 need more than 5256 tokens"),
        (["--seq_len", 1], "must be from 2"),
        (["--seq_len", 64, 128, "--output_dir", tmp_path / "one.json"], "one file, for one checkpoint and length"),
    ]
    for flags, message in cases:
        with pytest.raises(SystemExit, match=f"^error: .*{message}") as stopped:
            evaluate("--seq_len", 128, "--output_dir", tmp_path / "out", *flags)
        assert "\n" not in str(stopped.value)
    assert not (tmp_path / "out").exists()


# --- data preparation
@pytest.fixture
def prepare(run_main, checkpoint):
    """prepare(output, flags...) runs prepare_data.py with the tokenizer of `checkpoint`; returns the sidecar."""

    def call(output, *flags):
        run_main(prepare_data.main, "--tokenizer", checkpoint, "--output", output, *flags)
        return json.loads(output.with_name(output.name + ".json").read_text())

    return call


def test_a_second_process_of_prepare_data_waits(checkpoint, tmp_path, prepare, monkeypatch):
    (tmp_path / "a.txt").write_text("a text")
    out = tmp_path / "books" / "test.bin"
    flags = ["--dataset", tmp_path / "a.txt", "--tokenizer", checkpoint, "--output", out]
    second = start_second(monkeypatch, prepare_data, "write_bytes", "prepare_data.py", *flags)
    prepare(out, "--dataset", tmp_path / "a.txt")
    assert f"{out}: 1 documents" in second[0].communicate()[0] and second[0].returncode == 0


def test_prepare_data_round_trip(checkpoint, tmp_path, prepare, evaluate):
    texts = [f"book {i}: " + "the text of a book, " * (5 + i) for i in range(12)]
    texts[3] += "<s> is how a document begins"  # but not here
    folder = tmp_path / "texts[1]"
    folder.mkdir()
    for i, text in enumerate(texts[:6]):
        (folder / f"{i}.txt").write_text(text)
    records = [{"body": text, "date": i if i % 2 else "unknown"} for i, text in enumerate([*texts[6:], None])]
    lines = [json.dumps(record) + "\r\n\r\n" for record in records]
    (folder / "more.jsonl").write_bytes(("\ufeff" + "".join(lines)).encode())  # as Windows tools write it
    (folder / "latin.md").write_bytes(b"\xe4")
    out = tmp_path / "books" / "test.bin"
    flags = ("--dataset", folder, "--text_column", "body")
    sidecar = prepare(out, *flags)

    tokens = np.fromfile(out, dtype="<u2")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    parts = np.split(tokens, np.flatnonzero(tokens == tokenizer.bos_token_id)[1:])
    assert [tokenizer.decode(part[1:]) for part in parts] == texts
    assert (sidecar["source"], sidecar["dtype"], sidecar["documents"]) == ("user", "uint16", 12)
    assert (sidecar["tokens"], sidecar["vocab_size"]) == (len(tokens), len(tokenizer))
    evaluate("--data_path", out, "--seq_len", 64, "--output_dir", tmp_path)
    data = content(tmp_path / "tiny_64_books.json")["data"]
    assert (data["source"], data["sha256"], data["dataset"]) == ("user", sidecar["sha256"], str(folder))

    bare = shutil.copytree(checkpoint, tmp_path / "bare")
    (bare / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    longest = max(map(len, parts))
    assert prepare(out, *flags, "--min_tokens", longest)["tokens"] == longest  # only that document
    assert prepare(out, *flags, "--max_documents", 2)["tokens"] == len(parts[0]) + len(parts[1])
    for bad, message in [
        (("--text_column", "text"), "more.jsonl has no text, only body, date"),
        (("--text_column", "date"), "is int, not text; give --text_column"),
        (("--dataset", folder / "latin.md"), "latin.md"),
        (("--dataset", tmp_path / "no.txt"), "no.txt"),
        (("--tokenizer", tmp_path), "no tokenizer in"),
        (("--tokenizer", bare), "bare names no BOS and no EOS"),
        (("--min_tokens", 10**6), "no document has 1000000 tokens"),
    ]:
        with pytest.raises(SystemExit, match=f"^error: .*{message}"):
            prepare(out, *flags, *bad)
    assert sorted(path.name for path in out.parent.glob("[!.]*")) == ["test.bin", "test.bin.json"]


def test_only_the_benchmark_texts_are_official(tmp_path, monkeypatch, prepare):
    calls = []
    monkeypatch.setattr(prepare_data, "hub_documents", lambda *words: calls.append(words) or ["some text", "more text"])
    sources = []
    for flags in (["pg19"], ["emozilla/pg19"], ["emozilla/pg19", "--split", "train"], ["someone/pg19"]):
        sources.append(prepare(tmp_path / "test.bin", "--dataset", *flags)["source"])
    assert sources == ["official", "official", "user", "user"]
    assert calls[0] == ("emozilla/pg19-test", "test", "text") and calls[2][1] == "train"


# --- launchers
def test_scripts_per_method_call_their_entry_point(tmp_path):
    for script in LINKS:
        launcher = STAGE / "scripts" / script.replace(".py", ".sh")
        printed = run("bash", launcher, "--seed", 5, cwd=tmp_path, PYTHON="echo", OUTPUT_ROOT="out")
        first, second = [line for line in printed.splitlines() if not line.startswith("+")]  # one for each data set
        assert first.startswith(f"{script} --base_model ") and first.endswith("--seed 5")
        assert "--seq_len 2048 4096 8192 16384 32768 65536" in first and "--data_path data/pg19/test.bin" in first
        assert "--data_path data/proof_file/test_sampled_data.bin" in second and "--output_dir out/proof_file" in second
    # named after their folders, or after the files where a folder's name says nothing
    run("bash", STAGE / "eval.sh", PYTHON="echo", DATASETS="a.bin b.bin data/a.bin data/b.bin data/b.bin x/y/c.bin")
    for twice, paths in {"y": "x/y/a.bin z/y/b.bin", "data/a": "data/a.bin z/data/a.bin"}.items():
        out = run("bash", STAGE / "eval.sh", expect=1, PYTHON="echo", DATASETS=paths)
        assert out.startswith("error: ") and f"called {twice} " in out
