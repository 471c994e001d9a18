"""A tiny random Llama, a token file, and ways to run eval_ppl.py in this process or as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

STAGE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(STAGE))
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)  # sums in float32 depend on the number of threads

VOCABULARY, WINDOW, BOS = 300, 64, 1
THETA = 10000.0
RULE = {"rule": "ntk", "rope_theta": THETA, "factor": 2.0, "original_length": WINDOW, "trained_length": 256}
# what says nothing about the evaluation itself
TIMES = ("seconds", "tokens_per_second", "peak_memory_bytes", "command", "processes")


def config(method=None, **changes):
    """The tiny model's config, with the record of `method` (None: a plain base)."""
    from transformers import LlamaConfig

    made = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=WINDOW,
        initializer_range=0.2,
        bos_token_id=BOS,
        **changes,
    )
    if method:
        made.context_extension = {
            "method": method,
            "base_model": "tiny",
            "original_length": WINDOW,
            "trained_length": 256,
            "trained_tokens": 5,
            "rope_by_length": RULE if method == "ntk" else None,
        }
    return made


def save_model(folder: Path, method=None, **changes) -> Path:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(config(method, **changes)).save_pretrained(folder)
    return folder


def write_tokens(path: Path, tokens, kind="uint16", **sidecar) -> Path:
    """A token file of numpy dtype `kind`, and a sidecar if anything is said for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.asarray(tokens, dtype=kind).tofile(path)
    if sidecar:
        path.with_name(path.name + ".json").write_text(json.dumps(sidecar))
    return path


def documents(count: int, seed: int = 0) -> list[int]:
    """`count` documents of 60 to 119 tokens, BOS first."""
    rng = np.random.default_rng(seed)
    texts = [[BOS, *rng.integers(2, VOCABULARY, rng.integers(59, 119))] for _ in range(count)]
    return [int(token) for text in texts for token in text]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("data") / "pg19" / "test.bin", documents(13), source="user")


@pytest.fixture
def run(monkeypatch, capsys):
    """run(flags...) calls eval_ppl.main here; returns what it printed. `methods` as an entry point would give them."""
    import eval_ppl

    def call(*flags, methods=None, script="eval_ppl.py"):
        monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
        eval_ppl.main(methods)
        return capsys.readouterr().out

    return call


def command(*words, cwd=STAGE, **environment):
    """Runs a command as a user would, in the stage's folder."""
    return subprocess.run(
        [*map(str, words)], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )


def content(path: Path) -> dict:
    """A result file without the fields that only tell how long it took."""
    result = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in {path}"))
    return {key: value for key, value in result.items() if key not in TIMES}
