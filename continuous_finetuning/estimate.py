"""Memory, steps and hours of a training run before it starts: `fine-tune.py ... --estimate 8xH100`.

Counted from the base's config and the flags: weights, gradients and optimizer states as in ZeRO (arXiv 1910.02054,
sections 3.1 and 5), activations by adding up what the backward pass of Llama's layer with fused attention keeps (arXiv
2205.05198, section 4.1). Loading, saving and communication are not included. Sizes are in bytes, GiB are 2^30.
"""

import copy
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig

import checkpoint_writer
import memory
import packing
from tracking import matmul_parameters, training_flops_per_token

GIB = 2**30
GPUS = {  # GiB that a process can use, dense bfloat16 TFLOP/s of NVIDIA's data sheet
    "A100-40": (39, 312), "A100-80": (79, 312), "H100": (79, 989), "H200": (139, 989), "B200": (178, 2250),
}  # fmt: skip
DATASETS = {  # the study's: rows, tokens of a row
    "Leooyii/Slimpajama_downsample_32k_1B": (30_774, 32_768),
    "Leooyii/Slimpajama_downsample_64k_1B": (15_386, 65_536),
    "Leooyii/Slimpajama_downsample_64k_2B": (30_780, 65_536),
}
CUDA = 2 * GIB  # of each GPU: CUDA, NCCL and cuBLAS
FRAGMENTATION = 0.05  # of the rest, lost between PyTorch's blocks
PROCESS = 3 * GIB  # of the host for each rank: Python, CUDA, data
MAX_LIVE = 10**9  # weights that ZeRO-3 holds gathered: stage3_max_live_parameters, sub_group_size
BUCKET = 5 * 10**8  # reduce_bucket_size and allgather_bucket_size in ds_configs/stage2.json
UTILISATION = 0.4  # of the peak, recomputation included: torchtitan's published Llama-8B at 32k on 8 H100, counted so
PCIE = 25e9  # bytes/s between a GPU and its host, of the 32e9 of PCIe 4.0 x16
HOST_BANDWIDTH = 200e9  # bytes/s of a node's memory, about eight channels of DDR4-3200


