"""The methods of the study. To add one, write `methods/<name>.py`: its name is the new `--method_name`.

The file defines `Method(ContextExtension)`. Its fields, declared with `option(...)`, are flags of fine-tune.py and
extend.py and are recorded in the checkpoint; its functions give the rope of the model.
"""

import importlib
import math
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from run import errors_of

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
from transformers.hf_argparser import string_to_bool

import checkpoint_writer
from rope import rotary_dim


def option(default, help: str, type: Callable = float):
    """A dataclass field that is also a flag `--<field name>`; `None` means that the method computes the value."""
    return field(default=default, metadata={"help": help, "type": type})


@dataclass
class ContextExtension:
    """A method for one base and one target length. Subclasses, dataclasses as well, override what differs.

    original_length: the base's window C, tokens.  model_max_length: the window to reach, tokens.
    rope: the base's own `rope_parameters`.  head_dim: d, the elements of a head that rope turns.
    pose: whether it is trained by PoSE, on rows of the original length.
    """

    original_length: int
    model_max_length: int
    rope: dict
    head_dim: int
    pose: bool = False

    # not annotated, hence not fields
    trained = True  # False: applied by extend.py only
    extends_rows = True  # False: model_max_length is a training block; longer rows are cut into blocks
    set_for_longest_text = False  # extend.py sets it for the longest text that is evaluated
    supports = ("sequence_parallel_size", "document_mask", "pose")  # flags of fine-tune.py
    exact_attention = True  # it is the base's: all tokens, at their own positions (a group of the result table)
    modeling = None  # "x": the checkpoint contains modeling/modeling_x.py, written for Llama; see its AUTO_MAPS
    llama_only = False  # True: written for Llama's modules
    flags = {}  # {option: its `help` and `type`}

    def __init_subclass__(cls):
        dataclass(cls)
        own = {f.name: f.metadata for f in fields(cls) if "help" in f.metadata}
        cls.flags = cls.flags | own  # a further @dataclass, which older methods have, would drop the metadata

    @property
    def name(self) -> str:
        """Its --method_name: the name of the file that defines it."""
        return type(self).__module__.removeprefix("methods.")

    @property
    def rope_theta(self) -> float:
        return self.rope["rope_theta"]

    @property
    def ratio(self) -> float:
        """s = ceil(L_train / C), the scaling factor of the PI and YaRN papers."""
        return float(math.ceil(self.model_max_length / self.original_length))

    @property
    def trained_length(self) -> int:
        """The length that the method is set for: prompts up to it all have the rope of `rope_parameters`."""
        return self.model_max_length

    def options(self) -> dict:
        """The method's own settings, all resolved to numbers."""
        options = asdict(self)
        for f in fields(ContextExtension):
            del options[f.name]
        return options

    # --- the checkpoint
    def rope_parameters(self) -> dict:
        """The `rope_parameters` of the checkpoint's config.json (Transformers' names)."""
        return self.rope

    def checkpoint_rope(self) -> dict:
        """`rope_parameters`, with the share of each head that rope turns if the base's rope names it (GLM-4)."""
        kept = {}
        if "partial_rotary_factor" in self.rope:
            kept["partial_rotary_factor"] = self.rope["partial_rotary_factor"]
        return kept | self.rope_parameters()

    def rope_by_length(self) -> dict | None:
        """How the rope depends on the total length of a prompt (see rope.py), or None if it does not."""
        return None

    def config_fields(self) -> dict:
        """What the config class of the `modeling` file needs beyond a LlamaConfig's fields."""
        return self.options()

    def auto_classes(self, config) -> dict[str, type]:
        """The checkpoint's classes. config: the base's."""
        if self.modeling is not None:
            return importlib.import_module(f"modeling.modeling_{self.modeling}").AUTO_MAPS[self.name]
        return {"AutoConfig": type(config), "AutoModelForCausalLM": MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]}

    @classmethod
    def options_in_config(cls, config) -> dict:
        """Options that the config of a trained checkpoint of other code has (see extend.py --adopt)."""
        return {}

    # --- training
    def load(self, name_or_path: str, config, **kwargs):
        """The extended model with the base's weights. config: the extended one."""
        return checkpoint_writer.load_weights(AutoModelForCausalLM, name_or_path, config, **kwargs)

    def prepare(self, model, low_rank: bool):
        """The model to train, made from the loaded one. low_rank: by LoRA."""
        return model

    def finish_reads(self, model) -> list:
        """The parameters whose values `finish` reads: ZeRO-3 gathers them for it."""
        return []

    def finish(self, model, folder: Path):
        """The model to save, made from the trained one; further files of the method go into `folder`."""
        return model

    @property
    def row_length(self) -> int:
        """Tokens of a training row. Longer rows of the data are cut if it is below `model_max_length`."""
        return self.original_length if self.pose else self.model_max_length

    # --- the cost of training, for --estimate and the logged TFLOP/s
    def row_tokens(self) -> int:
        """Tokens of a training row as the layers see it."""
        return self.row_length

    def attended_keys(self) -> float:
        """Keys that a query of a training row attends to, on average."""
        return self.row_tokens() / 2

    def saved_scores(self) -> int:
        """float32 numbers that attention keeps for its backward per query and head; 0 with fused attention."""
        return 0


