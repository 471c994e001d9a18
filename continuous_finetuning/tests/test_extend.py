"""extend.py: checkpoints that plain Transformers opens, linked weights, imported checkpoints, bad input."""

import itertools
import json
import math
import os
import shutil
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

import checkpoint_writer
import methods
from scripts import extend, extend_flags, fails, run_here, training_flags
from tiny import C, L, edit_config, save_base, start_second

IDS = torch.arange(2, 202)[None]
PLAIN = [name for name in methods.available() if methods.get(name).modeling is None]


@torch.no_grad()
@pytest.mark.parametrize("name", PLAIN)
def test_plain_transformers_opens_it(base, tmp_path, name):
    """Reloaded without our code, the logits equal those of the base's weights under the method's config."""
    options = {"time_dt": 0.1} if name == "clex" else {}  # its ODE in fewer steps
    flags = ["--time_dt", 0.1] if options else []
    output = extend(base, name, tmp_path / name, *flags)
    assert (output / "model.safetensors").samefile(base / "model.safetensors")
    assert (output / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    record = AutoConfig.from_pretrained(output).context_extension
    assert record["method"] == name and record["trained_tokens"] == 0 and record["original_length"] == C
    assert record["trained_length"] == (C if name == "ntk_frozen" else L) and record["base_model"] == str(base)

    config = checkpoint_writer.open_base(str(base))
    method = methods.build(name, config, L, options)
    assert record["options"] == method.options() and record["rope_by_length"] == method.rope_by_length()
    config.rope_parameters, config.max_position_embeddings = method.rope_parameters(), L
    expected = LlamaForCausalLM.from_pretrained(base, config=config)(IDS).logits
    plain = AutoModelForCausalLM.from_pretrained(output)(IDS).logits
    fields = json.loads((output / "config.json").read_text())
    del fields["rope_parameters"]  # Transformers 4 reads rope_theta and rope_scaling
    older = LlamaForCausalLM.from_pretrained(output, config=type(config)(**fields))(IDS).logits
    assert torch.equal(older, plain) and torch.equal(plain, expected)
    if name not in ("origin", "ntk_frozen"):  # those two start from the base's own rope
        assert not torch.allclose(plain, LlamaForCausalLM.from_pretrained(base)(IDS).logits, atol=1e-3)


def test_a_second_process_waits_and_finds_it_done(base, tmp_path, monkeypatch):
    """`claim` holds the lock in every script that writes a checkpoint or rows."""
    second = start_second(monkeypatch, checkpoint_writer, "link_weights", *extend_flags(base, "yarn", tmp_path / "out"))
    extend(base, "yarn", tmp_path / "out")
    checkpoint_writer.LOCKS.clear()  # as at the end of the process
    said = second[0].communicate()[0]
    assert second[0].returncode == 0 and "exists already" in said
    for name, more, message in (("pi", [], "method_name was yarn"), ("yarn", ["--scaling_factor", 3], "options was ")):
        assert f"another run: {message}" in fails(*extend_flags(base, name, tmp_path / "out", *more))


@torch.no_grad()
def test_origin_keeps_a_rope_whose_factor_is_the_windows_ratio(tmp_path):
    """Phi-3's form: no factor, it is the window over the one before scaling."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
    window = {"original_max_position_embeddings": 16}
    base = save_base(tmp_path / "base", "phi3", rope_parameters=rope | window, **window)
    folders = (base, extend(base, "origin", tmp_path / "out"))
    logits = [AutoModelForCausalLM.from_pretrained(folder)(IDS).logits for folder in folders]
    assert torch.equal(*logits)


def test_links_across_file_systems(base, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", Mock(side_effect=OSError("cross-device link")))
    output = extend(base, "pi", tmp_path)
    assert (output / "model.safetensors").is_symlink()
    AutoModelForCausalLM.from_pretrained(output)


@pytest.mark.parametrize(
    "name, more", [("yarn", []), ("landmark", ["--model_max_length", 64, "--mem_freq", 7, "--top_k", 2])]
)
def test_a_kill_at_any_rename(base, tmp_path, monkeypatch, name, more):
    """The same command then gives the checkpoint of an uninterrupted run."""

    def run(output, kill_at, expect):
        calls = itertools.count()
        with monkeypatch.context() as patch:
            for module, call in ((os, os.replace), (os, os.link), (shutil, shutil.rmtree)):

                def interrupted(*args, call=call, **kwargs):
                    if next(calls) == kill_at:
                        raise KeyboardInterrupt
                    return call(*args, **kwargs)

                patch.setattr(module, call.__name__, interrupted)
            run_here(*extend_flags(base, name, output, *more), expect=expect)
        return next(calls), {path.name: path.read_bytes() for path in output.iterdir() if path.suffix != ".partial"}

    n_calls, files = run(tmp_path / "out", None, 0)
    assert n_calls > 7
    for n in range(n_calls):
        run(tmp_path / f"out{n}", n, 130)
        assert run(tmp_path / f"out{n}", None, 0)[1] == files, n


@pytest.mark.parametrize("name, length", [("self_extend", 1024), ("yarn", L)])
def test_longest_text(base, tmp_path, name, length):
    """It replaces --model_max_length for a method that is set for it."""
    config = AutoConfig.from_pretrained(extend(base, name, tmp_path, "--longest_text", 1024), trust_remote_code=True)
    assert config.max_position_embeddings == config.context_extension["trained_length"] == length


SCALED = {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}
YARN = {"factor": 4.0, "original_max_position_embeddings": C}
LONG_ROPE = {  # as the closed form has it, but for short texts, which have the base's rope
    "rope_type": "longrope", "rope_theta": 10000.0, "factor": L / C, "original_max_position_embeddings": C,
    "attention_factor": math.sqrt(1 + math.log(L / C) / math.log(C)), "short_factor": [1.0] * 16,
    "long_factor": methods.get("longrope")(C, L, {"rope_theta": 10000.0}, 32).rope_parameters()["long_factor"],
}  # fmt: skip
YARN_ROPE = YARN | {"rope_type": "yarn", "rope_theta": 1e4}
OTHER_ROPE = "does not have the rope of the checkpoint's config"


@pytest.mark.parametrize(
    "model_type, changes, name, more, message",
    [
        ("llama", {"auto_map": {"AutoConfig": "evil.Config"}}, "pi", [], "contains its own modeling code"),
        ("llama", {"model_type": "gemma3_text"}, "pi", [], "is a 'gemma3_text' model"),
        ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "pi", [], "is quantised"),
        ("llama", {"context_extension": {"method": "yarn"}}, "pi", [], "is already extended (yarn)"),
        ("llama", {"num_hidden_layers": 1}, "pi", [], "layers.1"),
        ("llama", {}, "pi", [], "model.norm.weight"),  # which is missing
        ("llama", SCALED, "pi", [], "is already scaled (linear)"),
        ("llama", DYNAMIC, "lm_infinite", [], "is already scaled (dynamic)"),
        ("llama", DYNAMIC, "origin", [], "is already scaled (dynamic)"),  # which changes with the window
        ("qwen2", {}, "lm_infinite", [], "lm_infinite extends Llama models only"),
        ("olmo2", {}, "longlora", [], "longlora extends Llama models only"),
        ("phi3", {}, "pi", [], "pi cannot extend a 'phi3' model: "),
        ("mistral", {"sliding_window": 32}, "pi", [], "attends to the last 32 tokens only"),
        ("olmo3", {}, "pi", [], "is a 'olmo3' model"),
        # flags of extend.py
        ("llama", {}, "pi", ["--output_dir", ""], "--output_dir: it is empty"),
        ("llama", {}, "pi", ["--trained_tokens", 5], "they need --adopt"),
        ("llama", {}, "ntk_frozen", ["--adopt"], "ntk_frozen is not trained"),
        ("llama", SCALED, "pi", ["--adopt", "--scaling_factor", 3], OTHER_ROPE),
        ("llama", SCALED, "ntk", ["--adopt"], OTHER_ROPE),
        ("llama", {"rope_parameters": {**YARN_ROPE, "attention_factor": 1.0}}, "yarn", ["--adopt"], "attention_factor"),
        ("llama", {"rope_parameters": {**YARN_ROPE, "truncate": False}}, "yarn", ["--adopt"], "truncate"),
        ("llama", {"rope_parameters": LONG_ROPE}, "longrope", ["--adopt"], OTHER_ROPE),
    ],
)
def test_bad_bases_and_flags(rows, tmp_path, model_type, changes, name, more, message):
    """Both scripts refuse a base."""
    base, output = edit_config(save_base(tmp_path / "base", model_type), **changes), tmp_path / "out"
    if message == "model.norm.weight":
        weights = load_file(base / "model.safetensors")
        del weights["model.norm.weight"]
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert message in fails(*extend_flags(base, name, output, *more))
    if not more:
        assert message in fails("fine-tune.py", *training_flags(base, rows, name, output))
    assert not output.exists()


# --- imported checkpoints, in the forms that LCEG's released ones have
LLAMA3 = YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 3.0}
FORMS = {  # (fields of config.json, flags)
    "pi": ({"rope_scaling": {"type": "linear", "factor": 4.0}}, []),
    "longlora": ({"rope_scaling": {"type": "linear", "factor": 4.0}}, []),
    "ntk": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, []),
    "yarn": ({"rope_scaling": YARN | {"type": "yarn", "finetuned": True}, "max_position_embeddings": L}, []),
    "origin": ({"rope_scaling": None}, []),
    "abf": ({"rope_theta": 1e6}, ["--new_base", 1e6]),
    "drope": (
        {"rope_scaling": {"type": "proportional", "partial_rotary_factor": 0.25}},
        ["--partial_rotary_factor", 0.25],
    ),
    "llama3": ({"rope_scaling": LLAMA3, "max_position_embeddings": L}, ["--high_freq_factor", 3.0]),
}


@torch.no_grad()
@pytest.mark.parametrize("name", FORMS)
def test_every_released_form(tmp_path, name):
    """Old config keys, window left at the original, [PAD] added to the vocabulary, -1 as pad token."""
    folder = save_base(tmp_path / "released", vocab_size=259)
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters")
    fields, flags = FORMS[name]
    config |= {"rope_theta": 10000.0, "pad_token_id": -1, **fields}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"do_sample": true, "eos_token_id": [1, 3]}')

    output = extend(folder, name, tmp_path / "out", "--adopt", "--trained_tokens", 1000, *flags)
    assert (output / "model.safetensors").samefile(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(output)
    record = model.config.context_extension
    assert (record["method"], record["original_length"], record["trained_length"]) == (name, C, L)
    assert record["trained_tokens"] == 1000 and model.config.vocab_size == 259 and model.config.pad_token_id is None
    assert model.config.max_position_embeddings == L and "rope_scaling" not in model.config.to_dict()
    assert not model.generation_config.do_sample
    assert model.generation_config.eos_token_id == [1, 3]
    old = LlamaForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(2, 2 + L)[None] % 250  # at the trained length every form, dynamic too, is what it was trained as
    torch.testing.assert_close(model(ids).logits, old(ids).logits, rtol=1e-4, atol=1e-4)
    if name == "ntk":
        rule = record["rope_by_length"]
        assert (rule["factor"], rule["trained_length"], rule["rope_theta"]) == (2, L, 10000)


def test_landmark_with_its_row_in_the_vocabulary(tmp_path):
    """[PAD] and <landmark> after the base's ids: the vocabulary stays, the last row is the landmark."""
    folder = edit_config(save_base(tmp_path / "released", vocab_size=260), mem_freq=7)
    output = extend(folder, "landmark", tmp_path / "out", "--adopt", "--model_max_length", 64, "--top_k", 2)
    model = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True).eval()
    config = model.config
    assert (config.vocab_size, config.landmark_id, config.mem_freq, config.cache_top_k) == (260, 259, 7, 2)
    logits = model(IDS).logits
    assert logits.shape == (1, 200, 260) and (logits[..., 259] == float("-inf")).all()
    assert torch.isfinite(logits[..., :259]).all()
