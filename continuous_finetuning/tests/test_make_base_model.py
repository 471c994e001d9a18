"""make_base_model.py and make_pocket_data.py: rows, equal bits in every run, resume, and what is held out."""

import json
import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import make_base_model
import pocket_corpus as pocket
import python_text
from scripts import fails, run_here

LENGTH = 256
SMALL = {"TOKENS_PER_STEP": 512, "LOG_STEPS": 5, "SAVE_STEPS": 5}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Forty small modules of the standard library, and files that must be left out."""
    folder = tmp_path_factory.mktemp("corpus")
    stdlib = Path(sysconfig.get_path("stdlib"))
    modules = [path for path in sorted(stdlib.glob("*.py")) if 3000 < path.stat().st_size < 20000]
    for path in modules[:40]:
        shutil.copyfile(path, folder / path.name)
    for name in ("test/test_x.py", "encodings/x.py", "site-packages/x.py", "json/tests/x.py", "_sysconfigdata_x.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("left_out = 1\n" * 300)
    (folder / "short.py").write_text("left_out = 1\n")
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def make_base(patch, output: Path, corpus: Path) -> None:
    """Makes a base of 20 steps."""
    for name, value in SMALL.items():
        patch.setattr(make_base_model, name, value)
    patch.setattr(pocket, "NUMBER_WEIGHT", 30)  # training on the numbers takes as long as all the rest
    patch.setattr(sys, "argv", ["", "--output_dir", str(output), "--corpus_dir", str(corpus), "--steps", "20"])
    make_base_model.main()


@pytest.fixture(scope="module")
def base(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        make_base(patch, folder, corpus)
    return folder


@pytest.fixture(scope="module")
def text(corpus):
    return pocket.Corpus(corpus)


@pytest.fixture(scope="module")
def rows(base, text):
    return pocket.Rows(Tokenizer.from_file(str(base / "tokenizer.json")), text.texts)


def test_a_killed_run_resumes_to_equal_bits(base, corpus, tmp_path, monkeypatch, capsys):
    def kill_after_the_second(*args):
        saved.append(args)
        save(*args)
        if len(saved) == 2:
            raise KeyboardInterrupt

    saved, save = [], make_base_model.save_state
    monkeypatch.setattr(make_base_model, "save_state", kill_after_the_second)
    with pytest.raises(KeyboardInterrupt):
        make_base(monkeypatch, tmp_path, corpus)
    make_base(monkeypatch, tmp_path, corpus)
    assert len(saved) == 4  # after steps 5 and 10, then 15 and 20
    assert read_files(tmp_path) == read_files(base)
    log = (tmp_path / "training_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [5, 10, 15, 20]
    make_base(monkeypatch, tmp_path, corpus)
    assert "is already finished" in capsys.readouterr().out


def test_plain_transformers_opens_the_folder(base, text):
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    code = "\ndef f(x_1):\n    return 'naïve' , 2024.5  # <spam> \t \U0001f40d\n" + text.texts[0][:5000]
    ids = tokenizer(code)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == model.config.bos_token_id == 0 and 0 not in ids[1:]
    assert tokenizer.decode(ids, skip_special_tokens=True) == code
    assert tokenizer.tokenize(" 2024") == ["Ġ", "202", "4"]
    assert tokenizer.eos_token_id == model.config.eos_token_id == 1 and len(tokenizer) == model.config.vocab_size
    assert model.config.max_position_embeddings == LENGTH and model.generation_config.do_sample is False
    tokens_BL = torch.tensor(ids[: 4 * LENGTH]).view(-1, LENGTH)
    untrained = make_base_model.make_model(LENGTH)
    with torch.no_grad():
        assert model(tokens_BL, labels=tokens_BL).loss < untrained(tokens_BL, labels=tokens_BL).loss


def test_bad_input_exits_1_without_a_traceback(base, corpus, tmp_path):
    new = ["--output_dir", tmp_path / "new", "--corpus_dir", corpus]
    for flags, message in [
        (["--output_dir", base, "--steps", 21], "steps was 20"),
        (["--corpus_dir", tmp_path], "0 usable Python files"),
        (["--context_length", 64], "--context_length"),
        (["--seed", 2**70], "--seed"),
        (["--steps", 0], "--steps"),
    ]:
        assert message in fails("make_base_model.py", *new, *flags)
    assert not (tmp_path / "new" / "config.json").exists()
    data_flags = ["--tokenizer", tmp_path, "--length", 256, "--rows", 1]
    assert "no tokenizer" in fails("make_pocket_data.py", *new, *data_flags)


def test_rows_mark_the_tokens_of_the_answers(rows, text):
    for task in pocket.TASK_SHARES:
        rows_with_answers = 0
        for seed in range(10):
            ids_L, weights_L, answers_L = rows.task_row(text.draw(f"{task} {seed}"), task, LENGTH, 0.5)
            assert ids_L.shape == weights_L.shape == answers_L.shape == (LENGTH,)
            assert ids_L[0] == 0
            rows_with_answers += answers_L.max() >= 0
            assert np.array_equal(weights_L == pocket.ANSWER_WEIGHT, answers_L >= 0)
            row = rows.tokenizer.decode(ids_L.tolist())
            for number in range(answers_L.max() + 1):
                assert rows.tokenizer.decode(ids_L[answers_L == number].tolist()).strip() in row
        assert rows_with_answers > 7


def test_documents_for_the_extension_fill_whole_rows(base, rows, text, corpus, tmp_path):
    flags = ["--tokenizer", base, "--length", 512, "--rows", 6, "--output_dir", tmp_path, "--corpus_dir", corpus]
    run_here("make_pocket_data.py", *flags)
    documents = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    sources = [document["source"] for document in documents]
    assert set(sources) == {"task", "python", "prose"}
    tasks = [document["text"] for document in documents if document["source"] == "task"]
    assert sources == ["task"] * len(tasks) + sources[len(tasks) :]  # they come first
    lengths = [len(rows.tokenizer.encode(text).ids) for text in tasks]
    ends = set(np.cumsum(lengths).tolist())
    assert max(ends) == 6 * 512 and set(range(512, 6 * 512, 512)) <= ends
    for document in documents[len(tasks) :]:
        texts = text.sources if document["source"] == "python" else text.prose
        assert any(document["text"] in whole for whole in texts.values())
    heldout = [json.loads(line)["text"] for line in (tmp_path / "heldout.jsonl").read_text().splitlines()]
    assert heldout == list(python_text.read_sources(corpus, held_out=True).values())
    assert len(text.sources) + len(heldout) == 40 and heldout and not set(text.sources.values()) & set(heldout)
