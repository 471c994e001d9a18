"""What the benchmarks of speed share: models with random weights, the time and the memory of a call."""

import time
from collections.abc import Callable

from machine import print_row
from run import default_device, first_line, out_of_memory, peak_memory, release_memory, reset_peak_memory

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import checkpoint_writer
import methods
from attention import choose_attention

DEVICE = default_device()
CUDA = DEVICE.type == "cuda"
DTYPE = "bfloat16" if CUDA else "float32"
FASTEST_ATTENTION = choose_attention("auto", DEVICE, DTYPE)
ATTENTIONS = ["sdpa"] if FASTEST_ATTENTION == "sdpa" else ["sdpa", FASTEST_ATTENTION]
SHAPES = {  # what differs from LlamaConfig's defaults, which are those of Llama-2-7B
    "tiny": dict(hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4, vocab_size=258),
    "7b": dict(),
}


def model_config(shape: str, window: int) -> LlamaConfig:
    """A Llama of one of SHAPES, without EOS, so that answers never end early. window: tokens."""
    return LlamaConfig(**SHAPES[shape], max_position_embeddings=window, eos_token_id=None)


def random_model(config: LlamaConfig, attention: str = "sdpa", model_class=LlamaForCausalLM):
    """A model with random weights, created on the device: bfloat16 on a GPU, float32 on a CPU."""
    torch.manual_seed(0)
    with DEVICE:
        model = model_class._from_config(config, dtype=getattr(torch, DTYPE), attn_implementation=attention)
    return model.eval()


def extended_model(name: str, base: LlamaConfig, length: int, attention: str = "sdpa") -> tuple:
    """(the method `name` for so many tokens, the base with it and random weights)."""
    method = methods.build(name, base, length, {})
    config = checkpoint_writer.extended_config(base, method, {"method": name})
    model_class = method.auto_classes(base)["AutoModelForCausalLM"]
    return method, random_model(config, attention, model_class)


def fastest(function: Callable, repetitions: int = 2) -> float:
    """Seconds of the fastest call of function()."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        if CUDA:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(label: list, function: Callable, *args, **options) -> None:
    """Prints a row: the label, the values that the function returns and the peak memory in GiB; or why it failed."""
    release_memory()
    reset_peak_memory(DEVICE)
    try:
        values = function(*args, **options)
        print_row(*label, *values, peak_memory(DEVICE) / 2**30)
    except (RuntimeError, MemoryError, ValueError, ImportError) as error:
        reason = "out of memory" if out_of_memory(error) else first_line(error)
        print_row(*label, reason)
