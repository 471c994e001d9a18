"""DeepSpeed and sequence parallelism on two CPU ranks: every method, the shipped JSON files, interrupted runs."""

import json
import shutil
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import training
from scripts import GOLDEN, losses, run_here, training_flags
from tiny import STAGE, L, run

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux"),
    pytest.mark.skipif(not shutil.which("g++"), reason="DeepSpeed builds its CPU optimizer with g++: install it"),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
OFFLOAD = "--deepspeed ds_configs/stage3_offload.json --gradient_accumulation_steps 1 --max_steps 4"
STAGE2 = "--deepspeed ds_configs/stage2.json --gradient_accumulation_steps 1 --max_steps 4"
# each rank holds half of every row; 8 steps, a checkpoint every third
SHARED_ROWS = "--deepspeed ds_configs/stage3.json --sequence_parallel_size 2 --max_steps 8 --save_steps 3"
SIGNALS = {"interrupted": (2, signal.SIGTERM), "shared_rows": (5, signal.SIGKILL)}  # step in which rank 1 gets one
CASES = {  # (method, flags): origin, pi and yarn differ from ntk in the rope's parameters only
    "ntk": ("ntk", OFFLOAD),
    "clex": ("clex", OFFLOAD),
    "longlora": ("longlora", OFFLOAD),
    "landmark": ("landmark", OFFLOAD),
    "lora": ("longlora", f"{OFFLOAD} --low_rank_training True"),
    "stage2": ("pi", STAGE2),
    "stage3": (
        "pi",
        "--deepspeed ds_configs/stage3.json --gradient_accumulation_steps 1 --max_steps 4 --bf16 True "
        "--offload_activations True --tiled_mlp True",
    ),
    "interrupted": ("pi", STAGE2),
    "shared_rows": ("clex", f"{SHARED_ROWS} --save_total_limit 1"),
}


@pytest.fixture(scope="module")
def outputs(base, rows, tmp_path_factory):
    """{case: the folder that two ranks wrote}. The last run loses a rank by kill -9 and is resumed."""
    folder = tmp_path_factory.mktemp("ranks")
    runs = []
    for case, (method, more) in CASES.items():
        argv = [*training_flags(base, rows, method, folder / case), *more.split()]
        if case in SIGNALS:
            runs.append([argv, *SIGNALS[case]])
        if case != "shared_rows":
            runs.append([argv, None, None])
    (folder / "runs.json").write_text(json.dumps(runs))
    log = run(*TORCHRUN, STAGE / "tests" / "ranks.py", folder / "runs.json", expect=1, timeout=900)
    assert f"stopped by a signal to another rank: {folder}/interrupted/checkpoint-2 is complete" in log
    assert f"resuming from {folder}/interrupted/checkpoint-2" in log
    assert "SIGKILL" in log and not (folder / "shared_rows" / "config.json").exists()

    half = folder / "shared_rows" / "checkpoint-5"  # as if killed while writing: one rank's part is there
    shutil.copytree(folder / "shared_rows" / "checkpoint-3", half)
    (half / training.COMPLETE_MARKER).unlink()
    log = run(*TORCHRUN, "fine-tune.py", *argv)
    assert f"resuming from {folder}/shared_rows/checkpoint-3" in log and f"removing the incomplete {half}" in log
    assert [path.name for path in (folder / "shared_rows").glob("checkpoint-*")] == ["checkpoint-8"]
    return {case: folder / case for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_one_rank(outputs, base, rows, tmp_path, case):
    method, more = CASES[case]
    expected = GOLDEN[method]
    if case in ("clex", "lora"):  # clex draws for each batch; the golden losses are of full training
        flags = [*training_flags(base, rows, method, tmp_path), *more.split()]
        del flags[flags.index("--deepspeed") : flags.index("--deepspeed") + 2]
        run_here("fine-tune.py", *flags, "--per_device_train_batch_size", 4)
        expected = losses(tmp_path)
    steps = 8 if case == "shared_rows" else 4
    assert losses(outputs[case]) == pytest.approx(expected[:steps], abs=0.05 if case == "stage3" else 3e-3)
    if case == "lora":
        one, two = load_file(tmp_path / "model.safetensors"), load_file(outputs[case] / "model.safetensors")
        assert one.keys() == two.keys()
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=2e-4, rtol=1e-3, msg=name)
        adapter = load_file(outputs[case] / "adapter" / "adapter_model.safetensors")
        assert all(tensor.numel() for tensor in adapter.values())
        assert all(any(part in name for name in adapter) for part in ("lora", "embed", "norm"))


@pytest.mark.parametrize("case", [case for case in CASES if case != "lora"])
def test_all_weights_are_trained_gathered_and_saved(outputs, base, case):
    """Plain Transformers opens the folder, and no weight is the base's any more."""
    output = outputs[case]
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        assert after[name].numel() >= before[name].numel() > 0 and torch.isfinite(after[name]).all()
        assert after[name].shape != before[name].shape or not torch.equal(after[name].float(), before[name]), name
        assert after[name].dtype == (torch.bfloat16 if case == "stage3" else torch.float32)
    model = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True).eval()
    assert torch.isfinite(model(torch.arange(2, 60)[None]).logits[..., :258]).all()
    record = model.config.context_extension
    if case == "shared_rows":
        assert record["trained_tokens"] == 8 * 4 * L and record["recipe"]["global_batch"] == 4


def test_all_ranks_stop_after_the_same_step_and_resume_to_the_same_weights(outputs):
    assert losses(outputs["interrupted"]) == losses(outputs["stage2"])
    weights = [(outputs[case] / "model.safetensors").read_bytes() for case in ("interrupted", "stage2")]
    assert weights[0] == weights[1]


def test_another_number_of_ranks_cannot_resume(tmp_path):
    folder = tmp_path / "checkpoint-8"
    folder.mkdir()
    (folder / training.COMPLETE_MARKER).write_text('{"world_size": 2}')

    class Arguments:
        deepspeed, world_size = "stage3.json", 1

    with pytest.raises(ValueError, match="was written by 2 ranks and DeepSpeed can resume it with as many only, not 1"):
        training.resume_from(tmp_path, Arguments)
