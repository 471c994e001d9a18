"""The checkpoint contract: what a folder holds so that every stage can open it without asking which method it is.

A checkpoint is an ordinary Hugging Face folder (safetensors, config.json, a generation_config.json that decodes
greedily, the base's tokenizer) whose config.json has one extra object, `context_extension`. config.json is always
written last: a folder without it is unfinished.
"""

import copy
import fcntl
import hashlib
import importlib
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

KIT_VERSION = "0.1.0"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.model")


def open_base(name_or_path: str, cache_dir: str | None = None, weights: bool = True) -> PreTrainedConfig:
    """The config of a base model, after all that can be wrong with it is checked and before any weight is read.

    name_or_path: a folder or a hub id. weights: must it have any? Exits with one line if it is neither, holds no
    safetensors weights, is not a Llama, or is already extended.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SystemExit(f"error: {folder} is no checkpoint: it has no config.json (an unfinished run has none)")
        if weights and not list(folder.glob("*.safetensors")):
            raise SystemExit(f"error: {folder} has no *.safetensors weights; save the model with save_pretrained first")
    elif name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise SystemExit(f"error: no folder {name_or_path}; --model_name_or_path takes a checkpoint folder or a hub id")
    try:
        config = AutoConfig.from_pretrained(name_or_path, cache_dir=cache_dir)
    except (OSError, ValueError) as reason:
        raise SystemExit(f"error: cannot open {name_or_path}: {str(reason).splitlines()[0]}") from None
    if config.model_type != "llama":
        raise SystemExit(f"error: {name_or_path} is a '{config.model_type}' model; the methods extend Llama models")
    record = getattr(config, "context_extension", None)
    if record:
        raise SystemExit(
            f"error: {name_or_path} is already extended ({record['method']}); "
            f"start from its base {record['base_model']}"
        )
    return config


def record(method_name: str, method, base: str, trained_tokens: int | None, recipe: dict) -> dict:
    """The `context_extension` object of config.json. trained_tokens: 0 without training, None where it is unknown."""
    return {
        "method": method_name,
        "exact_attention": method.exact_attention,
        "base_model": base,
        "original_length": method.original_length,
        "trained_length": method.trained_length,
        "trained_tokens": trained_tokens,
        "options": method.options(),
        "recipe": recipe,
        "rope_by_length": method.rope_by_length(),
        "kit_version": KIT_VERSION,
    }


def extended_config(base: PreTrainedConfig, method, context_extension: dict) -> PreTrainedConfig:
    """The config of the extended model: the base's, with the method's rope, the new window and the record.

    Where the method has its own attention, the config is that of its modeling file and names it in `auto_map`, with
    a `model_type` of its own: opened without --trust_remote_code it is refused, never taken for a plain Llama.
    """
    fields = copy.deepcopy(base.to_dict())
    fields.pop("_name_or_path", None)
    fields["rope_parameters"] = method.rope_parameters()
    fields["max_position_embeddings"] = max(method.model_max_length, method.original_length)
    fields["context_extension"] = context_extension
    if method.modeling is None:
        return type(base).from_dict(fields)
    module = importlib.import_module(f"modeling.modeling_{method.modeling}")
    fields.pop("model_type")
    fields["architectures"] = [module.AUTO_MAP["AutoModelForCausalLM"].__name__]
    fields["auto_map"] = {auto: f"modeling_{method.modeling}.{cls.__name__}" for auto, cls in module.AUTO_MAP.items()}
    return module.AUTO_MAP["AutoConfig"].from_dict(fields | method.config_fields())


def copy_modeling(method, output: Path) -> None:
    """Puts the method's modeling file, if it has one, into the checkpoint."""
    if method.modeling:
        name = f"modeling_{method.modeling}.py"
        shutil.copyfile(Path(__file__).parent / "modeling" / name, output / name)


