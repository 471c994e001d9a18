"""Methods of near and far keys against their definitions, pair by pair in float64, and in every use of a checkpoint.

The definitions restate the papers' rules; none knows of near and far keys.
"""

import math
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.models.llama.modeling_llama import ROPE_INIT_FUNCTIONS

import methods
import tiny
from scripts import LLAMA3, extend
from tiny import C, L, save_base

# bases that differ in what attention depends on; window 64
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


def self_extend(length, group_size, neighbor_window, shift=None):
    """Near keys at their distance, far ones in groups; the shift is a real number."""
    i, k, causal = pairs(length)
    G, W = group_size, neighbor_window
    shift = W - W / G if shift is None else shift
    return torch.where(i - k < W, (i - k).double(), i // G - k // G + shift), causal


def rerope(length, local_window):
    """No distance above the window; the scores grow with ln i / ln C."""
    i, k, causal = pairs(length)
    scale = [max(1, math.log(n + 1) / math.log(C)) for n in range(length)]
    return (i - k).clamp(max=local_window), causal, torch.tensor(scale, dtype=torch.float64)


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


DEFINITIONS = {rule.__name__: rule for rule in (lm_infinite, self_extend, rerope, string, dca, streaming)}


@torch.no_grad()
def dense_logits(base, ids_L, distance_LL, seen_LL, scale_L=None):
    """Logits, float64 [L, V], of the base model whose attention is, pair by pair,

        score(i, k) = f^2 / sqrt(d) Re sum_j q_ij conj(k_kj) exp(sqrt(-1) distance(i, k) theta_j)

    times scale(i), over the keys with seen(i, k): a rope is a rotation of d/2 complex numbers (arXiv 2104.09864,
    eq. 12), and a score depends on the relative position alone. theta and f (1, or YaRN's attention factor) are those
    of the base.
    """
    model = LlamaForCausalLM.from_pretrained(base).double().eval()
    config = model.config
    kind = config.rope_parameters["rope_type"]
    theta, factor = config.rope_parameters["rope_theta"], 1.0
    d, H, G = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    theta_J = theta ** (-torch.arange(0, d, 2).double() / d)
    if kind != "default":
        theta_J, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    turn_LLJ = torch.exp(1j * distance_LL.double()[..., None] * theta_J.double())

    def heads(linear, x_LD):
        x_LHd = linear(x_LD).view(len(x_LD), -1, d)
        return torch.complex(x_LHd[..., : d // 2], x_LHd[..., d // 2 :])

    x_LD = model.model.embed_tokens(ids_L)
    for layer in model.model.layers:
        attention, h_LD = layer.self_attn, layer.input_layernorm(x_LD)
        q_LHJ, k_LGJ = heads(attention.q_proj, h_LD), heads(attention.k_proj, h_LD)
        v_LGd, out = attention.v_proj(h_LD).view(len(h_LD), G, d), []
        for h in range(H):
            g = h // (H // G)
            score_LL = torch.einsum("ij,kj,ikj->ik", q_LHJ[:, h], k_LGJ[:, g].conj(), turn_LLJ).real
            score_LL = score_LL if scale_L is None else score_LL * scale_L[:, None]
            weight_LL = (score_LL * factor**2 / d**0.5).masked_fill(~seen_LL, -torch.inf).softmax(-1)
            out.append(weight_LL @ v_LGd[:, g])
        x_LD = x_LD + attention.o_proj(torch.cat(out, 1))
        x_LD = x_LD + layer.mlp(layer.post_attention_layernorm(x_LD))
    return model.lm_head(model.model.norm(x_LD))


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=dtype).eval()


def tokens(length, batch=1):
    return torch.randint(2, 250, (batch, length), generator=torch.Generator().manual_seed(0))


def close(ours, expected, atol=1e-3):
    """Logits agree; atol is far below any error of a position or a mask, which moves them by more than 0.1."""
    difference = (ours.double() - expected.double()).abs().max()
    assert difference < atol, difference


# no group size divides its window here, except where that is 1: a whole-number shift would differ
@pytest.mark.parametrize(
    "name, kind, length, options",
    [
        ("lm_infinite", "grouped", 203, {"local_window": 64, "global_tokens": 10}),
        ("lm_infinite", "tied", 131, {"local_window": 17, "global_tokens": 5}),
        ("lm_infinite", "yarn", 159, {"local_window": 40, "global_tokens": 50}),
        ("self_extend", "grouped", 203, {"group_size": 10, "neighbor_window": 16}),
        ("self_extend", "tied", 231, {"group_size": 7, "neighbor_window": 30}),
        ("self_extend", "llama3", 131, {"group_size": 5, "neighbor_window": 1}),
        ("rerope", "grouped", 203, {"local_window": 20}),
        ("rerope", "yarn", 131, {"local_window": 7}),
        ("string", "grouped", 80, {"shift": 40, "local_window": 4}),
        ("string", "llama3", 115, {"shift": 60, "local_window": 9}),
        ("dca", "grouped", 203, {"chunk_size": 48, "local_window": 8}),
        ("dca", "tied", 209, {"chunk_size": 32, "local_window": 16}),
        ("streaming", "grouped", 203, {"local_window": 50, "sinks": 4}),
        ("streaming", "tied", 159, {"local_window": 13, "sinks": 21}),
    ],
)
def test_definition(tmp_path, name, kind, length, options):
    base = save_base(tmp_path / "base", **BASES[kind])
    flags = [word for option, value in options.items() for word in (f"--{option}", value)]
    if name == "string":  # it reaches less than twice the window
        flags += ["--model_max_length", length]
    model = load(extend(base, name, tmp_path / "out", *flags), torch.float64)
    ids, define = tokens(length), DEFINITIONS[name]
    expected = dense_logits(base, ids[0], *define(length, **options))
    with torch.no_grad():
        close(model(ids).logits[0], expected, 2e-3)
    for option, change in zip(options, (1, -1), strict=False):  # the check can fail
        other = dense_logits(base, ids[0], *define(length, **options | {option: options[option] + change}))
        assert options[option] + change == 0 or (other - expected).abs().max() > 0.1
    if name == "self_extend" and options["neighbor_window"] > 1:
        G, W = options.values()
        other = dense_logits(base, ids[0], *define(length, **options, shift=W - W // G))
        assert (other - expected).abs().max() > 0.1


@pytest.fixture(scope="module", params=DEFINITIONS)
def folder(request, base, tmp_path_factory):
    name = request.param
    return extend(base, name, tmp_path_factory.mktemp("made") / name, *tiny.EXTEND[name])


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


@torch.no_grad()
def test_blocks_of_any_size_agree(model, monkeypatch):
    ids = tokens(200)
    expected = model(ids).logits
    for size in (1, 7, 63):
        monkeypatch.setattr(sys.modules[type(model).__base__.__module__], "BLOCK", size)
        close(model(ids).logits, expected)


@torch.no_grad()
def test_within_the_window_it_is_the_base(folder, base):
    ids = tokens(C // 4, batch=2)
    for dtype, atol in {torch.float32: 1e-3, torch.bfloat16: 0.5}.items():
        close(load(folder, dtype)(ids).logits, LlamaForCausalLM.from_pretrained(base, dtype=dtype)(ids).logits, atol)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[2 * C], [1, 2, 70, 40], [C] * 2, []])
def test_pieces_and_decoding_equal_one_forward(model, sizes):
    ids = tokens(2 * C + 5, batch=2)
    expected = model(ids, use_cache=False).logits
    logits, cache = [], None
    for piece in ids.split([*sizes, *[1] * (ids.shape[1] - sum(sizes))], dim=1):
        output = model(piece, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits.append(output.logits)
    close(torch.cat(logits, 1), expected)


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
        folder = extend(
            base, name, tmp_path / name, "--model_max_length", C if name == "landmark" else L, *tiny.EXTEND[name]
        )
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


# --- the methods' options
def build(name, window, length, rope=None, **options):
    rope = {"rope_type": "default", "rope_theta": 1e4, **(rope or {})}
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=window, rope_parameters=rope)
    return methods.build(name, config, length, options)


@pytest.mark.parametrize("window, length, G, W", [(4096, 65536, 64, 1024), (128, 512, 9, 32), (128, 2048, 38, 32)])
def test_defaults(window, length, G, W):
    """Self-Extend: the study's for 4096, else the smallest group that keeps positions within 2/3 of the window."""
    method = build("self_extend", window, length)
    assert method.options() == method.config_fields() == {"group_size": G, "neighbor_window": W} and not method.trained
    assert (length - W) / G + W <= 2 / 3 * window + 1e-9
    if window != 4096:
        assert (length - W) / (G - 1) + W > 2 / 3 * window  # no smaller group would do
    assert build("lm_infinite", window, length).options() == {"local_window": window, "global_tokens": 10}


@pytest.mark.parametrize(
    "name, options",
    [
        ("lm_infinite", {"local_window": 129}),
        ("lm_infinite", {"rope": {"rope_type": "dynamic", "factor": 2.0}}),
        ("self_extend", {"neighbor_window": 128, "group_size": 4}),
        ("self_extend", {"group_size": 2}),
        ("rerope", {"local_window": 129}),
        ("string", {}),  # 512 tokens are more than twice the window
        ("dca", {"chunk_size": 129}),
        ("dca", {"chunk_size": 31}),
        ("streaming", {"local_window": 125}),
        ("landmark", {"top_k": 7}),  # of a row of 512 tokens, 8 blocks of 64
    ],
)
def test_bad_options(name, options):
    with pytest.raises(ValueError):
        build(name, 4096 if name == "landmark" else 128, 512, **options)
