"""Opens a checkpoint: its config, what it says about its method, its weights."""

import filecmp
import hashlib
import itertools
from pathlib import Path

from run import check_types, errors_of, read_json

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import logging

from rope import rope_at

logging.disable_progress_bar()
for name in ("modeling_utils", "distributed.tensor_parallel"):  # a report on missing weights, a false warning with it
    logging.get_logger(f"transformers.{name}").setLevel(logging.ERROR)
# entries of a longrope that vLLM alone reads
logging.get_logger("transformers.modeling_rope_utils").addFilter(lambda record: "mscale" not in record.getMessage())

# a checkpoint of other code has no record; the type of its rope tells the method
METHOD_BY_ROPE = {"linear": "pi", "yarn": "yarn", "dynamic": "ntk"}
CODE_ADVICE = "read it, then add --trust_remote_code (vLLM cannot run it)"
KEYS = "method exact_attention base_model original_length trained_length trained_tokens training_seed".split()

MODEL_FILES = ("config.json", "*.py", "*.safetensors")
TOKENIZER_FILES = ("generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")  # and EOS
RECORD_TYPES = {  # of `context_extension` in config.json
    "method": str,
    "exact_attention": bool,
    "base_model": str,
    "original_length": int,
    "trained_length": int,
    "trained_tokens": int,
    "recipe": dict,
    "rope_by_length": dict,
}


def add_trust_flag(parser) -> None:
    """Adds --trust_remote_code: absent (False), alone (True), or with a folder, see `is_trusted`."""
    help = "run the checkpoint's own modeling code; with FOLDER, only files that are the same there"
    parser.add_argument("--trust_remote_code", nargs="?", const=True, default=False, metavar="FOLDER", help=help)


def is_trusted(name_or_path: str, config: dict, trust: bool | str) -> bool:
    """Whether the modeling code of a checkpoint may run. config: its config.json.

    trust: for all code; or a folder: for code in files that are equal, byte for byte, to those of the same name there.
    """
    if isinstance(trust, bool):
        return trust
    names = [path.name for path in Path(name_or_path).glob("*.py")]
    for name in config["auto_map"].values():
        module, _, _ = str(name).rpartition(".")
        if f"{module}.py" not in names:
            return False  # in another repository or folder
    same, _, _ = filecmp.cmpfiles(name_or_path, trust, names, shallow=False)
    return same == names


def check_folder(folder: Path, weights: bool) -> None:
    """Raises ValueError if a folder is not a checkpoint, or has no weights in safetensors files of its own."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a checkpoint folder: no config.json (an unfinished run has none)")
    inside = [path.name for path in folder.glob("*.safetensors")]
    if weights and not inside:
        raise ValueError(f"{folder} has no *.safetensors weights; save the model with save_pretrained first")
    index = folder / "model.safetensors.index.json"
    if weights and index.exists():
        files = (read_json(index) or {}).get("weight_map")
        if not isinstance(files, dict) or not set(map(str, files.values())) <= set(inside):
            raise ValueError(f"{index} is broken, or names files that are not in its folder; copy the checkpoint again")


def check_config(config) -> None:
    """Raises ValueError on a window that no model has, and on a `context_extension` of another form."""
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    if window is not None and not (isinstance(window, int) and window > 0):
        raise ValueError(f"config.json has max_position_embeddings = {window}")
    record = getattr(config, "context_extension", None)
    if record is None:
        return
    if not isinstance(record, dict) or "method" not in record:
        raise ValueError("context_extension in config.json is not what extend.py and fine-tune.py write")
    check_types(record, RECORD_TYPES, "context_extension in config.json")


def open_config(name_or_path: str, trust: bool | str, advice: str = CODE_ADVICE, weights: bool = True):
    """The config of a checkpoint folder or hub id. weights: whether a folder must contain some.

    trust: see `is_trusted`.  advice: what to do about code that is not trusted. Raises ValueError if there is such
    code, if the checkpoint cannot be opened, has no safetensors weights, or a config that cannot be right.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        check_folder(folder, weights)
    elif str(name_or_path).startswith((".", "/", "~")) or str(name_or_path).count("/") > 1:
        raise ValueError(f"no folder {name_or_path}; give a checkpoint folder or a hub id")
    with errors_of(f"cannot open {name_or_path}"):
        fields = PreTrainedConfig.get_config_dict(name_or_path)[0]
        has_code = "auto_map" in fields
        if has_code and not is_trusted(name_or_path, fields, trust):
            other = f", which differs from that in {trust}" if trust else ""
            raise ValueError(f"it contains its own modeling code{other}; {advice}")
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=has_code)
        check_config(config)
        rope_at(config, 2)  # raises ValueError on an unknown rule
    return config


def describe(name_or_path: str, config) -> dict:
    """The method and the lengths (tokens) of a checkpoint, under KEYS, as its `context_extension` or its rope tells."""
    record = getattr(config, "context_extension", None)
    if record:
        recipe = record.get("recipe") or {}
        return {key: record.get(key) for key in KEYS} | {"training_seed": recipe.get("seed")}
    rope = getattr(config, "rope_parameters", None) or {}
    method = METHOD_BY_ROPE.get(rope.get("rope_type"), "base")
    window = getattr(config, "max_position_embeddings", None)
    return dict.fromkeys(KEYS) | {
        "method": method,
        "exact_attention": None if getattr(config, "auto_map", None) else True,
        "base_model": name_or_path,
        "original_length": window if method == "base" else rope.get("original_max_position_embeddings", window),
        "trained_length": window,
    }


def fingerprint(name_or_path: str, config, patterns=MODEL_FILES) -> str:
    """16 hex digits over the first and last MiB of each of these files; for a hub id, it and its commit."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return f"{name_or_path}@{getattr(config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    for path in sorted(itertools.chain.from_iterable(map(folder.glob, patterns))):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def choose_dtype(device: torch.device, dtype: str) -> str:
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.type == "cuda" else "float32"


def load_model(name_or_path: str, config, dtype: str, attention: str, device, device_map: str | None = None):
    """The model in evaluation mode, its weights read straight to `device`, or with device_map "auto" to all GPUs.

    config: from `open_config`, which has checked that its code is trusted. Raises ValueError if any of the weights is
    missing, unreadable or of another shape, if there are layers that config leaves out, or if memory does not suffice.
    """
    with errors_of(f"cannot load {name_or_path}"):
        model, report = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            device_map=device_map or {"": device},
            use_safetensors=True,
            trust_remote_code=bool(getattr(config, "auto_map", None)),
            output_loading_info=True,
        )
    check_weights(name_or_path, report)
    return model.eval()


def transform_logits(config, logits):
    """What a model does to the output of its LM head: Granite divides it, Gemma 2 caps it. Same shape and dtype."""
    divisor = getattr(config, "logits_scaling", 1)
    cap = getattr(config, "final_logit_softcapping", None)
    if divisor != 1:
        logits = logits / divisor
    return cap * torch.tanh(logits / cap) if cap else logits


def check_weights(name_or_path: str, report: dict) -> None:
    """Raises ValueError if from_pretrained's `report` has missing weights, or layers that the model does not have."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"{name_or_path} lacks the weights {', '.join(missing[:3])}, ...")
    unused = sorted(key for key in report["unexpected_keys"] if ".layers." in key)
    if unused:
        raise ValueError(f"{name_or_path} has weights that its config.json leaves out: {', '.join(unused[:3])}, ...")
