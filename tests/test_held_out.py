"""What the pocket study evaluates with does not occur in what its base and its extensions are trained on."""

import hashlib
import json
import sys
import sysconfig
from pathlib import Path

import pytest

import make_pocket_data
import pocket_corpus
import pocket_tasks
import python_text
from tiny import ROOT, python

BASE = ROOT / "continuous_finetuning" / "pocket_base"
LIBRARY = Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="module")
def trained_text(tmp_path_factory) -> str:
    """The text of the training, the documents of some of the base's steps, and the extension's documents."""
    corpus = pocket_corpus.Corpus(LIBRARY)
    texts = [*corpus.texts]
    for step in range(200):
        draw = corpus.draw(f"base 0 {step}")
        for task in pocket_tasks.TASKS:
            texts.append(pocket_tasks.draw_document(draw, task, 600, draw.random()).text)
    folder = tmp_path_factory.mktemp("pocket_data")
    flags = ["--tokenizer", BASE, "--length", 1024, "--rows", 40, "--output_dir", folder]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_pocket_data, "Corpus", lambda _: corpus)  # it takes seconds to read
        patch.setattr(sys, "argv", ["make_pocket_data.py", *map(str, flags)])
        make_pocket_data.main()
    texts += [json.loads(line)["text"] for line in (folder / "corpus.jsonl").read_text().splitlines()]
    return "\n".join(texts)


def test_no_passage_of_the_held_out_text_is_trained_on(trained_text):
    """By hash, from every beginning of a line."""
    trained = python_text.passages(trained_text)
    held_out = python_text.read_sources(LIBRARY, held_out=True)
    assert len(held_out) > 10
    for text in [*held_out.values(), *python_text.read_help_pages().values()]:
        assert trained.isdisjoint(python_text.passages(text))


def test_no_line_of_the_generated_prompts_is_trained_on(trained_text, tmp_path):
    """By search: questions, facts and examples of the sets of the longbench stage."""
    flags = ["--words", 200, "--rows", 20, "--shots", 16, "--classes", 4, "--output_dir", tmp_path]
    sets = ["qasper", "multifieldqa_en", "passage_retrieval_en"]
    python("make_standin.py", "--sets", *sets, *flags, cwd=ROOT / "longbench")
    for path in tmp_path.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            assert row["input"] not in trained_text
            for text in row["context"].replace(". ", ".\n").splitlines():
                assert len(text) < 60 or text not in trained_text


def test_the_card_names_the_weights_that_are_there():
    weights = (BASE / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in (BASE / "README.md").read_text()
    assert sum(path.stat().st_size for path in BASE.iterdir()) < 10e6
