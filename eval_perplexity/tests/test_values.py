"""The numbers: losses, windows, rope and intervals against their definitions."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import rope
import scoring
import windows
from conftest import RULE, content, documents, full_losses, save_model, write_tokens
from stats import mean_over_documents
from tiny import BASES, save_base


def reference(model, tokens, starts, length):
    """The protocol restated, one window at a time: losses [windows, L - 1], number of hits."""
    windows = [full_losses(model, tokens[start : start + length + 1]) for start in starts]
    return np.array([losses[:-1] for losses, _ in windows]), sum(hits.sum() for _, hits in windows)


@pytest.fixture
def model(checkpoint):
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["llama", *BASES])
def test_scoring_equals_full_logits_for_any_chunk(tmp_path, monkeypatch, model_type):
    """Scaled and capped logits, sliding windows, capped scores: as eager attention in float64."""
    folder = save_base(tmp_path, model_type)
    tokens = documents(4)[: 61 * 3]
    config, settings = scoring.open_checkpoint(folder, False, "float32")
    model, _ = scoring.load_scored_model(folder, config, settings)
    whole_BL, _ = scoring.score(model, torch.tensor(tokens).view(3, 61))
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    expected, hits = reference(plain, tokens, (0, 61, 122), 60)
    for rows in (1, 7, 64):
        monkeypatch.setitem(scoring.CHUNK_BYTES, "cpu", rows * 4 * 258)
        nll_BL, hit_BL = scoring.score(model, torch.tensor(tokens).view(3, 61))
        np.testing.assert_allclose(nll_BL, whole_BL, rtol=0, atol=1e-6 * whole_BL.max())
        np.testing.assert_allclose(nll_BL[:, :-1], expected, rtol=1e-4, atol=1e-4)
        assert hit_BL.sum() == hits


def test_hits_follow_argmax_in_a_tie():
    logits = torch.tensor([[0.0, 3.0, 3.0], [5.0, 1.0, 5.0], [1.0, 2.0, 0.0]])
    for targets in ([1, 0, 1], [2, 2, 1], [0, 1, 2]):
        hit = scoring.is_argmax(logits, torch.tensor(targets))
        assert hit.tolist() == (logits.argmax(-1) == torch.tensor(targets)).tolist()


@torch.no_grad()
def test_a_model_that_changes_its_logits_is_an_error(model):
    scoring.check_head(model)
    model.register_forward_hook(lambda module, inputs, output: type(output)(logits=output.logits.tanh()))
    with pytest.raises(ValueError, match="changes its logits"):
        scoring.check_head(model)


@pytest.mark.parametrize("batch_size", [1, 3])
@torch.no_grad()
def test_result_equals_the_protocol_in_float64(evaluate, model, tmp_path, batch_size):
    length, stride = 300, 50
    out = tmp_path / "one.json"
    evaluate("--seq_len", length, "--sliding_window", stride, "--batch_size", batch_size, "--output_dir", out)
    result = content(out)
    stream = documents(13)
    stream = stream[: [i for i, token in enumerate(stream) if token == 0][10]]
    starts = list(range(0, len(stream) - length, stride))[:-1]
    nll, hits = reference(model, documents(13), starts, length)

    assert (result["n_windows"], result["n_windows_total"], result["tokens"]) == (len(starts), len(starts), len(stream))
    assert result["val_loss"] == pytest.approx(nll.mean(), rel=1e-6)
    assert result["val_perplexity"] == pytest.approx(math.exp(nll.mean()), rel=1e-5)
    assert result["val_perplexity_per_chunk"] == [result["val_perplexity"]]
    assert result["val_acc"] == hits / (len(starts) * length) and hits > 0
    assert [(b["from"], b["to"]) for b in result["loss_by_position"]] == [
        (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 127), (128, 255), (256, 299)]  # fmt: skip
    for bucket in result["loss_by_position"]:  # position p is predicted at index p - 1
        assert bucket["loss"] == pytest.approx(nll[:, bucket["from"] - 1 : bucket["to"]].mean(), rel=1e-5)
    assert result["method"] == "base" and result["original_length"] == result["trained_length"] == 64

    document_N = np.cumsum(np.array(stream) == 0) - 1
    for n, entry in ((299, result), (64, result["last_64"]), (256, result["last_256"])):
        sum_D, target_D = np.zeros(10), np.zeros(10)
        for start, nll_L in zip(starts, nll, strict=True):
            last = slice(start + length - n, start + length)
            np.add.at(sum_D, document_N[last], nll_L[-n:])
            np.add.at(target_D, document_N[last], 1)
        expected = np.exp(mean_over_documents(sum_D, target_D).interval())  # windows are split between documents
        assert entry["perplexity_interval_95"] == pytest.approx(expected, rel=1e-4)
        if n < 299:
            assert entry["loss"] == pytest.approx(nll[:, -n:].mean(), rel=1e-5)
        else:
            assert result["document_losses"]["sum"] == pytest.approx(sum_D, rel=1e-5)
            assert result["document_losses"]["targets"] == target_D.tolist()
            assert result["n_sampled_documents"] == np.count_nonzero(target_D)


def test_window_starts_are_the_protocols_and_samples_are_seeded():
    for n_tokens, length, stride in [(1000, 128, 256), (641, 128, 256), (640, 128, 256), (5000, 64, 7)]:
        literal = [s for s in range(0, n_tokens, stride) if s < n_tokens - length]
        literal.pop()
        assert windows.window_starts(n_tokens, length, stride).tolist() == literal
    for n_tokens in (100, 384):  # at N = L + stride the only start is the one that is dropped
        with pytest.raises(ValueError, match="more than 384 tokens"):
            windows.window_starts(n_tokens, 128, 256)
    assert windows.window_starts(385, 128, 256).tolist() == [0]
    starts = windows.window_starts(100_000, 64, 16)
    one, again, other = (windows.subsample(starts, 50, seed).tolist() for seed in (2, 2, 3))
    assert one == again != other and len(set(one)) == 50 and one == sorted(one) and set(one) <= set(starts)


def test_result_states_the_rope_and_the_record(evaluate, tmp_path):
    theta = rope.ntk(RULE, 256, 32)["rope_theta"]
    folder = save_model(tmp_path / "ntk", "ntk", rope_parameters={"rope_type": "default", "rope_theta": theta})
    flags = ("--base_model", folder, "--output_dir")
    evaluate(*flags, tmp_path / "up", "--seq_len", 128, 512, script="eval_ntk.py")
    evaluate(*flags, tmp_path / "down", "--seq_len", 512, 128)
    for length in (128, 512):
        one, other = (content(tmp_path / name / f"ntk_{length}_pg19.json") for name in ("up", "down"))
        assert one == other
        assert one["rope"] == {"rope_type": "default", "rope_theta": rope.ntk(RULE, length, 32)["rope_theta"]}
        assert (one["method"], one["trained_length"], one["trained_tokens"]) == ("ntk", 256, 5)


def test_uint32_for_large_vocabularies(tmp_path):
    stream = [1, 70_000, 3, 1, 5, 99_999, 1, 4]
    path = write_tokens(tmp_path / "test.bin", stream, "uint32")
    path.with_name("test.bin.json").unlink()  # as LongLoRA's files have none
    tokens, document_starts, _ = windows.open_tokens(path, 2, 100_000)
    assert tokens.tolist() == stream[:6] and document_starts.tolist() == [0, 3]
    assert windows.open_tokens(path, 3, 100_000)[0].tolist() == stream  # no document follows: the file's end
    small = write_tokens(tmp_path / "small.bin", [1, 2, 3, 1, 2], "uint32")
    assert windows.open_tokens(small, 1, 300)[0].tolist() == [1, 2, 3]
