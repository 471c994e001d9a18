"""DeepSpeed's JSON, read and checked before anything starts.

DeepSpeed itself takes an unknown or misplaced key in silence (LCEG's `offload_param` at the top level offloaded
nothing) and lets a scheduler in the file override the command line.
"""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

# The keys of https://www.deepspeed.ai/docs/config-json that a training run can use. `optimizer` and `scheduler` are
# left out: the command line decides those.
TOP_LEVEL = {
    "bf16", "fp16", "zero_optimization", "gradient_accumulation_steps", "gradient_clipping", "train_batch_size",
    "train_micro_batch_size_per_gpu", "steps_per_print", "wall_clock_breakdown", "dump_state",
    "communication_data_type",
    "prescale_gradients", "gradient_predivide_factor", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
    "activation_checkpointing", "aio", "flops_profiler", "comms_logger", "monitor_config", "tensorboard", "wandb",
    "csv_monitor", "checkpoint", "data_types", "seq_parallel_communication_data_type", "timers", "compile",
}  # fmt: skip
AUTO = (  # the values that Trainer fills in from the command line
    "bf16.enabled", "gradient_accumulation_steps", "gradient_clipping", "train_batch_size",
    "train_micro_batch_size_per_gpu",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What of a DeepSpeed config other parts of the kit need to know."""

    stage: int
    offload_optimizer: bool
    offload_param: bool


def read(path: str) -> Settings:
    """The settings of the file. Exits with one line if it is missing, no JSON, or holds a key that does nothing here:
    unknown, at the wrong level, or in conflict with the command line."""
    file = Path(path)
    if not file.is_file():
        raise SystemExit(f"error: no DeepSpeed config {path}; give a path relative to the current folder")
    try:
        config = json.loads(file.read_text())
    except ValueError as reason:
        raise SystemExit(f"error: {path} is no JSON: {reason}") from None
    try:
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
        from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig as Optimizer
        from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadParamConfig as Param
    except ImportError:
        raise SystemExit("error: --deepspeed needs the package (Linux only): pip install deepspeed") from None

    def names(model) -> set[str]:
        aliases = {f.alias for f in model.model_fields.values() if f.alias}
        return set(model.model_fields) | aliases

    zero = names(DeepSpeedZeroConfig)
    for key in ("optimizer", "scheduler"):
        if key in config:
            raise SystemExit(
                f"error: {path}: `{key}` overrides the command line (--optim, --learning_rate, --lr_scheduler_type, "
                "--warmup_steps); remove it from the file"
            )
    _refuse_unknown(path, "", config, TOP_LEVEL, zero)
    section = config.get("zero_optimization")
    if not isinstance(section, dict) or section.get("stage") not in (0, 1, 2, 3):
        raise SystemExit(f"error: {path}: `zero_optimization` must be an object with a `stage` of 0 to 3")
    _refuse_unknown(path, "zero_optimization", section, zero, TOP_LEVEL)
    for name, model in (("offload_optimizer", Optimizer), ("offload_param", Param)):
        _refuse_unknown(path, f"zero_optimization.{name}", section.get(name) or {}, names(model), zero)
    for key in AUTO:
        value = config
        for part in key.split("."):
            value = value.get(part, "auto") if isinstance(value, dict) else "auto"
        if value != "auto":
            raise SystemExit(f'error: {path}: `{key}` is {value}; write "auto", the command line decides it')
    offloads = [(section.get(name) or {}).get("device") for name in ("offload_optimizer", "offload_param")]
    if offloads[1] not in (None, "none") and section["stage"] != 3:
        raise SystemExit(f"error: {path}: `offload_param` needs `stage` 3, not {section['stage']}")
    return Settings(section["stage"], *(device not in (None, "none") for device in offloads))


def _refuse_unknown(path: str, place: str, section: dict, known: set[str], elsewhere: set[str]) -> None:
    for key in section:
        if key in known:
            continue
        where = f"in `{place}`" if place else "at the top level"
        if key in elsewhere:
            hint = f"it belongs {'at the top level' if place else 'inside `zero_optimization`'}"
        else:
            close = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"did you mean `{close[0]}`?" if close else "DeepSpeed would ignore it; remove it"
        raise SystemExit(f"error: {path}: unknown key `{key}` {where}; {hint}")
