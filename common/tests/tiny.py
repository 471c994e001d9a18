"""What the tests of every stage share: a tiny Llama base, checkpoints of every method, and ways to run a script."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

STAGE = Path(__file__).absolute().parents[1]  # the stage whose tests/ folder holds the link to this file
ROOT = STAGE.parent
sys.path.insert(0, str(STAGE))
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")
torch.set_num_threads(1)  # sums in float32 depend on the number of threads

C, L = 64, 256  # the base's window and the extended one, tokens
WITHOUT_FLAGS = "origin pi ntk ntk_frozen yarn abf llama3 longrope longlora dca streaming".split()
EXTEND = dict.fromkeys(WITHOUT_FLAGS, []) | {  # flags of extend.py for each method
    "drope": ["--partial_rotary_factor", "0.25"],
    "clex": ["--log_scale", "True"],
    "lm_infinite": ["--global_tokens", "4"],
    "self_extend": ["--neighbor_window", "32"],
    "rerope": ["--local_window", "32"],
    "string": ["--model_max_length", "126"],  # all that it reaches
    "landmark": ["--mem_freq", "7", "--top_k", "2"],
}
SHAPE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
SHAPE |= dict(max_position_embeddings=C, initializer_range=0.3)
BASES = {  # what differs from SHAPE in a tiny model of each architecture
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    "qwen3": {"head_dim": 48},
    "olmo2": {},
    "granite": {"logits_scaling": 2.0, "attention_multiplier": 0.3, "tie_word_embeddings": True},
    "gemma2": {
        "head_dim": 48, "sliding_window": 20, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
        "tie_word_embeddings": False,  # tied, random weights repeat the last token
    },
    "glm4": {"head_dim": 32},  # half of a head turns
    "phi3": {},
}  # fmt: skip
OWN_CODE = ("lm_infinite", "self_extend", "rerope", "string", "dca", "streaming", "landmark")
# runs several command lines of Python scripts in one interpreter, since its start takes longer than the work
RUN_ALL = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
STREAMS = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def save_tokenizer(folder: Path) -> int:
    """A tokenizer of one token per byte, with <s> = 0 and </s> = 1; returns the size of its vocabulary, 258."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return len(alphabet) + 2


def save_base(folder: Path, model_type: str = "llama", **changes) -> Path:
    """A 2-layer model with grouped-query heads and window C; the same weights on every machine."""
    config = {"vocab_size": save_tokenizer(folder), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    config |= SHAPE | BASES.get(model_type, {}) | changes
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config)).save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes) -> Path:
    """Writes fields into a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def save_checkpoints(base: Path, root: Path, methods=tuple(EXTEND)) -> dict[str, Path]:
    """{method: folder} of untrained checkpoints, made by extend.py as a user runs it."""
    commands = []
    for method in methods:
        length = C if method == "landmark" else L
        command = ["extend.py", "--method_name", method, "--model_name_or_path", base, "--model_max_length", length]
        command += ["--output_dir", root / method, *EXTEND[method]]
        commands.append([str(word) for word in command])
    run(sys.executable, "-c", RUN_ALL, json.dumps(commands), cwd=ROOT / "continuous_finetuning", PYTHONPATH=".")
    return {method: root / method for method in methods}


def run(*command, expect: int = 0, cwd: Path = STAGE, timeout: int = 300, **environment) -> str:
    """Runs a command as a user would, in the stage's folder; returns stdout and stderr together."""
    variables = os.environ | {name: str(value) for name, value in environment.items()}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=variables, timeout=timeout, **STREAMS)
    assert done.returncode == expect, f"exit status {done.returncode}:\n{done.stdout}"
    return done.stdout


def python(script, *flags, **kwargs) -> str:
    """Runs a Python script as a user would; see `run`."""
    return run(sys.executable, script, *flags, **kwargs)


def start_second(patch, owner, name: str, script, *flags) -> list[subprocess.Popen]:
    """Makes the first call of owner.name start a Python script of the stage, and wait until that says that it waits."""
    call, started = getattr(owner, name), []

    def start_and_call(*args):
        if not started:
            command = [sys.executable, script, *map(str, flags)]
            started.append(subprocess.Popen(command, cwd=STAGE, **STREAMS))
            assert any("waiting until it ends" in line for line in started[0].stdout), "it ended without waiting"
        return call(*args)

    patch.setattr(owner, name, start_and_call)
    return started
