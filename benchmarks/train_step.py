"""One training step of continuous_finetuning: tokens/s, peak memory, share of the measured matrix-product rate.

    python benchmarks/train_step.py                                          (CPU: 15 M parameters, 8,192 tokens)
    python benchmarks/train_step.py --compare                                (side by side with a plain Trainer step)
    python benchmarks/train_step.py --size 7b --lengths 8192 32768 131072 --methods pi longlora --optim sgd
                                                                             (a GPU of 80 GiB or more)
    python benchmarks/train_step.py --size 7b --lengths 524288 --optim sgd --tiled_mlp --offload_activations

The model is a Llama with random weights, the row random tokens; a step is forward, backward, clipping and optimizer,
through the kit's own trainer: the tiled loss, gradient checkpointing, and what the flags add. Peak memory is a step's
above what is held before the first step (weights are there, gradients and optimizer states not). FLOPs are the model's,
nothing that is computed twice (tracking.py); the rate that they are compared with is that of a large square matrix
product in the same precision, measured here. Each variant is a process of its own; in --compare the two take turns, and
the fastest step of each counts. A length that does not fit is reported with what stopped it, and the next one is tried.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch
import transformers
from attention_memory import PeakMemory
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "continuous_finetuning"))
import checkpoint_writer  # noqa: E402
import memory  # noqa: E402
import methods  # noqa: E402
import tracking  # noqa: E402
import training  # noqa: E402

# hidden, MLP, layers, heads, key-value heads
SIZES = {
    "15m": (256, 688, 2, 4, 4),
    "160m": (768, 2048, 12, 12, 12),
    "1b": (2048, 5504, 22, 16, 16),
    "7b": (4096, 11008, 32, 32, 32),
    "8b": (4096, 14336, 32, 32, 8),
}


def config_of(args, length: int) -> LlamaConfig:
    hidden, width, layers, heads, kv_heads = SIZES[args.size]
    return LlamaConfig(
        vocab_size=args.vocab_size,
        hidden_size=hidden,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=min(4096, length // 2),
    )


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square product, the fastest of ten."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(10):
        with PeakMemory(device) as one:
            a @ b
        times.append(one.seconds)
    return 2 * n**3 / min(times)


def serve(args):
    """One variant: a step for each line on stdin; answers with its seconds, extra bytes and loss."""
    length, name = args.lengths[0], args.methods[0]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
    attention = "flash_attention_2" if args.flash_attn else "sdpa"
    base = config = config_of(args, length)
    model_class = LlamaForCausalLM
    torch.manual_seed(0)
    if name != "plain":
        method = methods.build(name, base, method_length(name, length), {})
        config = checkpoint_writer.extended_config(base, method, {})
        model_class = method.auto_classes()["AutoModelForCausalLM"]
    config._attn_implementation = attention if model_class is LlamaForCausalLM else "sdpa"
    torch.set_default_dtype(args.dtype)
    with device:
        model = model_class(config)
    torch.set_default_dtype(torch.float32)
    recipe = TrainingArguments(
        tempfile.mkdtemp(),
        use_cpu=device.type == "cpu",
        optim=args.optim,
        report_to=[],
        max_steps=1,
        gradient_checkpointing=True,
        logging_steps=1,
        disable_tqdm=True,
    )
    if name == "plain":
        trainer = Trainer(model=model, args=recipe)
        flops = tracking.model_flops_per_token(base, keys=length / 2)
    else:
        model = method.prepare(model, args.low_rank)
        memory.use_tiled_loss(model, offload=args.offload_activations)
        if args.tiled_mlp:
            memory.use_tiled_mlp(model)
        adapters = sum(p.numel() for key, p in model.named_parameters() if "lora_" in key)
        flops = tracking.training_flops_per_token(base, method, adapters)
        trainer = training.ExtensionTrainer(1, tracking.Metrics(Path(), flops), model=model, args=recipe)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    rows = args.batch * length // method_length(name, length)
    ids_BL = torch.randint(args.vocab_size, (rows, length // (rows // args.batch)), device=device)

    def step(ids_BL):
        loss = trainer.training_step(model, {"input_ids": ids_BL, "labels": ids_BL}, torch.tensor(ids_BL.numel()))
        trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        model.zero_grad()
        return loss.item()

    with PeakMemory(device) as first:  # gradients and optimizer states come with the first step: no warm-up before it
        held = first.start
        step(ids_BL[:, :256])
    for _ in sys.stdin:
        with PeakMemory(device) as one:
            loss = step(ids_BL)
        answer = {"seconds": one.seconds, "bytes": one.peak - held, "loss": loss, "flops": flops * ids_BL.numel()}
        print(json.dumps(answer), flush=True)


def method_length(name: str, length: int) -> int:
    """Tokens of a training row: short for a method that trains in blocks, whatever the text's length."""
    return length if name == "plain" or methods.get(name).extends_rows else 512


