"""The rope of a checkpoint at one total length: fixed before the first token, whatever was evaluated before."""

import copy
import math


def ntk(rule: dict, length: int, head_dim: int) -> dict:
    """Dynamic NTK-aware scaling, floored at the trained length (arXiv 2409.12181, section 3; bloc97 and emozilla).

    alpha = f * max(L, T) / C - (f - 1);   rope_theta = theta * alpha^(d / (d - 2)), in float64.
    """
    factor, longest = rule["factor"], max(length, rule["trained_length"])
    alpha = factor * longest / rule["original_length"] - (factor - 1)
    return {"rope_type": "default", "rope_theta": rule["rope_theta"] * alpha ** (head_dim / (head_dim - 2))}


def frequencies(rule: dict, length: int, head_dim: int) -> dict:
    """CLEX (arXiv 2310.16450): the learned frequencies of t = ceil(L / C) windows, as `longrope` factors.

    inv_freq: a list per t = 1, 2, ...; the last serves all longer lengths. With log_scale the scores are multiplied by
    ln L / ln C, whose root goes into cos and sin of both queries and keys.
    """
    original = rule["original_length"]
    t = min(max(1, math.ceil(length / original)), len(rule["inv_freq"]))
    plain = [rule["rope_theta"] ** (-2 * j / head_dim) for j in range(head_dim // 2)]
    factors = [p / f for p, f in zip(plain, rule["inv_freq"][t - 1], strict=True)]
    return {
        "rope_type": "longrope",
        "rope_theta": rule["rope_theta"],
        "factor": float(t),
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": math.sqrt(math.log(length) / math.log(original)) if rule["log_scale"] else 1.0,
        "original_max_position_embeddings": original,
    }


RULES = {"ntk": ntk, "frequencies": frequencies}  # the values of `rule` in a checkpoint's `rope_by_length`


def parameters_at(config, length: int) -> dict | None:
    """The `rope_parameters` that `config` asks for when a window is `length` tokens long, or None if it has no rope.

    Raises ValueError if the checkpoint's `rope_by_length` names a rule unknown here.
    """
    rule = (getattr(config, "context_extension", None) or {}).get("rope_by_length")
    if not rule:
        return getattr(config, "rope_parameters", None)
    if rule.get("rule") not in RULES:
        raise ValueError(f"rope_by_length names the rule '{rule.get('rule')}'; known here: {', '.join(RULES)}")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return RULES[rule["rule"]](rule, length, head_dim)


class RopeByLength:
    """Sets a model's rope for a length, always starting from the rotary module that the model was loaded with.

    That module may keep state (rope type `dynamic` remembers the longest input), so it is never used itself: each
    length gets a copy, and an evaluation does not depend on the lengths before it.
    """

    def __init__(self, model):
        self.inner = model.base_model
        self.loaded = copy.deepcopy(getattr(self.inner, "rotary_emb", None))

    def set(self, length: int) -> dict | None:
        """Makes the model ready for windows of `length` tokens; returns the rope parameters then in use.

        Raises ValueError if the checkpoint's rope follows the length but the model has no `rotary_emb` to rebuild.
        """
        config = self.inner.config
        parameters = parameters_at(config, length)
        if parameters == getattr(config, "rope_parameters", None):
            if self.loaded is not None:
                self.inner.rotary_emb = copy.deepcopy(self.loaded)
            return parameters
        if self.loaded is None:
            raise ValueError(
                f"the rope depends on the length, but {type(self.inner).__name__} has no rotary_emb to set"
            )
        config = copy.deepcopy(config)
        config.rope_parameters = parameters
        self.inner.rotary_emb = type(self.loaded)(config).to(self.loaded.inv_freq.device)
        return parameters
