"""Perplexity of checkpoints over sliding windows of a token file, at one or more lengths.

    python eval_ppl.py --base_model CKPT --data_path data/pg19/test.bin --seq_len 2048 4096 --output_dir results/pg19
    torchrun --nproc_per_node=8 eval_ppl.py ...        (the ranks share the windows, the result is the same)

The same command serves a CPU (float32) and a GPU (bfloat16). eval_pi.py, eval_ntk.py, ... are links to this script that
check the checkpoint's method. --output_dir is a folder, which then gets {model}_{length}_{dataset}.json for each
length, or for one checkpoint and one length a file ending in .json. Windows are recorded as they finish: rerun the same
command to resume a killed run.

Protocol "lceg-windows" (arXiv 2409.12181 and its code): the first ten documents as one stream, a window of seq_len
tokens every 256, the loss averaged over all targets inside a window and then over windows, perplexity = exp(loss).
Accuracy counts the token after the window too. This differs from scoring only each window's last 256 tokens.
`seconds` sums the time of all ranks; `tokens_per_second` is that of one.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import windows
from attention import CHOICES, choose_attention, sdpa_kernels
from checkpoint import (
    checkpoint_name,
    choose_dtype,
    describe,
    fingerprint,
    load_model,
    open_config,
)
from rope import RopeSetter, rope_at
from run import (
    RANK,
    WORLD_SIZE,
    barrier,
    broadcast,
    command_line,
    default_device,
    for_each_checkpoint,
    peak_memory,
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
from summary import perplexity, summarise

PROTOCOL = "lceg-windows"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", required=True, nargs="+", help="checkpoint folders or hub ids")
    parser.add_argument("--trust_remote_code", action="store_true", help="run modeling code inside the checkpoint")
    data = parser.add_argument_group("data")
    data.add_argument("--data_path", required=True, type=Path, help="token file, see prepare_data.py")
    data.add_argument("--documents", type=int, default=10, help="use the first N documents [10]")
    data.add_argument("--seq_len", required=True, type=int, nargs="+", help="window lengths, tokens")
    data.add_argument("--sliding_window", type=int, default=256, help="distance between window starts, tokens [256]")
    data.add_argument("--max_windows", type=int, nargs="+", help="size of a random sample; one, or one per length")
    data.add_argument("--seed", type=int, default=2, help="seed for that sample and for the bootstrap [2]")
    run = parser.add_argument_group("run")
    run.add_argument("--output_dir", required=True, type=Path, help="folder, or a file ending in .json")
    run.add_argument("--attention", choices=CHOICES, default="auto", help="[auto: newest FlashAttention, else sdpa]")
    run.add_argument("--batch_size", type=int, default=1, help="windows per forward pass [1]")
    run.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="[auto]")
    args = parser.parse_args()
    limits = args.max_windows or [None]
    for flag, least in {"documents": 1, "sliding_window": 1, "batch_size": 1, "seed": 0}.items():
        if getattr(args, flag) < least:
            raise ValueError(f"--{flag} {getattr(args, flag)}: must be at least {least}")
    if min(args.seq_len) < 2 or len(set(args.seq_len)) < len(args.seq_len):
        raise ValueError(f"--seq_len {' '.join(map(str, args.seq_len))}: give each length once, at least 2 tokens")
    if args.max_windows and min(limits) < 1:
        raise ValueError(f"--max_windows {min(limits)}: must be at least 1")
    if len(limits) not in (1, len(args.seq_len)):
        raise ValueError(f"--max_windows takes one value or one for each of the {len(args.seq_len)} lengths")
    if args.output_dir.suffix == ".json" and len(args.base_model) * len(args.seq_len) > 1:
        raise ValueError(f"--output_dir {args.output_dir} is one file, for one checkpoint and length; give a folder")
    args.limits = dict(zip(args.seq_len, limits * len(args.seq_len) if len(limits) == 1 else limits, strict=True))
    return args


def own_script(method: str) -> str:
    """The script that is documented for a method; methods without one use eval_pi.py, as plain Llamas do."""
    for name in (method, method.replace("_", ""), method.split("_")[0]):
        script = Path(__file__).with_name(f"eval_{name}.py")
        if script.exists():
            return script.name
    return "eval_pi.py"


def check_script(name_or_path: str, method: str) -> None:
    """Raises ValueError if this script was called by the name of another method."""
    called, own = Path(sys.argv[0]).name, own_script(method)
    if called not in (own, "eval_ppl.py"):
        raise ValueError(f"{name_or_path} is a '{method}' checkpoint: use {own} or eval_ppl.py instead of {called}")


@dataclass
class Job:
    """The windows of one length. batches: lists of window starts.  n_total: windows before sampling."""

    path: Path
    length: int
    settings: dict
    batches: list[list[int]]
    n_total: int

    @property
    def store(self) -> Store:
        progress = self.path.with_name(f"{self.path.stem}.progress.jsonl")
        return Store(progress, self.settings, lambda entry: entry["batch"], results=lambda: [self.path])


def result_path(args: argparse.Namespace, model: str, length: int) -> Path:
    """LCEG's file names. The dataset's name is its folder's, or its file's where the folder's says nothing."""
    if args.output_dir.suffix == ".json":
        return args.output_dir
    folder = args.data_path.parent.name
    dataset = args.data_path.stem if folder in ("", ".", "..", "data") else folder
    return args.output_dir / f"{checkpoint_name(model)}_{length}_{dataset}.json"


