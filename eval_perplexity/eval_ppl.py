"""Perplexity of a checkpoint over sliding windows of a token file, at one or more lengths.

    python eval_ppl.py --base_model CKPT --data_path data/pg19/test.bin --seq_len 2048 4096 --output_dir results/pg19
    torchrun --nproc_per_node=8 eval_ppl.py ...        (the windows are shared out, the result is the same)

The same command serves a CPU (float32) and a GPU (bfloat16). --output_dir is a folder, which then gets
{model}_{length}_{dataset}.json for each length, or with one length a file ending in .json. Windows are recorded as
they finish: a killed run continues when the same command is given again, and a finished one returns at once.

Protocol "lceg-windows" (arXiv 2409.12181 and its code): the first ten documents as one stream, a window of seq_len
tokens every 256, the loss averaged over all targets inside a window and then over windows, perplexity = exp(loss).
Accuracy counts the token after the window too. This differs from scoring only each window's last 256 tokens.
`seconds` sums the time of all processes; `tokens_per_second` is that of one.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import transformers
from tqdm import tqdm

import loading
import windows
from interval import perplexity, summarise
from progress import Progress, digest, write_json
from rope import RopeByLength, parameters_at
from scoring import check_head, score

PROTOCOL = "lceg-windows"
# the documented entry point of a method, where it is not eval_<method>.py
ENTRY_POINTS = {"base": "pi", "origin": "pi", "longlora": "pi", "ntk_frozen": "ntk", "self_extend": "selfextend"}
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--trust_remote_code", action="store_true", help="run modeling code that the checkpoint brings")
    data = parser.add_argument_group("data")
    data.add_argument("--data_path", required=True, type=Path, help="token file, see prepare_data.py")
    data.add_argument("--documents", type=int, default=10, help="use the first N documents [10]")
    data.add_argument("--seq_len", required=True, type=int, nargs="+", help="window lengths, tokens")
    data.add_argument("--sliding_window", type=int, default=256, help="distance of window starts, tokens [256]")
    data.add_argument("--max_windows", type=int, nargs="+", help="a seeded random sample; one or one a length")
    data.add_argument("--seed", type=int, default=2, help="of that sample and of the intervals [2]")
    run = parser.add_argument_group("run")
    run.add_argument("--output_dir", required=True, type=Path, help="folder, or a file ending in .json")
    run.add_argument("--batch_size", type=int, default=1, help="windows per forward pass [1]")
    run.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="[auto]")
    args = parser.parse_args()
    if len(set(args.seq_len)) < len(args.seq_len):
        fail("--seq_len names a length twice")
    if args.max_windows and min(args.max_windows) < 1:
        fail(f"--max_windows {min(args.max_windows)}: must be at least 1")
    if len(args.max_windows or [None]) not in (1, len(args.seq_len)):
        fail(f"--max_windows takes one value or one for each of the {len(args.seq_len)} lengths")
    for flag, least in {"documents": 1, "sliding_window": 1, "batch_size": 1, "seed": 0}.items():
        if (value := getattr(args, flag)) is not None and value < least:
            fail(f"--{flag} {value}: must be at least {least}")
    if min(args.seq_len) < 2:
        fail(f"--seq_len {min(args.seq_len)}: a window needs at least 2 tokens")
    if args.output_dir.suffix == ".json" and len(args.seq_len) > 1:
        fail(f"--output_dir {args.output_dir} is one file for {len(args.seq_len)} lengths; give a folder")
    return args


def fail(message: str):
    """Ends the run with one line; under torchrun only the first process speaks, and its end ends the others."""
    if RANK > 0:
        time.sleep(10)
    sys.exit(f"error: {message}")


def say(message: str):
    if RANK == 0:
        print(message, flush=True)


def result_path(args: argparse.Namespace, length: int) -> Path:
    """LCEG's file names; the dataset is called by its folder, or by its file where the folder says nothing."""
    if args.output_dir.suffix == ".json":
        return args.output_dir
    folder = args.data_path.parent.name
    dataset = args.data_path.stem if folder in ("", ".", "..", "data") else folder
    model = Path(args.base_model).resolve().name if Path(args.base_model).is_dir() else Path(args.base_model).name
    return args.output_dir / f"{model}_{length}_{dataset}.json"


