"""extend.py: checkpoints that plain Transformers opens, weights linked, bad input in one line."""

import json
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

import checkpoint
import extend
import methods
from conftest import L, save_tiny_base


def call(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["extend.py", *map(str, args)])
    extend.main()


def extended(monkeypatch, base, name, output, *more, length=L):
    flags = ["--model_name_or_path", base, "--method_name", name, "--model_max_length", length, "--output_dir", output]
    call(monkeypatch, *flags, *more)
    return output


IDS = torch.arange(2, 202)[None]


@pytest.mark.parametrize("name", [name for name in methods.available() if methods.get(name).modeling is None])
def test_plain_transformers_opens_it(monkeypatch, base, tmp_path, name):
    """Reloaded without our code, the logits equal those of the base's weights under the method's config."""
    output = extended(monkeypatch, base, name, tmp_path / name)
    record = AutoConfig.from_pretrained(output).context_extension
    assert record["method"] == name and record["trained_tokens"] == 0 and record["original_length"] == 64
    assert record["trained_length"] == (64 if name == "ntk_frozen" else L) and record["base_model"] == str(base)

    config = checkpoint.open_base(str(base))
    method = methods.build(name, config, L, {})
    assert record["options"] == method.options() and record["rope_by_length"] == method.rope_by_length()
    config.rope_parameters, config.max_position_embeddings = method.rope_parameters(), L
    expected = LlamaForCausalLM.from_pretrained(base, config=config)
    plain = AutoModelForCausalLM.from_pretrained(output)
    with torch.no_grad():
        assert torch.equal(plain(IDS).logits, expected(IDS).logits)
        origin = LlamaForCausalLM.from_pretrained(base)(IDS).logits
    if name not in ("origin", "ntk_frozen"):  # those two start from the base's own rope
        assert not torch.allclose(plain(IDS).logits, origin, atol=1e-3)


def test_weights_are_linked_and_the_rest_is_small(monkeypatch, base, tmp_path):
    output = extended(monkeypatch, base, "yarn", tmp_path / "out")
    assert (output / "model.safetensors").samefile(base / "model.safetensors")
    assert sum(path.stat().st_size for path in output.glob("*") if path.suffix != ".safetensors") < 40_000
    new, old = (AutoTokenizer.from_pretrained(folder) for folder in (output, base))
    assert new.get_vocab() == old.get_vocab() and new("ab")["input_ids"] == old("ab")["input_ids"]
    generation = GenerationConfig.from_pretrained(output)
    assert not generation.do_sample and generation.eos_token_id == 1


def test_symbolic_link_where_a_hard_one_is_impossible(monkeypatch, base, tmp_path):
    def no_hard_links(*_):
        raise OSError("cross-device link")

    monkeypatch.setattr(checkpoint.os, "link", no_hard_links)
    output = extended(monkeypatch, base, "pi", tmp_path / "out")
    assert (output / "model.safetensors").is_symlink()
    AutoModelForCausalLM.from_pretrained(output)


def test_again_does_nothing(monkeypatch, base, tmp_path, capsys):
    output = extended(monkeypatch, base, "pi", tmp_path / "out")
    before = (output / "config.json").stat().st_mtime_ns
    extended(monkeypatch, base, "pi", output)
    assert "there already" in capsys.readouterr().out
    assert (output / "config.json").stat().st_mtime_ns == before


def test_an_unfinished_folder_is_finished(monkeypatch, base, tmp_path):
    output = extended(monkeypatch, base, "pi", tmp_path / "out")
    (output / "config.json").unlink()
    extended(monkeypatch, base, "pi", output)
    assert json.loads((output / "config.json").read_text())["context_extension"]["method"] == "pi"


def test_another_run_in_the_folder(monkeypatch, base, tmp_path):
    output = extended(monkeypatch, base, "pi", tmp_path / "out")
    with pytest.raises(SystemExit, match="holds another run: method_name was pi, now it is yarn"):
        extended(monkeypatch, base, "yarn", output)
    with pytest.raises(SystemExit, match="options was .*4.0.*, now it is .*3.0"):
        extended(monkeypatch, base, "pi", output, "--scaling_factor", "3")
    other = save_tiny_base(tmp_path / "other", hidden_size=32)
    with pytest.raises(SystemExit, match="holds another run: base was"):
        extended(monkeypatch, other, "pi", output)
    with pytest.raises(SystemExit, match="a model that this script did not write"):
        extended(monkeypatch, base, "pi", other)


def test_bad_bases(monkeypatch, base, tmp_path):
    def refuse(folder, message):
        with pytest.raises(SystemExit, match=message):
            extended(monkeypatch, folder, "pi", tmp_path / "never")
        assert not (tmp_path / "never").exists()

    refuse("./nowhere", "no folder ./nowhere")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "no checkpoint: it has no config.json")
    (tmp_path / "empty" / "config.json").write_text((base / "config.json").read_text())
    refuse(tmp_path / "empty", "no .*safetensors weights")
    already = extended(monkeypatch, base, "yarn", tmp_path / "already")
    refuse(already, r"already extended \(yarn\); start from its base")
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    refuse(save_tiny_base(tmp_path / "scaled", rope_parameters=rope), "is scaled already")
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "empty" / "model.safetensors").touch()
    (tmp_path / "empty" / "config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    refuse(tmp_path / "empty", "'mistral' model; the methods extend Llama")