class Variant:
    """A process that takes a step when told to."""

    def __init__(self, args, name: str, length: int):
        words = [sys.executable, __file__, *sys.argv[1:], "--serve", "--methods", name, "--lengths", str(length)]
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.name, self.steps, self.stopped_by = name, [], None

    def step(self):
        if self.stopped_by:
            return
        try:
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        while line and not line.startswith("{"):
            line = self.process.stdout.readline()
        if line:
            self.steps.append(json.loads(line))
        else:
            self.process.wait()
            self.log.seek(0)
            last = (self.log.read().strip().splitlines() or ["no word"])[-1]
            self.stopped_by = f"exit {self.process.returncode}: {last[:160]}"

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def row(self, length: int, options: str, rate: float) -> str:
        if not self.steps:
            return f"| {self.name} | {length:,} | {options} | stopped by {self.stopped_by} |" + " |" * 5
        timed = self.steps[1:] or self.steps
        seconds = [one["seconds"] for one in timed]
        best, peak = min(seconds), max(one["bytes"] for one in self.steps)
        flops = timed[0]["flops"]
        cells = [self.name, f"{length:,}", options, f"{best:.2f} / {statistics.median(seconds):.2f}"]
        cells += [f"{length / best:,.0f}", f"{peak / 2**30:.2f}", f"{flops / best / 1e12:.3g}"]
        return f"| {' | '.join(cells)} | {flops / best / rate:.2f} | {timed[-1]['loss']:.5f} |"


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="15m")
    parser.add_argument("--vocab_size", type=int, default=32000)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192], help="tokens of a row")
    parser.add_argument("--batch", type=int, default=1, help="rows")
    parser.add_argument("--methods", nargs="+", default=["pi"], help="or `plain`, a Trainer step with full logits")
    parser.add_argument("--compare", action="store_true", help="origin against plain, taking turns")
    parser.add_argument("--steps", type=int, default=5, help="timed, after a first one")
    parser.add_argument("--optim", default="adamw_torch", help="of Transformers: adamw_torch, sgd, adafactor, ...")
    parser.add_argument("--low_rank", action="store_true", help="LoRA (longlora)")
    parser.add_argument("--tiled_mlp", action="store_true")
    parser.add_argument("--offload_activations", action="store_true")
    parser.add_argument("--flash_attn", action="store_true", help="flash attention 2 instead of SDPA")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="on a CPU [all]")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)  # be one variant's process
    args = parser.parse_args()
    args.dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    if args.serve:
        return serve(args)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(args.threads)
    rate = matmul_rate(device, args.dtype)
    names = ["origin", "plain"] if args.compare else args.methods
    options = [name for name in ("low_rank", "tiled_mlp", "offload_activations", "flash_attn") if getattr(args, name)]
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    command = " ".join(["python", "benchmarks/train_step.py", *sys.argv[1:]])
    print(
        f"{date.today()}, {machine()}, {versions}, `{command}`: {args.size}, vocabulary {args.vocab_size:,}, ", end=""
    )
    print(f"{str(args.dtype).split('.')[1]}, {args.optim}, a product of large matrices {rate / 1e12:.3g} TFLOP/s\n")
    print(
        "| method | tokens | options | s a step, fastest / median | tokens/s | extra memory, GiB | model TFLOP/s ",
        end="",
    )
    print("| of the product's rate | loss |\n" + 9 * "|---" + "|", flush=True)
    for length in args.lengths:
        variants = [Variant(args, name, length) for name in names] if args.compare else []
        for name in [] if args.compare else names:  # one at a time: a GPU holds one
            variants.append(Variant(args, name, length))
            for _ in range(args.steps + 1):
                variants[-1].step()
            variants[-1].close()
        for _ in range(args.steps + 1 if args.compare else 0):
            for variant in variants:
                variant.step()
        for variant in variants:
            print(variant.row(length, " ".join(options) or "–", rate), flush=True)
            variant.close()
        if args.compare and all(variant.steps for variant in variants):
            ours, plain = variants
            peaks = [max(one["bytes"] for one in v.steps) for v in (plain, ours)]
            best = [min(one["seconds"] for one in v.steps[1:] or v.steps) for v in (plain, ours)]
            losses = [v.steps[0]["loss"] for v in (plain, ours)]
            print(f"\npeak memory {peaks[0] / peaks[1]:.2f} times less, time {best[1] / best[0]:.2f} times, ", end="")
            print(f"first loss equal to {abs(losses[0] - losses[1]) / losses[0]:.1e} (relative)\n")


if __name__ == "__main__":
    main()