def plan_jobs(args: argparse.Namespace, model: str, config, data, dtype: str, attention: str) -> list[Job]:
    """The job of each length. Raises ValueError if the data are too short, before any weight is read."""
    jobs = []
    for length in args.seq_len:
        every = windows.window_starts(len(data.tokens_N), length, args.sliding_window)
        starts = windows.subsample(every, args.limits[length], args.seed).tolist()
        settings = {
            "protocol": PROTOCOL,
            "checkpoint": fingerprint(model, config),
            "data_sha256": data.description["sha256"],
            "seq_len": length,
            "sliding_window": args.sliding_window,
            "documents": args.documents,
            "max_windows": args.limits[length],
            "seed": args.seed,
            "dtype": dtype,
            "attention": attention,
            "batch_size": args.batch_size,
        }
        batches = [starts[i : i + args.batch_size] for i in range(0, len(starts), args.batch_size)]
        jobs.append(Job(result_path(args, model, length), length, settings, batches, len(every)))
    return jobs


def finished_batches(job: Job) -> dict[int, dict] | None:
    """The recorded batches by number, on every rank; None if the result of exactly these settings is there."""
    finished = {}
    if RANK == 0:
        result = read_json(job.path)
        if result and result.get("fingerprint") == run_key(job.settings):
            print_rank0(f"{job.path}: already done")
            finished = None
        else:
            if job.path.exists():
                job.store.set_aside((result or {}).get("settings"))
            finished = job.store.open()
            if finished:
                print_rank0(f"{job.path}: resuming, {len(finished)} of {len(job.batches)} batches are done")
    return broadcast(finished)


def score_batches(model, tokens_N: np.ndarray, job: Job, finished: dict[int, dict]) -> None:
    """Scores this rank's share of the unfinished batches and records each as soon as it is done."""
    unfinished = [number for number in range(len(job.batches)) if number not in finished]
    numbers = unfinished[RANK::WORLD_SIZE]
    losses = [window["loss"] for entry in finished.values() for window in entry["windows"]]
    store = job.store
    bar = progress_bar(sum(len(job.batches[number]) for number in numbers), f"length {job.length}", "window")
    for number in numbers:
        starts = job.batches[number]
        began = time.perf_counter()
        ids_BL1 = np.stack([tokens_N[start : start + job.length + 1] for start in starts]).astype(np.int64)
        nll_BL, hit_BL = score(model, torch.from_numpy(ids_BL1).to(model.device))
        nll_BL, hit_BL = nll_BL.cpu().double().numpy(), hit_BL.cpu().numpy()
        records = [windows.record(*window) for window in zip(starts, nll_BL, hit_BL, strict=True)]
        seconds = round(time.perf_counter() - began, 6)
        store.append({"batch": number, "seconds": seconds, "windows": records})
        losses += [record["loss"] for record in records]
        finite = [loss for loss in losses if loss is not None]
        shown = f"ppl {perplexity(windows.mean(finite)):.3f}" if finite else "no finite loss yet"
        bar.set_postfix_str(shown, refresh=False)
        bar.update(len(records))
    bar.close()
    store.close()