def check_method(args: argparse.Namespace, method: str, methods: tuple[str, ...] | None):
    """Stops if this entry point was made for other methods than the checkpoint's."""
    if methods and method not in methods:
        own = Path(__file__).with_name(f"eval_{ENTRY_POINTS.get(method, method)}.py")
        use = f"{own.name} or eval_ppl.py" if own.exists() else "eval_ppl.py"
        here = Path(sys.argv[0]).name
        fail(f"{args.base_model} is a '{method}' checkpoint; {here} is for {', '.join(methods)}: use {use}")


def already_done(path: Path, identity: str) -> bool:
    """Is the result of exactly this evaluation there? One of another set-up is kept beside it as *.old."""
    if not path.exists():
        return False
    try:
        found = json.loads(path.read_text())["fingerprint"]
    except (ValueError, TypeError, KeyError):
        found = None
    if found == identity:
        say(f"{path}: already done")
        return True
    os.replace(path, path.with_name(path.name + ".old"))
    held = "the result of other settings or of another checkpoint" if found else "no whole result"
    say(f"{path} held {held}; it is now {path.name}.old")
    return False


def evaluate(
    model, tokens_N: np.ndarray, batches: list, length: int, todo: list[int], progress: Progress, losses: list
):
    """Scores this process's share of the unfinished batches and records each as soon as it is done.

    batches: lists of window starts, all of them.  todo: numbers of the unfinished ones.  losses: those of the finished
    windows, for the perplexity shown.
    """
    mine = todo[RANK::WORLD]
    total = sum(len(batches[number]) for number in mine)
    often = 0.1 if sys.stderr.isatty() else 15
    bar = tqdm(total=total, desc=f"length {length}", unit="window", disable=RANK > 0, mininterval=often)
    for number in mine:
        began = time.perf_counter()
        ids_BL1 = np.stack([tokens_N[start : start + length + 1] for start in batches[number]]).astype(np.int64)
        nll_BL, hit_BL = score(model, torch.from_numpy(ids_BL1).to(model.device))
        nll_BL, hit_BL = nll_BL.cpu().double().numpy(), hit_BL.cpu().numpy()
        records = [windows.record(*window) for window in zip(batches[number], nll_BL, hit_BL, strict=True)]
        seconds = round(time.perf_counter() - began, 6)
        progress.append(RANK, {"batch": number, "seconds": seconds, "windows": records})
        losses += [record["loss"] for record in records if record["loss"] is not None]
        so_far = perplexity(windows.mean(losses)) if losses else None
        bar.set_postfix_str("no finite loss yet" if so_far is None else f"ppl {so_far:.3f}", refresh=False)
        bar.update(len(records))
    bar.close()
    progress.close()