def greedy_generation_config(config: PreTrainedConfig) -> GenerationConfig:
    """Decoding without sampling: the base's own file may sample (Llama-2's does), and a study must not."""
    return GenerationConfig(
        do_sample=False,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def write_json(path: Path, value) -> None:
    """Writes `value` so that a kill leaves either the old file or the new one, never half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)


def write_config(folder: Path, config: PreTrainedConfig) -> None:
    """config.json, the file that makes a folder a checkpoint: call this last."""
    write_json(folder / "config.json", json.loads(config.to_json_string(use_diff=False)))


def fingerprint(name_or_path: str, config: PreTrainedConfig) -> str:
    """What tells one base from another: 16 hex digits over each weight file's name, size, and first and last MiB;
    for a hub id, the id and its commit."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return f"{name_or_path}@{config._commit_hash}"
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def link(source: Path, target: Path) -> None:
    """`target` becomes the same file as `source`: a hard link, or a symbolic one across file systems."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        target.symlink_to(source.resolve())


def copy_base_files(base: Path, output: Path, weights: bool = True) -> None:
    """Links the base's weights into `output` and copies its tokenizer; a few kB however large the base is."""
    for pattern in WEIGHTS if weights else ():
        for path in base.glob(pattern):
            link(path, output / path.name)
    for pattern in TOKENIZER:
        for path in base.glob(pattern):
            shutil.copyfile(path, output / path.name)


def verify_weights(folder: Path, model_class: type, config: PreTrainedConfig) -> None:
    """Exits with one line if the weights of a model_class(config) in `folder` are not all there: a tensor missing,
    empty or of another shape (as ZeRO-3's pieces are, saved without being gathered). Reads headers only."""
    with torch.device("meta"):
        wanted = {name: list(tensor.shape) for name, tensor in model_class(config).state_dict().items()}
    if config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    held = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            held |= {name: file.get_slice(name).get_shape() for name in file.keys()}
    for path in folder.glob("*/*.safetensors"):  # what a method keeps beside its model
        with safe_open(path, "pt") as file:
            empty = [name for name in file.keys() if 0 in file.get_slice(name).get_shape()]
            if empty:
                raise SystemExit(f"error: {path} was written with empty tensors ({empty[0]}); please report this")
    for name, shape in wanted.items():
        if held.get(name) != shape:
            raise SystemExit(
                f"error: {folder} was written with {name} of shape {held.get(name)}, not {shape}; please report this"
            )


def move_in(partial: Path, output: Path) -> None:
    """Moves the files and folders of `partial` into `output`, config.json last, and removes `partial`."""
    for path in sorted(partial.iterdir(), key=lambda path: path.name == "config.json"):
        if path.is_dir():
            shutil.rmtree(output / path.name, ignore_errors=True)
        os.replace(path, output / path.name)
    partial.rmdir()


def lock(output: Path):
    """Waits until no other process trains into `output`, and keeps others waiting while the file returned is open.

    A launcher that was killed leaves its run at work; the same command again must not write between its files.
    """
    output.mkdir(parents=True, exist_ok=True)
    file = (output / ".lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{output}: another process is at work there; waiting for its end", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks
    return file


def claim(output: Path, identity: dict) -> bool:
    """Notes in `output`/run.json which run the folder holds; True if that run is already finished there.

    Exits with one line if the folder holds another run, so that a changed setting never overwrites finished work.
    """
    note = output / "run.json"
    if not note.exists() and (output / "config.json").exists():
        raise SystemExit(f"error: {output} holds a model that this script did not write; give another --output_dir")
    if note.exists():
        held = json.loads(note.read_text())
        for key in [*identity, *held]:
            if held.get(key) != identity.get(key):
                raise SystemExit(
                    f"error: {output} holds another run: {key} was {held.get(key)}, now it is {identity.get(key)}. "
                    "Give another --output_dir, or delete that folder to start anew."
                )
        return (output / "config.json").exists()
    output.mkdir(parents=True, exist_ok=True)
    write_json(note, identity)
    return False
