"""Methods of near and far keys against their definitions, pair by pair in float64, and in every use of a checkpoint.

The definitions restate the papers' rules; none knows of near and far keys.
"""

import math
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, StaticCache

import tiny
from scripts import extend
from tiny import C, L, save_base

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
# bases that differ in what attention depends on
BASES = {
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True},
    "tied": {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "llama3": {"num_key_value_heads": 2, "rope_parameters": LLAMA3},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}},
}


# --- the definitions: (distance [L, L], seen [L, L]) of query i and key k, and the factor of a query's scores, if any
def pairs(length):
    i, k = torch.arange(length)[:, None], torch.arange(length)[None]
    return i, k, k <= i


def lm_infinite(length, local_window=C, global_tokens=10):
    """Near keys at their distance, the first ones beyond at `local_window`."""
    i, k, causal = pairs(length)
    near = i - k < local_window
    return torch.where(near, i - k, local_window), causal & (near | (k < global_tokens))


def self_extend(length, group_size, neighbor_window):
    """Near keys at their distance, far ones in groups; the shift is a real number."""
    i, k, causal = pairs(length)
    G, W = group_size, neighbor_window
    return torch.where(i - k < W, (i - k).double(), i // G - k // G + W - W / G), causal


def rerope(length, local_window):
    """No distance above the window; the scores grow with ln i / ln C."""
    i, k, causal = pairs(length)
    scale = [max(1, math.log(n + 1) / math.log(C)) for n in range(length)]
    return (i - k).clamp(max=local_window), causal, torch.tensor(scale, dtype=torch.float64)[:, None]


def string(length, shift, local_window):
    """Distances from `shift` on start again at `local_window`."""
    i, k, causal = pairs(length)
    return torch.where(i - k < shift, i - k, i - k - shift + local_window), causal


def dca(length, chunk_size, local_window):
    """Intra-chunk, successive-chunk and inter-chunk positions of the query."""
    i, k, causal = pairs(length)
    c = chunk_size - local_window
    successive = (i % c + c).clamp(max=chunk_size)
    query = torch.where(i // c == k // c, i % c, torch.where(i // c == k // c + 1, successive, chunk_size))
    return query - k % c, causal


def streaming(length, local_window, sinks):
    """A loop over tokens with a cache of sinks and a window: positions are places in the cache."""
    distance, seen, cache = torch.zeros(length, length), torch.zeros(length, length, dtype=torch.bool), []
    for i in range(length):
        cache.append(i)
        if len(cache) > sinks + local_window:
            del cache[sinks]  # the oldest one after the sinks
        seen[i, cache] = True
        distance[i, cache] = torch.arange(len(cache) - 1.0, -1, -1)
    return distance, seen


def dense_layers(model, x_LD, attend):
    """The layers and last norm of a Llama in float64; attend(q, k, v), each [L, H, d], is its attention, [L, H, d]."""

    def norm(module, x):  # the module's own computes in float32
        return x / (x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).sqrt() * module.weight

    for layer in model.model.layers:
        attention, y_LD = layer.self_attn, norm(layer.input_layernorm, x_LD)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        q_LHd, *kv = (projection(y_LD).view(len(y_LD), -1, model.config.head_dim) for projection in projections)
        k_LHd, v_LHd = (x.repeat_interleave(q_LHd.shape[1] // x.shape[1], dim=1) for x in kv)
        x_LD = x_LD + attention.o_proj(attend(q_LHd, k_LHd, v_LHd).flatten(1))
        x_LD = x_LD + layer.mlp(norm(layer.post_attention_layernorm, x_LD))
    return norm(model.model.norm, x_LD)


@torch.no_grad()
def dense_logits(base, ids_L, distance_LL, seen_LL, scale_L1=1.0):
    """Logits, float64 [L, V], of the base model whose attention is, pair by pair,

        score(i, k) = f^2 / sqrt(d) Re sum_j q_ij conj(k_kj) exp(sqrt(-1) distance(i, k) theta_j)

    times scale(i), over the keys with seen(i, k): a rope is a rotation of d/2 complex numbers (arXiv 2104.09864,
    eq. 12), and a score depends on the relative position alone. theta and f (1, or YaRN's attention factor) are those
    of the base.
    """
    model = LlamaForCausalLM.from_pretrained(base).double().eval()
    rotary, d = model.model.rotary_emb, model.config.head_dim
    scale_L1 = scale_L1 * rotary.attention_scaling**2 / d**0.5
    turn_LLJ = torch.exp(1j * distance_LL.double()[..., None] * rotary.inv_freq.double())

    def attend(q_LHd, k_LHd, v_LHd):
        q_LHJ, k_LHJ = (torch.complex(x[..., : d // 2], x[..., d // 2 :]) for x in (q_LHd, k_LHd))
        score_HLL = torch.einsum("ihj,khj,ikj->hik", q_LHJ, k_LHJ.conj(), turn_LLJ).real
        weight_HLL = (score_HLL * scale_L1).masked_fill(~seen_LL, -torch.inf).softmax(-1)
        return torch.einsum("hik,khd->ihd", weight_HLL, v_LHd)

    return model.lm_head(dense_layers(model, model.model.embed_tokens(ids_L), attend))


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=dtype).eval()


def tokens(length):
    return torch.randint(2, 250, (1, length), generator=torch.Generator().manual_seed(0))


def in_pieces(model, ids, sizes, cache=None):
    """The logits of calls with so many tokens each, then with one."""
    logits = []
    for piece in ids.split([*sizes, *[1] * (ids.shape[1] - sum(sizes))], dim=1):
        output = model(piece, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits.append(output.logits)
    return torch.cat(logits, dim=1)


def close(ours, expected, atol=1e-3):
    """Logits agree; atol is far below any error of a position or a mask, which moves them by more than 0.1."""
    difference = (ours.double() - expected.double()).abs().max()
    assert difference < atol, difference


# no group size divides its window here, except where that is 1: a whole-number shift would differ
@torch.no_grad()
@pytest.mark.parametrize(
    "definition, kind, length, options",
    [
        (lm_infinite, "grouped", 203, {"local_window": 64, "global_tokens": 10}),
        (lm_infinite, "tied", 131, {"local_window": 17, "global_tokens": 5}),
        (lm_infinite, "yarn", 159, {"local_window": 40, "global_tokens": 50}),
        (self_extend, "grouped", 203, {"group_size": 10, "neighbor_window": 16}),
        (self_extend, "tied", 231, {"group_size": 7, "neighbor_window": 30}),
        (self_extend, "llama3", 131, {"group_size": 5, "neighbor_window": 1}),
        (rerope, "grouped", 203, {"local_window": 20}),
        (rerope, "yarn", 131, {"local_window": 7}),
        (string, "grouped", 80, {"shift": 40, "local_window": 4}),
        (string, "llama3", 115, {"shift": 60, "local_window": 9}),
        (dca, "grouped", 203, {"chunk_size": 48, "local_window": 8}),
        (dca, "tied", 209, {"chunk_size": 32, "local_window": 16}),
        (streaming, "grouped", 203, {"local_window": 50, "sinks": 4}),
        (streaming, "tied", 159, {"local_window": 13, "sinks": 21}),
    ],
)
def test_definition(tmp_path, monkeypatch, definition, kind, length, options):
    """In one piece, in several, token by token, in small blocks of queries, and in bfloat16."""
    base = save_base(tmp_path / "base", **BASES[kind])
    flags = [word for option, value in options.items() for word in (f"--{option}", value)]
    folder = extend(base, definition.__name__, tmp_path / "out", "--model_max_length", length, *flags)
    ids = tokens(length)
    expected = dense_logits(base, ids[0], *definition(length, **options))
    model = load(folder)
    for sizes in ([length], [1, 2, 51, 26], []):
        close(in_pieces(model, ids.expand(2, -1), sizes)[1], expected)
    monkeypatch.setattr(sys.modules[type(model).__base__.__module__], "BLOCK", 7)
    close(model(ids).logits[0], expected)
    rounding = (load(folder, torch.bfloat16)(ids).logits[0] - expected).abs().mean()
    assert rounding < 0.1


FRESH = """
import os, sys, torch
from transformers import AutoModel, AutoModelForCausalLM
assert os.listdir() == [] and not any("continuous_finetuning" in part for part in sys.path), sys.path
ids, checkpoints = torch.load(sys.argv[1])
for folder, (logits, text) in checkpoints.items():
    try:
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
        raise SystemExit("opened without --trust_remote_code")
    except ValueError as error:
        assert "trust_remote_code=True" in str(error)
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        hidden = AutoModel.from_pretrained(folder, trust_remote_code=True)(ids, use_cache=False).last_hidden_state
        assert torch.equal(model(ids).logits, logits) and torch.equal(model.lm_head(hidden), logits)
        assert torch.equal(model.generate(ids, max_new_tokens=20, pad_token_id=1, eos_token_id=None), text)
"""


@torch.no_grad()
def test_fresh_process_and_padding(base, tmp_path):
    """A new process in an empty folder, with the repository out of its path, opens each checkpoint and agrees."""
    ids, checkpoints = tokens(200), {}
    mask = torch.ones_like(ids)
    mask[0, 5] = 0
    for name in tiny.OWN_CODE:
        length = C if name == "landmark" else L
        folder = extend(base, name, tmp_path / name, "--model_max_length", length, *tiny.EXTEND[name])
        model = load(folder)
        text = model.generate(ids, max_new_tokens=20, pad_token_id=1, eos_token_id=None)
        checkpoints[str(folder)] = (model(ids).logits, text)
        with pytest.raises(ValueError, match="without padding"):
            model(ids, attention_mask=mask)
        if name != "landmark":
            with pytest.raises(ValueError, match="not a StaticCache"):
                model(ids, past_key_values=StaticCache(config=model.config, max_cache_len=64))
    (tmp_path / "empty").mkdir()
    torch.save([ids, checkpoints], tmp_path / "expected.pt")
    tiny.run(sys.executable, "-I", "-c", FRESH, tmp_path / "expected.pt", cwd=tmp_path / "empty")
