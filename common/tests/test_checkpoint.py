"""checkpoint.py: what is refused before a model runs, and whose code may run."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint import load_model, open_config
from tiny import edit_config
from transformers_engine import Transformers


@pytest.fixture
def copy(base, tmp_path):
    return shutil.copytree(base, tmp_path / "model")


def refusal(folder, trust=False) -> str:
    """The message about a checkpoint that cannot be evaluated."""
    with pytest.raises(ValueError) as error:
        Transformers(folder, trust_remote_code=trust, device="cpu").load()
    message = str(error.value)
    assert str(folder) in message and "\n" not in message
    return message


BROKEN_CONFIGS = (
    {"num_hidden_layers": 3},
    {"num_hidden_layers": 1},
    {"num_attention_heads": 0},
    {"vocab_size": 500},
    {"model_type": "nothing"},
    {"rope_parameters": {"rope_type": "none", "rope_theta": 1e4}},
    {"context_extension": {"method": "ntk", "rope_by_length": {"rule": "other"}}},
    {"context_extension": {"method": "ntk", "rope_by_length": {"rule": "ntk"}}},
    {"context_extension": {"x": 1}},
    {"context_extension": {"method": "yarn", "recipe": "long"}},
    {"context_extension": {"method": "yarn", "trained_length": "long"}},
    {"max_position_embeddings": -5},
)


@pytest.mark.parametrize("changes", BROKEN_CONFIGS, ids=str)
def test_a_config_that_cannot_be_right_is_refused(copy, changes):
    refusal(edit_config(copy, **changes))


def test_folders_that_are_no_checkpoint_are_refused(base, tmp_path):
    assert "no folder" in refusal(tmp_path / "nowhere")
    assert "no config.json" in refusal(tmp_path)
    shutil.copyfile(base / "config.json", tmp_path / "config.json")
    assert "no *.safetensors weights" in refusal(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert "tokenizer" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{")
    refusal(tmp_path)


@pytest.mark.parametrize("change", ["cut", "missing", "misshapen", "pickle", "outside"])
def test_broken_weights_are_refused(copy, change):
    path = copy / "model.safetensors"
    if change == "outside":  # an index may name files of its folder only
        index = {"metadata": {}, "weight_map": {"lm_head.weight": "../model.safetensors"}}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        assert "names files that are not in its folder" in refusal(copy)
        return
    weights = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    if change == "pickle":  # beside safetensors that lack a weight
        torch.save(weights, copy / "pytorch_model.bin")
    if change == "misshapen":
        weights[name] = weights[name][:, 1:].contiguous()
    elif change != "cut":
        del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    refusal(copy)


def test_code_runs_only_where_it_is_trusted(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["self_extend"], tmp_path / "model")
    modeling = tmp_path / "modeling"
    modeling.mkdir()
    for path in folder.glob("*.py"):
        shutil.copyfile(path, modeling / path.name)
    config = open_config(folder, str(modeling))
    load_model(folder, config, "float32", "sdpa", torch.device("cpu"))
    for trust in (False, str(tmp_path)):  # a folder without these files
        assert "--trust_remote_code" in refusal(folder, trust)
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    edit_config(folder, auto_map={name: f"someone/else--{value}" for name, value in auto_map.items()})
    assert "--trust_remote_code" in refusal(folder, str(modeling))
    inner = folder / "inner"
    inner.mkdir()
    shutil.copyfile(folder / "modeling_position_rules.py", inner / "modeling_position_rules.py")
    edit_config(folder, auto_map={name: f"inner/{value}" for name, value in auto_map.items()})
    assert "--trust_remote_code" in refusal(folder, str(modeling))
    edit_config(folder, auto_map=auto_map)
    marker = tmp_path / "ran"
    path = next(folder.glob("modeling_position_rules.py"))
    path.write_text(path.read_text() + f"\nopen({str(marker)!r}, 'w').close()\n")
    assert "--trust_remote_code" in refusal(folder, str(modeling)) and not marker.exists()
    open_config(folder, True)
    assert marker.exists()
