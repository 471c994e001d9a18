"""What a run says of itself: a line of metrics.jsonl for every log, the same numbers for every tracker, and a printed
line now and then."""

import json
import os
import resource
import sys
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

METRICS = "metrics.jsonl"


def peak_memory() -> int:
    """Bytes: the most that PyTorch held on this rank's GPU, or without one the most that this process held."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Metrics(TrainerCallback):
    """Appends every log to metrics.jsonl and prints a line now and then.

    flops_per_token: of the model, forward and backward, without what is computed again.
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
            "peak_memory_gib": round(peak_memory() / 2**30, 3),
        }

    def on_train_begin(self, args, state, control, **kwargs):
        self.started, self.first_step = time.time(), state.global_step
        self.time, self.tokens = time.perf_counter(), state.num_input_tokens_seen
        if state.is_world_process_zero and self.path.exists():
            # steps after the checkpoint are done again; a line cut off by a kill is one of them
            lines = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            os.replace(partial, self.path)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in logs:
            return
        with self.path.open("a") as file:
            device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
            where = {"devices": args.world_size, "device": device}
            file.write(json.dumps({"step": state.global_step, **logs, **where}) + "\n")
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
