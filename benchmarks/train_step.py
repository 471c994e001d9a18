"""One training step through the kit's trainer: seconds, tokens/s, extra memory, share of the matrix-product rate.

    python benchmarks/train_step.py                    CPU: 15 M parameters, 8,192 tokens, beside a plain Trainer step
    python benchmarks/train_step.py --plan gpu         an 80 GB GPU: a 7B shape at 32k to 128k tokens
    python benchmarks/train_step.py --plan longest     an 80 GB GPU: rows that need tiled MLPs and offloading
    python benchmarks/train_step.py --plan gpu --tiny  the same on a CPU, tiny

The model is a Llama with random weights, the row random tokens; a step is forward, backward, clipping and SGD (AdamW on
a CPU). Extra memory is a step's peak above what is held before the first step, so gradients and optimizer states are in
it. FLOPs are the model's, without recomputation. `plain` is Transformers' own Trainer with full-length logits. The
fastest step counts. A step that fails is reported, and the next one is measured.
"""

import argparse
import gc
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import torch  # noqa: E402
import transformers  # noqa: E402
from attention_memory import PeakMemory  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments  # noqa: E402
from transformers.integrations.liger import apply_liger_kernel  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "continuous_finetuning"))
import checkpoint_writer  # noqa: E402
import memory  # noqa: E402
import methods  # noqa: E402
import tracking  # noqa: E402
import training  # noqa: E402
from attention import CHOICES, choose_attention  # noqa: E402
from run import default_device, first_line, out_of_memory  # noqa: E402

SHAPES = {  # hidden, MLP, layers, query heads, key-value heads, vocabulary
    "tiny": (64, 176, 2, 4, 4, 256),
    "15m": (256, 688, 2, 4, 4, 32000),
    "7b": (4096, 11008, 32, 32, 32, 32000),
}


@dataclass
class Variant:
    """method: of the study, or "plain".  options: of liger, keep, compile, tiled, offload."""

    method: str
    length: int
    options: tuple = ()
    attention: str = "sdpa"


def variants_of(plan: str, device: torch.device) -> list[Variant]:
    if plan == "cpu":
        return [Variant("origin", 8192), Variant("plain", 8192)]
    if plan == "longest":
        return [Variant("origin", n, ("liger", "tiled", "offload")) for n in (196608, 262144, 393216)]
    short, middle, long = 32768, 65536, 131072
    found = [
        Variant("plain", short),
        Variant("origin", short),
        Variant("origin", short, ("liger",)),
        Variant("origin", short, ("liger", "keep")),
        Variant("origin", short, ("liger", "keep", "compile")),
    ]
    for name in CHOICES[2:]:
        try:
            found.append(Variant("origin", short, ("liger",), choose_attention(name, device, "bfloat16")))
        except ValueError:
            continue  # not installed here
    found += [
        Variant("longlora", short, ("liger",)),
        Variant("origin", middle, ("liger", "keep")),
        Variant("origin", long, ("liger",)),
    ]
    return found


def make_trainer(variant: Variant, shape: str, device: torch.device):
    """(trainer, model, model FLOPs per token) of a variant."""
    hidden, mlp, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    base = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=variant.length // 2,
    )
    method, config, model_class = None, base, LlamaForCausalLM
    if variant.method != "plain":
        method = methods.build(variant.method, base, variant.length, {})
        config = checkpoint_writer.extended_config(base, method, {})
        model_class = method.auto_classes()["AutoModelForCausalLM"]
    config._attn_implementation = variant.attention
    torch.manual_seed(0)
    cuda = device.type == "cuda"
    torch.set_default_dtype(torch.bfloat16 if cuda else torch.float32)
    with device:
        model = model_class(config)
    torch.set_default_dtype(torch.float32)
    checkpointing = {"use_reentrant": False}
    if "keep" in variant.options:
        checkpointing["context_fn"] = memory.keep_attention
    recipe = TrainingArguments(
        tempfile.mkdtemp(),
        use_cpu=not cuda,
        optim="sgd" if cuda else "adamw_torch",
        report_to=[],
        max_steps=1,
        disable_tqdm=True,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs=checkpointing,
        torch_compile="compile" in variant.options,
    )
    if "liger" in variant.options:  # as Trainer.train does with --use_liger_kernel True
        apply_liger_kernel(model, {"fused_linear_cross_entropy": False})
    if method is None:
        return Trainer(model=model, args=recipe), model, tracking.model_flops_per_token(base, variant.length / 2)
    model = method.prepare(model, False)
    memory.use_tiled_loss(model, offload="offload" in variant.options, liger="liger" in variant.options)
    if "tiled" in variant.options:
        memory.use_tiled_mlp(model)
    flops = tracking.training_flops_per_token(base, method)
    return training.ExtensionTrainer(1, tracking.Metrics(Path(), flops), model=model, args=recipe), model, flops


