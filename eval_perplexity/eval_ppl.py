"""Perplexity of checkpoints over sliding windows of a token file, at one or more lengths.

    python eval_ppl.py --base_model CKPT --data_path data/pg19/test.bin --seq_len 2048 4096 --output_dir results/pg19
    python eval_ppl.py ... --long_ppl EVALUATOR        also LongPPL (see long_ppl.py), {model}_..._longppl.json
    torchrun --nproc_per_node=8 eval_ppl.py ...        (the ranks share the windows, the result is the same)

eval_pi.py, eval_ntk.py, ... are links to this script that check the checkpoint's method. --output_dir is a folder,
which then gets {model}_{length}_{dataset}.json for each length, or for one checkpoint and one length a file ending in
.json. Windows are recorded as they finish: rerun the same command to resume a killed run.

Protocol "lceg-windows" (arXiv 2409.12181 and its code): the first ten documents as one stream, a window of seq_len
tokens every 256, the loss averaged over all targets inside a window and then over windows, perplexity = exp(loss).
Accuracy counts the token after the window too. `seconds` sums the time of all ranks.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

import numpy as np
import torch

import long_ppl
from attention import CHOICES, choose_attention, sdpa_kernels
from checkpoint import add_trust_flag, choose_dtype, describe, fingerprint, load_model, open_config
from rope import RopeSetter, rope_at
from run import (
    RANK,
    WORLD_SIZE,
    Parser,
    barrier,
    broadcast,
    checkpoint_name,
    command_line,
    default_device,
    for_each_checkpoint,
    int_between,
    name_results,
    peak_memory,
    positive_int,
    print_rank0,
    progress_bar,
    read_json,
    reset_peak_memory,
    run_key,
    run_script,
    versions,
    write_json,
)
from scoring import check_head, score
from store import Store
from summary import summarise
from windows import open_tokens, record, subsample, window_starts

SCRIPT_METHODS = {  # methods of the checkpoints that each link to this script takes; "base": a plain model
    "eval_pi.py": ("base", "origin", "pi", "longlora"),
    "eval_ntk.py": ("ntk", "ntk_frozen"),
    "eval_yarn.py": ("yarn",),
    "eval_clex.py": ("clex",),
    "eval_landmark.py": ("landmark",),
    "eval_lm_infinite.py": ("lm_infinite",),
    "eval_selfextend.py": ("self_extend",),
}


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--base_model", required=True, nargs="+", help="checkpoint folders or hub ids")
    add_trust_flag(parser)
    parser.add_argument("--data_path", required=True, type=Path, help="token file, see prepare_data.py")
    parser.add_argument("--documents", type=positive_int, default=10, help="use the first N documents [10]")
    length = int_between(2, 2**40)
    parser.add_argument("--seq_len", required=True, type=length, nargs="+", help="window lengths, tokens")
    parser.add_argument("--sliding_window", type=positive_int, default=256, help="tokens between window starts [256]")
    sample = "size of a random sample; one, or one per length"
    parser.add_argument("--max_windows", type=positive_int, nargs="+", help=sample)
    parser.add_argument("--seed", type=int_between(0, 2**32), default=2, help="seed for that sample [2]")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder, or a file ending in .json")
    parser.add_argument("--attention", choices=CHOICES, default="auto", help="[auto: newest FlashAttention, else sdpa]")
    parser.add_argument("--batch_size", type=positive_int, default=1, help="windows per forward pass [1]")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="[auto]")
    long_ppl.add_flags(parser)
    args = parser.parse_args()
    args.max_windows = args.max_windows or [None]
    if len(args.max_windows) == 1:
        args.max_windows *= len(args.seq_len)
    if len(args.max_windows) != len(args.seq_len):
        raise ValueError(f"--max_windows takes one value or one for each of the {len(args.seq_len)} lengths")
    if args.output_dir.suffix == ".json" and len(args.base_model) * len(args.seq_len) > 1:
        raise ValueError(f"--output_dir {args.output_dir} is one file, for one checkpoint and length; give a folder")
    name_results(None, sorted(set(args.base_model)), "each its own --output_dir")
    return args


def check_script(name_or_path: str, method: str) -> None:
    """Raises ValueError if the script was called by the name of another method than the checkpoint's."""
    script = Path(sys.argv[0]).name
    if method not in SCRIPT_METHODS.get(script, [method]):
        raise ValueError(f"{script} does not take {name_or_path}, a {method} checkpoint; eval_ppl.py takes any")


def result_path(args: argparse.Namespace, model: str, length: int) -> Path:
    """LCEG's file names. The dataset's name is its folder's, or its file's where the folder's says nothing."""
    if args.output_dir.suffix == ".json":
        return args.output_dir
    folder = args.data_path.parent.name
    dataset = args.data_path.stem if folder in ("", ".", "..", "data") else folder
    return args.output_dir / f"{checkpoint_name(model)}_{length}_{dataset}.json"


