"""Checks DeepSpeed's JSON file: DeepSpeed silently ignores a misplaced key, and some keys override the command line."""

from dataclasses import dataclass
from pathlib import Path

from run import read_json


@dataclass(frozen=True)
class Settings:
    """The ZeRO stage (0 to 3), and which parts are kept in host memory."""

    stage: int
    offload_optimizer: bool
    offload_param: bool


def read(path: str) -> Settings:
    """Raises ValueError if the file is missing, or has a key that has no effect or overrides the command line.

    (Transformers compares batch sizes, accumulation and clipping with the command line.)
    """
    config = read_json(Path(path))
    if config is None:
        raise ValueError(f"--deepspeed {path}: no such file, or not a JSON object")
    for key in ("optimizer", "scheduler"):
        if key in config:
            raise ValueError(f"{path}: `{key}` overrides the command line; remove it")
    for key in ("stage", "offload_optimizer", "offload_param"):
        if key in config:
            raise ValueError(f"{path}: `{key}` has no effect at the top level; move it into `zero_optimization`")
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    if stage == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise ValueError(f"{path}: stage 3 needs `stage3_gather_16bit_weights_on_model_save`: true, to save the model")
    devices = [zero.get(key, {}).get("device", "none") for key in ("offload_optimizer", "offload_param")]
    return Settings(stage, devices[0] != "none", devices[1] != "none")
