"""Small tokenizers from the text of this Python, tiny checkpoints, and hand-written data and predictions."""

import sys
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import tiny

for folder in ("data", "pred", "eval"):
    sys.path.insert(0, str(tiny.STAGE / folder))

LLAMA3 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train(kind: str) -> Tokenizer:
    """A BPE of 3,000 entries as Llama 3 (here without BOS) or Llama 2 have it, the latter without a pre-tokenizer."""
    texts = list(topics.values())[:60]
    texts.append("The grass is green. The sky is blue. One of the special magic numbers for x is: 1.")
    special = ["<unk>", "<s>", "</s>"]
    alphabet = []
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    split = pre_tokenizers.Split(Regex(LLAMA3 if kind == "llama3" else r"\d|[^\w\s]"), "isolated")
    if kind == "llama3":
        joined = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        alphabet = joined.alphabet()
    else:
        joined = pre_tokenizers.Metaspace(prepend_scheme="first")
        special += [f"<0x{i:02X}>" for i in range(256)]
        texts = [text.replace("\n", " ") for text in texts]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, joined])
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    if kind == "llama2":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = None
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory):
    """A function: the folder of a tokenizer of that kind."""

    @cache
    def folder_of(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        train(kind).save(str(folder / "tokenizer.json"))
        return folder

    return folder_of


@pytest.fixture(scope="session")
def tokenizer_folder():
    return tiny.ROOT / "continuous_finetuning" / "pocket_base"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny Llama with a window of 512 tokens, which are bytes."""
    return tiny.save_base(tmp_path_factory.mktemp("tiny") / "model", max_position_embeddings=512)


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """The same with other weights."""
    folder = tmp_path_factory.mktemp("tiny") / "other"
    return tiny.save_base(folder, max_position_embeddings=512, initializer_range=0.2)


@pytest.fixture
def call(monkeypatch, capsys):
    """call(module, flags...) runs a script's main() in this process: (its output, its error or None)."""
    import run

    def call(module, *flags) -> tuple[str, str | None]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, flags)])
        error = None
        try:
            run.run_script(module.main)
        except SystemExit as status:
            error = str(status)
        printed = capsys.readouterr()
        return printed.out + printed.err, error

    return call
