"""The work on one set: prompts are made, answered and recorded, shared out over the processes."""

import argparse
import hashlib
import random
import resource
import sys
import time

import torch
import torch.distributed as dist
from tqdm import tqdm

from engine import out_of_memory
from prompts import prompt_ids, template
from ranks import RANK, WORLD, say, share
from results import Predictions
from sets import SETS, base_set, many_shot

FOLDERS = {"longbench": "pred", "longbench_e": "pred_e", "trec": "pred_trec"}


def peak_memory(device: torch.device | None) -> int | None:
    """Bytes: the GPU's peak since it was last reset, on a CPU this process's peak resident memory; None for vLLM."""
    if device is None:
        return None
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def stop_rule(base: str, tokenizer) -> dict:
    """How answers end beside eos. samsum's: at a newline token, which like eos never comes first (LongBench)."""
    if base != "samsum":
        return {}
    return {"stop_ids": tokenizer("\n", add_special_tokens=False).input_ids[-1:], "least": 1}


def answer(engine, prompts: list[list[int]], new_tokens: int, rule: dict) -> list[str | RuntimeError]:
    """The texts; of several prompts where one runs out of memory alone, each is tried alone."""
    try:
        return engine.generate(prompts, new_tokens, **rule)
    except (RuntimeError, MemoryError) as reason:
        if not out_of_memory(reason):
            raise
        if len(prompts) == 1:
            return [reason]
    return [text for ids in prompts for text in answer(engine, [ids], new_tokens, rule)]


class Work:
    """One set: its prompts, and the files of its predictions."""

    def __init__(self, args: argparse.Namespace, engine, name: str, rows: list[dict], data: dict, about: dict):
        self.args, self.engine, self.name, self.rows = args, engine, name, rows
        base = base_set(name)
        self.template, self.rule = template(base), stop_rule(base, engine.tokenizer)
        self.new_tokens = min(SETS[base].new_tokens, args.max_new_tokens or SETS[base].new_tokens)
        prompt_ids(engine.tokenizer, self.template, args.max_length, self.new_tokens, args.protocol)  # is there room?
        kind = "trec" if many_shot(name) else "longbench_e" if args.e else "longbench"
        settings = {
            "checkpoint": about["checkpoint"],
            "data": data["sha256"],
            "template": hashlib.sha256(self.template.encode()).hexdigest(),
            "max_length": args.max_length,
            "max_new_tokens": self.new_tokens,
            "protocol": args.protocol,
            "engine": engine.name,
            "dtype": engine.dtype,
            "attention": engine.attention,
            "seed": args.seed,
        }
        shared = {"max_length": args.max_length, "max_new_tokens": self.new_tokens, "limit": args.limit}
        self.run = {"benchmark": kind, **about, "dataset": name, "data": data, "of": data["rows"], **shared}
        folder = args.output_dir / FOLDERS[kind]
        self.files = Predictions(folder / args.model, name, settings)
        drawn = list(range(len(rows)))
        random.Random(args.seed).shuffle(drawn)
        self.wanted = sorted(drawn[: args.limit])  # a larger limit holds a smaller one's

    def predict(self, label: str) -> dict | None:
        """Makes what is missing, shared out over the processes; the record of the run, on rank 0."""
        ids = [row["_id"] for row in self.rows]
        there = {}
        if RANK == 0:
            there, moved = self.files.begin(ids, self.run)
            if moved:
                say(f"{self.name}: rows made before are now {moved}")
        known = set(share(list(there)))
        todo = [self.rows[i] for i in self.wanted if ids[i] not in known]
        if known:
            say(f"{self.name}: {len(self.wanted) - len(todo)} of {len(self.wanted)} rows are there")
        before = len(self.engine.reduced)
        self.work(todo, label)
        self.files.close()
        if WORLD > 1:
            dist.barrier()
        how = {"reduced": self.engine.reduced[before:], "processes": WORLD}
        return self.files.end(ids, self.run | how) if RANK == 0 else None

    def work(self, todo: list[dict], label: str):
        """Answers this process's share of `todo`, and records each row as soon as it is made."""
        args, engine = self.args, self.engine
        texts = [self.template.format(context=row["context"], input=row["input"]) for row in todo]
        made = [prompt_ids(engine.tokenizer, text, args.max_length, self.new_tokens, args.protocol) for text in texts]
        prompts = [ids for ids, _ in made]
        order = engine.plan(prompts, self.new_tokens, WORLD)[RANK]
        often = 0.1 if sys.stderr.isatty() else 15
        bar = tqdm(total=len(order), desc=label, unit="row", disable=RANK > 0 or not order, mininterval=often)
        device = getattr(engine, "device", None)
        for group in engine.batches(order, prompts, self.new_tokens):
            if device is not None and device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            began, before = time.perf_counter(), engine.generated
            answers = answer(engine, [prompts[i] for i in group], self.new_tokens, self.rule)
            speed = {
                "generated_tokens": round((engine.generated - before) / len(group), 3),
                "seconds": round((time.perf_counter() - began) / len(group), 6),
                "peak_memory_bytes": peak_memory(device),
            }
            for i, text in zip(group, answers, strict=True):
                row = todo[i]
                if not isinstance(text, str):
                    reason = str(text).strip().splitlines()[0][:200]
                    self.files.fail(row["_id"], f"out of memory: {reason}")
                    continue
                kept = {key: row[key] for key in ("answers", "all_classes", "length", "_id")}
                ours = {"dataset": self.name, "prompt_tokens": len(prompts[i]), "truncated": made[i][1]}
                self.files.append(RANK, {"pred": text, **kept, **ours, **speed})
            bar.update(len(group))
        bar.close()
