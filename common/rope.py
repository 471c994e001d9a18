"""The rope of a checkpoint at one total length, fixed before the first token is computed.

Where a method's rope depends on the length of the text (`rope_by_length` in the checkpoint's `context_extension`), the
length is that of the prompt and the tokens to generate together (arXiv 2409.12181, section 3).
"""

import copy
import math


def ntk(rule: dict, length: int, head_dim: int) -> dict:
    """Dynamic NTK-aware scaling with the trained length as the lower limit (arXiv 2409.12181, section 3)."""
    factor = rule["factor"]
    longest = max(length, rule["trained_length"])
    alpha = factor * longest / rule["original_length"] - (factor - 1)
    return {"rope_type": "default", "rope_theta": rule["rope_theta"] * alpha ** (head_dim / (head_dim - 2))}


def frequencies(rule: dict, length: int, head_dim: int) -> dict:
    """CLEX (arXiv 2310.16450): the learned frequencies of t = ceil(L / C) windows, as `longrope` factors.

    The last list of frequencies serves all longer texts. With log_scale the attention scores are multiplied by
    ln L / ln C, whose square root goes into the cos and sin of both queries and keys.
    """
    original = rule["original_length"]
    theta = rule["rope_theta"]
    t = min(math.ceil(length / original), len(rule["inv_freq"]))
    learned = rule["inv_freq"][t - 1]
    factors = [theta ** (-2 * j / head_dim) / frequency for j, frequency in enumerate(learned)]
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "factor": float(t),
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": math.sqrt(math.log(length, original)) if rule["log_scale"] else 1.0,
        "original_max_position_embeddings": original,
    }


def head_dim(config) -> int:
    """The elements of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def rotary_dim(config) -> int:
    """d, the elements of a head that rope turns: all of them, or the first ones (GLM-4)."""
    return int(head_dim(config) * config.rope_parameters.get("partial_rotary_factor", 1.0))


RULES = {"ntk": ntk, "frequencies": frequencies}  # the values of `rule` in a checkpoint's `rope_by_length`


def rope_at(config, length: int) -> dict | None:
    """The `rope_parameters` for a text of `length` tokens, prompt and answer together; None for a model without rope.

    Checkpoints of other code: a `dynamic` rope, which Transformers changes while the text grows, is taken at the end
    of the text; a `longrope` uses one of its two sets of factors for the whole text.
    Raises ValueError if `rope_by_length` names an unknown rule.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    rule = (getattr(config, "context_extension", None) or {}).get("rope_by_length")
    rope_type = None if rule else rope.get("rope_type")
    if rope_type == "dynamic":
        window = config.max_position_embeddings
        rule = {**rope, "rule": "ntk", "original_length": window, "trained_length": window}
    if rope_type == "longrope":
        window = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        factors = rope["long_factor" if length > window else "short_factor"]
        return rope | {"short_factor": factors, "long_factor": factors}
    if not rule:
        return rope or None
    if rule.get("rule") not in RULES:
        raise ValueError(f"rope_by_length names the unknown rule '{rule.get('rule')}'; known: {', '.join(RULES)}")
    parameters = RULES[rule["rule"]](rule, length, rotary_dim(config))
    if "partial_rotary_factor" in rope:
        parameters["partial_rotary_factor"] = rope["partial_rotary_factor"]
    return parameters


class RopeSetter:
    """Sets the rope of a loaded model; `parameters` is the one in use. Raises ValueError if it has no `rotary_emb`."""

    def __init__(self, model):
        self.inner_model = model.base_model
        self.loaded = getattr(self.inner_model, "rotary_emb", None)  # as loaded; never changed
        self.parameters = getattr(self.inner_model.config, "rope_parameters", None)
        if getattr(self.loaded, "rope_type", None) in ("dynamic", "longrope"):
            self.parameters = None  # what is loaded follows the text: build it anew for each length

    def set(self, parameters: dict | None) -> None:
        """Rebuilds the model's rotary embedding from `rope_parameters` (see `rope_at`)."""
        if parameters == self.parameters:
            return
        if self.loaded is None:
            name = type(self.inner_model).__name__
            raise ValueError(f"the rope depends on the length of the text, but {name} has no rotary_emb to replace")
        config = copy.deepcopy(self.inner_model.config)
        config.rope_parameters = parameters
        rotary = type(self.loaded)(config).to(self.loaded.inv_freq.device)
        rotary.rope_type = "default"  # Transformers must not change the frequencies during the text
        self.inner_model.rotary_emb = rotary
        self.parameters = parameters
