"""estimate.py: against exact counts, PyTorch's own counter, the shipped files, and as a user runs it."""

import re
import sys
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

import costs
import ds_config
import estimate
import methods
from conftest import STAGE, C, L, python, run
from estimate import GIB

TINY = dict(
    vocab_size=258, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=C,
)  # fmt: skip
LLAMA2 = dict(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=32, max_position_embeddings=4096,
)  # fmt: skip


def build(config, name="pi", length=L, **options):
    return methods.build(name, config, length, options)


def flags(method="pi", length=32768, zero=(3, True, True), **changes):
    """A parsed command line as arguments.py gives it; zero: a ds_config.Settings, or None for no DeepSpeed."""
    settings = dict(
        method_name=method, model_max_length=length, low_rank_training=False, per_device_train_batch_size=1,
        gradient_accumulation_steps=32, sequence_parallel_size=1, deepspeed="x.json" if zero else None,
        zero=ds_config.Settings(*(zero or (0, False, False))), bf16=True, gradient_checkpointing=True,
        offload_activations=False, tiled_mlp=False, dataset_dir="Leooyii/Slimpajama_downsample_32k_1B", cache_dir=None,
        num_train_epochs=1.0, max_steps=-1, estimate="8xH100",
    )  # fmt: skip
    return Namespace(**{**settings, **changes})


def llama2(spec="8xH100", **changes):
    """The plan of Llama-2-7B with PI on the machine `spec`."""
    config, options = LlamaConfig(**LLAMA2), flags(**changes)
    method = build(config, options.method_name, options.model_max_length)
    return estimate.make_plan(config, method, options, estimate.find_machine(spec))


# parameters


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4}, {"head_dim": 24}])
@pytest.mark.parametrize("name, low_rank", [("pi", False), ("longlora", True), ("clex", False)])
def test_parameters_are_counted_exactly(changes, name, low_rank):
    config = LlamaConfig(**{**TINY, **changes})
    method = build(config, name)
    model = build(config, name).prepare(LlamaForCausalLM(config), low_rank)
    sizes = {key: p.numel() for key, p in model.named_parameters() if p.requires_grad}
    adapters = sum(size for key, size in sizes.items() if "lora_" in key)
    total = sum(p.numel() for p in model.parameters())
    before = {key: value.clone() for key, value in vars(method).items() if isinstance(value, torch.Tensor)}
    assert estimate.count_parameters(config, method, low_rank) == (total, sum(sizes.values()), adapters)
    assert (adapters > 0) == low_rank == (sum(sizes.values()) < total)
    assert before == {key: value for key, value in vars(method).items() if isinstance(value, torch.Tensor)}
    if name == "clex":  # the method that is counted can still be used
        assert {p.device.type for p in method._network.parameters()} == {"cpu"}


def test_parameters_of_llama2_and_of_landmark():
    config = LlamaConfig(**LLAMA2)
    assert estimate.count_parameters(config, build(config, length=32768))[:2] == (6_738_415_616, 6_738_415_616)
    with_landmark = estimate.count_parameters(config, build(config, "landmark", 512))[0]
    assert with_landmark == 6_738_415_616 + 2 * 4096


# operations


def counted(model, n, backward=True):
    """Operations of n tokens by PyTorch's counter."""
    model.set_attn_implementation("eager")
    ids = torch.randint(0, model.config.vocab_size, (1, n))
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, labels=ids).loss
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4}, {"head_dim": 24}, {"tie_word_embeddings": True}])
def test_flops_equal_those_that_pytorch_counts(changes):
    """PyTorch counts the whole square of scores, the formula the causal half of it."""
    n, config = 32, LlamaConfig(**{**TINY, **changes})
    square = n * estimate.model_flops_per_token(config, n, keys=n)
    model = LlamaForCausalLM(config)
    assert counted(model, n) == square
    assert counted(model, n, backward=False) == square / 3
    attention = square - n * 6 * estimate.matmul_parameters(config)
    assert n * estimate.model_flops_per_token(config, n) == square - attention / 2


def test_flops_of_lora():
    """Frozen weights have no gradient of their own: counted on the model that peft makes."""
    n, config = 32, LlamaConfig(**TINY)
    method = build(config, "longlora", use_full_attn=True)
    adapters = estimate.count_parameters(config, method, True)[2]
    model = method.prepare(LlamaForCausalLM(config), True)
    assert counted(model, n) == n * estimate.model_flops_per_token(config, n, n, adapters)


