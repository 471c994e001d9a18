"""extend.py --adopt on small checkpoints in the forms that LCEG's released ones have."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import extend
from conftest import C, L, save_tiny_base

FORMS = {
    "pi": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "longlora": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "ntk": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "yarn": {
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": C, "finetuned": True},
        "max_position_embeddings": L,
    },
    "origin": {"rope_scaling": None},
}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder per form: old config keys, window left at the original, [PAD] added to the vocabulary."""
    made = {}
    for name, form in FORMS.items():
        folder = save_tiny_base(tmp_path_factory.mktemp("released") / name, vocab_size=259)
        config = json.loads((folder / "config.json").read_text())
        config.pop("rope_parameters")
        (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 10000.0, **form}))
        (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
        made[name] = folder
    return made


def adopt(monkeypatch, folder, name, output, *more):
    flags = ["--adopt", "--model_name_or_path", folder, "--method_name", name, "--model_max_length", L]
    monkeypatch.setattr(sys, "argv", [str(part) for part in ["extend.py", *flags, "--output_dir", output, *more]])
    extend.main()
    return output


@pytest.mark.parametrize("name", FORMS)
def test_every_released_form(monkeypatch, released, tmp_path, name):
    output = adopt(monkeypatch, released[name], name, tmp_path / "out", "--trained_tokens", 1000)
    assert (output / "model.safetensors").samefile(released[name] / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(output)
    record = model.config.context_extension
    assert (record["method"], record["original_length"], record["trained_length"]) == (name, C, L)
    assert record["trained_tokens"] == 1000 and model.config.vocab_size == 259
    assert model.config.max_position_embeddings == L and "rope_scaling" not in model.config.to_dict()
    assert not model.generation_config.do_sample

    old = LlamaForCausalLM.from_pretrained(released[name]).eval()
    ids = torch.arange(2, 2 + L)[None] % 250  # at the trained length every form, dynamic too, is what it was trained as
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, old(ids).logits, rtol=1e-4, atol=1e-4)


def test_dynamic_becomes_the_study_s_ntk(monkeypatch, released, tmp_path):
    """Base floored at the trained length: b' = b alpha^(d/(d-2)), alpha = 2 * 256/64 - 1."""
    output = adopt(monkeypatch, released["ntk"], "ntk", tmp_path / "out")
    config = AutoModelForCausalLM.from_pretrained(output).config
    assert config.rope_parameters["rope_type"] == "default"
    assert config.rope_parameters["rope_theta"] == pytest.approx(10000 * 7 ** (32 / 30))
    rule = config.context_extension["rope_by_length"]
    assert rule["factor"] == 2 and rule["trained_length"] == L and rule["rope_theta"] == 10000
    assert config.context_extension["trained_tokens"] is None
    np.testing.assert_allclose(
        LlamaRotaryEmbedding(config).inv_freq, (10000 * 7 ** (32 / 30)) ** (-np.arange(0, 32, 2) / 32), rtol=1e-5
    )


def test_landmark_with_its_row_in_the_vocabulary(monkeypatch, tmp_path):
    """[PAD] and <landmark> behind the base's ids: the vocabulary stays, the last row is the landmark."""
    folder = save_tiny_base(tmp_path / "released", vocab_size=260)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mem_freq": 7}))
    flags = ["--model_max_length", 64, "--top_k", 2]
    output = adopt(monkeypatch, folder, "landmark", tmp_path / "out", *flags)
    assert (output / "model.safetensors").samefile(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True).eval()
    config = model.config
    assert (config.vocab_size, config.landmark_id, config.mem_freq, config.cache_top_k) == (260, 259, 7, 2)
    logits = model(torch.arange(2, 202)[None]).logits
    assert logits.shape == (1, 200, 260) and (logits[..., 259] == float("-inf")).all()
    assert torch.isfinite(logits[..., :259]).all()


def test_bad_input(monkeypatch, released, base, tmp_path):
    def refuse(message, folder, name, *more):
        with pytest.raises(SystemExit, match=message):
            adopt(monkeypatch, folder, name, tmp_path / "never", *more)
        assert not (tmp_path / "never").exists()

    refuse("rope is 'linear', ntk is written as 'dynamic'; .* one of: longlora, pi", released["pi"], "ntk")
    refuse("--scaling_factor 8.0, but the checkpoint itself says 4.0", released["pi"], "pi", "--scaling_factor", "8")
    refuse("ntk_frozen is not trained, so there is nothing to adopt", released["ntk"], "ntk_frozen")
    adopted = adopt(monkeypatch, released["pi"], "pi", tmp_path / "adopted")
    refuse(r"already extended \(pi\)", adopted, "pi")
    flags = [
        "--model_name_or_path",
        base,
        "--method_name",
        "pi",
        "--model_max_length",
        L,
        "--output_dir",
        tmp_path / "n",
    ]
    monkeypatch.setattr(sys, "argv", [str(part) for part in ["extend.py", *flags, "--trained_tokens", 5]])
    with pytest.raises(SystemExit, match="they need --adopt"):
        extend.main()
    shutil.rmtree(tmp_path / "adopted")
