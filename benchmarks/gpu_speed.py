"""Speed of the engine and of perplexity, beside a plain `model.generate` of Transformers; prints a Markdown table.

    python benchmarks/gpu_speed.py            a GPU: a 7B-shaped Llama with random weights, bfloat16
    python benchmarks/gpu_speed.py --tiny     a tiny model and short texts, for a CPU

Decoding: milliseconds of one step, which gives every row a token. Prefill and perplexity: of one prompt or window. Each
is the fastest of a few repetitions. A row that fails, for example for lack of memory, says why.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

from machine import print_head
from run import Parser

import torch
from harness import ATTENTIONS, DEVICE, extended_model, fastest, measure, model_config, random_model
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import checkpoint_writer
import methods
from scoring import score
from transformers_engine import Transformers

FEW = 8  # tokens of short answers
MANY = 40  # and of long ones
OWN_ATTENTION = ("landmark", "lm_infinite", "self_extend")  # reads blocks, a window, all keys; others are alike


def random_ids(model, rows: int, length: int) -> torch.Tensor:
    """Token ids, int64 [rows, length], on the device."""
    return torch.randint(model.config.vocab_size, (rows, length), device=DEVICE)


def kit(model, rows: int, length: int, method=None, keep_cache=True, **options) -> Callable:
    """A function of the number of new tokens: answers random prompts by the engine with a model that was never saved.

    method: the one whose modeling file the model needs.  keep_cache: between calls.  options: of the engine.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        if method:
            checkpoint_writer.copy_modeling(method, Path(folder))
        Path(folder, "empty.safetensors").touch()
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, []))).save_pretrained(folder)
        engine = Transformers(folder, trust_remote_code=method is not None, batch_size=rows, **options)
    with mock.patch("transformers_engine.load_model", return_value=model):
        engine.load()
    prompts = random_ids(model, rows, length).tolist()

    def answer(max_new_tokens: int):
        if not keep_cache:
            engine.clear_cache()
        return engine.generate_ids(prompts, max_new_tokens)

    return answer


def plain(model, rows: int, length: int) -> Callable:
    """The same by `model.generate`."""
    ids_Bn = random_ids(model, rows, length)
    return lambda max_new_tokens: model.generate(ids_Bn, max_new_tokens=max_new_tokens, do_sample=False)


def time_decoding(engine: Callable, model, rows: int, length: int, **options):
    """Milliseconds and tokens/s of one step. engine: `kit` or `plain`."""
    answer = engine(model, rows, length, **options)
    answer(FEW)  # captures the CUDA graph
    many_seconds = fastest(partial(answer, MANY))
    few_seconds = fastest(partial(answer, FEW))
    seconds = (many_seconds - few_seconds) / (MANY - FEW)
    return 1000 * seconds, rows / seconds


def time_prefill(engine: Callable, model, length: int, **options):
    """Milliseconds and tokens/s of an answer of one token."""
    answer = engine(model, 1, length, **options)
    seconds = fastest(partial(answer, 1))
    return 1000 * seconds, length / seconds


def time_perplexity(model, attention: str, length: int):
    model.set_attn_implementation(attention)
    ids_1n = random_ids(model, 1, length + 1)
    seconds = fastest(partial(score, model, ids_1n))
    return 1000 * seconds, length / seconds


def time_own_attention(name: str, shape: str, length: int):
    """`time_decoding` of one prompt by a method with its own attention."""
    longest = length + 1024
    window = longest if methods.get(name).extends_rows else 512
    base = model_config(shape, longest // 2)
    method, model = extended_model(name, base, window)
    return time_decoding(kit, model, 1, length, method=method)


def main():
    parser = Parser(__doc__)
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short texts, for a CPU")
    shape, short, long = "7b", 8000, 64000
    if parser.parse_args().tiny:
        shape, short, long = "tiny", 100, 300
    model = random_model(model_config(shape, long + 1024))

    print_head("what", "by", "rows", "tokens", "ms", "tokens/s", "peak GiB")
    for rows, length in ((1, short), (8, short // 2), (8, short), (1, long // 2)):
        measure(["decoding", "kit", rows, length], time_decoding, kit, model, rows, length)
    model.set_attn_implementation("sdpa")
    for rows, length in ((1, short), (8, short // 2)):
        measure(["decoding", "model.generate", rows, length], time_decoding, plain, model, rows, length)
    measure(["prefill", "model.generate", 1, long // 2], time_prefill, plain, model, long // 2)
    for attention in ATTENTIONS:
        options = {"attention": attention, "keep_cache": False}
        for length in (short, long // 2, long):
            measure(["prefill", f"kit, {attention}", 1, length], time_prefill, kit, model, length, **options)
        for length in (long // 2, long):
            measure(["perplexity", f"kit, {attention}", 1, length], time_perplexity, model, attention, length)
    del model
    for name in OWN_ATTENTION:
        measure(["decoding", name, 1, short], time_own_attention, name, shape, short)


if __name__ == "__main__":
    main()
