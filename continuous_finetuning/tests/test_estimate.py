"""estimate.py against PyTorch's own counters, the ZeRO paper, and the table of paper_runs.md; ds_config.py."""

import json
import re
from argparse import Namespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import ds_config
import estimate
import memory
import methods
import tracking
from scripts import allocated_bytes, run_here, training_flags
from tiny import SHAPE, STAGE, L, save_base

TINY = SHAPE | {"vocab_size": 258}
LLAMA2 = LlamaConfig.from_pretrained(STAGE.parent / "presets" / "Llama-2-7b-hf")


def make_run(config=LLAMA2, method="pi", length=32768, zero=(3, True, True), gpus=8, **changes):
    """A run with fine-tune.py's flags. zero: the fields of a ds_config.Settings."""
    flags = {
        "low_rank_training": False, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 32,
        "sequence_parallel_size": 1, "zero": ds_config.Settings(*zero), "offload_activations": False,
        "tiled_mlp": False, "num_train_epochs": 1.0, "max_steps": -1,
        "dataset_dir": "Leooyii/Slimpajama_downsample_32k_1B",
    }  # fmt: skip
    method = methods.build(method, config, length, {})
    return estimate.Run(config, method, Namespace(**flags | changes), gpus)


@pytest.mark.parametrize("lora", [False, True])
def test_flops_equal_those_that_pytorch_counts(lora):
    """PyTorch counts the whole square of scores. With LoRA, frozen weights have no gradient of their own."""
    n, config = 32, LlamaConfig(**TINY, head_dim=24)
    method = methods.build("longlora", config, L, {"use_full_attn": True})
    model = method.prepare(LlamaForCausalLM(config), lora)
    assert (tracking.count_weights(model)[1] > 0) == lora
    model.set_attn_implementation("eager")
    ids = torch.randint(0, config.vocab_size, (1, n))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    assert counter.get_total_flops() == n * tracking.model_flops_per_token(model, n)


def test_attended_keys_of_longlora_and_landmark():
    """LongLoRA's by listing which keys each head may see; Landmark's row has a landmark after every 63 tokens."""
    n = 64
    method = methods.build("longlora", LlamaConfig(**TINY | {"max_position_embeddings": 16}), n, {})
    position = torch.arange(n)
    causal = position[:, None] >= position
    seen = 0
    for group in (position // (n // 4), (position + n // 8) // (n // 4)):
        seen += ((group[:, None] == group) & causal).sum().item()
    assert seen / 2 / n == pytest.approx(method.attended_keys(), abs=0.5)  # each query sees itself, half a key more
    landmark = methods.build("landmark", LLAMA2, 512, {})
    assert (landmark.row_tokens(), landmark.attended_keys()) == (520, 260)


@pytest.mark.parametrize("stage, gigabytes", [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_states_of_the_zero_paper(stage, gigabytes):
    """arXiv 1910.02054, figure 1: 7.5 billion parameters on 64 GPUs."""
    run = make_run(LlamaConfig(**TINY), length=L, zero=(stage, False, False), gpus=64)
    run.parameters = run.trainable = 7_500_000_000
    parts, host = estimate.state_memory(run)
    states = parts["weights"] + parts["gradients"] + parts["optimizer"]
    assert states / 1e9 == pytest.approx(gigabytes, abs=0.05) and host == 0


@pytest.mark.parametrize("tiled", [False, True])
def test_activations_of_a_real_step(tiled):
    """Within 15 % on a CPU; rows so long that the weights' gradients hardly count."""
    n = 2048
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    shape = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "vocab_size": 64}
    config = LlamaConfig(**TINY | shape | heads)
    run = make_run(config, length=n, zero=(0, False, False), tiled_mlp=tiled)
    model = LlamaForCausalLM(config).to(torch.bfloat16).train()
    model.gradient_checkpointing_enable()
    memory.use_tiled_loss(model)
    if tiled:
        memory.use_tiled_mlp(model)
    ids = torch.randint(0, 64, (1, n))
    peak, _ = allocated_bytes(model, input_ids=ids, labels=ids)
    assert estimate.activation_memory(run)[0] == pytest.approx(peak, rel=0.15)


def test_deepspeed_files(tmp_path):
    """The shipped files pass; keys without effect, or that override the command line, do not, nor a missing one."""
    shipped = {path.stem: path for path in (STAGE / "ds_configs").glob("*.json")}
    settings = {name: tuple(ds_config.read(path)) for name, path in shipped.items()}
    assert settings == {"stage2": (2, False, False), "stage3": (3, False, False), "stage3_offload": (3, True, True)}
    path, config = tmp_path / "ds.json", json.loads(shipped["stage3"].read_text())
    for key, value in {"offload_param": {}, "scheduler": {"type": "x"}, "zero_optimization": {"stage": 3}}.items():
        path.write_text(json.dumps(config | {key: value}))
        with pytest.raises(ValueError, match="`"):
            ds_config.read(path)
    for zero in (5, {"stage": 2, "offload_optimizer": "cpu"}):
        path.write_text(json.dumps(config | {"zero_optimization": zero}))
        with pytest.raises(ValueError, match="--deepspeed .*ds.json: "):
            ds_config.read(path)
    del config["gradient_clipping"]  # DeepSpeed would not clip
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="`gradient_clipping` is missing"):
        ds_config.read(path)


def test_table_of_paper_runs():
    """Each of its commands: tokens, steps, GPU GiB, host GiB and hours as printed."""
    table = (STAGE / "paper_runs.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `([^`]+)` \| ([^|]+) B \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|", table, re.M)
    assert len(rows) == 8
    for command, *expected in rows:
        words = dict(word.split("=", 1) for word in command.split(" bash ")[0].split())
        batch, length = int(words.get("BATCH_SIZE", 1)), int(words.get("LENGTHS", 32768))
        run = make_run(
            method=words["METHODS"], length=length, per_device_train_batch_size=batch,
            gradient_accumulation_steps=256 // 8 // batch, low_rank_training="--low_rank_training" in command,
            dataset_dir=words.get("DATASET", "Leooyii/Slimpajama_downsample_32k_1B"),
        )  # fmt: skip
        run.flags.zero = ds_config.read(STAGE / words.get("DEEPSPEED", "ds_configs/stage3_offload.json"))
        gpu, host = estimate.memory_needed(run)
        steps = estimate.steps(run)
        hours = steps * estimate.seconds_per_step(run, 989e12) / 3600
        printed = [f"{steps * run.rows_per_step * length / 1e9:.3g}", f"{-int(-steps // 1):,}"]
        printed += [f"{sum(gpu.values()) / 2**30:.1f}", f"{host / 2**30:.0f}", f"{hours:.1f}"]
        assert printed == expected, command


def test_estimate_of_fine_tune(tmp_path, rows):
    """--estimate as a user gives it; a config.json is enough for it, and nothing is written."""
    base = save_base(tmp_path / "base", "glm4")
    parameters = AutoModelForCausalLM.from_pretrained(base).num_parameters()
    (base / "model.safetensors").unlink()
    command = training_flags(base, rows, "yarn", tmp_path / "out")
    printed = " ".join(run_here("fine-tune.py", *command, "--estimate", "2xA100-80").split())
    assert f"{parameters / 1e6:,.1f} M, {parameters / 1e6:,.1f} M of them trained" in printed
    assert "yarn at 256 tokens on 2xA100-80" in printed and "step 8 rows" in printed and "steps 30," in printed
    assert "does not fit" not in printed and "GPU-hours" in printed and not (tmp_path / "out").exists()
