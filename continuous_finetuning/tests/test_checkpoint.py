"""The check of weights after saving."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, LlamaForCausalLM

import checkpoint


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.update({"model.norm.weight": torch.empty(0)}), r"model.norm.weight of shape \[0\], not \[64\]"),
        (lambda w: w.pop("model.embed_tokens.weight"), r"embed_tokens.weight of shape None, not \[258, 64\]"),
        (lambda w: w.update({"lm_head.weight": torch.zeros(129, 64)}), r"lm_head.weight of shape \[129, 64\]"),
    ],
    ids=["empty, as a piece of ZeRO-3", "missing", "half"],
)
def test_weights_that_are_not_whole(base, tmp_path, change, message):
    folder = shutil.copytree(base, tmp_path / "saved")
    config = AutoConfig.from_pretrained(folder)
    checkpoint.verify_weights(folder, LlamaForCausalLM, config)  # whole: nothing to say
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(SystemExit, match=message):
        checkpoint.verify_weights(folder, LlamaForCausalLM, config)


def test_an_empty_adapter(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "saved")
    (folder / "adapter").mkdir()
    save_file({"lora_A": torch.empty(0)}, folder / "adapter" / "adapter_model.safetensors")
    with pytest.raises(SystemExit, match="was written with empty tensors"):
        checkpoint.verify_weights(folder, LlamaForCausalLM, AutoConfig.from_pretrained(folder))
