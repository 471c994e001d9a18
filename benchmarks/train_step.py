"""One training step through the kit's trainer, beside one of a plain Transformers Trainer.

    export PYTORCH_ALLOC_CONF=expandable_segments:True    as gpu.sh does
    python benchmarks/train_step.py            a GPU of 80 GB: a 7B shape at 32k to 128k tokens, then the longest rows
    python benchmarks/train_step.py --tiny     the same rows at 1/512 of their length with a tiny model, for a CPU

A step is forward, backward, clipping and SGD of a Llama with random weights on random tokens, with gradient
checkpointing. `plain` has full-length logits. TFLOP/s are the model's, without recomputation.
"""

import tempfile

from machine import print_head
from run import Parser

import torch
from harness import CUDA, DEVICE, FASTEST_ATTENTION, extended_model, fastest, measure, model_config, random_model
from transformers import Trainer, TrainingArguments
from transformers.integrations.liger import apply_liger_kernel

import memory
import tracking
import training

ROWS = [  # method or "plain", tokens, options (keep: --keep_attention), attention; what matters most comes first
    ("plain", 32768, "", "sdpa"),
    ("origin", 32768, "", "sdpa"),
    ("origin", 32768, "liger", "sdpa"),
    ("origin", 32768, "liger keep", "sdpa"),
    ("origin", 32768, "liger", FASTEST_ATTENTION),
    ("origin", 65536, "liger", FASTEST_ATTENTION),
    ("origin", 131072, "liger", FASTEST_ATTENTION),
    ("origin", 32768, "liger keep compile", "sdpa"),
    ("longlora", 32768, "liger", "sdpa"),
    ("origin", 196608, "liger tiled_mlp offload", FASTEST_ATTENTION),
    ("origin", 262144, "liger tiled_mlp offload", FASTEST_ATTENTION),
    ("origin", 393216, "liger tiled_mlp offload", FASTEST_ATTENTION),
]


def make_trainer(shape: str, name: str, length: int, options: str, attention: str):
    """(trainer, model FLOPs per token) of a row."""
    config = model_config(shape, length // 2)
    compiled = "compile" in options
    folder = tempfile.mkdtemp()
    arguments = TrainingArguments(
        folder, use_cpu=not CUDA, optim="sgd", report_to=[], max_steps=1, torch_compile=compiled
    )
    if name == "plain":
        model = random_model(config, attention)
        return Trainer(model=model, args=arguments), tracking.model_flops_per_token(model, length / 2)
    method, model = extended_model(name, config, length, attention)
    if "liger" in options:  # as Trainer.train does with --use_liger_kernel True
        apply_liger_kernel(model, {"fused_linear_cross_entropy": False})
    model = method.prepare(model, False)
    memory.use_tiled_loss(model, liger="liger" in options)
    if "tiled_mlp" in options:
        memory.use_tiled_mlp(model)
    flops = tracking.training_flops_per_token(model, method)
    return training.ExtensionTrainer(1, None, model=model, args=arguments), flops


def time_steps(shape: str, name: str, length: int, options: str, attention: str):
    """Seconds of the fastest step, tokens/s, model TFLOP/s and the last loss."""
    trainer, flops = make_trainer(shape, name, length, options, attention)
    model = trainer.model
    checkpointing = {"use_reentrant": False}
    if "keep" in options:
        checkpointing["context_fn"] = memory.keep_attention
    model.gradient_checkpointing_enable(checkpointing, offload=CUDA and "offload" in options)
    model.train()
    trainer.create_optimizer()
    if trainer.args.torch_compile:
        model = torch.compile(model)
    trainer.current_gradient_accumulation_steps = 1
    ids_1n = torch.randint(model.config.vocab_size, (1, length), device=DEVICE)
    losses = []

    def step():
        batch = {"input_ids": ids_1n, "labels": ids_1n}
        loss = trainer.training_step(model, batch, torch.tensor(ids_1n.numel()))
        trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        model.zero_grad()
        losses.append(loss.item())

    seconds = fastest(step, repetitions=2 if length <= 65536 else 1)
    speed = length / seconds
    teraflops = flops * speed / 1e12
    return f"{seconds:.2f}", speed, f"{teraflops:.3g}", f"{losses[-1]:.5f}"


def main():
    parser = Parser(__doc__)
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short rows")
    tiny = parser.parse_args().tiny
    print_head("method", "tokens", "options", "attention", "s a step", "tokens/s", "TFLOP/s", "loss", "peak GiB")
    for name, length, options, attention in dict.fromkeys(ROWS):  # without FlashAttention, two are equal
        if tiny:
            length //= 512
            options = options.replace("liger", "").replace("compile", "").strip()
        shape = "tiny" if tiny else "7b"
        measure([name, length, options, attention], time_steps, shape, name, length, options, attention)


if __name__ == "__main__":
    main()
