"""The work on a grid: prompts are made, answered and recorded, shared out over the processes."""

import argparse
import resource
import sys
import time
from datetime import datetime, timezone

import torch
from tqdm import tqdm

from engine import out_of_memory
from facts import Facts
from haystack import Prompts
from ranks import RANK, WORLD, say
from results import cell_path, key, write_cell, write_text
from scoring import all_contained, found


def peak_memory(device: torch.device | None) -> int | None:
    """Bytes: the GPU's peak since it was last reset, on a CPU this process's peak resident memory; None without a
    device, where another process or machine has the model."""
    if device is None:
        return None
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def answer(engine, part: list[tuple], made: list[tuple], args: argparse.Namespace) -> list[dict]:
    """The records of a few prompts. part: their (length, depth, trial).  made: their (facts.Trial, token ids)."""
    device = getattr(engine, "device", None)
    if device is not None and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began, before, error = time.perf_counter(), engine.prefilled, None
    try:
        texts = engine.generate([ids for _, ids in made], args.max_new_tokens)
    except (RuntimeError, MemoryError) as reason:
        if not out_of_memory(reason):
            raise
        error, texts = f"out of memory: {str(reason).strip().splitlines()[0][:200]}", [None] * len(part)
    shared = {
        "seconds": round((time.perf_counter() - began) / len(part), 6),
        "prefilled_tokens": (engine.prefilled - before) / len(part),
        "peak_memory_bytes": peak_memory(device),
        "utc": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S%z"),
    }
    records = []
    for (length, depth, trial), (fact, ids), text in zip(part, made, texts, strict=True):
        record = {"length": length, "depth": depth, "trial": trial, **fact.__dict__, "prompt_tokens": len(ids)}
        if error:
            record["error"] = error
        else:
            record["response"] = text
            record["score"] = found(fact.answer, text)
            record["exact"] = all_contained(fact.answer, text, args.needles > 1)
        records.append(record | shared)
    return records


def work(args, engine, prompts: Prompts, facts: Facts, names, todo: list[tuple], entries: dict, answers, run: dict):
    """Answers this process's share of `todo` ((length, depth, trial)s), and records each as soon as it is made.

    A cell's trials stay in one process. One trial of all cells after the other: their prompts fit in memory, and
    nearly all that prompts share they share within a trial.
    """

    def make(one):
        fact = facts.trial(names, *one)
        return fact, prompts.build(one[0], one[1], fact.needles, fact.question)

    first = {one[:2]: one for one in reversed(todo)}
    if WORLD > 1:
        shares = engine.plan([make(one)[1] for one in first.values()], args.max_new_tokens, WORLD)
        mine = {list(first)[i] for i in shares[RANK]}
    else:
        mine = set(first)
    todo = [one for one in todo if one[:2] in mine]
    cells = {cell: {} for cell in mine}
    for one, entry in entries.items():
        if one[:2] in cells and one[2] < args.trials:
            cells[one[:2]][one[2]] = entry
    often = 0.1 if sys.stderr.isatty() else 15
    bar = tqdm(total=len(todo), desc=args.test_name, unit="prompt", disable=RANK > 0, mininterval=often)
    scores = []
    for trial in sorted({one[2] for one in todo}):
        now = [one for one in todo if one[2] == trial]
        made = [make(one) for one in now]
        [order] = engine.plan([ids for _, ids in made], args.max_new_tokens)
        for part in engine.batches(order, [ids for _, ids in made], args.max_new_tokens):
            for entry in answer(engine, [now[i] for i in part], [made[i] for i in part], args):
                answers.append(RANK, entry)
                cell = cells[key(entry)[:2]]
                cell[trial] = entry
                write_cell(answers.folder, list(cell.values()), args.protocol == "lceg", run)
                scores += [entry["score"]] if "score" in entry else []
            bar.set_postfix_str(f"score {sum(scores) / max(1, len(scores)):.3f}", refresh=False)
            bar.update(len(part))
    bar.close()


def save_contexts(args: argparse.Namespace, prompts: Prompts, facts: Facts, names: list[str], cells: list[tuple]):
    """The context of each cell's first trial as text, template and question left out."""
    folder = args.output_dir.parent / "contexts" / args.test_name
    folder.mkdir(parents=True, exist_ok=True)
    for length, depth in cells:
        fact = facts.trial(names, length, depth, 0)
        ids, _ = prompts.parts(length, depth, fact.needles, fact.question)
        text = prompts.tokenizer.decode(ids[len(prompts.head_ids) :])
        name = cell_path(folder, length, depth).name.replace("_results.json", "_context.txt")
        write_text(folder / name, text)
    say(f"{folder}: {len(cells)} contexts")
