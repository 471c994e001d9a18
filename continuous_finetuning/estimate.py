"""Memory, steps and hours of a training run before it starts: `fine-tune.py ... --estimate 8xH100`.

Weights, gradients and optimizer states: ZeRO (arXiv 1910.02054, sections 3.1 and 5); without DeepSpeed, stage 0.
Activations: as in arXiv 2205.05198, section 4.1, with fused attention, bfloat16 and gradient checkpointing. Loading,
saving, communication and the host's optimizer step are not included. 1 GiB is 2^30 bytes.
"""

import math
from pathlib import Path

import torch

import checkpoint_writer
import training_rows
from memory import TILE_LOGITS
from rope import head_dim
from tracking import forward_flops_per_token, model_flops_per_token

GIB, BF16 = 2**30, 2  # bytes
# GiB that a process can use; dense bfloat16 TFLOP/s as NVIDIA publishes them
GPUS = {
    "RTX4090": (23, 165), "A100-40": (39, 312), "A100-80": (79, 312), "H100": (79, 989), "H200": (139, 989),
    "B200": (178, 2250),
}  # fmt: skip
TOKENS = {  # of the study's rows on the hub
    "Leooyii/Slimpajama_downsample_32k_1B": 30_774 * 32_768,
    "Leooyii/Slimpajama_downsample_64k_1B": 15_386 * 65_536,
    "Leooyii/Slimpajama_downsample_64k_2B": 30_780 * 65_536,
}
CUDA_BYTES = 2 * GIB  # of each GPU: CUDA, NCCL and cuBLAS
FRAGMENTATION = 0.05  # of the rest
PROCESS_BYTES = 3 * GIB  # of the host for each rank: Python, CUDA, data
MAX_LIVE_PARAMETERS = 10**9  # gathered by ZeRO-3 at a time: stage3_max_live_parameters, sub_group_size
BUCKET_PARAMETERS = 5 * 10**8  # reduce_bucket_size and allgather_bucket_size in ds_configs/stage2.json
UTILISATION = 0.4  # of the peak, recomputation included: torchtitan's published Llama-8B at 32k on 8 H100
PCIE_BANDWIDTH = 25e9  # bytes/s between a GPU and its host, of the 32e9 of PCIe 4.0 x16


class Run:
    """A training run. config: the base's.  flags: of fine-tune.py, with `zero`.  gpus: of all nodes, 8 each."""

    def __init__(self, config, method, flags, gpus: int):
        self.method, self.flags, self.gpus = method, flags, gpus
        model_class = method.auto_classes(config)["AutoModelForCausalLM"]
        with torch.device("meta"):
            model = model_class(checkpoint_writer.extended_config(config, method, {}))
        self.model = method.prepare(model, flags.low_rank_training)
        self.parameters = self.model.num_parameters()
        self.trainable = self.model.num_parameters(only_trainable=True)
        rows = flags.per_device_train_batch_size * flags.gradient_accumulation_steps
        self.rows_per_step = rows * gpus // flags.sequence_parallel_size


def steps(run: Run) -> float:
    """Optimizer steps; 0 if the data must be downloaded first."""
    flags = run.flags
    if flags.max_steps > 0:
        return flags.max_steps
    tokens = TOKENS.get(flags.dataset_dir, 0)
    if Path(flags.dataset_dir).exists():
        data = training_rows.read(flags.dataset_dir)
        tokens = len(data) * len(data[0]["input_ids"])
    rows = tokens // run.method.row_length
    return flags.num_train_epochs * rows / run.rows_per_step


def seconds_per_step(run: Run, peak: float) -> float:
    """peak: FLOP/s of one GPU. Offloaded weights and gradients cross PCIe twice for every micro-batch."""
    keys = run.method.attended_keys()
    flops = model_flops_per_token(run.model, keys)
    flops += forward_flops_per_token(run.model, keys)  # gradient checkpointing repeats the forward pass
    tokens = run.rows_per_step * run.method.row_tokens()
    seconds = tokens * flops / (run.gpus * peak * UTILISATION)
    zero = run.flags.zero
    offloaded = zero.offload_param * run.parameters + zero.offload_optimizer * run.trainable
    transfers = 2 * run.flags.gradient_accumulation_steps
    return seconds + transfers * BF16 * offloaded / run.gpus / PCIE_BANDWIDTH


def pinned(size: float) -> float:
    """PyTorch rounds page-locked memory up to a power of two (pytorch/pytorch issue 150517)."""
    return 2.0 ** math.ceil(math.log2(size))