def evaluate_checkpoint(args: argparse.Namespace, name_or_path: str) -> None:
    """Evaluates one checkpoint at every length."""
    config = open_config(name_or_path, args.trust_remote_code)
    about = describe(name_or_path, config)
    check_script(name_or_path, about["method"])
    device = default_device()
    dtype = choose_dtype(device, args.dtype)
    attention = choose_attention(args.attention, device, dtype, config)
    data = windows.open_tokens(args.data_path, args.documents, config.vocab_size)
    for length in args.seq_len:
        rope_at(config, length)  # raises on an unknown rule
    model = rope = None
    for job in plan_jobs(args, name_or_path, config, data, dtype, attention):
        finished = finished_batches(job)
        if finished is None:
            continue
        if model is None:
            print_rank0(f"{name_or_path}: {about['method']}, {dtype}, {attention}, {WORLD_SIZE} x {device.type}")
            model = load_model(name_or_path, config, dtype, attention, device, args.trust_remote_code)
            rope = RopeSetter(model)
            check_head(model, torch.from_numpy(data.tokens_N[:16].astype(np.int64))[None].to(device))
        rope.set(rope_at(config, job.length))
        reset_peak_memory(device)
        try:
            score_batches(model, data.tokens_N, job, finished)
        except torch.OutOfMemoryError:
            size = f"{job.length} tokens x {args.batch_size}"
            raise ValueError(f"out of GPU memory at {size}; give a smaller --batch_size or --seq_len") from None
        barrier()
        if RANK == 0:
            run = {"model": name_or_path, **about, "rope": rope.parameters, "data": data.description}
            costs = {"peak_memory_bytes": peak_memory(device), "sdpa_kernels": sdpa_kernels(device)}
            write_result(args, job, len(data.tokens_N), run, costs)
        barrier()


def write_result(args: argparse.Namespace, job: Job, n_tokens: int, run: dict, costs: dict) -> None:
    """Writes the result file from the recorded batches, removes the record and prints one line."""
    entries = job.store.gather().values()
    records = [window for entry in entries for window in entry["windows"]]
    n_windows = sum(map(len, job.batches))
    if len(records) != n_windows:
        raise ValueError(
            f"{job.path}: {len(records)} of {n_windows} windows are recorded; is another run at work there?"
        )
    seconds = sum(entry["seconds"] for entry in entries)
    result = {
        **summarise(records, job.length, args.seed),
        "n_windows": n_windows,
        "n_windows_total": job.n_total,
        "seq_len": job.length,
        "sliding_window": args.sliding_window,
        "documents": args.documents,
        "tokens": n_tokens,
        **run,
        "protocol": PROTOCOL,
        "seed": args.seed,
        "batch_size": args.batch_size,
        "dtype": job.settings["dtype"],
        "attention": job.settings["attention"],
        "fingerprint": run_key(job.settings),
        "settings": job.settings,
        "versions": versions("numpy"),
        "command": command_line(),
        "processes": WORLD_SIZE,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(n_windows * job.length / seconds, 1),
        **costs,
    }
    write_json(job.path, result)
    job.store.remove()
    print_result(job.path, result)


def print_result(path: Path, result: dict) -> None:
    """One line per length, and a warning where losses were not finite."""
    bad = result.get("n_windows_not_finite", 0)
    if bad:
        rest = result["val_perplexity_without_nan"]
        print_rank0(f"WARNING: {bad} of {result['n_windows']} windows have no finite loss; the others: {rest}")
        print_rank0(f"{path}: no perplexity at {result['seq_len']} tokens")
        return
    interval = result["perplexity_interval_95"]
    shown = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else f" ({result['interval_method']})"
    last = f", last 64 {result['last_64']['perplexity']:.3f}" if "last_64" in result else ""
    cost = f"{result['n_windows']} windows, {result['seconds']} s"
    print_rank0(f"{path}: perplexity {result['val_perplexity']:.3f}{shown}{last}, {cost}")


def main():
    args = parse_args()
    sidecar = args.data_path.with_name(args.data_path.name + ".json")
    if args.data_path.is_file() and not sidecar.is_file():
        print_rank0(f"{args.data_path} has no {sidecar.name} that describes it (prepare_data.py writes one)")
    for_each_checkpoint(args.base_model, lambda name_or_path: evaluate_checkpoint(args, name_or_path))


if __name__ == "__main__":
    run_script(main)
