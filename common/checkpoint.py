"""Opens a checkpoint: its config, what it says about its method, its tokenizer, its weights."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging

from run import first_line, out_of_memory

logging.disable_progress_bar()

# a checkpoint of other code has no record; the type of its rope tells the method
METHOD_BY_ROPE = {"linear": "pi", "yarn": "yarn", "dynamic": "ntk"}
CODE_ADVICE = "read it, then add --trust_remote_code (vLLM cannot run it)"
KEYS = (
    "method", "exact_attention", "base_model", "original_length", "trained_length", "trained_tokens", "training_seed",
)  # fmt: skip


def open_config(name_or_path: str, trust_remote_code: bool, advice: str = CODE_ADVICE, weights: bool = True):
    """The config of a checkpoint folder or hub id. weights: whether a folder must contain some.

    Raises ValueError if the checkpoint cannot be opened, has no safetensors weights, or contains modeling code that is
    not trusted; advice: what to do then.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} is not a checkpoint folder: no config.json (an unfinished run has none)")
        if weights and not any(folder.glob("*.safetensors")):
            raise ValueError(f"{folder} has no *.safetensors weights; save the model with save_pretrained first")
    elif str(name_or_path).startswith((".", "/", "~")) or str(name_or_path).count("/") > 1:
        raise ValueError(f"no folder {name_or_path}; give a checkpoint folder or a hub id")
    try:
        has_code = "auto_map" in PreTrainedConfig.get_config_dict(name_or_path)[0]
        if not has_code or trust_remote_code:
            return AutoConfig.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot open {name_or_path}: {first_line(error)}") from None
    raise ValueError(f"{name_or_path} contains its own modeling code; {advice}")


def open_tokenizer(name_or_path: str, trust_remote_code: bool = False):
    """The tokenizer of a checkpoint folder or hub id. Raises ValueError if there is none."""
    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"no tokenizer in {name_or_path}: {first_line(error)}") from None


def checkpoint_name(name_or_path: str) -> str:
    """The name of a checkpoint in results: the last part of its folder or hub id."""
    path = Path(name_or_path)
    return path.resolve().name if path.is_dir() else path.name


def describe(name_or_path: str, config) -> dict:
    """The method and the lengths (tokens) of a checkpoint, under KEYS.

    Without a `context_extension` record the method is "base", or that of its type of rope.
    """
    info = dict.fromkeys(KEYS)
    record = getattr(config, "context_extension", None)
    if record:
        info |= {key: value for key, value in record.items() if key in KEYS}
        info["training_seed"] = (record.get("recipe") or {}).get("seed")
        return info
    rope = getattr(config, "rope_parameters", None) or {}
    window = getattr(config, "max_position_embeddings", None)
    info["method"] = METHOD_BY_ROPE.get(rope.get("rope_type"), "base")
    info["exact_attention"] = None if getattr(config, "auto_map", None) else True
    info["base_model"] = name_or_path
    info["trained_length"] = info["original_length"] = window
    if info["method"] != "base":
        info["original_length"] = rope.get("original_max_position_embeddings", window)
    return info


def fingerprint(name_or_path: str, config) -> str:
    """16 hex digits over a checkpoint's config.json, code, and first and last MiB of each weight file.

    For a hub id, the id and its commit.
    """
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


def choose_dtype(device: torch.device, dtype: str) -> str:
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    return dtype


def load_model(
    name_or_path: str,
    config,
    dtype: str,
    attention: str,
    device: torch.device,
    trust_remote_code: bool,
    device_map: str | None = None,
):
    """The model in evaluation mode, its weights read straight to `device`, or with device_map "auto" to all GPUs.

    Raises ValueError if any of its weights is missing or unreadable, or if they do not fit in memory.
    """
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            device_map=device_map or {"": device},
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, MemoryError, SafetensorError) as error:
        if out_of_memory(error):
            raise ValueError(f"{name_or_path} does not fit in memory: {first_line(error)}") from None
        raise ValueError(f"cannot load {name_or_path}: {first_line(error)}") from None
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ValueError(f"{name_or_path} lacks the weights {missing}, ...")
    return model.eval()
