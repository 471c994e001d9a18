"""tokenizer.py: every stage turns a text into the ids that the tokenizer's file defines."""

import importlib
import json
import shutil
import sys
from random import Random

import pytest
import sentencepiece
from tokenizers import Tokenizer, processors
from transformers import LlamaConfig

import tiny
from tokenizer import open_tokenizer
from transformers_engine import Transformers

TEXT = "  Spelt out: </s> and <s>.\n\tNo 12, é;  two spaces" * 3
BROKEN = (
    {"tokenizer.json": '{"version": "1.0", '},
    {"tokenizer_config.json": "[]"},
    {"tokenizer.json": None, "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["a.A", null]}}'},  # its own code
)


@pytest.fixture
def folder(base, tmp_path):
    return shutil.copytree(base, tmp_path / "base")


def stage_module(monkeypatch, folder: str, name: str):
    """A module of a stage; modules of two stages may have the same name."""
    monkeypatch.syspath_prepend(str(tiny.ROOT / folder))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


@pytest.mark.parametrize("kind", ["plain", "truncation", "eos", "labelled llama"])
def test_a_text_has_the_same_ids_in_every_stage(folder, monkeypatch, kind):
    path = str(folder / "tokenizer.json")
    saved = Tokenizer.from_file(path)
    saved.encode_special_tokens = True
    expected = saved.encode(TEXT).ids
    assert len(expected) == len(TEXT.encode()) + 1 and expected[0] == 0
    if kind == "truncation":
        saved.enable_truncation(8)
        saved.enable_padding(length=400)
    if kind == "eos":
        special_tokens = [("<s>", 0), ("</s>", 1)]
        saved.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special_tokens)
    if kind == "labelled llama":
        config = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    saved.save(path)

    tokenizer = open_tokenizer(str(folder))
    mixture = stage_module(monkeypatch, "continuous_finetuning", "documents").Mixture({"all": 1}, 0, 1)
    selected = mixture.select([(TEXT, "all")], tokenizer.backend_tokenizer, Random(0))
    ids = {"prepare_data": next(selected).tolist()}
    tokenize = stage_module(monkeypatch, "eval_perplexity", "prepare_data").tokenize
    ids["perplexity"] = tokenize(iter([TEXT]), tokenizer, 0, None)[0]
    haystack = stage_module(monkeypatch, "needle", "haystack")
    ids["needle"] = tokenizer("")["input_ids"] + haystack.encode_inside(tokenizer, TEXT)[0]
    prompts = stage_module(monkeypatch, "longbench", "prompts")
    ids["longbench"] = prompts.prompt_ids(tokenizer, TEXT, 1000, 1, "inside")[0]
    tokens = stage_module(monkeypatch, "ruler/data", "tokens")
    counter = tokens.Tokens(tokens.read_tokenizer(str(folder), False))
    ids["ruler"] = counter.tokenizer.encode(TEXT).ids
    assert counter.count(TEXT) == counter.count_whole(TEXT) == len(expected)
    engine = Transformers(str(folder), device="cpu")
    ids["engine"] = engine.tokenizer([TEXT], verbose=False)["input_ids"][0]
    assert {stage: wrong for stage, wrong in ids.items() if wrong != expected} == {}
    assert engine.decode(expected) == TEXT


@pytest.mark.parametrize("files", BROKEN)
def test_broken_tokenizers_are_named(folder, files):
    for name, content in files.items():
        (folder / name).unlink() if content is None else (folder / name).write_text(content)
    with pytest.raises(ValueError, match=f"{folder}.*") as caught:
        open_tokenizer(str(folder))
    assert "\n" not in str(caught.value)


def test_ids_beyond_the_vocabulary_are_found_before_the_model_runs(folder, monkeypatch):
    tokenizer = open_tokenizer(str(folder))
    tokenizer.add_tokens(["zebra"])
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    engine = Transformers(str(folder), device="cpu")
    assert engine.plan(engine.tokenizer(["horse"])["input_ids"], 1) == [[0]]
    with pytest.raises(ValueError, match="258"):
        engine.plan(engine.tokenizer(["horse", "zebra"])["input_ids"], 1)


@pytest.mark.parametrize("rules", [("identity", False), ("nmt_nfkc", True)])
def test_tokenizer_model_only(tmp_path, rules):
    (tmp_path / "texts").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    flags = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 300, "minloglevel": 2}
    flags["normalization_rule_name"], flags["remove_extra_whitespaces"] = rules
    prefix = str(tmp_path / "tokenizer")
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "texts"), model_prefix=prefix, **flags)
    LlamaConfig().save_pretrained(tmp_path)
    text = TEXT.replace("s>", "s")
    expected = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model").encode(text)
    for config in ({}, {"tokenizer_class": "LLaMATokenizer"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert open_tokenizer(str(tmp_path))(text)["input_ids"] == [1, *expected]
