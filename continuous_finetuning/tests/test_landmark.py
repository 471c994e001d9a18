"""Landmark attention against its definition: one query at a time in float64, absolute positions, explicit groups."""

import copy
import itertools

import pytest
import torch
from transformers import LlamaForCausalLM

import checkpoint_writer
import memory
import methods
from modeling.modeling_landmark import LandmarkConfig, LandmarkForCausalLM
from test_own_attention import BASES, dense_layers, in_pieces
from tiny import C, save_base

F, T, K = 3, 32, 2  # mem_freq, training length, top_k: blocks of 4, chunks of 32 - 3 * 4 = 20


def landmark_model(seed=0, **changes):
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "initializer_range": 0.4, "mem_freq": F, "cache_top_k": K, "train_context_length": T,
    }  # fmt: skip
    model = LandmarkForCausalLM(LandmarkConfig(**settings | changes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    return model


def text(n, batch=1, seed=0):
    return torch.randint(0, 50, (batch, n), generator=torch.Generator().manual_seed(seed))


# --- the definition
def turn(x_d, position, model):
    """RoPE of one vector at one absolute position, cos and sin scaled as the base's rope says."""
    rotary, half = model.model.rotary_emb, x_d.shape[-1] // 2
    angle = position * rotary.inv_freq.double()
    cos, sin = angle.cos() * rotary.attention_scaling, angle.sin() * rotary.attention_scaling
    a, b = x_d[..., :half], x_d[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def attend(q_d, keys_nd, values_nd, p, local, model):
    """One query at place p of the row, un-rotated keys and values of the places up to p: the value it takes home."""
    f, b = model.config.mem_freq, model.config.mem_freq + 1
    q_d = turn(q_d, torch.tensor(p), model)

    def score(places, positions):
        keys_sd = turn(keys_nd[places], torch.tensor(positions)[:, None], model)
        return keys_sd @ q_d / q_d.shape[0] ** 0.5

    N = local // b
    k = min(model.config.cache_top_k, N)
    prefix = local - (k + 1) * b  # the slots' first position
    places, positions = [*range(local, p + 1)], [*range(local, p + 1)]
    if N:
        slots = [max(0, m - (N - k) + 1) for m in range(N)]
        landmarks = score([m * b + f for m in range(N)], [prefix + slot * b + f for slot in slots]).tolist()
        best = sorted(range(N), key=lambda m: (round(landmarks[m], 9), m))[N - k :]
        for rank, m in enumerate(sorted(best)):
            first = prefix + (rank + (m >= N - k)) * b
            places += range(m * b, m * b + b)
            positions += range(first, first + b)

    places = torch.tensor(places)
    blocks, is_landmark = places // b, places % b == f
    is_own = blocks == p // b
    competes = is_own != is_landmark  # tokens of the own block, and the landmarks of the others
    score_s = score(places, positions)
    weight_s = score_s.masked_fill(~competes, -torch.inf).softmax(0)
    out = weight_s[is_own] @ values_nd[places[is_own]]
    for landmark in (competes & ~is_own).nonzero():
        inside = (blocks == blocks[landmark]) & ~is_landmark
        out = out + weight_s[landmark] * (score_s[inside].softmax(0) @ values_nd[places[inside]])
    return out


def reference(model, ids, prompt=None, train=False):
    """Logits of one text, ids [n], by a model in float64: of each text token, or with `train` of each token of the row.

    The first `prompt` tokens (all of them by default) come in calls of several, the others one by one.
    """
    config = model.config
    f, b = config.mem_freq, config.mem_freq + 1
    chunk = config.train_context_length // b * b - (config.cache_top_k + 1) * b
    row, where, local = [], [], []
    for t, token in enumerate(ids.tolist()):
        closes = (t + 1) % f == 0 and not (train and t == len(ids) - 1)
        for extra in [token, config.landmark_id][: 1 + closes]:
            span = chunk if prompt is None or t < prompt else b
            local.append(0 if train else len(row) // span * span)
            row.append(extra)
        where.append(len(row) - 1)

    def attend_all(q, k, v):
        out = torch.empty_like(q)
        for p, h in itertools.product(range(q.shape[0]), range(q.shape[1])):
            out[p, h] = attend(q[p, h], k[:, h], v[:, h], p, local[p], model)
        return out

    x = dense_layers(model, model.model.embed_tokens.weight[row], attend_all)
    return model.lm_head(x if train else x[where]), row


def exact(model):
    return copy.deepcopy(model).double()


def close(logits, expected):
    """Without the landmark's column, which must be -inf."""
    assert torch.isneginf(logits[..., -1]).all()
    torch.testing.assert_close(logits[..., :-1].double(), expected[..., :-1].double(), rtol=0, atol=1e-4)


# --- training
@pytest.mark.parametrize("base", BASES)
def test_training_loss_and_gradients(base):
    """By the loss of fine-tune.py; for one of the bases with gradient checkpointing, which changes nothing."""
    model = landmark_model(**BASES[base]).train()
    if base == "grouped":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = text(27, batch=2)  # nine blocks, the last one exact
    double, losses = exact(model), []
    for row_ids in ids:
        logits, row = reference(double, row_ids, train=True)
        assert len(row) == 35 and row.count(50) == 8
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(row[1:])))
    expected = torch.stack(losses).mean()
    gradients = torch.autograd.grad(expected, list(double.parameters()))

    memory.use_tiled_loss(model)
    loss = model(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    loss.backward()
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        difference = (parameter.grad - gradient).norm() / gradient.norm()
        assert difference < 1e-4 or gradient.norm() < 1e-6, name  # a key's bias has no gradient before the first rope


# --- inference
SIZES = ([2] * 42, [3, 7, 11, 40], [47, 2, 11], [46])  # of the pieces: two tokens and more


@torch.no_grad()
@pytest.mark.parametrize("base, sizes", zip(BASES, SIZES, strict=True))
def test_prompt(base, sizes):
    """In one piece, and in several with a cache that was in use before."""
    n = sum(sizes)
    model = landmark_model(seed=n, **BASES[base])
    ids = text(n, batch=2, seed=n)
    output = model(ids)
    close(output.logits[1], reference(exact(model), ids[1])[0])
    cache = output.past_key_values
    assert cache.get_seq_length() == n
    cache.reset()
    close(in_pieces(model, ids, sizes, cache), output.logits)


@torch.no_grad()
@pytest.mark.parametrize("prompt", [1, 50])
def test_generate(prompt):
    """Greedy text, token by token: every full block can be retrieved. The landmark is never generated."""
    model = landmark_model(num_key_value_heads=2, seed=3)
    model.lm_head.weight[50] *= 100
    options = {"max_new_tokens": 90 - prompt, "do_sample": False, "pad_token_id": 50, "eos_token_id": None}
    out = model.generate(text(prompt, batch=2, seed=3), **options, prefill_chunk_size=16)
    assert out.shape == (2, 90) and out.max() < 50
    expected, _ = reference(exact(model), out[1], prompt=prompt)
    close(in_pieces(model, out, [prompt])[1], expected)
    assert torch.equal(expected[prompt - 1 : -1, :-1].argmax(-1), out[1, prompt:])


# --- the method
@pytest.mark.parametrize("is_tied", [False, True])
def test_load_adds_the_mean_row(tmp_path, is_tied):
    base = save_base(tmp_path, tie_word_embeddings=is_tied)
    config = checkpoint_writer.open_base(str(base))
    method = methods.build("landmark", config, C, {"mem_freq": 7, "top_k": 3})
    config = checkpoint_writer.extended_config(config, method, {})
    plain = LlamaForCausalLM.from_pretrained(base)
    model = method.load(str(base), config, dtype=torch.float32)
    old, new = plain.state_dict(), model.state_dict()
    assert old.keys() == new.keys() and model.config.landmark_id == plain.config.vocab_size
    for name, weight in old.items():
        if "embed_tokens" in name or "lm_head" in name:
            torch.testing.assert_close(new[name][-1], weight.mean(dim=0))
            new[name] = new[name][:-1]
        assert torch.equal(new[name], weight)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == is_tied
