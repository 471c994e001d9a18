"""Writes checkpoint folders that every stage opens without knowing the method.

A checkpoint is an ordinary Hugging Face folder (safetensors, a generation_config.json that decodes greedily, the base's
tokenizer) whose config.json, which is written last, has one extra object, `context_extension`.
"""

import copy
import os
import shutil
from pathlib import Path

from run import RANK, errors_of, read_json, write_json

from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

from checkpoint import check_weights, fingerprint, open_config
from lock import lock

TOKENIZER = ("tokenizer*", "*_tokens*.json", "vocab.json", "merges.txt", "*.model", "*.jinja")
KIT_VERSION = "0.1.0"
# bases whose rope is one `rope_parameters` for all layers; a test opens, trains and evaluates each
ARCHITECTURES = "gemma2 glm4 granite llama mistral olmo2 phi3 qwen2 qwen3".split()
LOCKS = []  # on the folders that this process writes to


def open_base(name_or_path: str, weights: bool = True) -> PreTrainedConfig:
    """The config of a base model. weights: whether to check that its weights are those that the config describes.

    Raises ValueError if the base cannot be opened, is not of ARCHITECTURES, is quantised, or is already extended.
    """
    config = open_config(name_or_path, False, "the methods extend models without code of their own", weights)
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{name_or_path} is a '{config.model_type}' model; the methods extend {known}")
    extension = getattr(config, "context_extension", None)
    if extension:
        raise ValueError(f"{name_or_path} is already extended ({extension['method']}); start from its base")
    if getattr(config, "quantization_config", None):
        raise ValueError(f"{name_or_path} is quantised; start from the model with weights in bfloat16 or float32")
    if weights:  # reads only their names and shapes
        load_weights(AutoModelForCausalLM, base_folder(name_or_path), copy.deepcopy(config), device_map="meta")
    if config.pad_token_id is not None and not 0 <= config.pad_token_id < config.vocab_size:
        config.pad_token_id = None  # -1 in early conversions; PyTorch would take it for the last token
    rope = config.rope_parameters
    before_scaling = rope.get("original_max_position_embeddings")
    if before_scaling and rope.get("factor") is None:  # Transformers would compute it from the new window
        rope["factor"] = config.max_position_embeddings / before_scaling
    return config


def base_folder(name_or_path: str) -> Path:
    """The folder of a base's weights, tokenizer and generation_config.json, downloaded if it is a hub id."""
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    return Path(
        snapshot_download(name_or_path, allow_patterns=["*.safetensors*", "generation_config.json", *TOKENIZER])
    )


def load_weights(model_class, name_or_path: str | Path, config: PreTrainedConfig, **kwargs):
    """from_pretrained of safetensors only, or of `state_dict` in kwargs.

    Raises ValueError if weights are missing, superfluous, of another shape or unreadable.
    """
    source = None if "state_dict" in kwargs else name_or_path
    kwargs |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    with errors_of(f"cannot load {name_or_path}"):
        model, report = model_class.from_pretrained(source, config=config, **kwargs)
    check_weights(name_or_path, report)
    return model


def greedy_generation(base: str, config: PreTrainedConfig) -> GenerationConfig:
    """Greedy decoding until one of the base's own end tokens, of which a chat model's config.json may lack some."""
    generation = GenerationConfig.from_model_config(config)
    own = read_json(base_folder(base) / "generation_config.json") or {}
    if own.get("eos_token_id") is not None:
        generation.eos_token_id = own["eos_token_id"]
    return generation


def copy_tokenizer(base: str, output: str | Path) -> None:
    """Copies the base's tokenizer files, byte by byte."""
    for pattern in TOKENIZER:
        for path in base_folder(base).glob(pattern):
            shutil.copyfile(path, Path(output) / path.name)


def run_settings(method, base: str, config: PreTrainedConfig, trained: bool) -> dict:
    """What `claim` compares on a rerun. config: the base's."""
    return {
        "method_name": method.name,
        "base": fingerprint(base, config),
        "model_max_length": method.model_max_length,
        "options": method.options(),
        "trained": trained,
    }


