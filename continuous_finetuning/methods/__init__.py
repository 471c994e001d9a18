"""The methods of the study: one file each, found by its file name.

`methods/<name>.py` defines a dataclass `Method(ContextExtension)`. Its fields, made with `option(...)`, become
command-line flags of fine-tune.py and extend.py and are recorded in the checkpoint; its functions say what rope the
model gets. Nothing else has to be edited: the file's name is the new `--method_name`.
"""

import copy
import importlib
import math
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.hf_argparser import string_to_bool


def option(default, help: str, type: Callable = float):
    """A dataclass field that is also a flag `--<field name>`; `None` means that the method computes the value."""
    return field(default=default, metadata={"help": help, "type": type})


@dataclass
class ContextExtension:
    """What a method is told of the base, and what it must answer.

    original_length: the base's context window C, tokens.     rope: the base's own `rope_parameters`.
    model_max_length: the window to reach, L_train, tokens.   head_dim: d, even.
    """

    original_length: int
    model_max_length: int
    rope: dict
    head_dim: int

    trained: ClassVar[bool] = True  # may fine-tune.py train it?
    exact_attention: ClassVar[bool] = True  # do tokens attend to all before them, in training too? (table's groups)
    set_for_longest_text: ClassVar[bool] = False  # is its window the longest text evaluated, not the trained one?
    low_rank: ClassVar[bool] = False  # can it train with --low_rank_training True?
    sequence_parallel: ClassVar[bool] = True  # can a row be split over ranks (--sequence_parallel_size)?
    document_mask = True  # can its attention be kept inside documents (--document_mask)?
    extends_rows: ClassVar[bool] = True  # False: model_max_length is a training block, not the window to reach
    scales_rope: ClassVar[bool] = True  # does it need a base whose rope is plain?
    links_weights: ClassVar[bool] = True  # untrained, are its weights the base's, byte for byte?
    stores_scores: ClassVar[bool] = False  # does its attention hold all scores of a layer in memory?
    # how other code bases write the method: the rope's type, and which of its entries is which option
    written_as: ClassVar[tuple[str, dict[str, str]]] = ("default", {})
    modeling: ClassVar[str | None] = None  # "x": modeling/modeling_x.py travels inside the checkpoint

    @classmethod
    def options_in_config(cls, config) -> dict:
        """Options that the config of another code base's trained checkpoint states; see `adopt`."""
        rope, (_, entries) = config.rope_parameters, cls.written_as
        return {option: float(rope[entry]) for entry, option in entries.items() if rope.get(entry) is not None}

    @property
    def rope_theta(self) -> float:
        """theta, the base of the base's rope."""
        return self.rope["rope_theta"]

    @property
    def ratio(self) -> int:
        """s = ceil(L_train / C), the scaling factor of the PI and YaRN papers."""
        return math.ceil(self.model_max_length / self.original_length)

    @property
    def trained_length(self) -> int:
        """The length that the method is set for: prompts up to it all have the rope of `rope_parameters`."""
        return self.model_max_length

    # --- the checkpoint
    def rope_parameters(self) -> dict:
        """The `rope_parameters` of the checkpoint's config.json (Transformers' names)."""
        return self.rope

    def rope_by_length(self) -> dict | None:
        """How the rope follows the total length of a prompt (rope.py), or None if it does not."""
        return None

    def config_fields(self) -> dict:
        """What the config class of the `modeling` file needs beyond a LlamaConfig's fields."""
        return {}

    def auto_classes(self) -> dict[str, type]:
        """The classes of the extended model: AutoConfig, AutoModel and AutoModelForCausalLM."""
        if self.modeling is not None:
            return importlib.import_module(f"modeling.modeling_{self.modeling}").AUTO_MAP
        return {"AutoConfig": LlamaConfig, "AutoModel": LlamaModel, "AutoModelForCausalLM": LlamaForCausalLM}

    # --- training
    def load(self, name_or_path: str, config, **kwargs):
        """The extended model with the base's weights. config: the extended one; kwargs: as of `from_pretrained`."""
        return AutoModelForCausalLM.from_pretrained(name_or_path, config=config, **kwargs)

    def prepare(self, model, low_rank: bool):
        """The model that is trained, made from the loaded one."""
        return model

    def finish_reads(self, model) -> list:
        """The parameters whose values `finish` reads: under ZeRO-3 they are gathered for it."""
        return []

    def finish(self, model, folder: Path):
        """The model to save, made from the trained one; further files of the method go into `folder`."""
        return model

    # --- the cost of training, for --estimate and the logged TFLOP/s
    def row_tokens(self) -> int:
        """Tokens of a training row as the layers see it."""
        return self.model_max_length

    def attended_keys(self) -> float:
        """Keys that a query of a training row attends to, on average."""
        return self.row_tokens() / 2

    def options(self) -> dict:
        """The method's own settings, all resolved to numbers."""
        own = {f.name for f in fields(ContextExtension)}
        return {name: value for name, value in asdict(self).items() if name not in own}


