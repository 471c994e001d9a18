"""Opens a checkpoint: what it says of itself, all that can be wrong with it, and then the model."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import is_flash_attn_2_available, logging

logging.disable_progress_bar()
# a foreign checkpoint has no record; its rope type tells the method
METHOD_BY_ROPE = {"linear": "pi", "yarn": "yarn", "dynamic": "ntk"}


def open_config(name_or_path: str, trust_remote_code: bool):
    """The config of a checkpoint folder or hub id. Raises ValueError, one line, if it cannot be evaluated; no weight
    is read."""
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} is no checkpoint: it has no config.json (an unfinished run has none)")
        if not any(folder.glob("*.safetensors")):
            raise ValueError(f"{folder} has no *.safetensors weights; save the model with save_pretrained first")
        try:
            own_code = "auto_map" in json.loads((folder / "config.json").read_text())
        except ValueError:
            raise ValueError(f"{folder}/config.json is not JSON; the checkpoint is damaged") from None
        if own_code and not trust_remote_code:
            raise ValueError(f"{folder} brings its own modeling code; read it, then add --trust_remote_code")
    elif name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise ValueError(f"no folder {name_or_path}; --base_model takes a checkpoint folder or a hub id")
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as reason:
        raise ValueError(f"cannot open {name_or_path}: {str(reason).strip().splitlines()[0]}") from None
    if getattr(config, "auto_map", None) and not trust_remote_code:
        raise ValueError(f"{name_or_path} brings its own modeling code; read it, then add --trust_remote_code")
    if getattr(config, "vocab_size", None) is None:
        raise ValueError(f"{name_or_path} is a '{config.model_type}' model, not a causal language model")
    return config


def describe(name_or_path: str, config) -> dict:
    """What the checkpoint says of itself, for the result; method "base" and its own window without a record."""
    record = getattr(config, "context_extension", None)
    keys = ("method", "exact_attention", "base_model", "original_length", "trained_length", "trained_tokens")
    if record:
        return {key: record.get(key) for key in keys} | {"training_seed": (record.get("recipe") or {}).get("seed")}
    rope = getattr(config, "rope_parameters", None) or {}
    window = getattr(config, "max_position_embeddings", None)
    original = rope.get("original_max_position_embeddings", window)
    method = METHOD_BY_ROPE.get(rope.get("rope_type"), "base")
    original = window if method == "base" else original
    exact = not getattr(config, "auto_map", None) or None  # of a model with code of its own it is not known
    return dict(zip((*keys, "training_seed"), (method, exact, name_or_path, original, window, None, None), strict=True))


def fingerprint(name_or_path: str, config) -> str:
    """What tells one checkpoint from another: 16 hex digits over config.json, *.py, and each weight file's name, size,
    first and last MiB; for a hub id, the id and its commit."""
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


def choose(device: torch.device, dtype: str, config) -> tuple[torch.dtype, str]:
    """(dtype, attention) for a device: `auto` is bfloat16 on a GPU and float32 on a CPU; FlashAttention-2 where it is
    installed and can run, else PyTorch's sdpa."""
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    flash = device.type == "cuda" and dtype == "bfloat16" and is_flash_attn_2_available()
    own_code = getattr(config, "auto_map", None)  # brings its own attention
    return getattr(torch, dtype), "flash_attention_2" if flash and not own_code else "sdpa"


def load(name_or_path: str, dtype: torch.dtype, attention: str, device: torch.device, trust_remote_code: bool):
    """The model, ready to evaluate. Raises ValueError if the folder does not hold all of its weights."""
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as reason:
        raise ValueError(f"cannot load {name_or_path}: {str(reason).strip().splitlines()[0]}") from None
    if report["missing_keys"]:
        raise ValueError(f"{name_or_path} lacks the weights {', '.join(sorted(report['missing_keys'])[:3])}, ...")
    return model.eval().to(device)