class Job:
    """The windows of one length: `starts` of windows, of `n_total` before sampling, and `batches` of these.

    settings: what must be equal to resume; the argument: what all lengths share. Raises ValueError if the data,
    `n_tokens` tokens, are too short.
    """

    def __init__(self, args: argparse.Namespace, model: str, n_tokens: int, settings: dict, length: int):
        max_windows = args.max_windows[args.seq_len.index(length)]
        all_starts = window_starts(n_tokens, length, args.sliding_window)
        self.starts = subsample(all_starts, max_windows, args.seed).tolist()
        self.length = length
        self.n_total = len(all_starts)
        self.batches = [self.starts[i : i + args.batch_size] for i in range(0, len(self.starts), args.batch_size)]
        self.settings = {
            "protocol": "lceg-windows",
            "record_version": 2,  # windows recorded otherwise are evaluated again
            "seq_len": length,
            "sliding_window": args.sliding_window,
            "documents": args.documents,
            "max_windows": max_windows,
            "seed": args.seed,
            **settings,
        }
        self.path = result_path(args, model, length)
        progress = self.path.with_name(f"{self.path.stem}.progress.jsonl")
        self.store = Store(progress, self.settings, lambda window: window["start"], results=lambda: [self.path])


class TextJob:
    """LongPPL of one length; its `starts` are the numbers of the texts. The other fields are as those of `Job`."""

    def __init__(self, windows: Job, key_texts: long_ppl.KeyTexts, settings: dict):
        self.key_texts = key_texts
        self.length = windows.length
        self.starts = list(range(len(key_texts.texts)))
        self.settings = {
            "protocol": "longppl",
            "seq_len": windows.length,
            "documents": len(key_texts.texts),
            "key_tokens": run_key({"intervals": key_texts.intervals}),
            **key_texts.record,
            **settings,
        }
        self.path = windows.path.with_name(f"{windows.path.stem}_longppl.json")
        progress = self.path.with_name(f"{self.path.stem}.progress.jsonl")
        self.store = Store(progress, self.settings, lambda text: text["start"], results=lambda: [self.path])


def finished_windows(job: Job | TextJob) -> set[int] | None:
    """The starts of the recorded windows, on every rank; None if the result of exactly these settings is there."""
    finished = None
    if RANK == 0:
        job.store.lock()  # another run may have this length, and finish it
        known = (read_json(job.path) or {}).get("settings")
        if known == job.store.settings:
            job.store.remove()
            print_rank0(f"{job.path}: already done")
        else:
            if job.path.exists():
                job.store.set_aside(known)
            finished = set(job.store.open())
            if finished:
                print_rank0(f"{job.path}: resuming, {len(finished)} of {len(job.starts)} windows are done")
    return broadcast(finished)


def score_batches(model, tokens_N: np.ndarray, document_starts: np.ndarray, job: Job, finished: set[int]) -> None:
    """Scores this rank's share of the unfinished batches and records their windows as soon as a batch is done."""
    unfinished = [starts for starts in job.batches if not finished.issuperset(starts)]
    batches = unfinished[RANK::WORLD_SIZE]
    bar = progress_bar(len(batches), f"length {job.length}", "batch")
    for starts in batches:
        start_time = time.perf_counter()
        ids_BL1 = np.stack([tokens_N[start : start + job.length + 1] for start in starts]).astype(np.int64)
        nll_BL, hit_BL = score(model, torch.from_numpy(ids_BL1).to(model.device))
        nll_BL = nll_BL.cpu().double().numpy()
        hit_BL = hit_BL.cpu().numpy()
        seconds = round((time.perf_counter() - start_time) / len(starts), 6)
        for start, nll_L, hit_L in zip(starts, nll_BL, hit_BL, strict=True):
            job.store.append(record(start, nll_L, hit_L, document_starts) | {"seconds": seconds})
        bar.update()
    bar.close()
    job.store.close()


def evaluate_texts(job: TextJob, load, facts: dict) -> None:
    """Measures LongPPL at one length. load: returns the model and its RopeSetter."""
    finished = finished_windows(job)
    if finished is None:
        return
    model, rope = load()
    tokenizer = long_ppl.open_offset_tokenizer(facts["model"])
    reset_peak_memory(model.device)
    bar = progress_bar(len(job.starts), f"LongPPL at {job.length}", "text")
    for i in job.starts[RANK::WORLD_SIZE]:
        if i not in finished:
            start_time = time.perf_counter()
            losses = long_ppl.score_text(model, rope, tokenizer, job.key_texts.texts[i], job.key_texts.intervals[i])
            job.store.append({"start": i, **losses, "seconds": round(time.perf_counter() - start_time, 6)})
        bar.update()
    bar.close()
    job.store.close()
    barrier()
    if RANK == 0:
        records = gather_records(job)
        result = {**long_ppl.summarise_texts(records), **facts, "peak_memory_bytes": peak_memory(model.device)}
        write_result(job, result, records)
        value, n = result["long_ppl"], result["n_key_tokens"]
        shown = "no LongPPL" if value is None else f"LongPPL {value:.3f}"
        print_rank0(f"{job.path}: {shown}, {n} key tokens in {len(records)} texts")
    barrier()


