"""Memory, steps and hours of a training run before it starts: `fine-tune.py ... --estimate 8xH100`.

Weights, gradients and optimizer states: ZeRO (arXiv 1910.02054, sections 3.1 and 5); without DeepSpeed, stage 0.
Activations: as in arXiv 2205.05198, section 4.1, with fused attention, bfloat16 and gradient checkpointing. Loading,
saving and communication are not included. 1 GiB is 2^30 bytes.
"""

import copy
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig

import checkpoint_writer
import training_rows
from memory import TILE_LOGITS
from rope import head_dim
from tracking import matmul_parameters, training_flops_per_token

GIB, BF16 = 2**30, 2  # bytes
# GiB that a process can use; dense bfloat16 TFLOP/s as NVIDIA publishes them
GPUS = {
    "RTX4090": (23, 165), "A100-40": (39, 312), "A100-80": (79, 312), "H100": (79, 989), "H200": (139, 989),
    "B200": (178, 2250),
}  # fmt: skip
DATASETS = {  # the study's: rows, tokens of a row
    "Leooyii/Slimpajama_downsample_32k_1B": (30_774, 32_768),
    "Leooyii/Slimpajama_downsample_64k_1B": (15_386, 65_536),
    "Leooyii/Slimpajama_downsample_64k_2B": (30_780, 65_536),
}
CUDA_BYTES = 2 * GIB  # of each GPU: CUDA, NCCL and cuBLAS
FRAGMENTATION = 0.05  # of the rest
PROCESS_BYTES = 3 * GIB  # of the host for each rank: Python, CUDA, data
MAX_LIVE_PARAMETERS = 10**9  # gathered by ZeRO-3 at a time: stage3_max_live_parameters, sub_group_size
BUCKET_PARAMETERS = 5 * 10**8  # reduce_bucket_size and allgather_bucket_size in ds_configs/stage2.json
UTILISATION = 0.4  # of the peak, recomputation included: torchtitan's published Llama-8B at 32k on 8 H100
PCIE_BANDWIDTH = 25e9  # bytes/s between a GPU and its host, of the 32e9 of PCIe 4.0 x16
HOST_BANDWIDTH = 200e9  # bytes/s of a node's memory, about eight channels of DDR4-3200


@dataclass
class Plan:
    config: PreTrainedConfig  # the base's
    method: object
    flags: object  # of fine-tune.py, with `zero`
    gpus: int  # of all nodes, 8 each
    model: object = None  # the one to train, on the meta device
    parameters: int = 0
    trainable: int = 0
    adapters: int = 0  # LoRA's weights among the trainable ones; 0: all weights are trained

    @property
    def rows_per_step(self) -> int:
        rows_per_rank = self.flags.per_device_train_batch_size * self.flags.gradient_accumulation_steps
        return rows_per_rank * self.gpus // self.flags.sequence_parallel_size


def make_plan(config: PreTrainedConfig, method, flags, gpus: int) -> Plan:
    """Counts the parameters of the model to train, built on the meta device."""
    plan = Plan(config, method, flags, gpus)
    method = copy.deepcopy(method)  # CLEX's network moves to the model's device
    with torch.device("meta"):
        extended = checkpoint_writer.extended_config(config, method, {})
        model = method.auto_classes(config)["AutoModelForCausalLM"](extended)
    plan.model = model = method.prepare(model, flags.low_rank_training)
    plan.parameters = sum(p.numel() for p in model.parameters())
    plan.trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    plan.adapters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    return plan


def steps(plan: Plan) -> float:
    """Optimizer steps; 0 if the data must be downloaded first."""
    flags = plan.flags
    if flags.max_steps > 0:
        return flags.max_steps
    rows, data_length = DATASETS.get(flags.dataset_dir, (0, 0))
    if Path(flags.dataset_dir).exists():
        data = training_rows.read(flags.dataset_dir)
        rows, data_length = len(data), len(data[0]["input_ids"])
    blocks = data_length // plan.method.row_length
    return flags.num_train_epochs * rows * blocks / plan.rows_per_step


