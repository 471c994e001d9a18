"""A tiny Llama base with a byte tokenizer, and rows to train it on; scripts are run as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STAGE = Path(__file__).parent.parent
sys.path.insert(0, str(STAGE))

C, L = 64, 256  # the base's window and the extended one, tokens


def run(*command, expect=0, cwd=STAGE, **env):
    """Runs a command in the stage's folder; returns its output, stdout and stderr together."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == expect, f"exit {done.returncode}:\n{done.stdout}"
    return done.stdout


def python(script, *args, **kwargs):
    return run(sys.executable, script, *args, **kwargs)


def save_tiny_base(folder: Path, **changes) -> Path:
    """A 2-layer Llama with grouped-query heads, window C, one token a byte; the same weights on every machine."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": len(alphabet) + 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": C,
            "initializer_range": 0.3,
            "bos_token_id": 0,
            "eos_token_id": 1,
            **changes,
        }
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """80 rows of L ids with a period of 40, so that attention at a fixed distance, hence the rope, pays."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    generator = torch.Generator().manual_seed(0)
    with path.open("w") as file:
        for _ in range(80):
            period = torch.randint(2, 66, (40,), generator=generator).tolist()
            file.write(json.dumps({"input_ids": (period * 7)[:L]}) + "\n")
    return path
