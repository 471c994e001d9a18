"""A tiny checkpoint and hand-written data, so that predictions and scores are tested without prepare.py."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STAGE = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)  # sums in float32 depend on the number of threads

from tasks import TASKS, read_tasks  # noqa: E402, F401

WINDOW = 512  # tokens, which are bytes


def save_checkpoint(folder: Path, seed: int = 0, **changes) -> Path:
    """A random 2-layer Llama whose tokens are bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": WINDOW, "initializer_range": 0.3}
    config = LlamaConfig(vocab_size=len(alphabet) + 2, num_key_value_heads=1, **{**shape, **ends, **changes})
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def rows(task: str, count: int, golds=None) -> list[dict]:
    """Rows of data in RULER's format, short, of different lengths, with a common beginning."""
    made = []
    for index in range(count):
        gold = golds or [f"{1000003 * (index + 1) + 17 * k}" for k in range(1 + index % 3)]
        noise = "The grass is green. " * (2 + index % 4)
        text = f"{task}: remember the numbers. {noise}They are {' '.join(gold)}. Numbers:"
        row = {"index": index, "input": text, "outputs": gold, "length": len(text) + 1 + 8}
        made.append(row | {"tokens_to_generate": 8})
    return made


def save_data(folder: Path, task: str, data: list[dict], **run) -> Path:
    """<folder>/<task>/validation.jsonl and run.json, as prepare.py leaves them."""
    where = folder / task
    where.mkdir(parents=True, exist_ok=True)
    (where / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    about = {"complete": True, "source": "official", "profile": "upstream", "seed": 42, "mean_fill": 0.97}
    (where / "run.json").write_text(json.dumps(about | {"num_samples": len(data)} | run))
    return folder


def save_predictions(folder: Path, task: str, data: list[dict], reply) -> None:
    """<folder>/<task>.jsonl with reply(row) as each answer, in RULER's format."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{task}.jsonl").open("w") as file:
        for row in data:
            kept = {"index": row["index"], "pred": reply(row), "input": row["input"], "outputs": row["outputs"]}
            file.write(json.dumps(kept | {"others": {}, "truncation": -1, "length": row["length"]}) + "\n")