def seconds_per_step(plan: Plan, peak: float) -> float:
    """peak: FLOP/s of one GPU. Offloaded weights and gradients cross PCIe twice for every micro-batch."""
    zero, gpus = plan.flags.zero, plan.gpus
    tokens = plan.rows_per_step * plan.method.row_length
    seconds = tokens * hardware_flops_per_token(plan) / (gpus * peak * UTILISATION)
    offloaded = plan.parameters if zero.offload_param else 0
    if zero.offload_optimizer:
        offloaded += plan.trainable
        seconds += 28 * plan.trainable / max(1, gpus // 8) / HOST_BANDWIDTH  # Adam: seven float32 numbers per weight
    return seconds + 2 * plan.flags.gradient_accumulation_steps * BF16 * offloaded / gpus / PCIE_BANDWIDTH


def hardware_flops_per_token(plan: Plan) -> float:
    """`training_flops_per_token` plus what is computed a second time."""
    config, method = plan.config, plan.method
    layers, D, F = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    attention = 4 * layers * config.num_attention_heads * head_dim(config) * method.attended_keys()  # its forward
    layer_weights = matmul_parameters(plan.model) - config.vocab_size * D
    repeated = 2 * (layer_weights + plan.adapters) + attention  # gradient checkpointing
    repeated += attention / 2  # fused attention's backward has five products, not four
    if plan.flags.tiled_mlp:
        repeated += 6 * layers * D * F
    repeated *= method.row_tokens() / method.row_length
    return training_flops_per_token(plan.model, method, plan.adapters) + repeated


def pinned(size: float) -> float:
    """PyTorch rounds page-locked memory up to a power of two (pytorch/pytorch issue 150517)."""
    return 2.0 ** math.ceil(math.log2(size))


def state_memory(plan: Plan) -> tuple[dict[str, float], float]:
    """(bytes on one GPU by kind, bytes on the host for each rank) without activations."""
    zero, gpus = plan.flags.zero, plan.gpus
    gpu = {
        "weights": BF16 * plan.parameters,
        "gradients": BF16 * plan.trainable,
        "optimizer": 12 * plan.trainable / (gpus if zero.stage >= 1 else 1),  # float32 masters, Adam's two moments
        "buffers": 2 * BF16 * min(plan.trainable, BUCKET_PARAMETERS),
    }
    if zero.stage >= 2:
        gpu["gradients"] /= gpus
    if zero.stage == 3:
        gpu["weights"] /= gpus
        gpu["buffers"] = BF16 * (min(plan.parameters, MAX_LIVE_PARAMETERS) + 2 * plan.config.hidden_size**2)
    host = 0.0
    if zero.offload_param:
        host, gpu["weights"] = pinned(gpu["weights"]), 0.0
    if zero.offload_optimizer:
        host += gpu["optimizer"] + pinned(gpu["gradients"]) + pinned(gpu["optimizer"] / 3)
        gpu["gradients"] = gpu["optimizer"] = 0.0
    return gpu, host


def activation_memory(plan: Plan) -> tuple[float, float]:
    """(bytes on one GPU, bytes on the host for each rank) at the peak of forward and backward."""
    config, flags = plan.config, plan.flags
    batch, ranks = flags.per_device_train_batch_size, flags.sequence_parallel_size
    layers, D, F, V = config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.vocab_size
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    n = batch * plan.method.row_tokens() // ranks  # tokens of a micro-batch on one rank
    layer_input = BF16 * n * D
    # Saved for a layer's backward, per token: of two norms the input, in float32 too, and the output; of attention q,
    # k, v, the output and the log of the softmax's sum; of the MLP gate, SiLU, up and their product.
    norms = 2 * (4 + 2 * BF16) * D
    qkvo = 2 * BF16 * (heads + key_heads) * head_dim(config)
    mlp = 4 * BF16 * F
    # Its backward has gradients of attention (or a norm), copies for the all-to-all and scores; or those of the MLP.
    attention = max(qkvo, 12 * D) + 4 * heads * plan.method.saved_scores()
    if ranks > 1:
        attention += qkvo
    mlp_backward = 2 * BF16 * F * n
    if flags.tiled_mlp:
        mlp, mlp_backward = 0, 6 * BF16 * F * min(n, batch * D)
    layer = n * (norms + qkvo + 4 * heads + mlp)
    backward = max(n * attention, mlp_backward) + layer + 2 * layer_input
    # The loss: last norm, hidden states, the gradients of both; tiles of logits; the head's gradient.
    head_gradient = 0 if plan.adapters else 8 * V * D
    loss = 4 * n * D + 4 * layer_input + 6 * min(TILE_LOGITS, n * V) + head_gradient
    if flags.offload_activations:
        return 2 * layer_input + max(backward, loss), layers * pinned(layer_input)
    return layers * layer_input + max(backward, loss), 0.0


def memory_needed(plan: Plan) -> tuple[dict[str, float], float]:
    """(bytes on one GPU by kind, bytes on one node's host) at the peak of a step."""
    gpu, states = state_memory(plan)
    gpu["activations"], activations = activation_memory(plan)
    gpu["CUDA"] = CUDA_BYTES + FRAGMENTATION * sum(gpu.values())
    return gpu, (states + activations + PROCESS_BYTES) * min(plan.gpus, 8)


def report(config: PreTrainedConfig, method, flags) -> str:
    """The text that `--estimate` prints. Raises ValueError if flags.estimate is not like 8xH100 or 16xA100-80."""
    count, _, name = flags.estimate.partition("x")
    if not re.fullmatch(r"[1-9]\d*", count) or name not in GPUS or int(count) % flags.sequence_parallel_size:
        raise ValueError(f"--estimate {flags.estimate}: give a number and a GPU, as 8xH100, of {', '.join(GPUS)}")
    plan = make_plan(config, method, flags, int(count))
    size, tflops = GPUS[name]
    gpu, host = memory_needed(plan)
    needed = sum(gpu.values()) / GIB
    fits = ", does not fit" if needed > size else ""
    kinds = ", ".join(f"{kind} {part / GIB:.1f}" for kind, part in gpu.items())
    seconds, n_steps = seconds_per_step(plan, tflops * 1e12), steps(plan)
    tokens = n_steps * plan.rows_per_step * method.row_length
    hours = n_steps * seconds / 3600
    return f"""{flags.method_name} at {method.model_max_length:,} tokens on {flags.estimate}, an estimate:
  parameters    {plan.parameters / 1e6:,.1f} M, {plan.trainable / 1e6:,.1f} M of them trained
  GPU memory    {needed:.1f} of {size} GiB{fits}: {kinds}
  host memory   {host / GIB:.0f} GiB a node
  step          {plan.rows_per_step} rows, {seconds / 60:.3g} minutes at {UTILISATION:.0%} of the GPUs' peak
  steps         {math.ceil(n_steps):,}, {tokens / 1e6:,.1f} M tokens (0: not known before the data are there)
  hours         {hours:.3g}, {hours * plan.gpus:.3g} GPU-hours"""
