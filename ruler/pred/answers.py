"""A task's data become prompts, and the prompts answers."""

import json
import resource
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from engine import out_of_memory
from ranks import RANK, WORLD
from results import NOTHING, SUMS, Predictions, largest


def data_file(data_dir: Path, task: str, subset: str, chunk_idx: int, chunk_amount: int) -> Path:
    """The chunk's own file if prepare.py made one, else that of all chunks."""
    chunk = data_dir / task / f"{subset}-{chunk_idx}.jsonl"
    return chunk if chunk_amount > 1 and chunk.is_file() else data_dir / task / f"{subset}.jsonl"


def read_data(path: Path) -> list[dict]:
    """Rows {index, input, outputs, length, ...}; `input` is the whole prompt, to which an answer prefix that newer
    files of RULER keep apart is put back. Raises ValueError, one line, on what is no such file."""
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                row["index"], row["outputs"], prefix = int(row["index"]), row["outputs"], row.get("answer_prefix") or ""
                row["input"] += "" if row["input"].endswith(prefix) else prefix
            except (ValueError, TypeError, KeyError) as reason:
                what = f"{path}, line {number}: no row of data ({reason!r})"
                raise ValueError(f"{what}; make it with prepare.py") from None
            rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty; make it with prepare.py")
    return rows


def chunk_of(rows: list, path: Path, subset: str, chunk_idx: int, chunk_amount: int) -> list:
    """This chunk's rows of the file that `data_file` found: runs that follow each other."""
    if path.stem != subset:
        return rows
    return rows[len(rows) * chunk_idx // chunk_amount : len(rows) * (chunk_idx + 1) // chunk_amount]


def encode(tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids, with the tokenizer's own BOS unless the texts bring one (a template's)."""
    bos = tokenizer.bos_token
    own = bool(bos) and all(text.startswith(bos) for text in texts)
    return tokenizer(texts, add_special_tokens=not own, verbose=False)["input_ids"]


def peak_memory(device: torch.device | None) -> int | None:
    """Bytes: the GPU's peak since it was last reset, on a CPU this process's peak resident memory; None without a
    device, where another process or machine has the model."""
    if device is None:
        return None
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def attempt(engine, prompts: list, new: int, stop: list[str]) -> list[tuple[str | None, str | None]]:
    """(text, None) of each prompt, or (None, reason) where its answer does not fit in memory even alone."""
    try:
        return [(text, None) for text in engine.generate(prompts, new, stop)]
    except (RuntimeError, MemoryError) as reason:
        if not out_of_memory(reason):
            raise
        if len(prompts) == 1:
            return [(None, f"out of memory: {str(reason).strip().splitlines()[0][:200]}")]
    return [one for prompt in prompts for one in attempt(engine, [prompt], new, stop)]


def answer(engine, prompts: list, rows: list[dict], new: int, stop: list[str], to: Predictions, what: str) -> dict:
    """Answers this process's share of the prompts (token ids, or texts for a server), each recorded as soon as its
    group is made. Returns what it took, all processes together, as the note beside the predictions has it. Raises
    ValueError, one line, if the weights cannot be loaded."""
    try:
        groups = engine.batches(engine.plan(prompts, new, WORLD)[RANK], prompts, new)
        if groups:
            engine.load()
    except (RuntimeError, MemoryError) as reason:
        if not out_of_memory(reason):
            raise
        raise ValueError(f"the model itself does not fit in memory: {str(reason).splitlines()[0][:200]}") from None
    device = getattr(engine, "device", None)
    if device is not None and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    errors, before = [], (engine.prefilled, engine.generated, len(engine.reduced))
    often = {"mininterval": 0.1} if sys.stderr.isatty() else {"mininterval": 60, "delay": 60}  # a log: a line a minute
    bar = tqdm(total=sum(map(len, groups)), desc=what, unit="prompt", leave=False, disable=RANK > 0, **often)
    began = time.perf_counter()
    for group in groups:
        for i, (text, error) in zip(group, attempt(engine, [prompts[i] for i in group], new, stop), strict=True):
            row = rows[i]
            if error:
                errors.append({"index": row["index"], "error": error})
                continue
            kept = {"index": row["index"], "pred": text, "input": row["input"], "outputs": row["outputs"]}
            to.append(RANK, kept | {"others": {}, "truncation": -1, "length": row.get("length", -1)})
        bar.update(len(group))
    bar.close()
    to.close()
    mine = dict(
        timed=sum(map(len, groups)),
        seconds=round(time.perf_counter() - began, 3),
        prompt_tokens=sum(len(prompts[i]) for group in groups for i in group),
        computed_tokens=engine.prefilled - before[0],
        new_tokens=engine.generated - before[1],
        reduced=engine.reduced[before[2] :],
        errors=errors,
        peak_memory_bytes=peak_memory(device),
    )
    if engine.config is None:  # texts: the server counts
        mine["prompt_tokens"] = mine["computed_tokens"]
    works = [mine]
    if WORLD > 1:
        works = [None] * WORLD
        dist.all_gather_object(works, mine)
    total = {key: sum((work[key] for work in works), NOTHING[key]) for key in SUMS}
    peaks = largest([work["peak_memory_bytes"] for work in works])
    return total | {"seconds": max(work["seconds"] for work in works), "peak_memory_bytes": peaks}
