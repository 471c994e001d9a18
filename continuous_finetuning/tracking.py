"""The progress of a run: a line of metrics.jsonl for every log, the same numbers for every tracker, and a line printed
every few seconds."""

import json
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, TrainerCallback

from run import default_device, peak_memory, write_text

METRICS = "metrics.jsonl"


def matmul_parameters(config: LlamaConfig) -> int:
    """Weights that a token is multiplied with: those of the layers and the LM head, not the embeddings."""
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    layer = config.hidden_size * (heads * config.head_dim + 3 * config.intermediate_size)
    return config.num_hidden_layers * layer + config.vocab_size * config.hidden_size


def model_flops_per_token(config: LlamaConfig, keys: float, adapters: int = 0) -> float:
    """Operations of forward and backward per token that attends to `keys` keys, nothing counted twice.

    6 per weight that a token is multiplied with, and 12 per layer, key and element of the heads. adapters: how many
    LoRA weights are trained; the frozen weights then have no gradient of their own, 4 instead of 6.
    """
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * keys
    return (4 if adapters else 6) * matmul_parameters(config) + 6 * adapters + attention


def training_flops_per_token(config: LlamaConfig, method, adapters: int = 0) -> float:
    """`model_flops_per_token` of a run with `method`, per token of text. config: the base's."""
    flops = model_flops_per_token(config, method.attended_keys(), adapters)
    return flops * method.row_tokens() / method.model_max_length


class Metrics(TrainerCallback):
    """Appends every log to metrics.jsonl and prints a line every few seconds.

    flops_per_token: of the model, forward and backward, without recomputation.
    """

    def __init__(self, path: Path, flops_per_token: float):
        self.path, self.flops_per_token, self.printed = path, flops_per_token, 0.0

    def speed(self, tokens_seen: int) -> dict:
        """Since the last call: tokens/s and model TFLOP/s of all ranks together; and this rank's peak memory, GiB.

        tokens_seen: how many tokens all ranks have been trained on until now.
        """
        now = time.perf_counter()
        rate = (tokens_seen - self.tokens) / (now - self.time)
        self.time, self.tokens = now, tokens_seen
        return {
            "tokens_seen": int(tokens_seen),
            "tokens_per_second": round(rate, 1),
            "model_tflops": float(f"{rate * self.flops_per_token / 1e12:.4g}"),
            "peak_memory_gib": round(peak_memory(default_device()) / 2**30, 3),
        }

    def on_train_begin(self, args, state, control, **kwargs):
        self.started, self.first_step = time.time(), state.global_step
        self.time, self.tokens = time.perf_counter(), state.num_input_tokens_seen
        if state.is_world_process_zero and self.path.exists():
            # steps after the checkpoint are repeated; a line cut off by a kill is one of them
            lines = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
            kept = [line + "\n" for line in lines if json.loads(line)["step"] <= state.global_step]
            write_text(self.path, "".join(kept))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in logs:
            return
        with self.path.open("a") as file:
            device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
            entry = {"step": state.global_step, **logs, "devices": args.world_size, "device": device}
            file.write(json.dumps(entry) + "\n")
        now = time.time()
        if now - self.printed > 5 or state.global_step == state.max_steps:
            self.printed = now
            seconds = (now - self.started) / max(1, state.global_step - self.first_step)
            left = seconds * (state.max_steps - state.global_step)
            print(
                f"  {self.path.parent.name}  step {state.global_step}/{state.max_steps}  loss {logs['loss']:.3f}  "
                f"{seconds:.2f} s a step  {logs['tokens_per_second']:,.0f} tokens/s  "
                f"{logs['peak_memory_gib']:.1f} GiB  {left / 60:.1f} min left",
                flush=True,
            )
