"""rope.py against the formulas of the papers and against Transformers' own rotary module."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rope import RopeSetter, rope_at
from tiny import C, L

D = 32  # head dimension
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": C,
    "short_factor": [1.0 + i / 16 for i in range(16)],
    "long_factor": [3.0 + i / 4 for i in range(16)],
}
NTK = {"rule": "ntk", "rope_theta": 10000.0, "factor": 2.0, "original_length": C, "trained_length": L}
INV_FREQ = [[10000.0 ** (-2 * j / D) / t for j in range(D // 2)] for t in (1, 2, 3, 4)]
CLEX = {"rule": "frequencies", "rope_theta": 10000.0, "original_length": C, "inv_freq": INV_FREQ, "log_scale": True}
SIZES = dict(vocab_size=8, hidden_size=2 * D, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)


def tiny_config(rope_parameters=None, rule=None, window=C) -> LlamaConfig:
    config = LlamaConfig(**SIZES, max_position_embeddings=window, rope_parameters=rope_parameters)
    config.context_extension = {"rope_by_length": rule}
    return config


def cos_sin(rotary, length: int) -> torch.Tensor:
    """What the rotary module gives for the positions of one text, [2, length, D]."""
    return torch.stack(rotary(torch.zeros(1, length, 1), torch.arange(length)[None])).squeeze(1)


def cos_sin_at(setter: RopeSetter, length: int) -> torch.Tensor:
    setter.set(rope_at(setter.inner_model.config, length))
    return cos_sin(setter.inner_model.rotary_emb, length)


@pytest.mark.parametrize("rule", [NTK, CLEX])
def test_ntk_and_clex_records_follow_their_formulas(rule):
    setter = RopeSetter(LlamaForCausalLM(tiny_config(rule=rule)))
    for length in (4 * L, 2, C, C + 9, L, L + 1, 2 * L, 20):  # those before do not matter
        inv_freq = torch.tensor(INV_FREQ[min(4, math.ceil(length / C)) - 1])
        scale = math.sqrt(math.log(length) / math.log(C))
        if rule is NTK:
            theta = 10000.0 * (2 * max(length, L) / C - 1) ** (D / (D - 2))
            assert rope_at(tiny_config(rule=NTK), length) == {"rope_type": "default", "rope_theta": theta}
            inv_freq, scale = theta ** (-torch.arange(0, D, 2) / D), 1.0
        angles = torch.arange(length)[:, None] * torch.cat([inv_freq, inv_freq])
        expected = scale * torch.stack([angles.cos(), angles.sin()])
        torch.testing.assert_close(cos_sin_at(setter, length), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("rope", "window"), [(DYNAMIC, C), (LONGROPE, L)])
def test_foreign_ropes_equal_transformers_module_at_the_end_of_the_text(rope, window):
    setter = RopeSetter(LlamaForCausalLM(tiny_config(rope, window=window)))
    for length in (30, C, C + 1, 150, L, L + 70, 31):
        own_module = LlamaRotaryEmbedding(tiny_config(rope, window=window))
        torch.testing.assert_close(cos_sin_at(setter, length), cos_sin(own_module, length), rtol=0, atol=1e-5)


def test_fixed_ropes_and_models_without_rope():
    config = tiny_config({"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})
    assert rope_at(config, 2) == rope_at(config, 1000) == config.rope_parameters
    config.rope_parameters = None
    assert rope_at(config, 100) is None
    with pytest.raises(ValueError, match="unknown rule 'x'"):
        rope_at(tiny_config(rule={"rule": "x"}), 100)
