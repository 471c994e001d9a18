"""DeepSpeed's JSON, checked before anything starts.

DeepSpeed silently ignores a misplaced key (LCEG's `offload_param` at the top level offloaded nothing), and a value in
the file overrides the command line.
"""

from dataclasses import dataclass
from pathlib import Path

from run import read_json

OVERRIDES = ("optimizer", "scheduler")  # the command line decides these
AUTO = (
    "gradient_accumulation_steps", "gradient_clipping", "train_batch_size", "train_micro_batch_size_per_gpu",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What the rest of the kit needs to know of a DeepSpeed config."""

    stage: int
    offload_optimizer: bool
    offload_param: bool


def read(path: str) -> Settings:
    """Reads and checks the file. Raises ValueError if it is missing, or has a value that has no effect or overrides the
    command line."""
    config = read_json(Path(path))
    if config is None:
        raise ValueError(f"--deepspeed {path}: no such file, or not a JSON object")
    for name in OVERRIDES:
        if name in config:
            raise ValueError(f"{path}: `{name}` overrides the command line; remove it from the file")
    for name in AUTO:
        if config.get(name, "auto") != "auto":
            raise ValueError(f'{path}: `{name}` overrides the command line; write "auto"')
    for name in ("stage", "offload_optimizer", "offload_param"):
        if name in config:
            raise ValueError(f"{path}: `{name}` has no effect at the top level; move it into `zero_optimization`")
    zero = config.get("zero_optimization", {})
    if zero.get("stage") not in (0, 1, 2, 3):
        raise ValueError(f"{path}: `zero_optimization` needs a `stage` from 0 to 3")
    offloads = {}
    for name in ("offload_optimizer", "offload_param"):
        offloads[name] = zero.get(name, {}).get("device", "none") != "none"
    if offloads["offload_param"] and zero["stage"] != 3:
        raise ValueError(f"{path}: `offload_param` needs `stage` 3")
    return Settings(zero["stage"], **offloads)
