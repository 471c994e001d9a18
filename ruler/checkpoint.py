"""What a checkpoint says of itself, and what tells it from another.

needle, longbench and ruler hold copies of this file, equal byte for byte.
"""

import hashlib
import math
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

# a foreign checkpoint has no record; its rope type tells the method
METHOD_BY_ROPE = {"linear": "pi", "yarn": "yarn", "dynamic": "ntk"}
KEYS = (
    "method", "exact_attention", "base_model", "original_length", "trained_length", "trained_tokens", "training_seed",
)  # fmt: skip


def open_config(name_or_path: str, trust_remote_code: bool, own_code: str = "; read it, then add --trust_remote_code"):
    """The config of a checkpoint folder or hub id. Raises ValueError, one line, if it cannot be used; reads no weights.

    own_code: what to do about a checkpoint that brings its own modeling code and is not trusted.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} is no checkpoint: it has no config.json (an unfinished run has none)")
        if not any(folder.glob("*.safetensors")):
            raise ValueError(f"{folder} has no *.safetensors weights; save the model with save_pretrained first")
    elif str(name_or_path).startswith((".", "/", "~")) or str(name_or_path).count("/") > 1:
        raise ValueError(f"no folder {name_or_path}; give a checkpoint folder or a hub id")
    try:
        own = "auto_map" in PreTrainedConfig.get_config_dict(name_or_path)[0]
        refused = own and not trust_remote_code
        config = None if refused else AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as reason:
        raise ValueError(f"cannot open {name_or_path}: {str(reason).strip().splitlines()[0]}") from None
    if refused:
        raise ValueError(f"{name_or_path} brings its own modeling code{own_code}")
    return config


def ntk(rule: dict, length: int, head_dim: int) -> dict:
    """Dynamic NTK-aware scaling, floored at the trained length (arXiv 2409.12181, section 3; bloc97 and emozilla).

    alpha = f * max(L, T) / C - (f - 1);   rope_theta = theta * alpha^(d / (d - 2)), in float64.
    """
    factor, longest = rule["factor"], max(length, rule["trained_length"])
    alpha = factor * longest / rule["original_length"] - (factor - 1)
    return {"rope_type": "default", "rope_theta": rule["rope_theta"] * alpha ** (head_dim / (head_dim - 2))}


def frequencies(rule: dict, length: int, head_dim: int) -> dict:
    """CLEX (arXiv 2310.16450): the learned frequencies of t = ceil(L / C) windows, as `longrope` factors; with
    log_scale the scores are multiplied by ln L / ln C, whose root goes into cos and sin of queries and keys."""
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
    """The `rope_parameters` of a text of `length` tokens, prompt and answer; None without a rope.

    A foreign checkpoint's `dynamic` rope, which follows the length while the text grows, is taken at its end, and of a
    `longrope` one set of factors serves all of the text. Raises ValueError on a rule unknown here.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    rule = (getattr(config, "context_extension", None) or {}).get("rope_by_length")
    if not rule and rope.get("rope_type") == "dynamic":
        window = config.max_position_embeddings
        rule = {**rope, "rule": "ntk", "original_length": window, "trained_length": window}
    if not rule and rope.get("rope_type") == "longrope":
        window = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        factors = rope["long_factor" if length > window else "short_factor"]
        return rope | {"short_factor": factors, "long_factor": factors}
    if not rule:
        return rope or None
    if rule.get("rule") not in RULES:
        raise ValueError(f"rope_by_length names the rule '{rule.get('rule')}'; known here: {', '.join(RULES)}")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return RULES[rule["rule"]](rule, length, head_dim)


def describe(name_or_path: str, config) -> dict:
    """KEYS from the checkpoint's `context_extension`; without one, "base" and its own window. Lengths in tokens;
    training_seed is None where nothing was trained or it is not known."""
    record = getattr(config, "context_extension", None)
    if record:
        return {key: record.get(key) for key in KEYS} | {"training_seed": (record.get("recipe") or {}).get("seed")}
    rope = getattr(config, "rope_parameters", None) or {}
    window = getattr(config, "max_position_embeddings", None)
    method = METHOD_BY_ROPE.get(rope.get("rope_type"), "base")
    original = window if method == "base" else rope.get("original_max_position_embeddings", window)
    exact = not getattr(config, "auto_map", None) or None  # of a model with code of its own it is not known
    return dict(zip(KEYS, (method, exact, name_or_path, original, window, None, None), strict=True))


def fingerprint(name_or_path: str, config) -> str:
    """16 hex digits over a folder's config.json, *.py, and each weight file's name, size, first and last MiB; for a
    hub id, the id and its commit."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return f"{name_or_path}@{getattr(config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.py"), *folder.glob("*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16]