@dataclass
class Plan:
    """A planned run. config: the base's. flags: of fine-tune.py, with `zero`: a ds_config.Settings."""

    config: LlamaConfig
    method: object
    flags: object
    gpus: int  # of all nodes, 8 each
    parameters: int
    trainable: int
    adapters: int  # LoRA's weights among the trainable; 0: all weights are trained

    @property
    def rows_per_step(self) -> int:
        f = self.flags
        return f.per_device_train_batch_size * f.gradient_accumulation_steps * self.gpus // f.sequence_parallel_size

    @property
    def steps(self) -> float | None:
        """Optimizer steps; None if only tokenising or downloading could tell."""
        name = self.flags.dataset_dir
        if self.flags.max_steps > 0:
            return self.flags.max_steps
        if name in DATASETS:
            rows, row_length = DATASETS[name]
        elif Path(name).exists() and "input_ids" in (data := packing.read(name)).column_names:
            rows, row_length = len(data), len(data[0]["input_ids"])
        else:
            return None
        return self.flags.num_train_epochs * rows * (row_length // self.method.model_max_length) / self.rows_per_step


def make_plan(config: LlamaConfig, method, flags, gpus: int) -> Plan:
    """Counts the parameters of the model that is trained, built on the meta device."""
    counted = copy.deepcopy(method)
    with torch.device("meta"):
        model = counted.auto_classes()["AutoModelForCausalLM"](checkpoint_writer.extended_config(config, method, {}))
    sizes = {"all": 0, "trained": 0, "lora": 0}
    for name, p in counted.prepare(model, flags.low_rank_training).named_parameters():
        sizes["all"] += p.numel()
        sizes["trained"] += p.numel() * p.requires_grad
        sizes["lora"] += p.numel() * ("lora_" in name)
    return Plan(config, method, flags, gpus, *sizes.values())


def hardware_flops_per_token(p: Plan) -> float:
    """`training_flops_per_token` and what is computed a second time."""
    config = p.config
    forward = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * p.method.attended_keys()
    again = forward / 2  # fused attention's backward has five products, not four
    if p.flags.gradient_checkpointing:
        again += 2 * (matmul_parameters(config) - config.vocab_size * config.hidden_size + p.adapters) + forward
    if p.flags.tiled_mlp:
        again += 6 * config.num_hidden_layers * config.hidden_size * config.intermediate_size
    again *= p.method.row_tokens() / p.method.model_max_length
    return training_flops_per_token(config, p.method, p.adapters) + again


def seconds_per_step(p: Plan, peak: float) -> float:
    """peak: FLOP/s of one GPU. Offloaded weights and gradients cross PCIe twice for every micro-batch."""
    flops = p.rows_per_step * p.method.model_max_length * hardware_flops_per_token(p)
    zero, number = p.flags.zero, 2 if p.flags.bf16 else 4
    moved = p.parameters * zero.offload_param + p.trainable * zero.offload_optimizer
    transfers = p.flags.gradient_accumulation_steps * 2 * number * moved / p.gpus / PCIE
    adam = 28 * p.trainable / max(1, p.gpus // 8) * zero.offload_optimizer / HOST_BANDWIDTH
    return flops / (p.gpus * peak * UTILISATION) + transfers + adam


def pinned(size: float) -> float:
    """Page-locked memory comes in powers of two (PyTorch's host allocator, pytorch/pytorch issue 150517)."""
    return 2.0 ** math.ceil(math.log2(size)) if size > 0 else 0.0


def state_memory(p: Plan) -> tuple[dict[str, float], float]:
    """(bytes of the parts on one GPU, bytes on the host for each rank) of weights, gradients, optimizer and buffers."""
    zero, deepspeed = p.flags.zero, bool(p.flags.deepspeed)
    c = 2 if p.flags.bf16 and deepspeed else 4  # bytes of a weight
    gpu = {
        "weights": c * p.parameters / (p.gpus if zero.stage == 3 else 1),
        "gradients": c * p.trainable / (p.gpus if zero.stage >= 2 else 1),
        "optimizer": (12 if deepspeed else 8) * p.trainable / (p.gpus if zero.stage >= 1 else 1),  # masters, moments
    }
    host = pinned(gpu.pop("weights")) if zero.offload_param else 0.0
    if zero.offload_optimizer:
        optimizer = gpu.pop("optimizer")
        host += optimizer + pinned(gpu.pop("gradients")) + pinned(optimizer / 3)
    if zero.stage == 3:
        gpu["buffers"] = c * min(p.parameters, MAX_LIVE) + 2 * c * p.config.hidden_size**2
    elif deepspeed:
        gpu["buffers"] = 2 * c * min(p.trainable, BUCKET)
    else:  # autocast's copies of the weights, DistributedDataParallel's copy of the gradients
        gpu["buffers"] = 2 * matmul_parameters(p.config) * p.flags.bf16 + 4 * p.trainable * (p.gpus > 1)
    return gpu, host


def activation_memory(p: Plan) -> tuple[float, float]:
    """(bytes on one GPU, bytes on the host for each rank) at the peak of forward and backward."""
    config, flags, row = p.config, p.flags, p.method.row_tokens()
    D, F, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    n = flags.per_device_train_batch_size * row // flags.sequence_parallel_size  # tokens of a micro-batch on one rank
    c = 2 if flags.bf16 else 4
    stream = c if flags.deepspeed else 4  # bytes of a number in the residual stream: autocast leaves it in float32
    qkvo = c * (2 * heads + 2 * config.num_key_value_heads) * config.head_dim
    # A layer keeps for its backward: of a norm the input in float32, the normed input, and the output (under autocast
    # a cast for each product that reads it); q, k, v, output, log of the softmax's sum; gate, SiLU, up, their product.
    norms = 2 * (4 + stream) * D + c * (2 if stream == c else 5) * D
    kept = n * (norms + qkvo + 4 * heads + (0 if flags.tiled_mlp else 4 * c * F))
    # The backward also holds the gradients of attention (or a norm), what an all-to-all sends, scores; or those of the
    # MLP; and those of the residual stream.
    rest = max(qkvo, 3 * 4 * D) + (qkvo if flags.sequence_parallel_size > 1 else 0)
    if p.method.stores_scores:
        rest += 5 * 4 * heads * row
    if flags.tiled_mlp:
        backward = max(min(n, flags.per_device_train_batch_size * D) * 6 * c * F, n * rest)
    else:
        backward = n * max(2 * c * F, rest)
    backward += n * 2 * stream * D
    inputs, host = n * D * stream, 0.0  # of one layer
    saved = config.num_hidden_layers * (inputs if flags.gradient_checkpointing else kept)
    if flags.gradient_checkpointing:
        backward += kept - (inputs if stream == 4 else 0)  # a float32 input is what the first norm keeps
    if flags.offload_activations:
        saved, host = 2 * inputs, config.num_hidden_layers * pinned(inputs)
    # The loss: last norm, hidden states, the gradients of both; a tile of logits; the head's gradient.
    loss = n * D * (4 + 4 * stream) + min(memory.LOGITS, n * config.vocab_size) * (4 + c)
    loss += 0 if p.adapters else config.vocab_size * D * (4 + 2 * c)
    return saved + max(backward, loss), host


def memory_needed(p: Plan) -> tuple[dict[str, float], float]:
    """(bytes of the parts on one GPU at the peak of a step, bytes on one node's host)."""
    gpu, host = state_memory(p)
    gpu["activations"], offloaded = activation_memory(p)
    gpu["CUDA"] = CUDA + FRAGMENTATION * sum(gpu.values())
    return gpu, (host + offloaded + PROCESS) * min(p.gpus, 8)


def report(config: LlamaConfig, method, flags) -> str:
    """What `--estimate` prints. Raises ValueError if flags.estimate is not like 8xH100 or 16xA100-80."""
    machine = re.fullmatch(rf"([1-9]\d*)x({'|'.join(GPUS)})", flags.estimate)
    if not machine or int(machine[1]) % flags.sequence_parallel_size:
        raise ValueError(f"--estimate {flags.estimate}: give a number and a kind of GPU, as 8xH100: {', '.join(GPUS)}")
    size, tflops = GPUS[machine[2]]
    p = make_plan(config, method, flags, int(machine[1]))
    model_flops = training_flops_per_token(config, method, p.adapters)
    gpu, host = memory_needed(p)
    needed, seconds = sum(gpu.values()) / GIB, seconds_per_step(p, tflops * 1e12)
    fits = "" if needed <= size else ", does not fit"
    lines = [
        f"{flags.method_name} at {method.model_max_length:,} tokens on {flags.estimate}, an estimate:",
        f"  parameters    {p.parameters / 1e6:,.1f} M, {p.trainable / 1e6:,.1f} M of them trained",
        f"  GPU memory    {needed:.1f} of {size} GiB{fits}: {', '.join(f'{k} {v / GIB:.1f}' for k, v in gpu.items())}",
        f"  host memory   {host / GIB:.0f} GiB a node",
        f"  FLOPs/token   {model_flops:.3g}, with recomputation {hardware_flops_per_token(p):.3g}",
        f"  step          {p.rows_per_step} rows, {seconds / 60:.3g} minutes at {UTILISATION:.0%} of the GPUs' peak",
    ]
    if p.steps:
        tokens, hours = p.steps * p.rows_per_step * method.model_max_length, p.steps * seconds / 3600
        lines.append(f"  steps         {math.ceil(p.steps):,}, {tokens / 1e6:,.1f} M tokens")
        lines.append(f"  hours         {hours:.3g}, {hours * p.gpus:.3g} GPU-hours")
    return "\n".join(lines)
