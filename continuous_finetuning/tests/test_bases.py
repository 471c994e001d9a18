"""Bases other than Llama: trained, extended, reloaded by plain Transformers; what does not fit is refused."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import methods
from scripts import extend, extend_flags, fails, losses, run_here, training_flags
from tiny import BASES, C, L, edit_config, save_base

SHORT = ("--max_steps", "3", "--save_strategy", "no", "--tiled_mlp", "True")


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
    frozen, trained = tmp_path / "frozen", tmp_path / "trained"
    extend(base, name, frozen)
    run_here("fine-tune.py", *training_flags(base, rows, name, trained), *SHORT)

    loss = losses(trained)  # before the step: of the base's weights with the method's rope
    assert loss[0] == pytest.approx(plain_loss(frozen, torch.tensor(row)), rel=1e-4)
    assert plain_loss(trained, torch.tensor(row)) < loss[-1] < loss[0]
    model = AutoModelForCausalLM.from_pretrained(trained)
    original = AutoModelForCausalLM.from_pretrained(base)
    assert type(model) is type(original) and model.config.max_position_embeddings == L
    embeddings_are_tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert embeddings_are_tied == original.config.tie_word_embeddings
    method = methods.build(name, original.config, L, {})
    angles, old_angles = model.model.rotary_emb.inv_freq, original.model.rotary_emb.inv_freq
    assert len(angles) == len(old_angles) == method.head_dim / 2
    if name == "yarn":  # the slowest angle is divided by s, the fastest is kept
        assert angles[0] == old_angles[0] and angles[-1] == pytest.approx(old_angles[-1].item() / (L / C))
    fields = json.loads((trained / "config.json").read_text())
    del fields["rope_parameters"]  # Transformers 4 reads rope_theta, rope_scaling and partial_rotary_factor
    older = type(original)(type(original.config)(**fields))
    torch.testing.assert_close(older.model.rotary_emb.inv_freq, angles)


def test_drope_removes_the_rope_of_a_half_head(tmp_path):
    base, frozen = save_base(tmp_path / "base", "glm4"), tmp_path / "frozen"
    extend(base, "drope", frozen)
    assert not AutoModelForCausalLM.from_pretrained(frozen).model.rotary_emb.inv_freq.any()


@pytest.mark.parametrize(
    "model_type, changes, name, message",
    [
        ("qwen2", {}, "lm_infinite", "lm_infinite extends Llama models only"),
        ("olmo2", {}, "longlora", "longlora extends Llama models only"),
        ("phi3", {}, "pi", "pi cannot extend a 'phi3' model: "),
        ("mistral", {"sliding_window": 32}, "pi", "attends to the last 32 tokens only"),
        ("olmo3", {}, "pi", "is a 'olmo3' model"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(tmp_path, rows, model_type, changes, name, message):
    base = edit_config(save_base(tmp_path / "base", model_type), **changes)
    assert message in fails(*extend_flags(base, name, tmp_path / "out"))
    assert message in fails("fine-tune.py", *training_flags(base, rows, name, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_estimate(tmp_path, rows):
    """--estimate as a user gives it; a config.json is enough for it, and nothing is written."""
    base = save_base(tmp_path / "base", "glm4")
    parameters = AutoModelForCausalLM.from_pretrained(base).num_parameters()
    (base / "model.safetensors").unlink()
    command = training_flags(base, rows, "yarn", tmp_path / "out")
    printed = " ".join(run_here("fine-tune.py", *command, "--estimate", "2xA100-80").split())
    assert f"{parameters / 1e6:,.1f} M, {parameters / 1e6:,.1f} M of them trained" in printed
    assert "yarn at 256 tokens on 2xA100-80" in printed and "step 8 rows" in printed and "steps 30," in printed
    assert "does not fit" not in printed and "GPU-hours" in printed and not (tmp_path / "out").exists()
