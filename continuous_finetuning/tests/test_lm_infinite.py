"""lm_infinite against its definition, pair by pair in float64, and in every way a checkpoint is used."""

import sys

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

import methods
import own_attention as own
from conftest import C, L, save_tiny_base
from own_attention import close, tokens


def definition(length, window, first):
    """(distance [L, L], seen [L, L]): near keys at their distance, the first ones beyond at `window`."""
    i, k, causal = own.pairs(length)
    near = i - k < window
    return torch.where(near, i - k, window), causal & (near | (k < first))


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return own.make(patch, base, "lm_infinite", tmp_path_factory.mktemp("made") / "lm", L)


@pytest.fixture(scope="module")
def model(folder):
    return own.load(folder)


@pytest.mark.parametrize("kind", own.BASES)
@pytest.mark.parametrize("window, first, length", [(64, 10, 203), (17, 5, 131), (1, 1, 37), (40, 50, 159)])
def test_definition(monkeypatch, tmp_path, kind, window, first, length):
    base = save_tiny_base(tmp_path / "base", **own.BASES[kind])
    flags = {"local_window": window, "global_tokens": first}
    model = own.load(own.make(monkeypatch, base, "lm_infinite", tmp_path / "out", L, **flags), torch.float64)
    ids = tokens(length)
    with torch.no_grad():
        expected = own.dense_logits(base, ids[0], *definition(length, window, first))
        close(model(ids).logits[0], expected)
        for other in (definition(length, window + 1, first), definition(length, window, first - 1)):
            assert (own.dense_logits(base, ids[0], *other) - expected).abs().max() > 0.1  # the check can fail


def test_blocks_of_any_size_agree(model, monkeypatch):
    ids = tokens(300)
    with torch.no_grad():
        expected = model(ids).logits
        for size in (1, 7, 63):
            monkeypatch.setattr(sys.modules[type(model).__module__], "BLOCK", size)
            close(model(ids).logits, expected, 1e-3)


def test_within_the_window_it_is_the_base(folder, base):
    ids = tokens(C, batch=2)
    for dtype in (torch.float32, torch.bfloat16):
        plain = LlamaForCausalLM.from_pretrained(base, dtype=dtype)
        with torch.no_grad():
            close(own.load(folder, dtype)(ids).logits, plain(ids).logits, 1e-3 if dtype == torch.float32 else 0.5)
    assert own.weights_are_the_bases(folder, base)


def test_causality(model):
    own.check_causality(model, 200, cut=190)


def test_pieces_and_decoding_equal_one_forward(model):
    ids = tokens(3 * C + 5, batch=2)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
    for sizes in ([3 * C], [1, 2, 70, 100], [C] * 3, [5], []):
        close(own.in_pieces(model, ids, sizes), expected, 1e-3)


def test_generation_past_the_original_length(monkeypatch, model):
    options = own.check_generation(model, tokens(C - 6, batch=2), 20)
    own.check_padding(monkeypatch, model, options)


def test_fresh_process(folder, model, tmp_path):
    ids = tokens(150)
    with torch.no_grad():
        found = own.check_fresh_process(folder, tmp_path, model(ids).logits, ids)
    assert found["class"] == "LMInfiniteForCausalLM"


def test_sixteen_times_the_original_length(folder, model):
    logits = own.check_sixteen_times(model, C)
    rough = own.check_sixteen_times(own.load(folder, torch.bfloat16), C)
    assert (rough.argmax(-1) == logits.argmax(-1)).float().mean() > 0.8


def test_what_it_cannot_do(model):
    ids, mask = tokens(20), torch.ones(1, 20).long()
    mask[0, 5] = 0
    with pytest.raises(ValueError, match="gap between tokens; .* pad on the left"):
        model(ids, attention_mask=mask)
    with pytest.raises(ValueError, match=r"attention_mask must be \[1, 20\], not \[1, 1, 20, 20\]"):
        model(ids, attention_mask=torch.ones(1, 1, 20, 20))
    with pytest.raises(ValueError, match="position_ids must count each row's tokens from 0"):
        model(ids, position_ids=torch.arange(20)[None] % 10)
    with pytest.raises(ValueError, match="DynamicCache, not in a StaticCache"):
        model(ids, past_key_values=StaticCache(config=model.config, max_cache_len=64))
    model(ids, position_ids=torch.arange(20)[None], past_key_values=DynamicCache(config=model.config))


def llama(window, **rope):
    rope = {"rope_type": "default", "rope_theta": 1e4, **rope}
    return LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=window, rope_parameters=rope)


def test_options():
    assert methods.build("lm_infinite", llama(4096), 32768, {}).options() == {
        "local_window": 4096,
        "global_tokens": 10,
    }
    made = methods.build("lm_infinite", llama(128), 512, {"local_window": 100, "global_tokens": 4})
    assert made.config_fields() == {"local_window": 100, "global_tokens": 4} and not made.trained


@pytest.mark.parametrize(
    "rope, flags, message",
    [
        ({}, {"local_window": 129}, "--local_window 129 is beyond the 128 tokens .* give at most 128"),
        ({}, {"local_window": 0}, "--local_window must be a whole number above 0, not 0"),
        ({}, {"global_tokens": -1}, "--global_tokens must be a whole number above 0, not -1"),
        ({}, {"group_size": 4}, "--group_size is an option of self_extend, not of lm_infinite"),
        ({"rope_type": "dynamic", "factor": 2.0}, {}, r"rope \(dynamic\) changes with the length"),
    ],
)
def test_bad_input(rope, flags, message):
    with pytest.raises(SystemExit, match=message):
        methods.build("lm_infinite", llama(128, **rope), 512, flags)
