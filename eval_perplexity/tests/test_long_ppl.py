"""LongPPL: key tokens of a copied passage, the formula in float64, published lists, and the package `longppl`."""

import itertools
import math
import os
import random
import string
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import eval_ppl
import long_ppl
import tiny
from conftest import content, documents, full_losses, write_tokens
from rope import RopeSetter
from stats import mean_over_documents

CONTEXT, STRIDE, LENGTH = 16, 8, 90
GAIN, LOSS = 0.2, 7.0  # for random weights, which predict little
FLAGS = ["--seq_len", LENGTH, 12, 60, "--short_context", CONTEXT, "--short_stride", STRIDE, "--max_windows", 2]


class Induction(torch.nn.Module):
    """Where the last three tokens occurred before, predicts with certainty `sure` what followed them, else nothing."""

    def __init__(self, sure: float):
        super().__init__()
        self.sure, self.device = math.log(sure / (1 - sure) * 257), torch.device("cpu")
        self.config = SimpleNamespace(rope_parameters=None)
        self.lm_head = torch.nn.Linear(258, 258, bias=False)
        self.lm_head.weight.data = torch.eye(258)
        self.base_model = self

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, use_cache=False):
        [ids], followers = input_ids.tolist(), {}
        logits = torch.zeros(1, len(ids), 258)
        for i in range(2, len(ids)):
            gram = tuple(ids[i - 2 : i + 1])
            if gram in followers:
                logits[0, i, followers[gram]] = self.sure
            followers[gram] = ids[i + 1] if i + 1 < len(ids) else None
        return SimpleNamespace(last_hidden_state=logits, logits=logits)


@pytest.fixture(scope="module")
def text():
    """400 letters; those from 300 to 349 repeat those from 20 to 69."""
    letters = random.Random(0).choices(string.ascii_letters, k=400)
    letters[300:350] = letters[20:70]
    return "".join(letters)


@pytest.fixture
def tokenizer(checkpoint):
    return PreTrainedTokenizerFast.from_pretrained(checkpoint)


def measure(text, tokenizer, evaluator, model):
    intervals = long_ppl.find_key_intervals(evaluator, RopeSetter(evaluator), tokenizer, text, 100, 35)
    return intervals, long_ppl.score_text(model, RopeSetter(model), tokenizer, text, intervals)


def test_the_tokens_of_a_copied_passage_are_its_key_tokens(text, tokenizer):
    intervals, record = measure(text, tokenizer, Induction(0.9), Induction(0.6))
    assert intervals == [[303, 350]]  # the first three letters tell that it is a copy
    assert record["key_tokens"] == 47
    assert record["key_loss"] == pytest.approx(-47 * math.log(0.6), rel=1e-5)
    result = long_ppl.summarise_texts([record])
    assert result["long_ppl"] == pytest.approx(1 / 0.6, rel=1e-5)
    assert result["long_ppl_interval_95"] is None  # a single text
    assert measure(text[:300] + text[0:20], tokenizer, Induction(0.1), Induction(0.6))[0] == []  # loss above 2


def test_equal_to_the_package(text, tokenizer):
    """Opt-in: pip install --no-deps --target FOLDER longppl==0.3.0, then LONGPPL_PACKAGE=FOLDER pytest."""
    if "LONGPPL_PACKAGE" not in os.environ:
        pytest.skip("set LONGPPL_PACKAGE to a folder with the package longppl to compare with it")
    sys.path.append(os.environ["LONGPPL_PACKAGE"])
    from longppl.longppl import compute_longppl

    evaluator, model = Induction(0.9), Induction(0.6)
    theirs = compute_longppl(text, model, evaluator, tokenizer, tokenizer, trunc_len=100, sliding_window=35)
    result = long_ppl.summarise_texts([measure(text, tokenizer, evaluator, model)[1]])
    assert (result["n_key_tokens"], theirs["n_key_token"]) == (47, 47)
    assert result["long_ppl"] == pytest.approx(float(theirs["longppl"]), rel=1e-5)


def key_losses(evaluator, model, ids) -> list[float]:
    """The losses by `model` of the key tokens of a document, each found on its own in float64. ids: BOS and a text."""
    whole, _ = full_losses(evaluator, ids)
    losses, _ = full_losses(model, ids[1:])
    found = []
    for i in range(CONTEXT, len(ids)):
        first = i - (i - CONTEXT) % STRIDE - CONTEXT
        short, _ = full_losses(evaluator, ids[first : i + 1])
        if short[-1] - whole[i - 1] > GAIN and whole[i - 1] < LOSS:
            found.append(losses[i - 2])
    return found


@torch.no_grad()
def test_a_run_equals_the_formula_and_its_list_can_be_read(evaluate, tokens, tmp_path, monkeypatch):
    # documents of ASCII letters: their text has the same tokens
    stream = [token if token == 0 else 40 + token % 50 for token in documents(11)]
    letters = write_tokens(tmp_path / "letters" / "test.bin", stream)
    strong = tiny.save_base(tmp_path / "strong")
    weak = tiny.save_base(tmp_path / "weak", initializer_range=0.2, num_hidden_layers=1)
    out = tmp_path / "out"
    flags = ["--base_model", weak, "--data_path", letters, "--output_dir", out, *FLAGS]
    monkeypatch.setattr(long_ppl, "LEAST_GAIN", GAIN)
    monkeypatch.setattr(long_ppl, "MOST_LOSS", LOSS)
    load = Mock(side_effect=long_ppl.load_scored_model)
    monkeypatch.setattr(long_ppl, "load_scored_model", load)
    evaluate(*flags, "--long_ppl", strong)
    assert load.call_count == 1  # the evaluator, for both lengths
    path = out / f"weak_{LENGTH}_letters_longppl.json"
    result = content(path)
    assert not (out / "weak_12_letters_longppl.json").exists()  # not longer than the short context

    evaluator, model = (AutoModelForCausalLM.from_pretrained(folder) for folder in (strong, weak))
    starts = [i for i, token in enumerate(stream) if token == 0]
    losses = []
    for start, end in itertools.pairwise(starts):
        losses.append(key_losses(evaluator, model, stream[start : min(end, start + LENGTH)]))
    sums, counts = list(map(sum, losses)), list(map(len, losses))
    assert sum(counts) > 20
    assert result["document_losses"]["targets"] == counts and result["n_key_tokens"] == sum(counts)
    assert result["document_losses"]["sum"] == pytest.approx(sums, rel=1e-4)
    assert result["long_ppl"] == pytest.approx(math.exp(sum(sums) / sum(counts)), rel=1e-4)
    low, high = mean_over_documents(sums, counts).interval()
    assert result["long_ppl_interval_95"] == pytest.approx([math.exp(low), math.exp(high)], rel=1e-3)

    # again, and from the list: the same result; windows and key tokens are not computed again
    monkeypatch.setattr(long_ppl, "find_key_intervals", None)
    monkeypatch.setattr(eval_ppl, "score", None)
    [folder] = out.glob("key_text_strong_90_*")
    for evaluator in (strong, folder):
        path.unlink()
        evaluate(*flags, "--long_ppl", evaluator)
        assert content(path)["document_losses"] == result["document_losses"]
    for flag, value, message in (
        ("--short_context", 200, "above --short_context"),
        ("--documents", 11, "slice_10.txt has no"),
    ):
        with pytest.raises(SystemExit, match=message):
            evaluate(*flags, "--long_ppl", folder, flag, value)
