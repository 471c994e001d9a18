"""Speed of the engine and of perplexity on one GPU: prefill, decoding, windows; prints Markdown tables.

    python benchmarks/gpu_speed.py prefill decode perplexity            a 7B-shaped Llama, random weights, bf16
    python benchmarks/gpu_speed.py prefill decode perplexity --tiny     a tiny model, for a CPU

Beside the kit's engine stands a plain `model.generate` of Transformers in the same run. Each figure is the fastest of a
few repetitions. What runs out of memory is reported, and the next row is measured.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "common"), str(ROOT / "eval_perplexity"), str(ROOT / "continuous_finetuning")]
import checkpoint_writer  # noqa: E402
import methods  # noqa: E402
from attention import CHOICES, choose_attention  # noqa: E402
from run import default_device, first_line, out_of_memory, peak_memory, reset_peak_memory  # noqa: E402
from scoring import score  # noqa: E402
from transformers_engine import Transformers  # noqa: E402

SHAPES = {  # hidden, MLP, layers, query heads, key-value heads, vocabulary
    "7b": (4096, 11008, 32, 32, 32, 32000),
    "8b": (4096, 14336, 32, 32, 8, 128256),
    "tiny": (64, 96, 2, 4, 2, 256),
}


def model_config(shape: str, window: int) -> LlamaConfig:
    hidden, mlp, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=window,
        eos_token_id=None,
    )


def random_model(config: LlamaConfig, attention: str, device: torch.device, model_class=LlamaForCausalLM):
    """A model with random weights, made on the device: bfloat16 on a GPU."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config._attn_implementation = attention
    torch.set_default_dtype(dtype)
    with device:
        model = model_class(config)
    torch.set_default_dtype(torch.float32)
    return model.eval()


class RandomEngine(Transformers):
    """The engine over a model that was never saved. method: whose modeling file it needs."""

    def __init__(self, model, method=None, **kwargs):
        with tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            if method:
                checkpoint_writer.copy_modeling(method, Path(folder))
            Path(folder, "empty.safetensors").touch()
            PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, []))).save_pretrained(folder)
            super().__init__(folder, **kwargs)
        self.model_to_use = model

    def read_model(self):
        return self.model_to_use


def random_prompts(rows: int, length: int, vocabulary: int) -> list[list[int]]:
    return torch.randint(vocabulary, (rows, length)).tolist()