def peak_memory(device: torch.device) -> int:
    """Bytes: the GPU's peak since it was last reset, else this process's peak resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def share(value):
    """The first process's value, in every process; the others wait for it."""
    if WORLD == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def main(methods: tuple[str, ...] | None = None):
    """methods: those that the entry point is for; any without."""
    args = parse_args()

    # --- everything that can be wrong, before the model is loaded
    try:
        config = loading.open_config(args.base_model, args.trust_remote_code)
        checkpoint = loading.describe(args.base_model, config)
        check_method(args, checkpoint["method"], methods)
        data = windows.open_tokens(args.data_path, args.documents, config.vocab_size)
        plans = {}
        limits = args.max_windows or [None]
        limits = dict(zip(args.seq_len, limits * len(args.seq_len) if len(limits) == 1 else limits, strict=True))
        for length in args.seq_len:
            every = windows.window_starts(len(data.tokens_N), length, args.sliding_window)
            plans[length] = windows.subsample(every, limits[length], args.seed).tolist(), len(every)
            parameters_at(config, length)
        fingerprint = loading.fingerprint(args.base_model, config)
    except ValueError as reason:
        fail(str(reason))
    if data.description["source"] == "unverified":
        say(f"{args.data_path} has no {args.data_path.name}.json that says what it is (prepare_data.py writes one)")

    # --- device; the processes exchange only a few bytes of bookkeeping, so gloo serves GPUs too
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device(f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if WORLD > 1:
        dist.init_process_group("gloo", timeout=timedelta(days=1))
    dtype, attention = loading.choose(device, args.dtype, config)
    dtype_name = str(dtype).removeprefix("torch.")
    model = None

    for length, (starts, n_total) in plans.items():
        path = result_path(args, length)
        settings = {
            "protocol": PROTOCOL,
            "checkpoint": fingerprint,
            "data_sha256": data.description["sha256"],
            "seq_len": length,
            "sliding_window": args.sliding_window,
            "documents": args.documents,
            "max_windows": limits[length],
            "seed": args.seed,
            "dtype": dtype_name,
            "attention": attention,
            "batch_size": args.batch_size,
        }
        batches = [starts[i : i + args.batch_size] for i in range(0, len(starts), args.batch_size)]
        progress = Progress(path, settings)

        # --- what is there already
        done, finished, losses = False, {}, []
        if RANK == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            done = already_done(path, digest(settings))
            if not done:
                finished, foreign = progress.gather()
                if foreign:
                    say(f"{path}: the progress found is of other settings; starting anew")
                elif finished:
                    say(f"{path}: continuing, {len(finished)} of {len(batches)} batches are done")
                losses = [w["loss"] for e in finished.values() for w in e["windows"] if w["loss"] is not None]
        done, todo = share((done, [number for number in range(len(batches)) if number not in finished]))
        if done:
            continue

        # --- the model, once for all lengths, and its rope for this length
        try:
            if model is None:
                where = f"{dtype_name}, {attention} attention on {WORLD} x {device.type}"
                say(f"{args.base_model}: {checkpoint['method']}, {where}")
                model = loading.load(args.base_model, dtype, attention, device, args.trust_remote_code)
                rope = RopeByLength(model)
                check_head(model, torch.from_numpy(data.tokens_N[:16].astype(np.int64))[None].to(device))
            rope_parameters = rope.set(length)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            evaluate(model, data.tokens_N, batches, length, todo, progress, losses)
        except ValueError as reason:
            fail(str(reason))
        except torch.OutOfMemoryError:
            fail(f"out of GPU memory at {length} tokens x {args.batch_size}; give a smaller --batch_size or --seq_len")
        if WORLD > 1:
            dist.barrier()
        if RANK > 0:
            continue

        # --- the result
        entries = progress.read()[0].values()
        values = summarise([window for entry in entries for window in entry["windows"]], length, args.seed)
        seconds = sum(entry["seconds"] for entry in entries)
        result = {
            **values,
            "n_windows": len(starts),
            "n_windows_total": n_total,
            "seq_len": length,
            "sliding_window": args.sliding_window,
            "documents": args.documents,
            "tokens": len(data.tokens_N),
            "model": args.base_model,
            **checkpoint,
            "rope": rope_parameters,
            "data": data.description,
            "protocol": PROTOCOL,
            "seed": args.seed,
            "batch_size": args.batch_size,
            "dtype": dtype_name,
            "attention": attention,
            "fingerprint": digest(settings),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "numpy": np.__version__,
            },
            "command": shlex.join(["python", *sys.argv]),
            "processes": WORLD,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(len(starts) * length / seconds, 1),
            "peak_memory_bytes": peak_memory(device),
        }
        write_json(path, result)
        progress.remove()
        report(path, result)
    if WORLD > 1:
        dist.destroy_process_group()


def report(path: Path, result: dict):
    """One line per length, and a warning where losses were not finite."""
    bad = result.get("n_windows_not_finite", 0)
    if bad:
        without = result["val_perplexity_without_nan"]
        say(f"WARNING: {bad} of {result['n_windows']} windows have no finite loss; perplexity without them: {without}")
        return say(f"{path}: no perplexity at {result['seq_len']} tokens")
    interval = result["perplexity_interval_95"]
    shown = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else f" ({result['interval_method']})"
    end = f", last 64 {result['last_64']['perplexity']:.3f}" if "last_64" in result else ""
    cost = f"{result['n_windows']} windows, {result['seconds']} s"
    say(f"{path}: perplexity {result['val_perplexity']:.3f}{shown}{end}, {cost}")


if __name__ == "__main__":
    main()
