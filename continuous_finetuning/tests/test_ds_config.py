"""The check of DeepSpeed's JSON: the shipped files pass; keys without effect, or that override the flags, do not."""

import copy
import json

import pytest

import ds_config
from tiny import STAGE

SHIPPED = json.loads((STAGE / "ds_configs" / "stage3_offload.json").read_text())


def test_shipped_files():
    settings = {path.stem: ds_config.read(str(path)) for path in (STAGE / "ds_configs").glob("*.json")}
    assert settings == {
        "stage2": ds_config.Settings(2, False, False),
        "stage3": ds_config.Settings(3, False, False),
        "stage3_offload": ds_config.Settings(3, True, True),
    }


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(offload_param={}), "`offload_param` has no effect at the top level"),  # as in LCEG's file
        (lambda c: c.update(scheduler={"type": "WarmupDecayLR"}), "`scheduler` overrides the command line"),
        (lambda c: c.update(gradient_accumulation_steps=8), "`gradient_accumulation_steps` overrides"),
        (lambda c: c["zero_optimization"].update(stage=2), "`offload_param` needs `stage` 3"),
        (lambda c: c["zero_optimization"].pop("stage3_gather_16bit_weights_on_model_save"), "stage 3 needs"),
        (lambda c: c.update(zero_optimization=[3]), "`zero_optimization` needs a `stage`"),
        (lambda c: c.pop("zero_optimization"), "`zero_optimization` needs a `stage`"),
    ],
)
def test_bad_values(tmp_path, change, message):
    config = copy.deepcopy(SHIPPED)
    change(config)
    (tmp_path / "ds.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        ds_config.read(str(tmp_path / "ds.json"))
