"""A tiny random Llama whose tokens are bytes, data of LongBench's schema, and scripts run as a user runs them.

torch is imported by what needs it only: the scorers' tests do without.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STAGE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(STAGE))
os.environ["OMP_NUM_THREADS"] = "1"

WINDOW = 512  # of the tiny model, tokens


def save_base(folder: Path, **changes) -> Path:
    """A 2-layer Llama with a window of WINDOW tokens, which are bytes; fields of its config in `changes`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)  # sums in float32 depend on the number of threads
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
            "max_position_embeddings": WINDOW,
            "initializer_range": 0.3,
            "bos_token_id": 0,
            "eos_token_id": 1,
            **changes,
        }
    )
    model = LlamaForCausalLM(config)
    newline = tokenizer.token_to_id("Ċ")
    model.lm_head.weight.data[newline] *= 2  # so that lines, and answers of samsum, end now and then
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("models") / "tiny")


def make_row(index: int, words: int = 20, **fields) -> dict:
    """A row of LongBench's schema, its context `words` words long."""
    context = " ".join(f"w{(index * 7 + i) % 89}" for i in range(words))
    row = {"input": f"Which is number {index}?", "context": context, "answers": [f"w{index}"], "length": words}
    return row | {"dataset": "hotpotqa", "language": "en", "all_classes": None, "_id": f"id{index:03}"} | fields


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def command(*words, **environment):
    """Runs a command in the stage's folder."""
    return subprocess.run([*map(str, words)], cwd=STAGE, env=os.environ | environment, capture_output=True, text=True)