def evaluate_checkpoint(args: argparse.Namespace, name_or_path: str, key_texts: dict) -> list[str]:
    """Evaluates one checkpoint at every length; returns the results without a perplexity (on rank 0).

    key_texts: {length: long_ppl.KeyTexts} at the lengths to measure LongPPL at.
    """
    config = open_config(name_or_path, args.trust_remote_code)
    description = describe(name_or_path, config)
    check_script(name_or_path, description["method"])
    device = default_device()
    dtype = choose_dtype(device, args.dtype)
    attention = choose_attention(args.attention, device, dtype, config)
    tokens_N, document_starts, data = open_tokens(args.data_path, args.documents, config.vocab_size)
    facts = {"model": name_or_path, **description, "data": data, "tokens": len(tokens_N)}
    facts["sdpa_kernels"] = sdpa_kernels(device)
    settings = {
        "checkpoint": fingerprint(name_or_path, config),
        "data_sha256": data["sha256"],
        "dtype": dtype,
        "attention": attention,
    }
    ropes = {length: rope_at(config, length) for length in args.seq_len}  # raises ValueError on an unknown rule
    jobs = [Job(args, name_or_path, len(tokens_N), settings, length) for length in args.seq_len]

    @functools.cache
    def load():
        print_rank0(f"{name_or_path}: {facts['method']}, {dtype}, {attention}, {WORLD_SIZE} x {device.type}")
        model = load_model(name_or_path, config, dtype, attention, device)
        check_head(model, torch.tensor([tokens_N[:16].tolist()], device=device))
        return model, RopeSetter(model)

    for job in jobs:
        finished = finished_windows(job)
        if finished is None:
            continue
        model, rope = load()
        rope.set(ropes[job.length])
        reset_peak_memory(device)
        score_batches(model, tokens_N, document_starts, job, finished)
        barrier()
        if RANK == 0:
            costs = {"batch_size": args.batch_size, "peak_memory_bytes": peak_memory(device)}
            write_windows(job, {**facts, "rope": rope.parameters, **costs})
        barrier()
    for job in jobs:
        if job.length in key_texts:
            evaluate_texts(TextJob(job, key_texts[job.length], settings), load, facts)
    if RANK > 0:
        return []
    return [str(job.path) for job in jobs if (read_json(job.path) or {}).get("val_perplexity") is None]


def gather_records(job: Job | TextJob) -> list[dict]:
    """What is recorded of each window or text.

    Raises ValueError if any is missing: its record was deleted, or another run wrote to the same files.
    """
    entries = job.store.gather()
    records = [entries[start] for start in job.starts if start in entries]
    if len(records) < len(job.starts):
        recorded = f"{len(records)} of {len(job.starts)} windows are recorded"
        raise ValueError(f"{job.store.path}: {recorded}; rerun the same command, one at a time")
    return records


def write_result(job: Job | TextJob, values: dict, records: list[dict]) -> None:
    """Writes the result file, `values` and what all results have, and removes the record."""
    seconds = sum(record["seconds"] for record in records)
    result = {
        **values,
        "settings": job.settings,
        "versions": versions("numpy"),
        "command": command_line(),
        "processes": WORLD_SIZE,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(sum(record.get("tokens", job.length) for record in records) / seconds, 1),
    }
    for key in ("protocol", "seq_len", "sliding_window", "documents", "seed", "dtype", "attention"):
        result[key] = job.settings.get(key)
    write_json(job.path, result)
    job.store.remove()


def write_windows(job: Job, facts: dict) -> None:
    """Writes the result file from the recorded windows, and prints one line."""
    records = gather_records(job)
    n_windows = len(records)
    counts = {"n_windows": n_windows, "n_windows_total": job.n_total}
    result = {**summarise(records, job.length, job.settings["documents"]), **counts, **facts}
    write_result(job, result, records)

    value, interval = result["val_perplexity"], result["perplexity_interval_95"]
    perplexity = "no perplexity" if value is None else f"perplexity {value:.3f}"
    interval = "[{:.3f}, {:.3f}]".format(*interval) if interval else result["interval_method"]
    seconds = sum(record["seconds"] for record in records)
    print_rank0(f"{job.path}: {perplexity} {interval}, {n_windows} windows, {seconds:.1f} s")


def main():
    args = parse_args()
    key_texts = long_ppl.prepare(args) if args.long_ppl else {}
    broken = []
    for_each_checkpoint(args.base_model, lambda path: broken.extend(evaluate_checkpoint(args, path, key_texts)))
    if broken:
        raise ValueError(f"losses are not finite, so there is no perplexity in {' '.join(broken)}")


if __name__ == "__main__":
    run_script(main)
