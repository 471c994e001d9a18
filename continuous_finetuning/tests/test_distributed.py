"""DeepSpeed and sequence parallelism on two CPU ranks: losses and weights of one rank, interrupted runs."""

import json
import shutil
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from scripts import GOLDEN, losses, run_here, training_flags
from tiny import STAGE, L, run

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux"),
    pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed builds its CPU optimizer with g++: install it"),
]
FOUR_STEPS = "--gradient_accumulation_steps 1 --max_steps 4"
OFFLOAD = f"--deepspeed ds_configs/stage3_offload.json {FOUR_STEPS}"
STAGE2 = f"--deepspeed ds_configs/stage2.json {FOUR_STEPS}"
STAGE3 = "--deepspeed ds_configs/stage3.json"
CASES = {  # (method, flags): origin, pi, ntk and yarn differ in the rope's parameters only
    "stage2": ("pi", STAGE2),
    "interrupted": ("pi", STAGE2),
    "stage3": ("pi", f"{STAGE3} {FOUR_STEPS} --bf16 True --offload_activations True --tiled_mlp True"),
    "landmark": ("landmark", OFFLOAD),
    "lora": ("longlora", f"{OFFLOAD} --low_rank_training True"),
    # each rank has half of every row
    "shared_rows": ("clex", f"{STAGE3} --sequence_parallel_size 2 --max_steps 6 --save_steps 2 --save_total_limit 2"),
}
SIGNALS = {"interrupted": (2, signal.SIGTERM), "shared_rows": (5, signal.SIGKILL)}  # after which step


@pytest.fixture(scope="module")
def outputs(base, rows, tmp_path_factory):
    """{case: the folder that two ranks wrote}; two of the runs are interrupted and resumed."""
    folder = tmp_path_factory.mktemp("ranks")
    runs = []
    for case, (method, more) in CASES.items():
        argv = [*training_flags(base, rows, method, folder / case), *more.split()]
        if case in SIGNALS:
            runs.append([argv, *SIGNALS[case]])
        if case != "shared_rows":
            runs.append([argv, None, None])
    (folder / "runs.json").write_text(json.dumps([runs, [[argv, None, None]]]))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    log = run(*torchrun, STAGE / "tests" / "ranks.py", folder / "runs.json", timeout=900)
    assert f"stopped by a signal to another rank: {folder}/interrupted/checkpoint-2 is complete" in log
    assert f"resuming from {folder}/interrupted/checkpoint-2" in log
    shared = folder / "shared_rows"
    assert f"removing the incomplete {shared}/checkpoint-4" in log and f"resuming from {shared}/checkpoint-2" in log
    assert {path.name for path in shared.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-6"}
    return {case: folder / case for case in CASES}


@pytest.mark.parametrize("case", [case for case in CASES if case != "lora"])
def test_losses_equal_those_of_one_rank(outputs, base, case):
    """And all weights are trained, gathered and saved."""
    output, expected = outputs[case], GOLDEN[CASES[case][0]]
    steps = 6 if case == "shared_rows" else 4
    assert losses(output) == pytest.approx(expected[:steps], abs=0.05 if case == "stage3" else 3e-3)
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        assert after[name].numel() >= before[name].numel() > 0 and torch.isfinite(after[name]).all()
        assert after[name].shape != before[name].shape or not torch.equal(after[name].float(), before[name]), name
        assert after[name].dtype == (torch.bfloat16 if case == "stage3" else torch.float32)
    model = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True).eval()
    assert torch.isfinite(model(torch.arange(2, 60)[None]).logits[..., :258]).all()
    record = model.config.context_extension
    assert record["recipe"]["global_batch"] == 4
    if case != "landmark":
        assert record["trained_tokens"] == steps * 4 * L


def test_lora_equals_one_rank(outputs, base, rows, tmp_path):
    """The golden losses are of full training, so one rank is run here."""
    flags = training_flags(base, rows, "longlora", tmp_path)
    run_here(
        "fine-tune.py", *flags, *FOUR_STEPS.split(), "--low_rank_training", True, "--per_device_train_batch_size", 4
    )
    assert losses(outputs["lora"]) == pytest.approx(losses(tmp_path), abs=3e-3)
    one, two = load_file(tmp_path / "model.safetensors"), load_file(outputs["lora"] / "model.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-4, rtol=1e-3, msg=name)
    adapter = load_file(outputs["lora"] / "adapter" / "adapter_model.safetensors")
    assert all(tensor.numel() for tensor in adapter.values())
    assert all(any(part in name for name in adapter) for part in ("lora", "embed", "norm"))


def test_all_ranks_stop_after_the_same_step_and_resume_to_the_same_weights(outputs):
    assert losses(outputs["interrupted"]) == losses(outputs["stage2"])
    weights = [(outputs[case] / "model.safetensors").read_bytes() for case in ("interrupted", "stage2")]
    assert weights[0] == weights[1]
