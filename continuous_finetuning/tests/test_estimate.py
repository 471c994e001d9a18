"""estimate.py: against exact counts, PyTorch's own counters, the ZeRO paper, and the README's table."""

import re
import weakref
from argparse import Namespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

import ds_config
import estimate
import memory
import methods
import tracking
from estimate import GIB
from scripts import run_here, training_flags
from tiny import STAGE, L

TINY = {
    "vocab_size": 258, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA2 = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
}  # fmt: skip


def plan(config=None, method="pi", length=32768, zero=(3, True, True), gpus=8, options=None, **changes):
    """A plan of fine-tune.py's flags; zero: the fields of a ds_config.Settings, or None without DeepSpeed."""
    flags = {
        "low_rank_training": False, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 32,
        "sequence_parallel_size": 1, "deepspeed": zero is not None,
        "zero": ds_config.Settings(*(zero or (0, False, False))),
        "bf16": True, "gradient_checkpointing": True, "offload_activations": False, "tiled_mlp": False,
        "dataset_dir": "Leooyii/Slimpajama_downsample_32k_1B", "num_train_epochs": 1.0, "max_steps": -1,
    }  # fmt: skip
    config = config or LlamaConfig(**LLAMA2)
    method = methods.build(method, config, length, options or {})
    return estimate.make_plan(config, method, Namespace(**{**flags, **changes}), gpus)


@pytest.mark.parametrize("name, low_rank", [("pi", False), ("longlora", True), ("clex", False)])
def test_parameters_are_counted_exactly(name, low_rank):
    config = LlamaConfig(**TINY, tie_word_embeddings=True)
    method = methods.build(name, config, L, {})
    p = plan(config, name, L, low_rank_training=low_rank)
    parameters = list(method.prepare(LlamaForCausalLM(config), low_rank).named_parameters())
    assert p.parameters == sum(p.numel() for _, p in parameters)
    assert p.trainable == sum(p.numel() for _, p in parameters if p.requires_grad)
    assert p.adapters == sum(p.numel() for name, p in parameters if "lora_" in name)
    assert (p.adapters > 0) == low_rank == (p.trainable < p.parameters)


def test_parameters_of_llama2_and_of_landmark():
    assert plan().parameters == plan().trainable == 6_738_415_616
    assert plan(method="landmark", length=512).parameters == 6_738_415_616 + 2 * 4096


def counted_flops(model, n, backward=True):
    """Operations of n tokens by PyTorch's counter, which counts the whole square of scores."""
    model.set_attn_implementation("eager")
    ids = torch.randint(0, model.config.vocab_size, (1, n))
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, labels=ids).loss
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("changes", [{}, {"head_dim": 24, "tie_word_embeddings": True}])
def test_flops_equal_those_that_pytorch_counts(changes):
    n, config = 32, LlamaConfig(**{**TINY, **changes})
    expected = n * tracking.model_flops_per_token(config, keys=n)
    assert counted_flops(LlamaForCausalLM(config), n) == expected
    assert counted_flops(LlamaForCausalLM(config), n, backward=False) == expected / 3
    method = methods.build("pi", config, 128, {})
    assert tracking.training_flops_per_token(config, method) == tracking.model_flops_per_token(config, keys=64)


def test_flops_of_lora():
    """Frozen weights have no gradient of their own: counted on the model that peft makes."""
    n, config = 32, LlamaConfig(**TINY)
    method = methods.build("longlora", config, L, {"use_full_attn": True})
    adapters = plan(config, "longlora", L, low_rank_training=True).adapters
    model = method.prepare(LlamaForCausalLM(config), True)
    assert counted_flops(model, n) == n * tracking.model_flops_per_token(config, n, adapters)


