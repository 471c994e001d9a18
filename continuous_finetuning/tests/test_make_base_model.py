"""make_base_model.py: the same bits every time; data files, passkey and number documents as described."""

import hashlib
import json
import random
import re
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import make_base_model
import pocket_corpus as pocket
from scripts import fails, run_here

ROW_LENGTH = 256
TINY = ["--vocab_size", 512, "--hidden_size", 32, "--num_hidden_layers", 1, "--extension_length", ROW_LENGTH]
TINY += ["--passkey_rows", 8, "--steps", 40, "--threads", 1]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """48 small modules of the standard library, and things that must be left out."""
    folder = tmp_path_factory.mktemp("corpus")
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path in [path for path in sorted(stdlib.glob("*.py")) if 3000 < path.stat().st_size < 20000][:48]:
        shutil.copyfile(path, folder / path.name)
    for name in ("test/test_x.py", "encodings/x.py", "site-packages/x.py", "json/tests/x.py", "_sysconfigdata_x.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("left_out = 1\n" * 300)
    (folder / "short.py").write_text("left_out = 1\n")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, corpus):
    """A finished tiny base."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    run_here("make_base_model.py", "--output_dir", folder, "--corpus_dir", corpus, *TINY)
    return folder


@pytest.fixture(scope="module")
def texts(corpus):
    """(training, held out), lists."""
    return [list(texts.values()) for texts in pocket.split_corpus(pocket.read_corpus(corpus))]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return Tokenizer.from_file(str(tiny / "tokenizer.json"))


def test_same_seed_same_bits(tiny, corpus, tmp_path):
    command = ["make_base_model.py", "--output_dir", tmp_path, "--corpus_dir", corpus, *TINY]
    run_here(*command)
    assert contents(tmp_path) == contents(tiny)
    names = {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    names |= {"run.json", "data/corpus.jsonl", "data/heldout/test.bin", "data/heldout/test.bin.json"}
    assert set(contents(tiny)) == names
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run_here(*command).endswith("is already finished\n")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_bad_input(tiny, corpus, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    new = tmp_path / "new"
    for flags, message in [
        (["--output_dir", tiny, "--corpus_dir", corpus, *TINY, "--seed", 1], "seed was 0, now it is 1"),
        (["--output_dir", tmp_path / "other"], "did not write"),
        (["--output_dir", new, "--corpus_dir", tmp_path / "empty"], "0 usable Python source files, 24 are needed"),
        (["--output_dir", new, "--vocab_size", 300], "--vocab_size"),
        (["--output_dir", new, "--corpus_dir", corpus, "--vocab_size", 50000], "too little text"),
        (["--output_dir", new, "--context_length", 64], "--context_length"),
        (["--output_dir", new, "--extension_length", 128], "--extension_length"),
        (["--output_dir", new, "--hidden_size", 100], "multiple of 32"),
    ]:
        assert message in fails("make_base_model.py", *flags)
    assert not (new / "config.json").exists()


def test_plain_transformers_opens_the_folder(tiny, texts):
    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModelForCausalLM.from_pretrained(tiny)
    text = "\ndef f(x_1):\n    return 'naïve' , 2024.5  # <spam> \t \U0001f40d\n" + texts[1][0][:5000]
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == model.config.bos_token_id == 0 and 0 not in ids[1:]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.tokenize(" 2024") == ["Ġ", "2", "0", "2", "4"]
    assert (tokenizer.eos_token_id, model.config.eos_token_id) == (1, 1) and len(tokenizer) == model.config.vocab_size
    assert model.dtype == torch.float32 and model.config.tie_word_embeddings
    assert model.config.max_position_embeddings == 128
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert model.generation_config.do_sample is False
    tokens_N = torch.from_numpy(np.fromfile(tiny / "data" / "heldout" / "test.bin", dtype="<u2").astype(np.int64))
    with torch.no_grad():  # of 512 tokens: forty steps learn which ones are common
        assert model(tokens_N[:1280].view(-1, 128), labels=tokens_N[:1280].view(-1, 128)).loss.exp() < 400


def make_batches(tokenizer, training_texts, **settings):
    args = type("Args", (), {"seed": 0, "steps": 40, "context_length": 128, **settings})
    documents = pocket.encode_documents(tokenizer, training_texts)
    return make_base_model.Batches(documents, pocket.common_words(training_texts), tokenizer, args)


def test_corpus_is_split_and_leaves_out_what_it_should(corpus):
    documents = pocket.read_corpus(corpus)
    assert len(documents) == 48 and list(documents) == sorted(documents)
    assert not any("left_out" in text for text in documents.values())
    training, heldout = pocket.split_corpus(documents)
    assert len(training) == 36 and len(heldout) == 12 and {**training, **heldout} == documents
    training, heldout = pocket.split_corpus({str(i): str(i) for i in range(500)})
    assert list(heldout) == [str(i) for i in range(0, 500, 12)] and len(training) == 500 - len(heldout)


def test_topics_of_pydoc_are_documents(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    (tmp_path / "corpus" / "pydoc_data").mkdir()
    pages = {"lambda": "a\n" * 1500, "brief": "b"}
    (tmp_path / "corpus" / "pydoc_data" / "topics.py").write_text(f"# made by hand\ntopics = {pages!r}\n")
    documents = pocket.read_corpus(tmp_path / "corpus")
    assert documents["pydoc_data/topics/lambda"] == pages["lambda"] and len(documents) == 49


def test_heldout_file_and_its_note(tiny, tokenizer, texts):
    raw = (tiny / "data" / "heldout" / "test.bin").read_bytes()
    note = json.loads((tiny / "data" / "heldout" / "test.bin.json").read_text())
    tokens_N = np.frombuffer(raw, dtype="<u2")
    assert note["sha256"] == hashlib.sha256(raw).hexdigest() and note["tokens"] == len(tokens_N)
    assert note["source"] == "standin" and note["dtype"] == "uint16" and note["vocab_size"] == 512 > tokens_N.max()
    starts = np.flatnonzero(tokens_N == 0)
    assert len(starts) == note["documents"] == 12 and starts[0] == 0
    written = {tokenizer.decode(part[1:].tolist()) for part in np.split(tokens_N, starts[1:])}
    assert written == set(texts[1])


def test_corpus_file_holds_the_training_text_and_passkeys(tiny, corpus, tokenizer, texts):
    lines = [json.loads(line) for line in (tiny / "data" / "corpus.jsonl").read_text().splitlines()]
    sources = [line["source"] for line in lines]
    passkeys = [line["text"] for line in lines if line["source"] == "passkey"]
    others = [line["text"] for line in lines if line["source"] == "python"]
    assert sources == ["passkey"] * len(passkeys) + ["python"] * len(others)
    assert all(len(text) < pocket.SECTION + 1000 for text in others)
    sections = [section for text in texts[0] for section in pocket.sections(text)]
    assert sorted(others) == sorted(sections) and others != sections  # all of the training text, shuffled
    assert "".join(pocket.sections("a\n\x0cb\r" * 9000 + "end")) == "a\n\x0cb\r" * 9000 + "end"

    # tokenised as prepare_data.py does and packed in this order, the passkey documents fill whole rows
    ids = [pocket.encode_documents(tokenizer, [text])[0] for text in passkeys]
    ends = np.cumsum([len(one) for one in ids])
    assert ends[-1] == 8 * ROW_LENGTH and set(range(ROW_LENGTH, ends[-1] + 1, ROW_LENGTH)) <= set(ends.tolist())
    everything = b"".join(document.tobytes() for document in pocket.encode_documents(tokenizer, texts[0]))
    for one in ids:
        document = tokenizer.decode(one.tolist(), skip_special_tokens=False)
        keys = [line for line in document.split("\n") if line.startswith("# key ")]
        if not keys:
            number = re.search(r"(\d{4,7})\n$", document)[1]  # what is asked for last
            assert len(re.findall(rf"\b{number}\b", document)) >= 2
            continue
        assert len(keys) >= 2 and all(keys.count(line) == 2 for line in keys) and document.endswith(keys[-1] + "\n")
        first = document.removeprefix("<s>").split("\n# key ")[0]  # text up to the first fact
        assert pocket.encode_documents(tokenizer, [first])[0][1:].tobytes() in everything


def test_corpus_names_help_pages_prose(tmp_path):
    pocket.write_corpus({"pydoc_data/topics/if": "a page\n", "os.py": "code\n"}, ["key\n"], 0, tmp_path / "c.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert lines[0] == {"text": "key\n", "source": "passkey"}
    assert {line["text"]: line["source"] for line in lines[1:]} == {"a page\n": "prose", "code\n": "python"}


def test_passkey_texts_fill_rows_of_any_length(tokenizer, texts):
    filler_N = np.concatenate([document[1:] for document in pocket.encode_documents(tokenizer, texts[0])])
    drawn = (331, 10, pocket.passkey_keys(tokenizer), pocket.common_words(texts[0]), filler_N, tokenizer)
    passkeys = pocket.passkey_texts(random.Random(0), *drawn)
    ends = np.cumsum([len(ids) for ids in pocket.encode_documents(tokenizer, passkeys)]).tolist()
    assert set(range(331, 3311, 331)) <= set(ends) and ends[-1] == 3310
    assert passkeys == pocket.passkey_texts(random.Random(0), *drawn)
    assert passkeys != pocket.passkey_texts(random.Random(1), *drawn)


def test_passkey_documents(tokenizer, texts):
    filler_N = np.concatenate([document[1:] for document in pocket.encode_documents(tokenizer, texts[0])])
    keys = pocket.passkey_keys(tokenizer)
    bos, rng, depths = tokenizer.token_to_id("<s>"), random.Random(0), []
    for i in range(400):
        length, facts = rng.choice([128, 200, 512]), rng.randint(1, 3)
        questions = rng.randint(1, facts)
        if i % 2:
            length, facts, questions = 512, 1, 1
        ids_L, kinds_L = pocket.passkey_document(rng, length, facts, questions, keys, filler_N, tokenizer)
        assert ids_L.shape == kinds_L.shape == (length,) and ids_L[0] == bos and bos not in ids_L[1:]
        text = tokenizer.decode(ids_L.tolist(), skip_special_tokens=True)
        lines = [line[len("# key ") :].split(" is ") for line in text.split("\n") if line.startswith("# key ")]
        stated, asked = lines[:facts], lines[facts:]
        assert len(asked) == questions and len(dict(stated)) == facts and len(dict(asked)) == questions
        assert all(line in stated and len(line[1]) == 4 for line in asked)
        answers = tokenizer.decode(ids_L[kinds_L == pocket.ANSWER].tolist())
        assert answers == "".join(value for _, value in asked) and text.endswith(f" is {asked[-1][1]}\n")
        assert ids_L[kinds_L == pocket.FILLER][1:].tobytes() in filler_N.tobytes()  # one stretch of text, uncut
        if i % 2:
            depths.append(np.argmax(kinds_L == pocket.LINE) / (512 - 2 * 11))
    counts = np.histogram(depths, bins=4, range=(0, 1))[0]  # 200 draws: 50 +- 6 in each quarter
    assert counts.min() > 25 and counts.sum() == 200
    with pytest.raises(ValueError, match="3 facts and 3 questions take"):
        pocket.passkey_document(rng, 64, 3, 3, keys, filler_N, tokenizer)


def test_number_documents(tokenizer, texts):
    filler_N = np.concatenate([document[1:] for document in pocket.encode_documents(tokenizer, texts[0])])
    words, rng, wordings = pocket.common_words(texts[0]), random.Random(0), set()
    assert words == sorted(set(words)) and pocket.common_words(["seen once, seen twice"], 1) == ["seen"]
    for _ in range(300):
        length, facts, questions = rng.choice([64, 128, 512]), rng.randint(1, 3), rng.randint(1, 3)
        ids_L, kinds_L = pocket.number_document(rng, length, facts, questions, words, filler_N, tokenizer)
        assert ids_L.shape == kinds_L.shape == (length,) and ids_L[0] == tokenizer.token_to_id("<s>")
        answer = tokenizer.decode(ids_L[kinds_L == pocket.ANSWER].tolist())
        stretches = np.split(ids_L, np.flatnonzero(np.diff(kinds_L == pocket.ANSWER)) + 1)[1::2]
        asked = [tokenizer.decode(ids.tolist()) for ids in stretches]
        assert "".join(asked) == answer and 1 <= len(asked) <= questions
        lines = tokenizer.decode(ids_L[kinds_L != pocket.FILLER].tolist())
        for number in asked:  # stated once, ending with a full stop, before all questions
            assert re.fullmatch(r"[1-9]\d{3,6}", number) and lines.count(f" {number}.\n") == 1
            assert lines.index(f" {number}.\n") < lines.index(f" {number}\n")
        assert lines.endswith(f" {asked[-1]}\n") and ids_L[kinds_L == pocket.FILLER][1:].tobytes() in filler_N.tobytes()
        if length == 512:
            assert len(asked) == questions
        patterns = [re.sub(r"\\{\w+\\}", ".+", re.escape(statement)) for statement, _ in pocket.NUMBERS]
        wordings.update(
            i for i, pattern in enumerate(patterns) if re.search(f"^{pattern} \\d+\\.$", lines, re.MULTILINE)
        )
    assert wordings == set(range(len(pocket.NUMBERS)))


def test_batches_depend_on_seed_and_step_alone(tokenizer, texts):
    batches = make_batches(tokenizer, texts[0])
    again = make_batches(tokenizer, texts[0])
    other = make_batches(tokenizer, texts[0], seed=1)
    for step, shape in [(39, (16, 128)), (0, (32, 64)), (19, (32, 64)), (20, (16, 128))]:
        ids_BL, weight_BL = batches(step)
        assert ids_BL.shape == weight_BL.shape == shape and set(np.unique(weight_BL)) == {1.0, np.float32(0.2), 6.0}
        assert np.array_equal(ids_BL, again(step)[0]) and not np.array_equal(ids_BL, other(step)[0])


def test_learning_rate():
    rates = [make_base_model.learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] == 1 / 50 and rates[49] == rates[300] == 1.0 and rates[650] == pytest.approx(0.525)
    assert rates[-1] == pytest.approx(0.05, abs=2e-3)
