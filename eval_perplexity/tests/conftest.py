"""A tiny checkpoint, a token file, and a way to call the stage's scripts in this process."""

import functools
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny

VOCABULARY, BOS = 258, 0
RULE = {"rule": "ntk", "rope_theta": 10000.0, "factor": 2.0, "original_length": tiny.C, "trained_length": 256}
# what says nothing about the evaluation itself
COSTS = ("seconds", "tokens_per_second", "peak_memory_bytes", "command", "processes")


def save_model(folder: Path, method: str, rope_by_length=RULE, **changes) -> Path:
    """The tiny base with the record of a method."""
    record = {"method": method, "trained_length": 256, "trained_tokens": 5, "rope_by_length": rope_by_length}
    return tiny.save_base(folder, context_extension=record, **changes)


def write_tokens(path: Path, tokens, kind="uint16", **sidecar) -> Path:
    """A token file of numpy dtype `kind` with its sidecar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = np.asarray(tokens, dtype=kind).tobytes()
    path.write_bytes(content)
    sidecar = {"dtype": kind, "sha256": hashlib.sha256(content).hexdigest(), **sidecar}
    path.with_name(path.name + ".json").write_text(json.dumps(sidecar))
    return path


def documents(count: int, seed: int = 0) -> list[int]:
    """`count` documents of 60 to 119 tokens, BOS first."""
    rng = np.random.default_rng(seed)
    texts = [[BOS, *rng.integers(2, VOCABULARY, rng.integers(59, 119))] for _ in range(count)]
    return [int(token) for text in texts for token in text]


def full_losses(model, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Losses of the tokens after the first, and whether each is the argmax, from full logits in float64."""
    x = torch.tensor(ids)
    logits = model.double()(x[None, :-1], use_cache=False).logits[0]
    losses = torch.nn.functional.cross_entropy(logits, x[1:], reduction="none")
    return losses.numpy(), (logits.argmax(-1) == x[1:]).numpy()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return tiny.save_base(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("data") / "pg19" / "test.bin", documents(13), source="user")


@pytest.fixture
def run_main(monkeypatch, capsys):
    """run_main(main, flags...) runs a script in this process; returns what it printed."""
    from run import run_script

    def call(main, *flags, script="script.py"):
        monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
        run_script(main)
        return capsys.readouterr().out

    return call


@pytest.fixture
def evaluate(run_main, checkpoint, tokens):
    """evaluate(flags...) runs eval_ppl.py, by default on `checkpoint` and `tokens`; returns what it printed."""
    import eval_ppl

    return functools.partial(run_main, eval_ppl.main, "--base_model", checkpoint, "--data_path", tokens)


def content(path: Path) -> dict:
    """A result file without what only tells its costs."""
    result = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in {path}"))
    return {key: value for key, value in result.items() if key not in COSTS}
