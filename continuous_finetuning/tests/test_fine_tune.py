"""fine-tune.py: golden losses, finished checkpoints, the README's command, kill and resume, bad input."""

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, TrainerCallback

import methods
import tiny
import training
from scripts import GOLDEN, METHODS, extend, fails, losses, run_here, training_flags
from tiny import BASES, ROOT, STAGE, C, L, save_base


@pytest.mark.parametrize("method", METHODS)
def test_golden_losses_and_the_finished_checkpoint(base, rows, tmp_path, method):
    """Six steps on a fixed seed give the recorded losses; the tolerance is for another CPU's rounding."""
    length = 64 if method == "landmark" else L
    tokens_per_step = 4 * (C if method == "drope" else length)
    run_here("fine-tune.py", *training_flags(base, rows, method, tmp_path), "--max_steps", 6)
    assert losses(tmp_path) == pytest.approx(GOLDEN[method], abs=2e-3)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True).eval()
    config, record = model.config, model.config.context_extension
    assert config.use_cache and config.max_position_embeddings == length and not model.generation_config.do_sample
    assert record["method"] == method and record["base_model"] == str(base)
    assert (record["original_length"], record["trained_length"]) == (C, length)
    assert record["trained_tokens"] == 6 * tokens_per_step
    recipe = record["recipe"]
    assert (recipe["learning_rate"], recipe["global_batch"]) == (1e-5 if method == "clex" else 3e-3, 4)
    if not torch.cuda.is_available():
        assert (recipe["attention"], recipe["sdpa_kernels"]) == ("sdpa", ["cpu"])
    assert (tmp_path / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert not list(tmp_path.glob("*.bin")) and not list(tmp_path.glob("*.partial"))
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and all(not torch.equal(before[name], after[name]) for name in before)
    assert torch.isfinite(model(torch.arange(2, 60)[None]).logits[..., : len(before["lm_head.weight"])]).all()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["tokens_seen"] for line in lines] == [tokens_per_step * (i + 1) for i in range(6)]
    flops_per_token = [line["model_tflops"] * 1e12 / line["tokens_per_second"] for line in lines]
    assert flops_per_token == pytest.approx([flops_per_token[0]] * 6, rel=2e-3) and flops_per_token[0] > 4e5


def test_faster_steps_have_the_same_losses(base, rows, tmp_path):
    flags = "--keep_attention True --torch_compile True --torch_compile_backend aot_eager --max_steps 2"
    run_here("fine-tune.py", *training_flags(base, rows, "origin", tmp_path / "out"), *flags.split())
    assert losses(tmp_path / "out") == pytest.approx(GOLDEN["origin"][:2], abs=2e-3)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["torch_compile"]


def test_command_of_paper_runs(base, rows, tmp_path, monkeypatch):
    """The command in paper_runs.md as written, but for paths, length, the number of processes and DeepSpeed."""
    output = tmp_path / "out"
    block = re.search(
        r"torchrun --nproc_per_node=8 (fine-tune.py.*?)```", (STAGE / "paper_runs.md").read_text(), re.DOTALL
    )
    command = shlex.split(block[1].replace("\\\n", " "), comments=True)
    here = {"model_name_or_path": base, "output_dir": output, "dataset_dir": rows, "model_max_length": L}
    for flag, value in here.items():
        command[command.index(f"--{flag}") + 1] = value
    at = command.index("--deepspeed")
    assert (STAGE / command[at + 1]).exists()
    del command[at : at + 2]
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):  # nobody is logged in: wandb records offline
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    log = run_here(*command)
    if not torch.cuda.is_available():
        assert "--bf16: no GPU" in log
    assert len(losses(output)) == 3  # 80 rows, 32 a step
    assert (tmp_path / "wandb").exists()
    assert run_here(*command).endswith("is already trained\n")
    assert "adam_beta2 was None, now it is 0.95" in fails(*command, "--adam_beta2", 0.95)


