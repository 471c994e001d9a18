"""DeepSpeed and sequence parallelism on two CPU ranks, as a user starts them: torchrun, the shipped JSON files."""

import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conftest import L, python, run
from test_fine_tune import GOLDEN, METHODS, SMALL, flags, losses

pytestmark = needs = [
    pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux"),
    pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed builds its CPU optimizer with g++: install it"),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "fine-tune.py"]
OFFLOAD = ["--deepspeed", "ds_configs/stage3_offload.json"]


def two_ranks(*args, **kwargs):
    log = run(*TORCHRUN, *args, **kwargs)
    assert "Traceback" not in log or kwargs.get("expect")
    return log


def whole_weights(output, base):
    """Plain Transformers opens `output`, and no weight is the base's any more: all were trained, gathered and saved."""
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        assert after[name].numel() >= before[name].numel() > 0 and torch.isfinite(after[name]).all()
        assert after[name].shape != before[name].shape or not torch.equal(after[name].float(), before[name]), name
    model = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True).eval()
    assert torch.isfinite(model(torch.arange(2, 60)[None]).logits[..., :258]).all()
    return after


# origin, pi and yarn differ from ntk in the rope's parameters only
CASES = [(m, "") for m in METHODS if m not in ("origin", "pi", "yarn")] + [("longlora", "--low_rank_training True")]


@pytest.mark.parametrize("method, more", CASES, ids=lambda case: case.replace("--", "") or "full")
def test_every_method_under_zero3_with_both_offloads(base, rows, tmp_path, method, more):
    """Four steps on two ranks, optimizer and parameters in host memory, equal four on one."""
    small, _ = SMALL.get(method, ("", L))
    args = [*flags(base, rows, method, tmp_path / "two"), *small.split(), *more.split(), "--max_steps", 4]
    two_ranks(*args, "--gradient_accumulation_steps", 1, *OFFLOAD)
    expected = GOLDEN[method][:4]
    if method == "clex" or more:  # clex draws anew for each batch; the golden losses are of full training
        args[args.index("--output_dir") + 1] = tmp_path / "one"
        python("fine-tune.py", *args, "--gradient_accumulation_steps", 1, "--per_device_train_batch_size", 4)
        expected = losses(tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(expected, abs=3e-3)
    if "low_rank" not in more:
        whole_weights(tmp_path / "two", base)
    else:
        one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=2e-4, rtol=1e-3, msg=name)
        adapter = load_file(tmp_path / "two" / "adapter" / "adapter_model.safetensors")
        assert all(tensor.numel() for tensor in adapter.values())
        assert {"lora", "embed", "norm"} <= {
            part for name in adapter for part in ("lora", "embed", "norm") if part in name
        }


@pytest.mark.parametrize("config", ["stage2", "stage3"])
def test_the_other_configs(base, rows, tmp_path, config):
    """Without offload; bfloat16, tiled MLP and activations in host memory along with stage 3."""
    more = "--bf16 True --offload_activations True --tiled_mlp True".split() if config == "stage3" else []
    args = [*flags(base, rows, "pi", tmp_path / "out"), "--gradient_accumulation_steps", 1, "--max_steps", 4]
    two_ranks(*args, *more, "--deepspeed", f"ds_configs/{config}.json")
    weights = whole_weights(tmp_path / "out", base)
    assert {w.dtype for w in weights.values()} == {torch.bfloat16 if more else torch.float32}
    assert losses(tmp_path / "out") == pytest.approx(GOLDEN["pi"][:4], abs=0.05 if more else 2e-3)
