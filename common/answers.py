"""From prompts to answers: the engine's flags, the work of each rank, and what an answer cost.

engine = open_engine("transformers", path, args, max_length)
for i, answer in answer_all(engine, prompts, 50, "needle"):
    store.append({"prompt": i, "answer": answer.text, **answer.costs})
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import run

from attention import CHOICES
from checkpoint import add_trust_flag
from transformers_engine import Transformers

MIN_CHUNK = 1024  # tokens; a prompt that runs out of memory is not tried again in shorter prefill chunks


def add_engine_flags(parser) -> None:
    """Adds the flags of every evaluation that generates answers."""
    dtypes = ("auto", "float32", "bfloat16", "float16")
    group = parser.add_argument_group("engine")
    add_trust_flag(group)
    group.add_argument("--dtype", choices=dtypes, default="auto", help="[auto: bfloat16 on a GPU, float32 on a CPU]")
    group.add_argument("--attention", choices=CHOICES, default="auto", help="[auto: newest FlashAttention, else sdpa]")
    group.add_argument("--batch_size", type=run.positive_int, default=16, help="prompts decoded together, at most [16]")
    chunk = "prompt tokens in one forward pass [as many as fit in memory]"
    group.add_argument("--prefill_chunk", type=run.int_between(2), help=chunk)
    group.add_argument("--cache_on_cpu", action="store_true", help="keep keys and values in CPU memory")
    group.add_argument("--device_map", choices=["auto"], help="auto: spread the model over all visible GPUs")
    group.add_argument("--tensor_parallel_size", type=run.positive_int, default=1, help="vllm: GPUs for one model [1]")


def open_engine(kind: str, name_or_path: str, args, max_length: int):
    """The engine `kind` ("transformers" or "vllm") for one checkpoint. max_length: see VLLM. Reads no weights yet."""
    if kind == "vllm":
        from vllm_engine import VLLM

        return VLLM(name_or_path, max_length, args.dtype, args.tensor_parallel_size)
    names = ("trust_remote_code", "dtype", "attention", "prefill_chunk", "cache_on_cpu", "batch_size", "device_map")
    return Transformers(name_or_path, **{name: getattr(args, name) for name in names})


@dataclass
class Answer:
    """text: None if memory did not suffice; then `error` gives the reason.  costs: the group's, divided by prompts."""

    text: str | None
    error: str | None
    costs: dict


def answer_all(engine, prompts: list, max_new_tokens: int, description: str, **stops) -> Iterator[tuple[int, Answer]]:
    """Yields (index, answer) of this rank's share of the prompts, group by group. stops: options of `generate`."""
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
    prefilled, generated = engine.prefilled_tokens, engine.generated_tokens
    n = len(prompts)
    texts, error = [None], None
    try:
        texts = engine.generate(prompts, max_new_tokens, **stops)
    except (RuntimeError, MemoryError) as failure:
        if not run.out_of_memory(failure):
            raise
        error = run.explain(failure)
    if error and (n > 1 or engine.prefill_chunk > MIN_CHUNK):
        if n > 1:
            engine.batch_size = n // 2
        else:
            engine.prefill_chunk //= 2
        answers = []
        for group in engine.batches(range(n), prompts, max_new_tokens):
            answers += answer_group(engine, [prompts[i] for i in group], max_new_tokens, **stops)
        return answers
    costs = {
        "seconds": round((time.perf_counter() - start) / n, 6),
        "prefilled_tokens": round((engine.prefilled_tokens - prefilled) / n, 3),
        "generated_tokens": round((engine.generated_tokens - generated) / n, 3),
        "peak_memory_bytes": run.peak_memory(engine.device),
        "batch_size": n,  # smaller than the engine's after a lack of memory
    }
    return [Answer(text, error, costs) for text in texts]
