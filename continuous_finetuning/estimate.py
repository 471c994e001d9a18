"""Memory before money: what a training run will need, printed by `fine-tune.py ... --estimate`.

GPU and host memory part by part, floating-point operations and hours, from the config and the flags alone; costs.py has
the formulas. Nothing is loaded, measured or downloaded but the base's config.
"""

import copy
import itertools
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import checkpoint
import packing
from costs import GIB, HOST_BANDWIDTH, PCIE, UTILISATION, Estimate, Plan, estimate

# name: (GiB that a process can use, dense bfloat16 TFLOP/s of NVIDIA's data sheet)
GPUS = {
    "A100-40": (39, 312), "A100-80": (79, 312), "H100": (79, 989), "H200": (139, 989), "B200": (178, 2250),
    "L40S": (44, 362), "A6000": (47, 155), "RTX4090": (23, 165),
}  # fmt: skip
UNSURE = 0.15  # how far the sizes may be off
PER_NODE = 8  # GPUs of a node, where a machine is only named
DATASETS = {  # the study's rows
    "Leooyii/Slimpajama_downsample_32k_1B": (30_774, 32_768),
    "Leooyii/Slimpajama_downsample_64k_1B": (15_386, 65_536),
    "Leooyii/Slimpajama_downsample_64k_2B": (30_780, 65_536),
}


@dataclass(frozen=True)
class Machine:
    """gpu, host: bytes of one GPU's and of one node's memory. peak: dense bfloat16 FLOP/s of one GPU. None: unknown."""

    name: str
    gpus: int
    nodes: int
    gpu: int
    peak: float | None
    host: int | None = None
    note: str = ""