def measure(variant: Variant, shape: str, device: torch.device, steps: int) -> tuple[float, int, float, float]:
    """(seconds of the fastest step, extra bytes, loss, model FLOPs of a step)."""
    trainer, model, flops = make_trainer(variant, shape, device)
    model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    model.train()
    trainer.create_optimizer()
    if trainer.args.torch_compile:
        model = torch.compile(model)
    trainer.current_gradient_accumulation_steps = 1
    ids_1n = torch.randint(SHAPES[shape][5], (1, variant.length), device=device)
    held, peak, times = None, 0, []
    for _ in range(steps):
        with PeakMemory(device) as step:
            batch = {"input_ids": ids_1n, "labels": ids_1n}
            loss = trainer.training_step(model, batch, torch.tensor(ids_1n.numel()))
            trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
            trainer.optimizer.step()
            model.zero_grad()
            value = loss.item()
        held = step.start if held is None else held
        peak = max(peak, step.peak)
        times.append(step.seconds)
    return min(times), peak - held, value, flops * variant.length


def matmul_rate(device: torch.device) -> float:
    """FLOP/s of a large square product, the fastest of ten; bfloat16 on a GPU."""
    n, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(10):
        with PeakMemory(device) as product:
            a @ b
        times.append(product.seconds)
    return 2 * n**3 / min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", nargs="+", choices=["cpu", "gpu", "longest"], default=["cpu"])
    parser.add_argument("--tiny", action="store_true", help="a tiny model and rows of 1/512 of the plan's length")
    parser.add_argument("--steps", type=int, default=3, help="the fastest counts; 2 at 65,536 tokens, 1 beyond [3]")
    args = parser.parse_args()
    device = default_device()
    shape = "tiny" if args.tiny else "15m" if args.plan == ["cpu"] else "7b"
    rate = matmul_rate(device)
    card = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {os.cpu_count()} cores"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    print(f"{date.today()}, {card}, {versions}, {shape}; a large matrix product {rate / 1e12:.3g} TFLOP/s\n")
    print(
        "| method | attention | options | tokens | s a step | tokens/s | extra GiB | TFLOP/s | of the product | loss |"
    )
    print("|---" * 10 + "|", flush=True)
    for variant in [variant for plan in args.plan for variant in variants_of(plan, device)]:
        if args.tiny:
            variant.length //= 512
            variant.options = tuple(option for option in variant.options if option not in ("liger", "compile"))
        label = f"| {variant.method} | {variant.attention} | {' '.join(variant.options)} | {variant.length:,} |"
        start = time.perf_counter()
        try:
            steps = args.steps if args.tiny or variant.length < 65536 else 2 if variant.length == 65536 else 1
            seconds, extra, loss, flops = measure(variant, shape, device, steps)
            speed = (
                f"{seconds:.2f} | {variant.length / seconds:,.0f} | {extra / 2**30:.1f} | {flops / seconds / 1e12:.3g}"
            )
            print(f"{label} {speed} | {flops / seconds / rate:.2f} | {loss:.5f} |", flush=True)
        except (RuntimeError, MemoryError, ValueError, ImportError) as error:
            reason = "out of memory" if out_of_memory(error) else first_line(error)
            print(f"{label} {reason}, after {time.perf_counter() - start:.0f} s |" + " |" * 5, flush=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