def test_flags_fit_the_machine(monkeypatch):
    """A GPU without TF32, and wandb among all trackers when nobody is logged in."""
    functions = runpy.run_path(str(STAGE / "fine-tune.py"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setitem(functions["fit_to_machine"].__globals__, "is_torch_tf32_available", lambda: False)
    off = dict.fromkeys("document_mask use_liger_kernel offload_activations keep_attention use_wandb".split(), False)
    flags = SimpleNamespace(**off, tf32=True, bf16=True, attention="auto", use_flash_attn=True)
    functions["fit_to_machine"](flags, None)
    assert (flags.tf32, flags.bf16, flags.attention) == (None, True, "sdpa")

    flags.report_to, flags.run_name, flags.output_dir = "all", None, "out"
    monkeypatch.setenv("NETRC", "/nowhere")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    functions["choose_trackers"](flags)
    assert os.environ["WANDB_MODE"] == "offline"


# --- other bases
@torch.no_grad()
def plain_loss(folder, ids_L) -> float:
    """Of the whole row, with all logits at a time and eager attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    return cross_entropy(model(ids_L[None]).logits[0, :-1].float(), ids_L[1:]).item()


@pytest.mark.parametrize("model_type", BASES)
def test_trained_extended_and_reloaded(tmp_path, model_type):
    base = save_base(tmp_path / "base", model_type)
    name = "ntk" if model_type == "phi3" else "yarn"
    row = (torch.arange(L) * 7 % 40 + 2).tolist()
    rows = tmp_path / "rows.jsonl"
    rows.write_text((json.dumps({"input_ids": row}) + "\n") * 12)
    (base / "generation_config.json").write_text('{"do_sample": true, "eos_token_id": [1, 3]}')
    frozen, trained = tmp_path / "frozen", tmp_path / "trained"
    extend(base, name, frozen)
    run_here("fine-tune.py", *training_flags(base, rows, name, trained), "--max_steps", 3, "--tiled_mlp", True)

    loss = losses(trained)  # before the step: of the base's weights with the method's rope
    assert loss[0] == pytest.approx(plain_loss(frozen, torch.tensor(row)), rel=1e-4)
    assert plain_loss(trained, torch.tensor(row)) < loss[-1] < loss[0]
    model = AutoModelForCausalLM.from_pretrained(trained)
    original = AutoModelForCausalLM.from_pretrained(base)
    assert model.generation_config.eos_token_id == [1, 3] and not model.generation_config.do_sample
    assert type(model) is type(original) and model.config.max_position_embeddings == L
    embeddings_are_tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert embeddings_are_tied == original.config.tie_word_embeddings
    method = methods.build(name, original.config, L, {})
    angles, old_angles = model.model.rotary_emb.inv_freq, original.model.rotary_emb.inv_freq
    assert len(angles) == len(old_angles) == method.head_dim / 2
    if name == "yarn":  # the slowest angle is divided by s, the fastest is kept
        assert angles[0] == old_angles[0] and angles[-1] == pytest.approx(old_angles[-1].item() / (L / C))
    if model_type == "glm4":  # DroPE removes the rope of a half head
        bare = AutoModelForCausalLM.from_pretrained(extend(base, "drope", tmp_path / "drope"))
        assert not bare.model.rotary_emb.inv_freq.any()
    fields = json.loads((trained / "config.json").read_text())
    del fields["rope_parameters"]  # Transformers 4 reads rope_theta, rope_scaling and partial_rotary_factor
    older = type(original)(type(original.config)(**fields))
    torch.testing.assert_close(older.model.rotary_emb.inv_freq, angles)


# --- interruptions
@pytest.mark.parametrize(
    "method, more", [("ntk", ""), ("longlora", "--low_rank_training True"), ("clex", ""), ("yarn", "--pose True")]
)
def test_a_killed_run_resumes_to_the_same_files(base, rows, tmp_path, method, more):
    """CLEX draws its lengths from torch's generator, which Trainer's checkpoints hold; PoSE from one of its own.

    The first kill comes while a checkpoint is written; the second after the last one: no step is left, and what was
    being written does not stay. (test_distributed.py kills real processes.)
    """
    command = ["fine-tune.py", *training_flags(base, rows, method, tmp_path), *more.split()]
    command += ["--max_steps", 6, "--save_strategy", "steps", "--save_steps", 3]
    run_here(*command)
    files = {name: (tmp_path / name).read_bytes() for name in ("model.safetensors", "config.json", "metrics.jsonl")}
    partial = tmp_path / "final.partial"
    for unfinished in ("checkpoint-6", "nothing"):
        (tmp_path / unfinished / training.COMPLETE_MARKER).unlink(missing_ok=True)
        (tmp_path / "config.json").unlink()
        (tmp_path / "model.safetensors").unlink()
        partial.mkdir()
        (partial / ".tmp123456").write_bytes(b"half")
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": ')
        log = run_here(*command)
        assert "resuming from" in log
        assert ("removing the incomplete" in log) == (unfinished == "checkpoint-6")
        assert (tmp_path / "model.safetensors").read_bytes() == files["model.safetensors"]
        assert not partial.exists() and not list(tmp_path.glob(".tmp*"))
    assert (tmp_path / "config.json").read_bytes() == files["config.json"]
    assert losses(tmp_path) == [json.loads(line)["loss"] for line in files["metrics.jsonl"].splitlines()]
    mode = (tmp_path / "run.json").stat().st_mode  # that the umask gives
    assert {path.stat().st_mode for path in tmp_path.rglob("*.safetensors")} == {mode}


def test_a_damaged_checkpoint_is_named(base, rows, tmp_path):
    command = ["fine-tune.py", *training_flags(base, rows, "pi", tmp_path), "--max_steps", 1]
    run_here(*command)
    (tmp_path / "config.json").unlink()
    for name in ("model.safetensors", "trainer_state.json", "optimizer.pt"):
        path = tmp_path / "checkpoint-1" / name
        content = path.read_bytes()
        path.write_bytes(content[:-100])
        assert f"{path} is damaged; delete {path.parent}" in fails(*command)
        path.write_bytes(content)


def test_a_signal_leaves_a_checkpoint(base, rows, tmp_path, monkeypatch):
    """During a step. Ctrl-C and SIGHUP have the same handler, but a test that runs in the background ignores Ctrl-C."""
    monkeypatch.setattr(TrainerCallback, "on_substep_end", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    log = run_here("fine-tune.py", *training_flags(base, rows, "pi", tmp_path), expect=143)
    assert f"stopped by SIGTERM: {tmp_path}/checkpoint-1 is complete; rerun the same command" in log
    assert training.last_checkpoint(tmp_path).name == "checkpoint-1" and len(losses(tmp_path)) == 1
    assert not (tmp_path / "config.json").exists()  # unfinished: no stage takes it for a checkpoint


@pytest.mark.parametrize("save_steps, message", [(1, "a weight is NaN"), (2, "the loss is nan")])
def test_nan_ends_the_run_and_keeps_the_last_good_checkpoint(base, rows, tmp_path, save_steps, message):
    """A learning rate at which weights overflow."""
    flags = [*training_flags(base, rows, "pi", tmp_path), "--max_steps", 40, "--save_steps", save_steps]
    flags += ["--save_total_limit", 1, "--learning_rate", 1e38, "--max_grad_norm", 0]
    line = fails("fine-tune.py", *flags)
    assert message in line and "--learning_rate" in line
    assert not (tmp_path / "config.json").exists()
    last = training.last_checkpoint(tmp_path)
    assert last is None or all(torch.isfinite(w).all() for w in load_file(last / "model.safetensors").values())


def test_too_few_rows_for_a_step(base, rows, tmp_path):
    flags = [*training_flags(base, rows, "pi", tmp_path), "--max_steps", 2]
    flags += ["--per_device_train_batch_size", 100, "--dataloader_drop_last", True]
    assert "the data ended after step 0 of 2" in fails("fine-tune.py", *flags)
    assert not (tmp_path / "config.json").exists()


# --- bad input
BAD_INPUT = """
    --method_name nope                              | no method 'nope'; there are:
    --method_name ntk_frozen                        | ntk_frozen is not trained; apply it with extend.py
    --dataset_dir ./nowhere                         | nowhere
    --model_max_length 128                          | rows of 256 to 256 tokens, not of 128
    --model_name_or_path ./nowhere                  | no folder ./nowhere
    --method_name longlora --document_mask True     | --document_mask is not supported by longlora
    --pose True --document_mask True                | give only one of
    --deepspeed no.json                             | --deepspeed no.json: no such file
    --deepspeed ds_configs/stage3_offload.json      | needs c++: apt install g++
    --learning_rat 1                                | unrecognized arguments: --learning_rat 1
    --sequence_parallel_size 2                      | --sequence_parallel_size needs --deepspeed
    --per_device_train_batch_size 0                 | --per_device_train_batch_size 0: give a positive number
    --num_train_epochs 0                            | --num_train_epochs 0.0: give a positive number
    --max_steps 0                                   | --max_steps 0: give a positive number
    --learning_rate nan                             | --learning_rate nan: give a positive number
    --gradient_accumulation_steps -1                | --gradient_accumulation_steps -1: give a positive number
    --output_dir=                                   | --output_dir is empty; give a folder
    --dataset_dir=                                  | --dataset_dir is empty; give a folder
    --save_only_model True                          | the same command resumes from --output_dir
    --resume_from_checkpoint ./nowhere              | the same command resumes from --output_dir
    --report_to neptune                             | --report_to neptune needs the package: pip install neptune
    --use_liger_kernel True                         | --use_liger_kernel needs a GPU
    --estimate 8xH1000                              | --estimate 8xH1000: give a number and a GPU
"""


@pytest.mark.parametrize("case", BAD_INPUT.strip().splitlines())
def test_bad_input(base, rows, tmp_path, monkeypatch, case):
    """One line, before a model is loaded and before anything is written."""
    monkeypatch.setenv("PATH", "")  # no compiler
    monkeypatch.setattr(methods.ContextExtension, "load", lambda *a, **k: pytest.fail("model loaded"))
    flags, message = case.split("|")
    output = tmp_path / "out"
    line = fails("fine-tune.py", *training_flags(base, rows, "pi", output), *flags.split())
    assert message.strip() in line and not output.exists()


def test_keep_attention_needs_sdpa(base, rows, tmp_path):
    gemma = save_base(tmp_path / "base", "gemma2")  # its attention is eager
    for folder, method, message in ((gemma, "pi", "not of eager"), (base, "landmark", "which landmark does not call")):
        command = ["fine-tune.py", *training_flags(folder, rows, method, tmp_path / "out"), "--keep_attention", True]
        assert message in fails(*command)


# --- a method is one file
def test_readme_example_of_a_method(base, rows, tmp_path):
    """The text in the README, in a copy of this stage lifted out of the repository."""
    readme = (ROOT / "README.md").read_text()
    [(name, code)] = re.findall(r"## Bring your own\n.*?methods/(\w+)\.py.*?```python\n(.*?)```", readme, re.DOTALL)
    stage = tmp_path / "stage"
    shutil.copytree(STAGE, stage, ignore=shutil.ignore_patterns("tests", "ckpts", "data", "__pycache__"))
    (stage / "methods" / f"{name}.py").write_text(code)
    frozen, tuned = tmp_path / "frozen", tmp_path / "tuned"
    extend = ["extend.py", "--method_name", name, "--new_base", "1e6", "--model_name_or_path", base]
    extend += ["--model_max_length", L, "--output_dir", frozen]
    train = ["fine-tune.py", *training_flags(base, rows, name, tuned), "--max_steps", 2]
    commands = json.dumps([[str(word) for word in command] for command in (extend, train)])
    tiny.run(sys.executable, "-c", tiny.RUN_ALL, commands, cwd=stage)

    for folder, theta in ((frozen, 1e6), (tuned, 5e5)):
        config = json.loads((folder / "config.json").read_text())
        assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": theta}
        record = config["context_extension"]
        assert (record["method"], record["original_length"], record["trained_length"]) == (name, C, L)
        assert record["exact_attention"] is True  # its group in the table
        assert (record["trained_tokens"] > 0) == (folder == tuned)
