"""From prompts to answers: the engine's flags, the work of each rank, and what an answer cost.

engine = open_engine("transformers", path, args, max_length)
for i, answer in answer_all(engine, prompts, 50, "needle"):
    store.append({"prompt": i, "answer": answer.text, **answer.costs()})
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import run
from attention import CHOICES
from checkpoint import add_trust_flag
from transformers_engine import Transformers


def add_engine_flags(parser) -> None:
    """Adds the flags of every evaluation that generates answers."""
    dtypes = ("auto", "float32", "bfloat16", "float16")
    group = parser.add_argument_group("engine")
    add_trust_flag(group)
    group.add_argument("--dtype", choices=dtypes, default="auto", help="[auto: bfloat16 on a GPU, float32 on a CPU]")
    group.add_argument("--attention", choices=CHOICES, default="auto", help="[auto: newest FlashAttention, else sdpa]")
    group.add_argument("--batch_size", type=run.positive_int, default=16, help="most prompts decoded together [16]")
    group.add_argument("--prefill_chunk", type=run.int_between(2), help="prompt tokens at a time [what fits in memory]")
    group.add_argument("--cache_on_cpu", action="store_true", help="keep keys and values in CPU memory")
    group.add_argument("--device_map", choices=["auto"], help="auto: spread the model over all visible GPUs")
    group.add_argument("--tensor_parallel_size", type=run.positive_int, default=1, help="vllm: GPUs for one model [1]")


def check_engine_flags(args, kind: str) -> None:
    """Raises ValueError if the engine cannot run so."""
    if kind == "vllm" and run.WORLD_SIZE > 1:
        raise ValueError("vllm does not run under torchrun; use --tensor_parallel_size for several GPUs")


def open_engine(kind: str, name_or_path: str, args, max_length: int):
    """The engine `kind` ("transformers" or "vllm") for one checkpoint. Reads no weights yet.

    max_length: the longest prompt with its answer, tokens.
    """
    if kind == "vllm":
        from vllm_engine import VLLM

        return VLLM(name_or_path, max_length, args.dtype, args.tensor_parallel_size)
    names = ("trust_remote_code", "dtype", "attention", "prefill_chunk", "cache_on_cpu", "batch_size", "device_map")
    return Transformers(name_or_path, **{name: getattr(args, name) for name in names})


@dataclass
class Answer:
    """text: None if memory did not suffice; then `error` gives the reason.  Costs are the group's share of a prompt."""

    text: str | None
    error: str | None
    seconds: float
    prefilled_tokens: float
    generated_tokens: float
    peak_memory_bytes: int | None

    def costs(self) -> dict:
        names = ("seconds", "prefilled_tokens", "generated_tokens", "peak_memory_bytes")
        return {name: getattr(self, name) for name in names}


def answer_all(engine, prompts: list, max_new_tokens: int, description: str, **stops) -> Iterator[tuple[int, Answer]]:
    """Answers this rank's share of the prompts; yields (index, answer) as soon as each group is done.

    stops: `stop_strings`, `stop_ids`, `min_new_tokens` of the engine's `generate`.
    """
    order = engine.plan(prompts, max_new_tokens, run.WORLD_SIZE)[run.RANK]
    bar = run.progress_bar(len(order), description, "prompt")
    for group in engine.batches(order, prompts, max_new_tokens):
        answers = answer_group(engine, [prompts[i] for i in group], max_new_tokens, **stops)
        yield from zip(group, answers, strict=True)
        bar.update(len(group))
    bar.close()


def answer_group(engine, prompts: list, max_new_tokens: int, **stops) -> list[Answer]:
    """The answers of a few prompts and what they cost.

    Prompts that run out of memory together are tried again in halves, and one prompt in shorter prefill chunks.
    """
    run.reset_peak_memory(engine.device)
    start = time.perf_counter()
    prefilled = engine.prefilled_tokens
    generated = engine.generated_tokens
    n = len(prompts)
    texts, error = [None], None
    try:
        texts = engine.generate(prompts, max_new_tokens, **stops)
    except (RuntimeError, MemoryError) as failure:
        if not run.out_of_memory(failure):
            raise
        error = run.explain(failure)
    if error and (n > 1 or engine.shorten_chunks()):
        engine.oom_retries.append({"prompts": n, "tokens": max(map(len, prompts))})
        if n > 1:
            engine.batch_size = n // 2
        answers = []
        for group in engine.batches(range(n), prompts, max_new_tokens):
            answers += answer_group(engine, [prompts[i] for i in group], max_new_tokens, **stops)
        return answers
    seconds = round((time.perf_counter() - start) / n, 6)
    prefilled = round((engine.prefilled_tokens - prefilled) / n, 3)
    generated = round((engine.generated_tokens - generated) / n, 3)
    peak = run.peak_memory(engine.device)
    return [Answer(text, error, seconds, prefilled, generated, peak) for text in texts]