def available() -> list[str]:
    """Names of all methods, sorted: the file names in this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def get(name: str) -> type[ContextExtension]:
    """The class of a method. Raises ValueError if there is no such file."""
    if name not in available():
        raise ValueError(f"no method '{name}'; there are: {', '.join(available())}")
    return importlib.import_module(f"methods.{name}").Method


def _option_fields(cls):
    return [f for f in fields(cls) if "help" in f.metadata]


def add_flags(parser: ArgumentParser) -> None:
    """Adds every method's options to `parser`; a flag that was not given leaves no attribute behind."""
    flags: dict[str, tuple[Callable, list[str]]] = {}
    for name in available():
        for f in _option_fields(get(name)):
            flags.setdefault(f.name, (f.metadata["type"], []))[1].append(f"{name}: {f.metadata['help']}")
    group = parser.add_argument_group("method options")
    for flag, (flag_type, texts) in flags.items():
        switch = {"type": string_to_bool, "nargs": "?", "const": True} if flag_type is bool else {"type": flag_type}
        group.add_argument(f"--{flag}", **switch, default=SUPPRESS, help="; ".join(texts).replace("%", "%%"))


def build(name: str, config, model_max_length: int, flags: dict, stated: dict | None = None) -> ContextExtension:
    """The method `name` for one base and one target length.

    config: the base's `LlamaConfig`, unchanged here. model_max_length: tokens.
    flags: all parsed command-line values; those that are options of some method and were given are used.
    stated: fields that an adopted checkpoint decides. Raises ValueError on an unknown method, an option of another
    method, or a length not above the original.
    """
    cls = get(name)
    own = {f.name for f in _option_fields(cls)}
    every = {f.name for other in available() for f in _option_fields(get(other))}
    given = {key: value for key, value in flags.items() if key in every}
    for key in given:
        if key not in own:
            takers = [other for other in available() if key in {f.name for f in _option_fields(get(other))}]
            raise ValueError(f"--{key} is an option of {', '.join(takers)}, not of {name}; leave it out")
    original_length = config.max_position_embeddings
    if cls.extends_rows and model_max_length <= original_length:
        raise ValueError(
            f"--model_max_length {model_max_length} is not above the base's own window of {original_length} "
            "tokens; there is nothing to extend. Give a longer one."
        )
    rope = config.rope_parameters
    if cls.scales_rope and rope["rope_type"] != "default":
        raise ValueError(f"the base's rope is already scaled ({rope['rope_type']}); {name} needs one with plain rope")
    if cls.modeling and rope["rope_type"] in ("dynamic", "longrope"):
        raise ValueError(
            f"the base's rope ({rope['rope_type']}) depends on the length of the text; {name} needs a fixed one"
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return cls(original_length, model_max_length, rope, head_dim, **{**given, **(stated or {})})


def adopt(name: str, config, original_length: int | None, model_max_length: int, flags: dict):
    """(the base's config, the method) behind a trained checkpoint of another code base, whose config is `config`.

    original_length: tokens; None takes the checkpoint's own statement. flags: as of `build`. Raises ValueError if
    the checkpoint's rope is not the method's, or states another value than a given flag.
    """
    cls, rope = get(name), dict(config.rope_parameters)
    if not cls.trained:
        raise ValueError(f"{name} is not trained, so there is nothing to adopt; leave --adopt out")
    rope_type, _ = cls.written_as
    if cls.scales_rope and rope["rope_type"] != rope_type:
        fitting = [other for other in available() if get(other).written_as[0] == rope["rope_type"]]
        raise ValueError(
            f"the checkpoint's rope is '{rope['rope_type']}', {name} is written as '{rope_type}'; "
            f"--method_name must be one of: {', '.join(fitting) or 'none here'}"
        )
    stated = cls.options_in_config(config)
    for key, value in stated.items():
        if flags.get(key, value) != value:
            raise ValueError(f"--{key} {flags[key]}, but the checkpoint itself says {value}; leave the flag out")
    base = copy.deepcopy(config)
    if cls.scales_rope:
        base.rope_parameters = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
    base.max_position_embeddings = (
        original_length or rope.get("original_max_position_embeddings") or config.max_position_embeddings
    )
    return base, build(name, base, model_max_length, flags, stated)


def positive(name: str, value: float | None, default: float | None = None) -> float:
    """`value` (`default` where it is None) as a float, ValueError if it is not a positive number."""
    value = default if value is None else value
    if not 0 < value < math.inf:
        raise ValueError(f"--{name} must be a positive number, not {value}")
    return float(value)


def check_at_least_one(method: ContextExtension, *names: str) -> None:
    """Raises ValueError if one of these options is below 1."""
    for name in names:
        if getattr(method, name) < 1:
            raise ValueError(f"--{name} must be at least 1, not {getattr(method, name)}")
