"""Checks DeepSpeed's JSON file: DeepSpeed silently ignores a misplaced key, and some keys override the command line."""

from pathlib import Path
from run import errors_of, read_json
from typing import NamedTuple

OVERRIDES = ("optimizer", "scheduler")
MISPLACED = ("stage", "offload_optimizer", "offload_param")


class Settings(NamedTuple):
    """The ZeRO stage (0 to 3), and which parts are kept in host memory."""

    stage: int = 0
    offload_optimizer: bool = False
    offload_param: bool = False


def read(path: str) -> Settings:
    """Raises ValueError if the file is missing, or has a key that has no effect or overrides the command line."""
    config = read_json(Path(path))
    if config is None:
        raise ValueError(f"--deepspeed {path}: no such file, or not a JSON object")
    with errors_of(f"--deepspeed {path}"):
        for key in config:
            if key in OVERRIDES:
                raise ValueError(f"`{key}` overrides the command line; remove it")
            if key in MISPLACED:
                raise ValueError(f"`{key}` has no effect at the top level; move it into `zero_optimization`")
        zero = config.get("zero_optimization", {})
        stage = zero.get("stage", 0)
        if stage == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
            raise ValueError("stage 3 needs `stage3_gather_16bit_weights_on_model_save`: true, to save the model")
        optimizer_device = zero.get("offload_optimizer", {}).get("device", "none")
        param_device = zero.get("offload_param", {}).get("device", "none")
    return Settings(stage, optimizer_device != "none", param_device != "none")