def fastest(function, device: torch.device, repetitions: int = 3) -> float:
    """Seconds of the fastest call."""
    times = []
    for _ in range(repetitions):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def print_row(*cells):
    print(
        "| " + " | ".join(f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True
    )


def measure(label: list, function, device: torch.device):
    """Prints a row: the label's cells, what `function` returns, peak memory in GiB; or why it failed."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    reset_peak_memory(device)
    try:
        values = function()
        print_row(*label, *values, peak_memory(device) / 2**30)
    except (RuntimeError, MemoryError, ValueError) as error:
        reason = "out of memory" if out_of_memory(error) else first_line(error)
        print_row(*label, reason)


@torch.inference_mode()
def prefill(model, args, device):
    print("\n### Prefill\n")
    print_row("engine", "attention", "tokens", "chunk", "seconds", "tokens/s", "peak GiB")
    print_row(*["---"] * 7)
    for name in args.attentions:
        for length in args.lengths:
            engine = RandomEngine(model, attention=name, prefill_chunk=args.prefill_chunk)
            engine.load()
            [prompt] = random_prompts(1, length, args.vocabulary)

            def one_prompt(engine=engine, prompt=prompt, length=length):
                engine.set_rope(length + 64)
                seconds = fastest(lambda: (engine.clear_cached_ids(), engine.prefill(prompt, length + 64)), device, 2)
                return min(engine.prefill_chunk, length), seconds, length / seconds

            measure(["kit", engine.attention, length], one_prompt, device)
            engine.clear_cache()
    model.set_attn_implementation("sdpa")
    for length in args.lengths[:2]:
        ids_1n = torch.randint(args.vocabulary, (1, length), device=device)

        def one_generate(ids_1n=ids_1n, length=length):
            generate = lambda: model.generate(ids_1n, max_new_tokens=1, do_sample=False)  # noqa: E731
            seconds = fastest(generate, device, 2)
            return length, seconds, length / seconds

        measure(["model.generate", "sdpa", length], one_generate, device)


@torch.inference_mode()
def decode(model, args, device):
    print("\n### Decoding\n")
    print_row("engine", "rows", "tokens before", "ms a step", "tokens/s", "peak GiB")
    print_row(*["---"] * 6)
    for rows, length in args.groups:
        engine = RandomEngine(model, batch_size=rows, prefill_chunk=args.prefill_chunk)
        engine.load()
        prompts = random_prompts(rows, length, args.vocabulary)

        def one_group(engine=engine, prompts=prompts, rows=rows, length=length):
            few, many = args.new_tokens
            group = lambda new: engine.generate_ids(prompts, new)  # noqa: E731
            group(few)  # captures the graph
            engine_few = fastest(lambda: group(few), device, 2)
            engine_many = fastest(lambda: group(many), device, 2)
            step = (engine_many - engine_few) / (many - few)
            return 1000 * step, rows / step

        measure(["kit", rows, length], one_group, device)
        engine.clear_cache()
    model.set_attn_implementation("sdpa")
    for rows, length in args.groups[:2]:
        ids_Bn = torch.randint(args.vocabulary, (rows, length), device=device)

        def one_generate(ids_Bn=ids_Bn, rows=rows):
            few, many = args.new_tokens[0], args.new_tokens[0] + 16
            generate = lambda new: model.generate(ids_Bn, max_new_tokens=new, do_sample=False)  # noqa: E731
            step = (fastest(lambda: generate(many), device, 1) - fastest(lambda: generate(few), device, 1)) / 16
            return 1000 * step, rows / step

        measure(["model.generate", rows, length], one_generate, device)


@torch.inference_mode()
def own_attention(model, args, device):
    """Methods with their own attention decode one prompt at a time, without graphs."""
    print("\n### Decoding with an attention of the checkpoint's own\n")
    print_row("method", "rows", "tokens before", "ms a step", "tokens/s", "peak GiB")
    print_row(*["---"] * 6)
    del model
    _, length = args.groups[0]
    base = model_config(args.shape, length // 2)
    for name in methods.available():
        cls = methods.get(name)
        if cls.modeling is None:
            continue
        window = 512 if not cls.extends_rows and not args.tiny else length + 1024
        if args.tiny and not cls.extends_rows:
            continue  # its blocks are longer than these texts
        method = methods.build(name, base, window, {})
        config = checkpoint_writer.extended_config(base, method, {})
        config.eos_token_id = None

        def one_row(method=method, config=config, name=name):
            own = random_model(config, "sdpa", device, method.auto_classes()["AutoModelForCausalLM"])
            engine = RandomEngine(own, method, trust_remote_code=True)
            engine.load()
            prompts = random_prompts(1, length, args.vocabulary)
            few, many = args.new_tokens[0], args.new_tokens[0] + 24
            engine.generate_ids(prompts, few)
            seconds = [fastest(lambda: engine.generate_ids(prompts, new), device, 2) for new in (few, many)]  # noqa: B023
            step = (seconds[1] - seconds[0]) / (many - few)
            return 1000 * step, 1 / step

        measure([name, 1, length], one_row, device)


def perplexity(model, args, device):
    print("\n### Perplexity, one window\n")
    print_row("attention", "tokens", "seconds", "tokens/s", "peak GiB")
    print_row(*["---"] * 5)
    for name in args.attentions:
        for length in args.lengths[1:]:
            implementation = choose_attention(name, device, str(model.dtype).removeprefix("torch."))
            model.set_attn_implementation(implementation)
            ids_1n = torch.randint(args.vocabulary, (1, length + 1), device=device)

            def one_window(ids_1n=ids_1n, length=length):
                seconds = fastest(lambda: score(model, ids_1n), device, 2)
                return seconds, length / seconds

            measure([implementation, length], one_window, device)


PARTS = {"prefill": prefill, "decode": decode, "perplexity": perplexity, "own_attention": own_attention}


def installed_attentions(device: torch.device, dtype: str) -> list[str]:
    """ "sdpa" and each FlashAttention that this machine can run."""
    found = ["sdpa"]
    for name in CHOICES[2:]:
        try:
            found.append(choose_attention(name, device, dtype))
        except ValueError:
            continue
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short texts, for a CPU")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8000, 32000, 64000], help="prompt tokens")
    parser.add_argument("--prefill_chunk", type=int, help="[what fits in memory]")
    args = parser.parse_args()
    args.groups = [(1, 8000), (8, 4000), (1, 32000), (8, 8000)]
    args.new_tokens = (8, 72)
    if args.tiny:
        args.shape, args.lengths = "tiny", [100, 200, 300]
        args.groups, args.new_tokens = [(1, 100), (4, 50)], (2, 6)
    device = default_device()
    config = model_config(args.shape, max(args.lengths) + 1024)
    args.vocabulary = config.vocab_size
    model = random_model(config, "sdpa", device)
    args.attentions = installed_attentions(device, str(model.dtype).removeprefix("torch."))
    for part in args.parts:
        PARTS[part](model, args, device)


if __name__ == "__main__":
    main()
