"""The progress of a run: metrics.jsonl, the same numbers for every tracker, and a line printed every few seconds."""

import json
import time
from pathlib import Path

from run import default_device, peak_memory, print_rank0, write_text

import torch
from torch import nn
from transformers import TrainerCallback

from rope import head_dim


def count_weights(model) -> tuple[int, int]:
    """(weights that a token is multiplied with: of the layers and the LM head, not the embeddings; LoRA's weights)."""
    weights = lora_weights = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or "modules_to_save" in name:
            continue
        size = module.in_features * module.out_features  # its weight is empty under ZeRO-3
        if "lora_" in name:
            lora_weights += size
        else:
            weights += size
    return weights, lora_weights


def forward_flops_per_token(model, keys: float) -> float:
    """FLOPs of a forward pass per token that attends to `keys` keys, without LoRA."""
    config = model.config
    weights, _ = count_weights(model)
    heads = config.num_hidden_layers * config.num_attention_heads
    return 2 * weights + 4 * heads * head_dim(config) * keys


def model_flops_per_token(model, keys: float) -> float:
    """FLOPs of forward and backward per token that attends to `keys` keys, without recomputation.

    With LoRA, the frozen weights have no gradient of their own.
    """
    flops = 3 * forward_flops_per_token(model, keys)
    weights, lora_weights = count_weights(model)
    if lora_weights:
        flops += 6 * lora_weights - 2 * weights
    return flops


def training_flops_per_token(model, method) -> float:
    """`model_flops_per_token` of a run with `method`, per token of text."""
    row_flops = model_flops_per_token(model, method.attended_keys()) * method.row_tokens()
    return row_flops / method.row_length


class Metrics(TrainerCallback):
    """Appends every log to metrics.jsonl in the folder `output` and prints a line every few seconds."""

    def __init__(self, output: Path, flops_per_token: float):
        self.path = output / "metrics.jsonl"
        self.flops_per_token = flops_per_token
        self.last_print = 0.0

    def speed(self, tokens_seen: int) -> dict:
        """tokens/s and model TFLOP/s of all ranks since the last call, and this rank's peak memory in GiB."""
        now = time.perf_counter()
        tokens_per_second = (tokens_seen - self.last_tokens) / (now - self.last_time)
        self.last_time, self.last_tokens = now, tokens_seen
        tflops = tokens_per_second * self.flops_per_token / 1e12
        return {
            "tokens_seen": tokens_seen,
            "tokens_per_second": round(tokens_per_second, 1),
            "model_tflops": float(f"{tflops:.4g}"),
            "peak_memory_gib": round(peak_memory(default_device()) / 2**30, 3),
        }

    def on_train_begin(self, args, state, control, **kwargs):
        self.last_time, self.last_tokens = time.perf_counter(), state.num_input_tokens_seen
        if state.is_world_process_zero and self.path.exists():
            n_logs = sum("loss" in logs for logs in state.log_history)  # steps after the checkpoint are repeated
            lines = self.path.read_text().splitlines(keepends=True)
            write_text(self.path, "".join(lines[:n_logs]))

    def on_log(self, args, state, control, logs, **kwargs):
        if not state.is_world_process_zero or "loss" not in logs:
            return
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        entry = {"step": state.global_step, **logs, "devices": args.world_size, "device": device}
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if time.perf_counter() - self.last_print > 5 or state.global_step == state.max_steps:
            self.last_print = time.perf_counter()
            speed = logs["tokens_per_second"]
            tokens_left = (state.max_steps / state.global_step - 1) * logs["tokens_seen"]
            minutes_left = tokens_left / speed / 60
            progress = f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.3f}"
            cost = f"{speed:,.0f} tokens/s  {logs['peak_memory_gib']:.1f} GiB  {minutes_left:.1f} min left"
            print_rank0(f"  {self.path.parent.name}  {progress}  {cost}")
