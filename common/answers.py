"""From prompts to answers: the engine's flags, the work of each rank, and what an answer cost.

engine = open_engine("transformers", path, args, max_length)
for i, answer in answer_all(engine, prompts, 50, "needle"):
    store.append({"prompt": i, "answer": answer.text, **answer.costs()})
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from attention import CHOICES
from run import RANK, WORLD_SIZE, first_line, out_of_memory, peak_memory, progress_bar, reset_peak_memory
from transformers_engine import Transformers

DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_engine_flags(parser) -> None:
    """Adds the flags that every evaluation with answers has."""
    group = parser.add_argument_group("engine")
    group.add_argument("--trust_remote_code", action="store_true", help="run modeling code inside the checkpoint")
    group.add_argument("--dtype", choices=DTYPES, default="auto", help="[auto: bfloat16 on a GPU, float32 on a CPU]")
    group.add_argument("--attention", choices=CHOICES, default="auto", help="[auto: newest FlashAttention, else sdpa]")
    group.add_argument("--batch_size", type=int, default=16, help="prompts decoded together, if memory allows [16]")
    group.add_argument("--prefill_chunk", type=int, help="prompt tokens in one forward pass [what fits in memory]")
    group.add_argument("--cache_on_cpu", action="store_true", help="keep keys and values in CPU memory")
    group.add_argument("--device_map", choices=["auto"], help="auto: spread the model over all visible GPUs")
    group.add_argument("--tensor_parallel_size", type=int, default=1, help="vllm: GPUs for one model [1]")


def check_engine_flags(args, kind: str) -> None:
    """Raises ValueError if the flags of `add_engine_flags` are out of range or do not fit the engine."""
    for flag in ("batch_size", "tensor_parallel_size"):
        if getattr(args, flag) < 1:
            raise ValueError(f"--{flag} {getattr(args, flag)}: must be at least 1")
    if args.prefill_chunk is not None and args.prefill_chunk < 2:  # a token alone counts as a decoded one
        raise ValueError(f"--prefill_chunk {args.prefill_chunk}: must be at least 2")
    if kind == "vllm" and WORLD_SIZE > 1:
        raise ValueError("vllm does not run under torchrun; use --tensor_parallel_size for several GPUs")


def open_engine(kind: str, name_or_path: str, args, max_length: int):
    """The engine `kind` ("transformers" or "vllm") for one checkpoint. Reads no weights yet.

    args: the flags of `add_engine_flags`.  max_length: the longest prompt with its answer, tokens.
    """
    if kind == "vllm":
        from vllm_engine import VLLM

        return VLLM(name_or_path, max_length, args.dtype, args.tensor_parallel_size)
    return Transformers(
        name_or_path,
        args.trust_remote_code,
        args.dtype,
        attention=args.attention,
        prefill_chunk=args.prefill_chunk,
        cache_on_cpu=args.cache_on_cpu,
        batch_size=args.batch_size,
        device_map=args.device_map,
    )


@dataclass
class Answer:
    """text: the answer, None if memory did not suffice for it even alone; then `error` says so.

    seconds, prefilled_tokens, generated_tokens: the group's share of one prompt.
    """

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
    order = engine.plan(prompts, max_new_tokens, WORLD_SIZE)[RANK]
    bar = progress_bar(len(order), description, "prompt")
    for group in engine.batches(order, prompts, max_new_tokens):
        yield from zip(group, answer_group(engine, [prompts[i] for i in group], max_new_tokens, **stops), strict=True)
        bar.update(len(group))
    bar.close()


def answer_group(engine, prompts: list, max_new_tokens: int, **stops) -> list[Answer]:
    """The answers of a few prompts and what they cost. If one does not fit in memory, each is tried alone."""
    device = getattr(engine, "device", None)
    reset_peak_memory(device)
    start = time.perf_counter()
    prefilled, generated = engine.prefilled_tokens, engine.generated_tokens
    error = None
    try:
        texts = engine.generate(prompts, max_new_tokens, **stops)
    except (RuntimeError, MemoryError) as failure:
        if not out_of_memory(failure):
            raise
        error = f"out of memory: {first_line(failure)}"
    if error and len(prompts) > 1:
        return [answer_group(engine, [prompt], max_new_tokens, **stops)[0] for prompt in prompts]
    n = len(prompts)
    costs = (
        round((time.perf_counter() - start) / n, 6),
        round((engine.prefilled_tokens - prefilled) / n, 3),
        round((engine.generated_tokens - generated) / n, 3),
        peak_memory(device),
    )
    return [Answer(text, error, *costs) for text in ([None] if error else texts)]