def state_memory(run: Run) -> tuple[dict[str, float], float]:
    """(bytes on one GPU by kind, bytes on the host for each rank) without activations."""
    zero = run.flags.zero
    gpu = {
        "weights": BF16 * run.parameters,
        "gradients": BF16 * run.trainable,
        "optimizer": 12 * run.trainable,  # float32 masters, Adam's two moments
        "buffers": 2 * BF16 * min(run.trainable, BUCKET_PARAMETERS),
    }
    for kind in ("optimizer", "gradients", "weights")[: zero.stage]:
        gpu[kind] /= run.gpus
    if zero.stage == 3:
        gpu["buffers"] = BF16 * (min(run.parameters, MAX_LIVE_PARAMETERS) + 2 * run.model.config.hidden_size**2)
    host = 0.0
    if zero.offload_param:
        host, gpu["weights"] = pinned(gpu["weights"]), 0.0
    if zero.offload_optimizer:
        host += gpu["optimizer"] + pinned(gpu["gradients"]) + pinned(gpu["optimizer"] / 3)
        gpu["gradients"] = gpu["optimizer"] = 0.0
    return gpu, host


def activation_memory(run: Run) -> tuple[float, float]:
    """(bytes on one GPU, bytes on the host for each rank) at the peak of forward and backward."""
    config, flags = run.model.config, run.flags
    D = config.hidden_size
    V = config.vocab_size
    heads = config.num_attention_heads
    rows = flags.per_device_train_batch_size
    n = rows * run.method.row_tokens() // flags.sequence_parallel_size  # tokens of a rank
    hidden = BF16 * n * D
    # Saved for a layer's backward, per token: of two norms the input, in float32 too, and the output; of attention q,
    # k, v, the output and the log of the softmax's sum; of the MLP gate, SiLU, up and their product.
    qkvo = 2 * BF16 * (heads + config.num_key_value_heads) * head_dim(config)
    saved = 16 * D + qkvo + 4 * heads
    # Its backward has gradients of attention (or a norm) and scores, or those of the MLP.
    scores = 4 * heads * run.method.saved_scores()
    attention = n * (max(qkvo, 12 * D) + scores)
    if flags.sequence_parallel_size > 1:
        attention += n * qkvo  # copies for the all-to-all
    wide = BF16 * config.intermediate_size
    if flags.tiled_mlp:
        mlp = 6 * wide * min(n, rows * D)
    else:
        mlp = 2 * wide * n
        saved += 4 * wide
    backward = n * saved + max(attention, mlp) + 2 * hidden
    # The loss: last norm, hidden states, the gradients of both; tiles of logits; the head's gradient.
    loss = 6 * hidden + 6 * min(TILE_LOGITS, n * V)
    if not flags.low_rank_training:
        loss += 8 * V * D
    peak = max(backward, loss)
    layers = config.num_hidden_layers
    if flags.offload_activations:
        return 2 * hidden + peak, layers * pinned(hidden)
    return layers * hidden + peak, 0.0


def memory_needed(run: Run) -> tuple[dict[str, float], float]:
    """(bytes on one GPU by kind, bytes on one node's host) at the peak of a step."""
    gpu, states = state_memory(run)
    gpu["activations"], activations = activation_memory(run)
    gpu["CUDA"] = CUDA_BYTES + FRAGMENTATION * sum(gpu.values())
    rank_host = states + activations + PROCESS_BYTES
    return gpu, rank_host * min(run.gpus, 8)


def report(config, method, flags) -> str:
    """The text that `--estimate` prints. Raises ValueError if flags.estimate is not like 8xH100 or 16xA100-80."""
    count, _, name = flags.estimate.partition("x")
    gpus = int(count) if count.isdecimal() else 0
    if name not in GPUS or gpus == 0 or gpus % flags.sequence_parallel_size:
        raise ValueError(f"--estimate {flags.estimate}: give a number and a GPU, as 8xH100, of {', '.join(GPUS)}")
    run = Run(config, method, flags, gpus)
    size, tflops = GPUS[name]
    gpu, host = memory_needed(run)
    needed = sum(gpu.values()) / GIB
    fits = "" if needed <= size else ", does not fit"
    kinds = ", ".join(f"{kind} {part / GIB:.1f}" for kind, part in gpu.items())
    seconds = seconds_per_step(run, tflops * 1e12)
    n_steps = steps(run)
    tokens = n_steps * run.rows_per_step * method.row_length
    hours = n_steps * seconds / 3600
    return f"""{flags.method_name} at {method.model_max_length:,} tokens on {flags.estimate}, an estimate:
  parameters    {run.parameters / 1e6:,.1f} M, {run.trainable / 1e6:,.1f} M of them trained
  GPU memory    {needed:.1f} of {size} GiB{fits}: {kinds}
  host memory   {host / GIB:.0f} GiB a node
  step          {run.rows_per_step} rows, {seconds / 60:.3g} minutes at {UTILISATION:.0%} of the GPUs' peak
  steps         {math.ceil(n_steps):,}, {tokens / 1e6:,.1f} M tokens (0: not known before the data are there)
  hours         {hours:.3g}, {hours * gpus:.3g} GPU-hours"""
