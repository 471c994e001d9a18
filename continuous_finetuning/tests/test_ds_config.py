"""The check of DeepSpeed's JSON: the shipped files pass; keys without effect, or that override the flags, do not."""

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
        ({"offload_param": {}}, "`offload_param` has no effect at the top level"),  # as in LCEG's file
        ({"scheduler": {"type": "WarmupDecayLR"}}, "`scheduler` overrides the command line"),
        ({"gradient_accumulation_steps": 8}, "`gradient_accumulation_steps` overrides"),
        ({"zero_optimization": {"stage": 3}}, "stage 3 needs `stage3_gather_16bit_weights_on_model_save`"),
        ({"zero_optimization": [3]}, "`zero_optimization` needs a `stage`"),
    ],
)
def test_bad_values(tmp_path, change, message):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(SHIPPED | change))
    with pytest.raises(ValueError, match=message):
        ds_config.read(str(path))
