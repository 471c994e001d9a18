"""costs.py: against the ZeRO paper's figures, tensors that live in a real step, and sums by hand."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

import costs
import memory
from costs import GIB
from modeling.modeling_landmark import LandmarkConfig, LandmarkForCausalLM
from test_estimate import TINY, llama2


def part(estimated, name):
    return sum(size for part, size, _ in estimated.gpu if part == name)


def test_states_are_those_of_the_zero_paper():
    """arXiv 1910.02054, figure 1: 7.5 billion parameters on 64 GPUs, 120 GB, 31.4, 16.6 and 1.9 (GB are 1e9 bytes)."""
    plan = replace(llama2("64xA100-80"), parameters=7_500_000_000, trainable=7_500_000_000)
    names = ("weights", "gradients", "master weights, moments")
    for stage, expected in [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)]:
        estimated = costs.estimate(replace(plan, zero_stage=stage, offload_optimizer=False, offload_param=False))
        assert sum(part(estimated, name) for name in names) / 1e9 == pytest.approx(expected, abs=0.05), stage


def test_offload_moves_the_states_to_the_host():
    on_gpu = costs.estimate(llama2(zero=(3, False, False)))
    offloaded = costs.estimate(llama2())
    assert part(on_gpu, "weights") > 0 == part(offloaded, "weights")
    assert part(on_gpu, "master weights, moments") > 0 == part(offloaded, "master weights, moments")
    assert offloaded.host_total - on_gpu.host_total >= 18 * 6_738_415_616
    two_nodes = costs.estimate(llama2("16xH100"))
    assert two_nodes.host_total < offloaded.host_total  # of each


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


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("checkpointing, tiled", [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("precision", ["bfloat16", "autocast", "float32"])
def test_activations_are_those_that_live(precision, checkpointing, tiled, kv_heads):
    """The peak of one real step on the CPU, within 15 %; rows so long that the weights' gradients hardly count."""
    n, mixed = 4096, precision != "float32"
    config = LlamaConfig(
        **{**TINY, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "vocab_size": 64,
           "num_key_value_heads": kv_heads, "max_position_embeddings": n}
    )  # fmt: skip
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

    plan = costs.Plan(
        title="", hidden=128, intermediate=352, layers=4, heads=4, kv_heads=kv_heads, head_dim=32, vocabulary=64,
        parameters=1, trainable=1, matmuls=1, model_flops=1, length=n, row=n, mixed=mixed,
        zero_stage=None if precision == "autocast" else 0, gradient_checkpointing=checkpointing, tiled_mlp=tiled,
    )  # fmt: skip
    estimated = costs.estimate(plan)
    names = ("layers' inputs", "activations", "one layer's backward", "the loss")
    assert sum(part(estimated, name) for name in names) == pytest.approx(measured.peak, rel=0.15)


def test_landmarks_scores_are_those_that_live():
    n, rows = 512, 4
    config = LandmarkConfig(
        **{**TINY, "hidden_size": 128, "intermediate_size": 352, "vocab_size": 64, "num_key_value_heads": 4},
        mem_freq=63, cache_top_k=2, train_context_length=n,
    )  # fmt: skip
    model = LandmarkForCausalLM(config).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    memory.use_tiled_loss(model)
    ids = torch.randint(0, 64, (rows, n))
    with LiveBytes(model) as measured:
        model(input_ids=ids, labels=ids).loss.backward()
    plan = costs.Plan(
        title="", hidden=128, intermediate=352, layers=2, heads=4, kv_heads=4, head_dim=32, vocabulary=64, parameters=1,
        trainable=1, matmuls=1, model_flops=1, length=n, row=520, micro_batch=rows, full_scores=True, zero_stage=0,
        mixed=False,
    )  # fmt: skip
    estimated = costs.estimate(plan)
    assert part(estimated, "layers' inputs") + part(estimated, "one layer's backward") == pytest.approx(
        measured.peak, rel=0.15
    )


def test_memory_grows_with_length_and_shrinks_with_what_saves_it():
    sizes = [costs.estimate(llama2(length=length)).gpu_total for length in (8192, 16384, 32768, 65536)]
    assert sizes == sorted(sizes) and sizes[-1] > sizes[0] + 10 * GIB
    plan = llama2(length=65536)
    for saved in (
        {"tiled_mlp": True}, {"offload_activations": True}, {"sequence_parallel": 2}, {"sequence_parallel": 8},
    ):  # fmt: skip
        assert costs.estimate(replace(plan, **saved)).gpu_total < costs.estimate(plan).gpu_total, saved
    bare = replace(plan, zero_stage=None, offload_optimizer=False, offload_param=False)
    stages = [replace(bare, zero_stage=stage) for stage in (2, 3)] + [plan]
    sizes = [costs.estimate(p).gpu_total for p in [bare, *stages]]
    assert sizes == sorted(sizes, reverse=True)


def test_offloading_takes_time():
    """Two times 1 / 8 of weights and gradients, in bfloat16, for each of 32 micro-batches; Adam's 7 float32 numbers."""
    P = 6_738_415_616
    offloaded, peak = costs.estimate(llama2()), 989e12
    expected = 32 * 2 * (2 * P + 2 * P) / 8 / 25e9 + 7 * 4 * P / 200e9
    assert offloaded.offload_seconds == pytest.approx(expected) == pytest.approx(9.57, abs=0.01)
    on_gpu = costs.estimate(llama2(zero=(3, False, False)))
    assert on_gpu.offload_seconds == 0
    compute = 256 * 32768 * on_gpu.hardware_flops / (8 * peak * costs.UTILISATION)
    assert on_gpu.seconds_per_step(peak) == pytest.approx(compute)
    assert offloaded.seconds_per_step(peak) == pytest.approx(compute + expected)
    assert on_gpu.hours(peak) == pytest.approx(compute * 30_774 / 256 / 3600)
    whole_steps = costs.estimate(llama2(max_steps=10))
    assert whole_steps.hours(peak) == pytest.approx(10 * (compute + expected) / 3600)


def test_hardware_repeats_the_forward():
    plan = llama2()
    once, again = costs.estimate(replace(plan, gradient_checkpointing=False)), costs.estimate(plan)
    assert plan.model_flops < once.hardware_flops < again.hardware_flops < 1.4 * plan.model_flops
    assert costs.estimate(replace(plan, tiled_mlp=True)).hardware_flops - again.hardware_flops == 6 * 32 * 4096 * 11008
