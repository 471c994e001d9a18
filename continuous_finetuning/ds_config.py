"""Checks DeepSpeed's JSON file: DeepSpeed silently ignores a misplaced key, and overrides the command line."""

from dataclasses import dataclass
from pathlib import Path

from run import read_json

FROM_COMMAND_LINE = (
    "optimizer", "scheduler", "gradient_accumulation_steps", "gradient_clipping", "train_batch_size",
    "train_micro_batch_size_per_gpu",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The ZeRO stage (0 to 3), and which parts are kept in host memory."""

    stage: int
    offload_optimizer: bool
    offload_param: bool


def read(path: str) -> Settings:
    """Raises ValueError if the file is missing, or has a key that has no effect or overrides the command line."""
    config = read_json(Path(path))
    if config is None:
        raise ValueError(f"--deepspeed {path}: no such file, or not a JSON object")
    for key in FROM_COMMAND_LINE:
        if config.get(key, "auto") != "auto":
            raise ValueError(f"{path}: `{key}` overrides the command line; remove it")
    for key in ("stage", "offload_optimizer", "offload_param"):
        if key in config:
            raise ValueError(f"{path}: `{key}` has no effect at the top level; move it into `zero_optimization`")
    zero = config.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") not in (0, 1, 2, 3):
        raise ValueError(f"{path}: `zero_optimization` needs a `stage` from 0 to 3")
    if zero["stage"] == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise ValueError(f"{path}: stage 3 needs `stage3_gather_16bit_weights_on_model_save`: true, to save the model")
    return Settings(zero["stage"], offloads(zero, "offload_optimizer"), offloads(zero, "offload_param"))


def offloads(zero: dict, key: str) -> bool:
    return zero.get(key, {}).get("device", "none") != "none"
