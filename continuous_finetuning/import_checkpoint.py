"""Describes a checkpoint that other code trained as one of the methods here, without touching its weights."""

import copy

import torch
from transformers import AutoModel

import methods


def describe_as(name: str, config, original_length: int | None, model_max_length: int, flags: dict):
    """(the base's config, the method `name`) for a trained checkpoint whose config is `config`.

    original_length: the base's window, tokens; None: as the config says. Raises ValueError if the method, with these
    flags, does not have the checkpoint's rope.
    """
    cls, rope = methods.get(name), config.rope_parameters
    if not cls.trained:
        raise ValueError(f"{name} is not trained; leave --adopt out")
    base = copy.deepcopy(config)
    if methods.has_own_rope(cls):
        kept = ("rope_theta", "partial_rotary_factor")
        base.rope_parameters = {"rope_type": "default"} | {key: rope[key] for key in kept if key in rope}
    recorded = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    base.max_position_embeddings = original_length or recorded
    method = methods.build(name, base, model_max_length, flags, cls.options_in_config(config))
    theirs = frequencies(base, rope, model_max_length)
    ours = frequencies(base, method.checkpoint_rope(), model_max_length)
    if not torch.allclose(theirs, ours, rtol=1e-5, atol=0):
        given = f"{name} with {method.options()}"
        raise ValueError(f"{given} does not have the rope of the checkpoint's config, {rope}; give the right options")
    return base, method


def frequencies(config, rope_parameters: dict, length: int) -> torch.Tensor:
    """The frequencies of a text of `length` tokens in Transformers, times the attention factor, float32 [d/2]."""
    config = copy.deepcopy(config)
    config.rope_parameters = rope_parameters
    with torch.device("meta"):
        rotary_class = type(AutoModel.from_config(config).rotary_emb)
    rotary = rotary_class(config)
    last_position = torch.tensor([[length - 1]])
    rotary(last_position, last_position)  # sets a dynamic rope
    return rotary.inv_freq * rotary.attention_scaling