def test_keys_of_shifted_groups():
    """By listing what each head may see, as test_longlora.py defines the groups."""
    n = 64
    method = build(LlamaConfig(**{**TINY, "max_position_embeddings": 16}), "longlora", n)
    position = torch.arange(n)
    plain, shifted = position // (n // 4), (position + n // 8) // (n // 4)
    causal = position[:, None] >= position
    seen = [((group[:, None] == group) & causal).sum().item() for group in (plain, shifted)]
    _, keys = estimate.row_and_keys(method)
    assert sum(seen) / 2 / n == pytest.approx(keys, abs=0.5)  # each query sees itself, too: half a key more
    assert estimate.row_and_keys(build(LlamaConfig(**LLAMA2), "landmark", 512)) == (520, 260)


# the machine, what fits, and what is printed


@pytest.mark.parametrize(
    "spec, gpus, nodes, gib, tflops",
    [
        ("8xH100", 8, 1, 79, 989),
        ("16xA100-80", 16, 2, 79, 312),
        ("1xrtx4090", 1, 1, 23, 165),
        ("4xh200", 4, 1, 139, 989),
    ],
)
def test_machines(spec, gpus, nodes, gib, tflops):
    machine = estimate.find_machine(spec)
    assert (machine.gpus, machine.nodes, machine.gpu, machine.peak) == (gpus, nodes, gib * GIB, tflops * 1e12)


@pytest.mark.parametrize("spec", ["H100", "8xH1000", "0xH100", "xH100", "12xH100", "8 x H100"])
def test_machines_that_are_none(spec):
    with pytest.raises(SystemExit, match=f"^error: --estimate {spec}: ") as stop:
        estimate.find_machine(spec)
    assert "\n" not in str(stop.value)


