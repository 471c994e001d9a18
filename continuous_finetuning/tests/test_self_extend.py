"""self_extend against its definition, pair by pair in float64, and in every way a checkpoint is used."""

import sys

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

import methods
import own_attention as own
from conftest import C, L, save_tiny_base
from own_attention import close, tokens


def definition(length, G, W, shift=None):
    """(distance [L, L], real; seen [L, L]): near keys at their distance, far ones in groups of G."""
    i, k, causal = own.pairs(length)
    shift = W - W / G if shift is None else shift
    return torch.where(i - k < W, (i - k).double(), i // G - k // G + shift), causal


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return own.make(patch, base, "self_extend", tmp_path_factory.mktemp("made") / "se", L)


@pytest.fixture(scope="module")
def model(folder):
    return own.load(folder)


@pytest.mark.parametrize("kind", own.BASES)
@pytest.mark.parametrize("G, W, length", [(10, 16, 203), (7, 30, 331), (5, 1, 131), (64, 13, 259)])
def test_definition(monkeypatch, tmp_path, kind, G, W, length):
    """No G divides its W here, but where W is 1: that is where a whole-number shift would differ."""
    base = save_tiny_base(tmp_path / "base", **own.BASES[kind])
    flags = {"group_size": G, "neighbor_window": W}
    model = own.load(own.make(monkeypatch, base, "self_extend", tmp_path / "out", L, **flags), torch.float64)
    ids = tokens(length)
    with torch.no_grad():
        expected = own.dense_logits(base, ids[0], *definition(length, G, W))
        close(model(ids).logits[0], expected)
        for other in (definition(length, G, W + 1), definition(length, G + 1, W), definition(length, G, W, W - W // G)):
            assert (own.dense_logits(base, ids[0], *other) - expected).abs().max() > 0.1  # the check can fail


def test_blocks_of_any_size_agree(model, monkeypatch):
    ids = tokens(300)
    with torch.no_grad():
        expected = model(ids).logits
        for size in (1, 7, 63):
            monkeypatch.setattr(sys.modules[type(model).__module__], "BLOCK", size)
            close(model(ids).logits, expected, 1e-3)


def test_within_the_neighbor_window_it_is_the_base(folder, base):
    ids = tokens(C // 4, batch=2)
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
    assert found["class"] == "SelfExtendForCausalLM"


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


def build(window, length, **flags):
    return methods.build("self_extend", llama(window), length, flags)


@pytest.mark.parametrize(
    "window, length, G, W",
    [(4096, 32768, 64, 1024), (4096, 65536, 64, 1024), (128, 512, 9, 32), (128, 2048, 38, 32), (64, 256, 9, 16)],
)
def test_defaults(window, length, G, W):
    method = build(window, length)
    assert method.options() == method.config_fields() == {"group_size": G, "neighbor_window": W} and not method.trained
    assert (length - W) / G + W <= 2 / 3 * window + 1e-9
    if window != 4096:
        assert (length - W) / (G - 1) + W > 2 / 3 * window  # no smaller group would do


@pytest.mark.parametrize("window, G, W", [(128, 9, 32), (128, 3, 50), (4096, 64, 1024)])
def test_capacity(window, G, W):
    """(C - W) G + W tokens are accepted and one more is not; no position that is used exceeds C."""
    longest = (window - W) * G + W
    build(window, longest, group_size=G, neighbor_window=W)
    if longest < 2000:
        assert definition(longest, G, W)[0].max() <= window
    least = f"beyond the base's {window}; give a --group_size of at least {G + 1}"
    with pytest.raises(SystemExit, match=least):
        build(window, longest + 1, group_size=G, neighbor_window=W)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"group_size": 0}, "--group_size must be a whole number above 0, not 0"),
        ({"neighbor_window": -3}, "--neighbor_window must be a whole number above 0, not -3"),
        ({"neighbor_window": 128}, "--neighbor_window 128 leaves no position .* less than the base's window of 128"),
        ({"neighbor_window": 100}, "--neighbor_window 100 is above 2/3 of the 128 tokens; give --group_size too"),
        ({"group_size": 2}, "--group_size 2 with --neighbor_window 32 reaches position 272 at 512 .* at least 5"),
        ({"local_window": 4}, "--local_window is an option of lm_infinite, not of self_extend"),
    ],
)
def test_bad_input(flags, message):
    with pytest.raises(SystemExit, match=message):
        build(128, 512, **flags)


def test_rope_that_changes_with_the_length():
    with pytest.raises(SystemExit, match=r"rope \(dynamic\) changes with the length"):
        methods.build("self_extend", llama(128, rope_type="dynamic", factor=2.0), 512, {})
