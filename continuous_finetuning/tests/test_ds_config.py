"""The check of DeepSpeed's JSON: the shipped files pass; keys without effect, or that override the flags, do not."""

import json

import pytest

import ds_config
from tiny import STAGE

SHIPPED = {path.stem: path for path in (STAGE / "ds_configs").glob("*.json")}
BAD = {
    "`offload_param` has no effect at the top level": {"offload_param": {}},  # as in LCEG's file
    "`scheduler` overrides the command line": {"scheduler": {"type": "WarmupDecayLR"}},
    "stage 3 needs `stage3_gather_16bit_weights_on_model_save`": {"zero_optimization": {"stage": 3}},
}


def test_shipped_files_pass_and_changed_ones_do_not(tmp_path):
    settings = {name: ds_config.read(path) for name, path in SHIPPED.items()}
    assert settings["stage2"] == ds_config.Settings(2, False, False)
    assert settings["stage3"] == ds_config.Settings(3, False, False)
    assert settings["stage3_offload"] == ds_config.Settings(3, True, True)
    for message, change in BAD.items():
        path = tmp_path / "ds.json"
        path.write_text(json.dumps(json.loads(SHIPPED["stage3"].read_text()) | change))
        with pytest.raises(ValueError, match=message):
            ds_config.read(path)