def test_this_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machine = estimate.find_machine("here")
    assert machine.name == "8xH100" and "no GPU here" in machine.note
    device = Namespace(name="NVIDIA A100-SXM4-80GB", total_memory=85 * 10**9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    machine = estimate.find_machine()
    assert (machine.gpus, machine.nodes, machine.gpu, machine.peak) == (4, 1, 85 * 10**9, 312e12)
    assert machine.host > GIB
    monkeypatch.setenv("WORLD_SIZE", "16")  # as torchrun sets them
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert (estimate.find_machine().gpus, estimate.find_machine().nodes) == (16, 2)


def test_the_shipped_files_are_what_is_advised():
    for words, fields in estimate._changes(llama2(zero=None))[2]:
        read = ds_config.read(str(STAGE / words.split()[1]))
        assert (read.stage, read.offload_optimizer, read.offload_param) == tuple(fields.values())


@pytest.mark.parametrize(
    "spec, changes, advised, not_advised",
    [
        ("8xH100", {}, None, ""),
        ("8xH100", {"zero": None}, "--deepspeed ds_configs/stage2.json", "--sequence_parallel_size"),
        ("8xA100-80", {"length": 131072, "zero": (3, False, False)}, "--sequence_parallel_size 2", "stage3.json"),
        ("8xA100-80", {"length": 262144}, "--sequence_parallel_size 2", "--deepspeed"),
        ("8xA100-80", {"length": 262144, "sequence_parallel_size": 4}, None, ""),
        ("1xH100", {"length": 393216}, "--tiled_mlp True --offload_activations True", "--sequence_parallel_size"),
        ("1xH100", {"per_device_train_batch_size": 8}, "--per_device_train_batch_size 1", "--deepspeed"),
        ("1xH100", {"gradient_checkpointing": False}, "--gradient_checkpointing True", "--offload_activations"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_what_would(spec, changes, advised, not_advised):
    machine, plan = estimate.find_machine(spec), llama2(spec, **changes)
    line = estimate.too_large(costs.estimate(plan), machine)
    if advised is None:
        assert line is None
        return
    assert line.startswith(f"error: {plan.title} needs about ") and "\n" not in line
    assert advised in line and not_advised not in line
    # each alternative really fits
    for words in line.split("; try ")[1].split(", or "):
        fields = {}
        for alternatives in estimate._changes(plan):
            for flag, change in alternatives:
                fields |= change if flag in words else {}
        assert estimate._fits(costs.estimate(replace(plan, **fields)), machine), words


def test_what_cannot_fit_is_said():
    line = estimate.too_large(costs.estimate(llama2("1xRTX4090", length=524288)), estimate.find_machine("1xRTX4090"))
    assert "no setting makes it fit 1xRTX4090: take more GPUs" in line


def test_host_memory_counts_where_it_is_known():
    machine = replace(estimate.find_machine("8xH100"), host=100 * GIB)
    line = estimate.too_large(costs.estimate(llama2()), machine)
    assert "GiB of host memory (of 100)" in line


def test_a_real_run_is_refused_or_warned(monkeypatch, capsys):
    config = LlamaConfig(**LLAMA2)
    method = build(config, length=32768)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    needed = costs.estimate(llama2()).gpu_total
    for share, refused, said in [(1.1, False, False), (0.95, False, True), (0.5, True, False)]:
        machine = estimate.Machine("8xH100", 8, 1, int(needed * share), 989e12)
        monkeypatch.setattr(estimate, "find_machine", lambda machine=machine: machine)
        if refused:
            with pytest.raises(SystemExit, match="^error: pi at 32,768 tokens needs about"):
                estimate.check(config, method, flags())
        else:
            estimate.check(config, method, flags())
        assert ("this may not fit: pi" in capsys.readouterr().out) == said


def test_steps_and_tokens_of_the_study():
    plan = llama2()
    assert (plan.tokens_per_step, plan.steps, plan.tokens) == (256 * 32768, 121, 30_774 * 32768)
    parallel = replace(plan, sequence_parallel=4, accumulation=128)
    assert (parallel.tokens_per_step, parallel.steps) == (plan.tokens_per_step, plan.steps)
    assert replace(plan, rows=80, micro_batch=1, accumulation=32, gpus=1).steps == 3  # as test_fine_tune.py sees it
    assert llama2("1xH100", dataset_dir="someone/elses").steps is None
    assert llama2(max_steps=7, dataset_dir="someone/elses").tokens == 7 * 256 * 32768
    landmark = flags("landmark", 512)
    config = LlamaConfig(**LLAMA2)
    plan = estimate.make_plan(config, build(config, "landmark", 512), landmark, estimate.find_machine("8xH100"))
    assert (plan.rows, plan.steps, plan.row) == (30_774 * 64, 7694, 520)


def test_the_flag(base, rows, tmp_path):
    """--estimate on a machine that is named, as a user runs it; a config.json is enough for it."""
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    command = [
        *f"--model_name_or_path {tmp_path} --dataset_dir {rows} --method_name pi --model_max_length {L}".split(),
        *f"--output_dir {tmp_path / 'out'} --bf16 True --gradient_accumulation_steps 4".split(),
    ]
    log = python("fine-tune.py", *command, "--estimate", "2xA100-80")
    words = " ".join(log.split())
    assert "pi at 256 tokens on 2xA100-80: " in words and "steps 6, in all 61.4 k tokens" in words and "hours" in words
    assert "error:" not in log and not (tmp_path / "out").exists()
    log = run("env", "CUDA_VISIBLE_DEVICES=", sys.executable, "fine-tune.py", *command, "--estimate")
    assert "8xH100 assumed" in log


def test_a_base_that_is_too_large_is_said(tmp_path):
    LlamaConfig(**LLAMA2).save_pretrained(tmp_path)
    log = python(
        "fine-tune.py", *f"--model_name_or_path {tmp_path} --method_name yarn --model_max_length 32768".split(),
        *"--dataset_dir Leooyii/Slimpajama_downsample_32k_1B --output_dir out --bf16 True --estimate 8xH100".split(),
    )  # fmt: skip
    assert "error: yarn at 32,768 tokens needs about" in log and "--deepspeed ds_configs/stage" in log


def test_the_readmes_table_is_what_is_estimated():
    """Each command of "The paper's runs": tokens, steps, GPU GiB, host GiB and hours as printed."""
    table = (STAGE.parent / "README.md").read_text().split("### The paper's runs")[1].split("\n- ")[0]
    table_rows = re.findall(
        r"^\| [^|]+ \| `([^`]+)` \| ([^|]+) B \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", table, re.M
    )
    assert len(table_rows) == 8
    config, machine = LlamaConfig(**LLAMA2), estimate.find_machine("8xH100")
    for command, tokens, steps, gpu, host, hours in table_rows:
        words = dict(word.split("=", 1) for word in command.split(" bash ")[0].split())
        own = command.split("finetune.sh")[1].split()
        length, batch = int(words.get("LENGTHS", 32768)), int(words.get("BATCH_SIZE", 1))
        read = ds_config.read(str(STAGE / words.get("DEEPSPEED", "ds_configs/stage3_offload.json")))
        options = flags(
            words["METHODS"], length, (read.stage, read.offload_optimizer, read.offload_param),
            per_device_train_batch_size=batch, gradient_accumulation_steps=256 // 8 // batch,
            low_rank_training="--low_rank_training" in own,
            dataset_dir=words.get("DATASET", "Leooyii/Slimpajama_downsample_32k_1B"),
        )  # fmt: skip
        estimated = costs.estimate(
            estimate.make_plan(config, build(config, words["METHODS"], length), options, machine)
        )
        plan = estimated.plan
        printed = [f"{plan.tokens / 1e9:.3g}", f"{plan.steps:,}", f"{estimated.gpu_total / GIB:.1f}"]
        printed += [f"{estimated.host_total / GIB:.0f}", f"{estimated.hours(machine.peak):.1f}"]
        assert [tokens, steps, gpu, host, hours] == printed, command
