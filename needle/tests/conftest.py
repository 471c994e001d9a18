"""A tiny Llama base and, by continuous_finetuning/extend.py as a user runs it, a checkpoint of every method."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STAGE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(STAGE))
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)  # sums in float32 depend on the number of threads

C, L = 64, 256  # the base's window and the extended one, tokens
EXTEND = {  # flags of each method; landmark is told its training block
    "origin": [],
    "pi": [],
    "ntk": [],
    "ntk_frozen": [],
    "yarn": [],
    "clex": ["--log_scale", "True"],
    "longlora": [],
    "lm_infinite": ["--global_tokens", "4"],
    "self_extend": ["--neighbor_window", "32"],
    "landmark": ["--mem_freq", "7", "--top_k", "2"],
}
OWN_CODE = ("lm_infinite", "self_extend", "landmark")
# one interpreter for all ten, since its start takes longer than the work
RUN_ALL = (
    "import json, runpy, sys\nfor sys.argv in json.load(sys.stdin): runpy.run_path(sys.argv[0], run_name='__main__')"
)


def save_base(folder: Path, **changes) -> Path:
    """A 2-layer Llama with grouped-query heads and window C; its tokens are bytes."""
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


def edit_config(folder: Path, **changes) -> Path:
    """Writes fields into a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def checkpoints(base, tmp_path_factory):
    """{method: folder}, none of them trained."""
    root = tmp_path_factory.mktemp("checkpoints")
    runs = []
    for method, flags in EXTEND.items():
        length = C if method == "landmark" else L
        where = ["--model_name_or_path", base, "--model_max_length", length, "--output_dir", root / method]
        runs.append([str(word) for word in ["extend.py", "--method_name", method, *where, *flags]])
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(runs),
        cwd=STAGE.parent / "continuous_finetuning",
        env={**os.environ, "PYTHONPATH": ".", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {method: root / method for method in EXTEND}