def find_machine(spec: str | None = None) -> Machine:
    """Of `8xH100`, `16xA100-80` (nodes of 8), or None or `here`: this run's own GPUs, or 8xH100 with a note of it.

    Exits with one line on another spec.
    """
    if spec in (None, "here") and torch.cuda.is_available():
        gpus = int(os.environ.get("WORLD_SIZE", torch.cuda.device_count()))
        nodes = max(1, gpus // int(os.environ.get("LOCAL_WORLD_SIZE", gpus)))
        device = torch.cuda.get_device_properties(0)
        words = re.sub(r"[^A-Z0-9]", "", device.name.upper())
        known = [name for name in GPUS if name.split("-")[0] in words]
        peak = GPUS[known[0]][1] * 1e12 if known else None
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Machine(f"{gpus}x{device.name}", gpus, nodes, device.total_memory, peak, host)
    note = ""
    if spec in (None, "here"):
        spec, note = "8xH100", "no GPU here: 8xH100 assumed (or name some: --estimate 16xA100-80)"
    match = re.fullmatch(r"(\d+)x(.+)", spec)
    names = {name.upper(): name for name in GPUS}
    if not match or int(match[1]) < 1 or match[2].upper() not in names:
        raise SystemExit(f"error: --estimate {spec}: give a number and a kind of GPU, 8xH100; kinds: {', '.join(GPUS)}")
    gpus, name = int(match[1]), names[match[2].upper()]
    if gpus > PER_NODE and gpus % PER_NODE:
        raise SystemExit(f"error: --estimate {spec}: beyond one node give whole nodes of {PER_NODE} GPUs")
    size, peak = GPUS[name]
    return Machine(f"{gpus}x{name}", gpus, max(1, gpus // PER_NODE), size * GIB, peak * 1e12, None, note)


def count_parameters(config: LlamaConfig, method, low_rank: bool = False) -> tuple[int, int, int]:
    """(all, trained, LoRA's among them) of the model that is trained, exactly; built without memory (meta device)."""
    config = copy.deepcopy(config)
    config.vocab_size = checkpoint.extended_config(config, method, {}).vocab_size  # the method may add a row
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = copy.deepcopy(method).prepare(model, low_rank)
    sizes = {name: (p.numel(), p.requires_grad) for name, p in model.named_parameters()}
    return (
        sum(size for size, _ in sizes.values()),
        sum(size for size, trained in sizes.values() if trained),
        sum(size for name, (size, _) in sizes.items() if "lora_" in name),
    )


def _head_dim(config: LlamaConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def matmul_parameters(config: LlamaConfig) -> int:
    """Weights that a token is multiplied with: those of the layers and the LM head, not the embeddings."""
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    layer = config.hidden_size * (heads * _head_dim(config) + 3 * config.intermediate_size)
    return config.num_hidden_layers * layer + config.vocab_size * config.hidden_size


def model_flops_per_token(config: LlamaConfig, length: int, keys: float | None = None, adapters: int = 0) -> float:
    """Floating-point operations of forward and backward per token of a row of `length`, nothing counted twice.

    6 per weight that a token is multiplied with, and 12 layers H d per key that it attends to: length / 2 of them
    under a causal mask (PaLM counts all `length`), or `keys`. adapters: how many LoRA weights are trained in the
    layers; the frozen ones then have no gradient of their own, 4 instead of 6. Norms, softmax, rope and embeddings are
    not counted.
    """
    keys = length / 2 if keys is None else keys
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * _head_dim(config) * keys
    return (4 if adapters else 6) * matmul_parameters(config) + 6 * adapters + attention


def row_and_keys(method) -> tuple[int, float]:
    """(tokens that the layers see of a row, keys that a query attends to on average) in training with `method`."""
    n, options = method.model_max_length, method.options()
    if options.get("use_full_attn") is False:
        # S2-Attn: half of the heads have groups of n/4, n/8 keys on average; of the other half's shifted groups the
        # first and the last are n/8 long, so 7/64 n keys
        return n, n * 15 / 128
    row = n + ((n - 1) // options["mem_freq"] if "mem_freq" in options else 0)  # landmarks stand in the row
    return row, row / 2


def training_flops_per_token(config: LlamaConfig, method, adapters: int = 0) -> float:
    """`model_flops_per_token` of a run with `method`, per token of text. config: the base's."""
    row, keys = row_and_keys(method)
    return model_flops_per_token(config, row, keys, adapters) * row / method.model_max_length


def make_plan(config: LlamaConfig, method, flags, machine: Machine) -> Plan:
    """The plan of the run that `flags` (the parsed command line, with `zero`: ds_config.Settings) describes. Exits with
    one line where --sequence_parallel_size does not divide the machine's GPUs."""
    if machine.gpus % flags.sequence_parallel_size:
        size = flags.sequence_parallel_size
        raise SystemExit(f"error: --sequence_parallel_size {size} does not divide the {machine.gpus} GPUs")
    total, trained, adapters = count_parameters(config, method, flags.low_rank_training)
    length, (row, keys) = method.model_max_length, row_and_keys(method)
    return Plan(
        title=f"{flags.method_name} at {length:,} tokens",
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=_head_dim(config),
        model_flops=training_flops_per_token(config, method, adapters),
        vocabulary=config.vocab_size,
        parameters=total,
        trainable=trained,
        matmuls=matmul_parameters(config),
        adapters=adapters,
        length=length,
        row=row,
        keys=keys,
        full_scores=row > length,
        micro_batch=flags.per_device_train_batch_size,
        accumulation=flags.gradient_accumulation_steps,
        gpus=machine.gpus,
        nodes=machine.nodes,
        sequence_parallel=flags.sequence_parallel_size,
        zero_stage=flags.zero.stage if flags.deepspeed else None,
        offload_optimizer=flags.zero.offload_optimizer,
        offload_param=flags.zero.offload_param,
        mixed=flags.bf16,
        gradient_checkpointing=flags.gradient_checkpointing,
        offload_activations=flags.offload_activations,
        tiled_mlp=flags.tiled_mlp,
        splits_rows=method.sequence_parallel,
        rows=count_rows(flags.dataset_dir, length, flags.cache_dir),
        epochs=flags.num_train_epochs,
        max_steps=flags.max_steps,
    )


def count_rows(dataset_dir: str, length: int, cache_dir: str | None = None) -> int | None:
    """Rows of `length` tokens, without touching the hub; None where only tokenising or downloading could tell."""
    if dataset_dir in DATASETS:
        rows, row_length = DATASETS[dataset_dir]
        return rows * (row_length // length) or None
    if not Path(dataset_dir).exists():
        return None
    data = packing.read(dataset_dir, cache_dir)
    if "input_ids" not in data.column_names:
        return None
    return len(data) * (len(data[0]["input_ids"]) // length) or None


def _gib(size: float) -> str:
    return f"{size / GIB:8.1f}"


def _count(number: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def table(estimated: Estimate, machine: Machine) -> str:
    """The estimate as text: each part with its formula, then what the run costs."""
    p = estimated.plan
    trained = "all trained" if p.trainable == p.parameters else f"{_count(p.trainable)} trained"
    lines = [f"{p.title} on {machine.name}: {_count(p.parameters)} parameters, {trained}"]
    lines += [machine.note] if machine.note else []
    tokens = p.micro_batch * p.row // p.sequence_parallel
    lines.append(f"n {tokens:,} tokens a GPU, D {p.hidden:,}, V {p.vocabulary:,}, P parameters, T trained; an estimate")
    for title, parts, total, limit in [
        ("GPU memory, GiB each", estimated.gpu, estimated.gpu_total, machine.gpu),
        ("host memory, GiB a node", estimated.host, estimated.host_total, machine.host),
    ]:
        lines += ["", title]
        lines += [f"  {name:26}{_gib(size)}   {words}" for name, size, words in parts]
        lines.append(f"  {'together':26}{_gib(total)}" + (f"   of {limit / GIB:.0f}" if limit else ""))
    per_step = f"{p.tokens_per_step:,} ({p.tokens_per_step // p.length:,} rows)"
    lines += ["", "compute", f"  tokens a step           {per_step}"]
    if p.steps:
        lines.append(f"  steps                   {p.steps:,}, in all {_count(p.tokens)} tokens")
    lines.append(f"  model FLOPs a token     {_count(p.model_flops)}: 6 a weight, 12 layers H d a key")
    lines.append(f"  hardware FLOPs a token  {_count(estimated.hardware_flops)}, with what is computed again")
    if machine.peak:
        speed = f"at {UTILISATION:.0%} (assumed) of {machine.peak / 1e12:.0f} TFLOP/s a GPU"
        lines.append(f"  minutes a step          {estimated.seconds_per_step(machine.peak) / 60:.3g}, {speed}")
        if estimated.offload_seconds:
            words = (
                f"offloading, at {PCIE / 1e9:.0f} GB/s a GPU and {HOST_BANDWIDTH / 1e9:.0f} of host memory (assumed)"
            )
            lines.append(f"                          {estimated.offload_seconds / 60:.3g} of them for {words}")
        if p.tokens:
            lines.append(f"  hours                   {estimated.hours(machine.peak):.3g}")
    if not p.tokens:
        lines.append("  (how many rows there are is not known before they are read: no hours)")
    lines.append("not in it: loading, saving, what the GPUs send each other")
    return "\n".join(lines)


def _fits(estimated: Estimate, machine: Machine, slack: float = 0.0) -> bool:
    sizes = [(estimated.gpu_total, machine.gpu), (estimated.host_total, machine.host)]
    return all(limit is None or size <= limit * (1 + slack) for size, limit in sizes)


def _changes(p: Plan) -> list[list[tuple[str, dict]]]:
    """What may save memory and is not on yet, as alternatives: (flag, fields of the plan)."""
    sizes = [size for size in (2, 4, 8, 16, 32) if p.splits_rows and size > p.sequence_parallel]
    sizes = [n for n in sizes if p.gpus % n == 0 and p.heads % n == 0 and p.length % n == 0]
    files = [("stage2", 2, False), ("stage3", 3, False), ("stage3_offload", 3, True)]
    zero = [
        (
            f"--deepspeed ds_configs/{name}.json",
            {"zero_stage": stage, "offload_optimizer": offload, "offload_param": offload},
        )
        for name, stage, offload in files
        if (stage, offload) > (p.zero_stage or 0, p.offload_optimizer and p.offload_param)
    ]
    return [
        [("--per_device_train_batch_size 1", {"micro_batch": 1})] if p.micro_batch > 1 else [],
        [("--gradient_checkpointing True", {"gradient_checkpointing": True})] if not p.gradient_checkpointing else [],
        zero,
        [(f"--sequence_parallel_size {n}", {"sequence_parallel": n}) for n in sizes],
        [("--tiled_mlp True", {"tiled_mlp": True})] if not p.tiled_mlp else [],
        [("--offload_activations True", {"offload_activations": True})] if not p.offload_activations else [],
    ]


def too_large(estimated: Estimate, machine: Machine, most: int = 3) -> str | None:
    """One line saying what is missing and which flags make the run fit, or None where it fits.

    Of all combinations that fit by the same estimate, those of the fewest flags, the least computation first, at most
    `most` of them.
    """
    if _fits(estimated, machine):
        return None
    p, found = estimated.plan, []
    for chosen in itertools.product(*[[None, *alternatives] for alternatives in _changes(p)]):
        fields = {key: value for change in chosen if change for key, value in change[1].items()}
        changed = replace(p, **fields)
        if changed.sequence_parallel > 1 and changed.zero_stage is None:
            continue
        if changed.offload_activations and not changed.gradient_checkpointing:
            continue
        other = estimate(changed)
        if fields and _fits(other, machine):
            flags = [change[0] for change in chosen if change]
            found.append((len(flags), other.hardware_flops, other.offload_seconds, other.host_total, " ".join(flags)))
    needs = f"error: {p.title} needs about {estimated.gpu_total / GIB:.0f} GiB a GPU (of {machine.gpu / GIB:.0f})"
    if machine.host and estimated.host_total > machine.host:
        needs += f" and {estimated.host_total / GIB:.0f} GiB of host memory (of {machine.host / GIB:.0f})"
    if not found:
        return f"{needs}; no setting makes it fit {machine.name}: take more GPUs, or a smaller --model_max_length"
    found.sort()
    tried = {}  # the best with each set of flags
    for count, *_, words in found:
        if count == found[0][0]:
            tried.setdefault(" ".join(word for word in words.split() if word.startswith("--")), words)
    return f"{needs}; try {', or '.join(list(tried.values())[:most])}"


def check(config: LlamaConfig, method, flags) -> None:
    """Before a real run: exits with one line where this machine's GPUs or its memory are clearly too small for it, and
    prints it where they may be. Without a GPU there is nothing to say."""
    if not torch.cuda.is_available():
        return
    machine = find_machine()
    estimated = estimate(make_plan(config, method, flags, machine))
    line = too_large(estimated, machine)
    if line and not _fits(estimated, machine, slack=UNSURE):
        raise SystemExit(line)
    if line and int(os.environ.get("RANK", 0)) == 0:
        print(line.replace("error:", "this may not fit:"), flush=True)


def report(config: LlamaConfig, method, flags) -> str:
    """What `fine-tune.py ... --estimate` prints. flags: the parsed command line; flags.estimate as `find_machine`."""
    machine = find_machine(flags.estimate)
    estimated = estimate(make_plan(config, method, flags, machine))
    text = table(estimated, machine)
    line = too_large(estimated, machine)
    return f"{text}\n{line}" if line else text
