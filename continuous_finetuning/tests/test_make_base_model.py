"""make_base_model.py: equal bits in every run; data files and look-up documents as described."""

import hashlib
import json
import random
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import make_base_model
import pocket_corpus as pocket
from scripts import fails

ROW_LENGTH, STEPS = 256, 40
SMALL = {"LOOKUP_ROWS": 8, "TOKENS_PER_STEP": 256, "THREADS": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """47 small modules of the standard library, two help pages, and files that must be left out."""
    folder = tmp_path_factory.mktemp("corpus")
    stdlib = Path(sysconfig.get_path("stdlib"))
    modules = [path for path in sorted(stdlib.glob("*.py")) if 3000 < path.stat().st_size < 20000]
    for path in modules[:47]:
        shutil.copyfile(path, folder / path.name)
    for name in ("test/test_x.py", "encodings/x.py", "site-packages/x.py", "json/tests/x.py", "_sysconfigdata_x.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("left_out = 1\n" * 300)
    (folder / "short.py").write_text("left_out = 1\n")
    (folder / "pydoc_data").mkdir()
    pages = {"lambda": "a page\n" * 500, "brief": "left_out"}
    (folder / "pydoc_data" / "topics.py").write_text(f"# comment\ntopics = {pages!r}\n")
    return folder


def make_base(output: Path, corpus: Path) -> dict[str, bytes]:
    """Runs the script with few steps; returns the files that it wrote."""
    with pytest.MonkeyPatch.context() as patch:
        flags = ["--output_dir", output, "--corpus_dir", corpus, "--extension_length", ROW_LENGTH, "--steps", STEPS]
        patch.setattr(sys, "argv", ["make_base_model.py", *map(str, flags)])
        for name, value in SMALL.items():
            patch.setattr(make_base_model, name, value)
        make_base_model.main()
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("[!.]*") if path.is_file()}


@pytest.fixture(scope="module")
def base(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("base")
    make_base(folder, corpus)
    return folder


@pytest.fixture(scope="module")
def texts(corpus):
    """(training, held out): lists of texts."""
    texts = list(pocket.read_corpus(corpus).values())
    return [text for i, text in enumerate(texts) if i % 12], texts[::12]


@pytest.fixture(scope="module")
def lookups(base, texts):
    return pocket.LookupDocuments(Tokenizer.from_file(str(base / "tokenizer.json")), texts[0])


def test_equal_bits_in_every_run(base, corpus, tmp_path, capsys):
    (tmp_path / "base" / "base.partial").mkdir(parents=True)
    (tmp_path / "base" / "base.partial" / "tmp").write_text("of a killed run")
    files = make_base(tmp_path / "base", corpus)
    assert len(files) == 9 and "is already finished" not in capsys.readouterr().out
    assert files == make_base(base, corpus) and "is already finished" in capsys.readouterr().out


def test_plain_transformers_opens_the_folder(base, texts):
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    text = "\ndef f(x_1):\n    return 'naïve' , 2024.5  # <spam> \t \U0001f40d\n" + texts[1][0][:5000]
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == model.config.bos_token_id == 0 and 0 not in ids[1:]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.tokenize(" 2024") == ["Ġ", "2", "0", "2", "4"]
    assert tokenizer.eos_token_id == model.config.eos_token_id == 1 and len(tokenizer) == model.config.vocab_size
    assert model.config.max_position_embeddings == 128 and model.generation_config.do_sample is False
    tokens_BL = torch.tensor(ids[: 8 * 128]).view(-1, 128)  # an untrained model has a loss above log(1024) = 6.9
    assert model(tokens_BL, labels=tokens_BL).loss < 6.5


def test_bad_input_exits_1_without_a_traceback(base, corpus, tmp_path):
    (tmp_path / "damaged" / "pydoc_data").mkdir(parents=True)
    (tmp_path / "damaged" / "pydoc_data" / "topics.py").write_text("topics = {'a': ")
    (tmp_path / "damaged" / "link.py").symlink_to("nothing")
    for flags, message in [
        (["--output_dir", base, "--corpus_dir", corpus, "--extension_length", ROW_LENGTH], "steps was 40"),
        (["--output_dir", tmp_path / "new", "--corpus_dir", tmp_path], "0 usable Python files"),
        (["--output_dir", tmp_path / "new", "--context_length", 64], "--context_length"),
        (["--output_dir", tmp_path / "new", "--corpus_dir", tmp_path / "damaged"], "topics.py"),
        (["--output_dir", tmp_path / "new", "--seed", 2**70], "--seed"),
        (["--output_dir", tmp_path / "new", "--steps", 0], "--steps"),
    ]:
        assert message in fails("make_base_model.py", *flags)
    assert not (tmp_path / "new" / "config.json").exists()


def test_corpus_has_sources_and_long_help_pages(corpus):
    documents = pocket.read_corpus(corpus)
    assert len(documents) == 48 and list(documents) == sorted(documents)
    assert documents["pydoc_data/topics/lambda"] == "a page\n" * 500
    assert not any("left_out" in text for text in documents.values())


def test_heldout_file_and_its_description(base, lookups, texts):
    raw = (base / "data" / "heldout" / "test.bin").read_bytes()
    description = json.loads((base / "data" / "heldout" / "test.bin.json").read_text())
    tokens_N = np.frombuffer(raw, dtype="<u2")
    assert description["sha256"] == hashlib.sha256(raw).hexdigest() and description["tokens"] == len(tokens_N)
    assert (description["source"], description["dtype"], description["vocab_size"]) == ("standin", "uint16", 1024)
    starts = np.flatnonzero(tokens_N == 0)
    assert len(starts) == description["documents"] == 4
    documents = [lookups.tokenizer.decode(ids[1:].tolist()) for ids in np.split(tokens_N, starts[1:])]
    assert sorted(documents) == sorted(texts[1])


def test_corpus_file_has_lookups_and_the_training_text(base, lookups, texts):
    documents = pandas.read_json(base / "data" / "corpus.jsonl", lines=True)
    is_passkey = documents.source == "passkey"
    passkeys, sections = documents.text[is_passkey].tolist(), documents.text[~is_passkey]
    assert documents.text[: len(passkeys)].tolist() == passkeys
    assert set(documents.source) == {"passkey", "python", "prose"}
    assert sections.str.len().sum() == sum(map(len, texts[0]))  # all of it, in sections
    assert sections.str.len().max() < pocket.SECTION_CHARACTERS + 1000
    assert all(any(section in text for text in texts[0]) for section in sections)
    # packed in this order, as prepare_data.py does, look-up documents fill whole rows
    ends = np.cumsum([len(ids) for ids in pocket.encode(lookups.tokenizer, passkeys)])
    assert ends[-1] == 8 * ROW_LENGTH and set(range(ROW_LENGTH, ends[-1], ROW_LENGTH)) <= set(ends.tolist())


@pytest.mark.parametrize("kind", ["passkeys", "numbers"])
def test_lookup_documents(lookups, kind):
    tokenizer, rng, depths = lookups.tokenizer, random.Random(0), []
    for i in range(400):
        length, facts = rng.choice([128, 200, 512]), rng.randint(1, 3)
        questions = rng.randint(1, facts)
        if i % 2:
            length, facts, questions = 512, 1, 1
        ids_L, weights_L = getattr(lookups, kind)(rng, length, facts, questions)
        assert ids_L.shape == weights_L.shape == (length,) and ids_L[0] == 0 and 0 not in ids_L[1:]
        is_text_L, is_answer_L = weights_L == pocket.TEXT_WEIGHT, weights_L == pocket.ANSWER_WEIGHT
        text_N = ids_L[is_text_L][1:]
        assert text_N.tobytes() in lookups.filler_N.tobytes()  # one stretch of text
        lines = tokenizer.decode(ids_L[~is_text_L].tolist())
        answers = np.split(ids_L, np.flatnonzero(np.diff(is_answer_L)) + 1)[1::2]
        assert 1 <= len(answers) <= questions and (len(answers) == questions or kind == "numbers")
        for answer in map(tokenizer.decode, map(np.ndarray.tolist, answers)):
            assert re.fullmatch(r"\d{4}" if kind == "passkeys" else r"[1-9]\d{3,6}", answer)
            end = "\n" if kind == "passkeys" else ".\n"
            assert 0 < lines.index(f" {answer}{end}") < lines.rindex(f" {answer}\n")  # stated, then asked for
        assert lines.endswith(f" {answer}\n")
        depths += [(np.argmin(is_text_L) - 1) / len(text_N)] if i % 2 else []
    quarters, _ = np.histogram(depths, bins=4, range=(0, 1))  # of 200 draws: 50 +- 6 in each quarter
    assert quarters.min() > 25 and quarters.sum() == 200
