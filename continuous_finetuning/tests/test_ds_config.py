"""The check of DeepSpeed's JSON: the shipped files pass, what DeepSpeed would pass over does not."""

import json

import pytest

import ds_config
from conftest import STAGE

pytest.importorskip("deepspeed", reason="DeepSpeed is for Linux")
SHIPPED = json.loads((STAGE / "ds_configs" / "stage3_offload.json").read_text())


def test_the_shipped_files():
    found = {path.stem: ds_config.read(str(path)) for path in (STAGE / "ds_configs").glob("*.json")}
    assert found == {
        "stage2": ds_config.Settings(2, False, False),
        "stage3": ds_config.Settings(3, False, False),
        "stage3_offload": ds_config.Settings(3, True, True),
    }


def lceg(config):  # where LCEG's file had it
    config["offload_param"] = config["zero_optimization"].pop("offload_param")


CHANGES = [
    (lceg, "unknown key `offload_param` at the top level; it belongs inside `zero_optimization`"),
    (lambda c: c.update(scheduler={"type": "WarmupDecayLR"}), "`scheduler` overrides the command line"),
    (lambda c: c.update(optimizer={"type": "AdamW"}), "`optimizer` overrides the command line"),
    (
        lambda c: c.update(gradient_cliping=1.0),
        "unknown key `gradient_cliping` at the top level; did you mean `gradient_cl",
    ),
    (lambda c: c.update(qwertz=1), "unknown key `qwertz` at the top level; DeepSpeed would ignore it; remove it"),
    (
        lambda c: c["zero_optimization"].update(stage3_prefetch_bucket=1),
        "in `zero_optimization`; did you mean `stage3_pre",
    ),
    (
        lambda c: c["zero_optimization"].update(bf16={}),
        "unknown key `bf16` in `zero_optimization`; it belongs at the top",
    ),
    (
        lambda c: c["zero_optimization"]["offload_param"].update(pinned_memory=True),
        "unknown key `pinned_memory` in `zero_optimization.offload_param`; did you mean `pin_memory`?",
    ),
    (lambda c: c.update(gradient_accumulation_steps=8), '`gradient_accumulation_steps` is 8; write "auto"'),
    (lambda c: c["bf16"].update(enabled=True), '`bf16.enabled` is True; write "auto"'),
    (lambda c: c["zero_optimization"].update(stage=2), "`offload_param` needs `stage` 3, not 2"),
    (
        lambda c: c["zero_optimization"].update(stage="3"),
        "`zero_optimization` must be an object with a `stage` of 0 to 3",
    ),
    (lambda c: c.pop("zero_optimization"), "`zero_optimization` must be an object"),
]


@pytest.mark.parametrize("change, message", CHANGES, ids=[message[:30] for _, message in CHANGES])
def test_what_would_do_nothing_is_named(tmp_path, change, message):
    config = json.loads(json.dumps(SHIPPED))
    change(config)
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(config))
    with pytest.raises(SystemExit) as stop:
        ds_config.read(str(path))
    assert message in str(stop.value) and str(path) in str(stop.value) and "\n" not in str(stop.value)


def test_no_json(tmp_path):
    (tmp_path / "ds.json").write_text("{'a': 1}")
    with pytest.raises(SystemExit, match="ds.json is no JSON"):
        ds_config.read(str(tmp_path / "ds.json"))
    with pytest.raises(SystemExit, match="no DeepSpeed config nowhere.json"):
        ds_config.read("nowhere.json")