def test_methods_state_their_own_cost():
    """LongLoRA's keys by listing what each head may see; Landmark's row has a landmark behind every 63 tokens."""
    n = 64
    method = methods.build("longlora", LlamaConfig(**TINY | {"max_position_embeddings": 16}), n, {})
    position = torch.arange(n)
    causal = position[:, None] >= position
    seen = 0
    for group in (position // (n // 4), (position + n // 8) // (n // 4)):
        seen += ((group[:, None] == group) & causal).sum().item()
    assert seen / 2 / n == pytest.approx(method.attended_keys(), abs=0.5)  # each query sees itself, half a key more
    landmark = methods.build("landmark", LlamaConfig(**LLAMA2), 512, {})
    assert (landmark.row_tokens(), landmark.attended_keys()) == (520, 260)


def test_states_are_those_of_the_zero_paper():
    """arXiv 1910.02054, figure 1: 7.5 billion parameters on 64 GPUs, 120 GB, 31.4, 16.6 and 1.9 (GB are 1e9 bytes)."""
    for stage, expected in [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)]:
        p = plan(zero=(stage, False, False), gpus=64)
        p.parameters = p.trainable = 7_500_000_000
        parts, host = estimate.state_memory(p)
        assert sum(parts[name] for name in ("weights", "gradients", "optimizer")) / 1e9 == pytest.approx(
            expected, abs=0.05
        )
        assert host == 0


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that live at a time, at most, but for those that were there before."""

    def __init__(self, model):
        super().__init__()
        self.seen = {p.untyped_storage()._cdata for p in model.parameters()}
        self.live = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self.seen:
                self.seen.add(key)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.free, key, size)
        return out

    def free(self, key, size):
        self.seen.discard(key)
        self.live -= size


@pytest.mark.parametrize("checkpointing, tiled", [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("precision", ["bfloat16", "autocast", "float32"])
def test_activations_are_those_that_live(precision, checkpointing, tiled):
    """The peak of one real step on the CPU, within 15 %; rows so long that the weights' gradients hardly count."""
    n, shape = 2048, {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "vocab_size": 64}
    config = LlamaConfig(**{**TINY, **shape, "max_position_embeddings": n // 2})
    model = LlamaForCausalLM(config).to(torch.bfloat16 if precision == "bfloat16" else torch.float32).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    memory.use_tiled_loss(model)
    if tiled:
        memory.use_tiled_mlp(model)
    ids = torch.randint(0, 64, (1, n))
    with LiveBytes(model) as measured:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
    p = plan(
        config, length=n, zero=None if precision == "autocast" else (0, False, False), bf16=precision != "float32",
        gradient_checkpointing=checkpointing, tiled_mlp=tiled,
    )  # fmt: skip
    assert estimate.activation_memory(p)[0] == pytest.approx(measured.peak, rel=0.15)


def test_landmarks_scores_are_those_that_live():
    n, rows = 512, 2
    shape = {"hidden_size": 128, "intermediate_size": 352, "vocab_size": 64, "num_key_value_heads": 4}
    config = LlamaConfig(**{**TINY, **shape, "max_position_embeddings": n})
    p = plan(
        config, "landmark", n, (0, False, False), bf16=False, per_device_train_batch_size=rows, options={"top_k": 2}
    )
    classes = p.method.auto_classes()
    model = classes["AutoModelForCausalLM"](
        classes["AutoConfig"].from_dict(config.to_dict() | p.method.config_fields())
    ).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    memory.use_tiled_loss(model)
    ids = torch.randint(0, 64, (rows, n))
    with LiveBytes(model) as measured:
        model(input_ids=ids, labels=ids).loss.backward()
    assert estimate.activation_memory(p)[0] == pytest.approx(measured.peak, rel=0.15)


def test_offloading_takes_time():
    """Two times 1 / 8 of weights and gradients, in bfloat16, for each of 32 micro-batches; Adam's 7 float32 numbers."""
    P, peak = 6_738_415_616, 989e12
    moved = 32 * 2 * (2 * P + 2 * P) / 8 / 25e9 + 7 * 4 * P / 200e9
    computed = 256 * 32768 * estimate.hardware_flops_per_token(plan()) / (8 * peak * estimate.UTILISATION)
    assert estimate.seconds_per_step(plan(), peak) == pytest.approx(computed + moved)
    assert estimate.seconds_per_step(plan(zero=(3, False, False)), peak) == pytest.approx(computed)


def test_the_flag(base, rows, tmp_path):
    """--estimate as a user gives it; a config.json is enough for it, and nothing is written."""
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    command = training_flags(tmp_path, rows, "pi", tmp_path / "out")
    printed = " ".join(run_here("fine-tune.py", *command, "--estimate", "2xA100-80").split())
    assert "pi at 256 tokens on 2xA100-80" in printed and "step 8 rows" in printed and "steps 30," in printed
    assert "does not fit" not in printed and "GPU-hours" in printed and not (tmp_path / "out").exists()
    assert "on 8xH100" in run_here("fine-tune.py", *command, "--estimate")


def test_the_readmes_table_is_what_is_estimated():
    """Each command of "The paper's runs": tokens, steps, GPU GiB, host GiB and hours as printed."""
    table = (STAGE / "paper_runs.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `([^`]+)` \| ([^|]+) B \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|", table, re.M)
    assert len(rows) == 8
    for command, tokens, steps, gpu, host, hours in rows:
        words = dict(word.split("=", 1) for word in command.split(" bash ")[0].split())
        length, batch = int(words.get("LENGTHS", 32768)), int(words.get("BATCH_SIZE", 1))
        settings = ds_config.read(str(STAGE / words.get("DEEPSPEED", "ds_configs/stage3_offload.json")))
        p = plan(
            method=words["METHODS"], length=length, per_device_train_batch_size=batch, zero=None,
            gradient_accumulation_steps=256 // 8 // batch, low_rank_training="--low_rank_training" in command,
            dataset_dir=words.get("DATASET", "Leooyii/Slimpajama_downsample_32k_1B"),
        )  # fmt: skip
        p.flags.deepspeed, p.flags.zero = True, settings
        gpu_parts, on_host = estimate.memory_needed(p)
        printed = [f"{p.steps * p.rows_per_step * length / 1e9:.3g}", f"{-int(-p.steps // 1):,}"]
        printed += [f"{sum(gpu_parts.values()) / GIB:.1f}", f"{on_host / GIB:.0f}"]
        printed += [f"{p.steps * estimate.seconds_per_step(p, 989e12) / 3600:.1f}"]
        assert [tokens, steps, gpu, host, hours] == printed, command