class PositionRule(ContextExtension):
    """A method that gives far keys other positions, by a rule in modeling/modeling_position_rules.py. Not trained."""

    trained = False
    exact_attention = False
    modeling = "position_rules"

    def check_window(self, window: int) -> None:
        """Raises ValueError if `window`, the tokens of the local window, is above the base's."""
        if window > self.original_length:
            raise ValueError(f"--local_window {window} is above the base's window, {self.original_length}")


def available() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def get(name: str) -> type[ContextExtension]:
    """The class of a method. Raises ValueError if there is none of that name."""
    if name not in available():
        raise ValueError(f"no method '{name}'; there are: {', '.join(available())}")
    return importlib.import_module(f"methods.{name}").Method


def all_options() -> dict[str, dict[str, dict]]:
    """{option: {method that has it: its `help` and `type`}}."""
    options = {}
    for name in available():
        for key, metadata in get(name).flags.items():
            options.setdefault(key, {})[name] = metadata
    return options


def add_flags(parser: ArgumentParser) -> None:
    """Adds every method's options to `parser`. A flag that is not given sets no attribute."""
    group = parser.add_argument_group("method options")
    for key, owners in all_options().items():
        help = "; ".join(f"{name}: {metadata['help']}" for name, metadata in owners.items())
        kind = next(iter(owners.values()))["type"]
        keywords = {"type": kind}
        if kind is bool:
            keywords = {"type": string_to_bool, "nargs": "?", "const": True}
        group.add_argument(f"--{key}", **keywords, default=SUPPRESS, help=help)


def build(name: str, config, model_max_length: int, flags: dict, config_options=None) -> ContextExtension:
    """The method `name` for one base and one target length.

    config: the base's, unchanged here.  model_max_length: tokens.  flags: all parsed command-line values.
    config_options: those of an imported checkpoint, where no flag is given. Raises ValueError on an option of another
    method or that is not positive, or a base that the method cannot extend.
    """
    cls = get(name)
    options = dict(config_options or {})
    for key, owners in all_options().items():
        if key not in flags:
            continue
        value = flags[key]
        if name not in owners:
            raise ValueError(f"--{key} is an option of {', '.join(owners)}, not of {name}; leave it out")
        if owners[name]["type"] in (int, float) and not 0 < value < math.inf:
            raise ValueError(f"--{key} must be a positive number, not {value}")
        options[key] = value
    check_base(name, cls, config, model_max_length)
    original_length, pose = config.max_position_embeddings, flags.get("pose", False)
    method = cls(original_length, model_max_length, config.rope_parameters, rotary_dim(config), pose, **options)
    if config.model_type != "llama":
        with errors_of(f"{name} cannot extend a '{config.model_type}' model"):
            checkpoint_writer.extended_config(config, method, {})
    return method


def has_own_rope(cls: type[ContextExtension]) -> bool:
    """Whether the method computes a rope, which needs a base with a plain one."""
    return cls.rope_parameters is not ContextExtension.rope_parameters


def check_base(name: str, cls: type[ContextExtension], config, model_max_length: int) -> None:
    """Raises ValueError if the method cannot extend the base, whose config is `config`, to so many tokens."""
    original_length, rope_type = config.max_position_embeddings, config.rope_parameters["rope_type"]
    if cls.extends_rows and model_max_length <= original_length:
        raise ValueError(f"--model_max_length {model_max_length} is not above the base's own window, {original_length}")
    plain_only = has_own_rope(cls) and rope_type != "default"
    changes_with_window = rope_type == "dynamic" or (cls.modeling and rope_type == "longrope")
    if plain_only or changes_with_window:
        raise ValueError(f"the base's rope is already scaled ({rope_type}); {name} needs one with plain rope")
    if (cls.modeling or cls.llama_only) and config.model_type != "llama":
        raise ValueError(f"{name} extends Llama models only, and the base is a '{config.model_type}' model")
    window = getattr(config, "sliding_window", None) or math.inf
    layer_types = getattr(config, "layer_types", None) or []
    if window < model_max_length and "full_attention" not in layer_types:
        remedy = 'set "sliding_window": null in its config.json'
        raise ValueError(f"every layer of the base attends to the last {window} tokens only; {remedy}")