def context_extension(method, base: str, recipe: dict) -> dict:
    """The `context_extension` object of config.json, before training."""
    return {
        "method": method.name,
        "exact_attention": method.exact_attention,
        "base_model": base,
        "original_length": method.original_length,
        "trained_length": method.trained_length,
        "trained_tokens": 0,
        "options": method.options(),
        "recipe": recipe,
        "rope_by_length": method.rope_by_length(),
        "kit_version": KIT_VERSION,
    }


def extended_config(base: PreTrainedConfig, method, extension: dict) -> PreTrainedConfig:
    """The base's config with the method's rope, the new window and `context_extension`.

    With an attention of its own, it has another `model_type` and names the modeling file in `auto_map`: without
    --trust_remote_code it is refused, never opened as a plain model.
    """
    fields = base.to_dict()  # a copy
    fields["rope_parameters"] = method.checkpoint_rope()
    fields["max_position_embeddings"] = max(method.model_max_length, method.original_length)
    fields["context_extension"] = extension
    classes = method.auto_classes(base)
    if method.modeling is not None:
        fields.pop("model_type")
        fields["architectures"] = [classes["AutoModelForCausalLM"].__name__]
        fields["auto_map"] = {auto: f"modeling_{method.modeling}.{cls.__name__}" for auto, cls in classes.items()}
        fields |= method.config_fields()
    return classes["AutoConfig"].from_dict(fields)


def copy_modeling(method, output: Path) -> None:
    """Copies the method's modeling file, if it has one, and the files that it imports, into the checkpoint."""
    if method.modeling:
        source = Path(__file__).parent / "modeling" / f"modeling_{method.modeling}.py"
        for path in [source, *get_relative_import_files(source)]:
            shutil.copyfile(path, output / Path(path).name)


def link_weights(base: str, output: Path) -> None:
    """Links the base's weights into `output`: hard links, or symbolic ones across file systems."""
    for path in base_folder(base).glob("*.safetensors*"):  # and their index
        try:
            os.link(path.resolve(), output / path.name)
        except OSError:
            os.symlink(path.resolve(), output / path.name)


def complete_files(method, folder: Path) -> None:
    """Adds the method's modeling files, and the rope in the form of Transformers 4."""
    copy_modeling(method, folder)
    config_file = folder / "config.json"
    config = read_json(config_file)
    rope = config["rope_parameters"].copy()
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope["partial_rotary_factor"]
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    write_json(config_file, dict(sorted(config.items())))


def apply_umask(folder: Path) -> None:
    """Gives weights the mode of other files: safetensors writes with 0600. Links to a base's weights keep theirs."""
    umask = os.umask(0o077)
    os.umask(umask)
    for path in folder.rglob("*.safetensors"):
        if not path.is_symlink() and path.stat().st_nlink == 1:
            path.chmod(0o666 & ~umask)


def move_in(partial: Path, output: Path) -> None:
    """Moves the files of `partial` into `output`, config.json last, and removes `partial`."""
    apply_umask(partial)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == "config.json"):
        if path.is_dir():
            shutil.rmtree(output / path.name, ignore_errors=True)
        os.replace(path, output / path.name)
    shutil.rmtree(partial)  # a hard link stays where it is if its target is in place already


def claim(output: Path, settings: dict, result: str = "config.json") -> bool:
    """Writes the settings of a run to `output`/run.json; returns whether that run is already finished.

    Waits while another process works there. Raises ValueError if it contains another run. result: the run's last file.
    """
    if RANK == 0:
        LOCKS.append(lock(output / ".lock"))
        for partial in output.glob("*.partial"):  # what a killed run was writing
            shutil.rmtree(partial, ignore_errors=True)
    finished, record = (output / result).exists(), output / "run.json"
    recorded = read_json(record)
    if recorded is None:
        if finished or record.exists():
            raise ValueError(f"{output} contains a {result} of other code, or a damaged run.json; give another folder")
        write_json(record, settings)
        return False
    for key in settings | recorded:
        before, now = recorded.get(key), settings.get(key)
        if before != now:
            remedy = "give another --output_dir, or delete that folder"
            raise ValueError(f"{output} contains another run: {key} was {before}, now it is {now}; {remedy}")
    return finished
