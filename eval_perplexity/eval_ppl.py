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

import functools
import sys
from pathlib import Path

import run

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

import long_ppl
from attention import CHOICES, sdpa_kernels
from checkpoint import add_trust_flag, describe
from job import Job
from rope import RopeSetter, rope_at
from scoring import load_scored_model, open_checkpoint, score
from windows import open_tokens, record, subsample, summarise, window_starts

SCRIPT_METHODS = {  # methods of the checkpoints that a link to this script takes; "base": a plain model
    "eval_pi": ("base", "origin", "pi", "longlora"),
    "eval_ntk": ("ntk", "ntk_frozen"),
    "eval_yarn": ("yarn",),
    "eval_clex": ("clex",),
    "eval_landmark": ("landmark",),
    "eval_lm_infinite": ("lm_infinite",),
    "eval_selfextend": ("self_extend",),
}


def parse_args():
    parser = run.Parser(__doc__)
    parser.add_argument("--base_model", required=True, nargs="+", help="checkpoint folders or hub ids")
    add_trust_flag(parser)
    parser.add_argument("--data_path", required=True, type=Path, help="token file, see prepare_data.py")
    parser.add_argument("--documents", type=run.positive_int, default=10, help="use the first N documents [10]")
    length = run.int_between(2, 2**40)
    parser.add_argument("--seq_len", required=True, type=length, nargs="+", help="window lengths, tokens")
    parser.add_argument("--sliding_window", type=run.positive_int, default=256, help="tokens between windows [256]")
    sample = "evaluate a random sample of so many windows; one number, or one for each length [all]"
    parser.add_argument("--max_windows", type=run.positive_int, nargs="+", default=[None], help=sample)
    parser.add_argument("--seed", type=run.int_between(0, 2**32), default=2, help="seed for that sample [2]")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder, or a file ending in .json")
    parser.add_argument("--attention", choices=CHOICES, default="auto", help="[auto: newest FlashAttention, else sdpa]")
    parser.add_argument("--batch_size", type=run.positive_int, default=1, help="windows per forward pass [1]")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="[auto]")
    evaluator = "also measure LongPPL; a checkpoint that finds the key tokens, or a folder of slice_*.txt"
    parser.add_argument("--long_ppl", metavar="EVALUATOR", help=evaluator)
    short = "LongPPL: tokens of the short context [4096]; shorter --seq_len have no LongPPL"
    parser.add_argument("--short_context", type=run.positive_int, default=4096, help=short)
    stride = "LongPPL: tokens that share a beginning of their short context [1024]"
    parser.add_argument("--short_stride", type=run.positive_int, default=1024, help=stride)
    args = parser.parse_args()
    n_lengths = len(args.seq_len)
    if len(args.max_windows) == 1:
        args.max_windows *= n_lengths
    if len(args.max_windows) != n_lengths:
        raise ValueError(f"--max_windows takes one value or one for each of the {n_lengths} lengths")
    if args.output_dir.suffix == ".json" and len(args.base_model) * n_lengths > 1:
        raise ValueError(f"--output_dir {args.output_dir} is one file, for one checkpoint and length; give a folder")
    run.name_results(None, sorted(set(args.base_model)), "each its own --output_dir")
    return args


def result_path(args, model: str, length: int) -> Path:
    """LCEG's file names. The dataset's name is its folder's, or its file's where the folder's says nothing."""
    if args.output_dir.suffix == ".json":
        return args.output_dir
    name = run.checkpoint_name(model)
    dataset = args.data_path.parent.name
    if dataset in ("", ".", "..", "data"):
        dataset = args.data_path.stem
    return args.output_dir / f"{name}_{length}_{dataset}.json"


def make_window_job(args, path: Path, length: int, tokens_N, document_starts, settings: dict, parameters) -> Job:
    """Perplexity over the windows of one length. settings: what all lengths share.  parameters: `rope_parameters`."""
    max_windows = args.max_windows[args.seq_len.index(length)]
    all_starts = window_starts(len(tokens_N), length, args.sliding_window)
    sampled_starts = subsample(all_starts, max_windows, args.seed)
    window_WL1 = sliding_window_view(tokens_N, length + 1)  # of each position, with the token after it
    settings = {
        "protocol": "lceg-windows",
        "record_version": 2,  # windows recorded otherwise are evaluated again
        "seq_len": length,
        "sliding_window": args.sliding_window,
        "documents": args.documents,
        "max_windows": max_windows,
        "seed": args.seed,
        **settings,
    }

    def score_windows(model, rope: RopeSetter, starts: list) -> list:
        rope.set(parameters)
        ids_BL1 = window_WL1[starts].astype(np.int64)
        nll_BL, hit_BL = score(model, torch.from_numpy(ids_BL1))
        records = []
        for start, nll_L, hit_L in zip(starts, nll_BL, hit_BL, strict=True):
            records.append(record(start, nll_L, hit_L, document_starts))
        return records

    def summarise_windows(records: list) -> dict:
        return {
            **summarise(records, length, len(document_starts)),
            "n_windows": len(records),
            "n_windows_total": len(all_starts),
            "batch_size": args.batch_size,
            "rope": parameters,
        }

    keys = ("val_perplexity", "perplexity_interval_95")
    return Job(path, sampled_starts.tolist(), args.batch_size, settings, score_windows, summarise_windows, keys)


def evaluate_checkpoint(args, name_or_path: str, key_texts: dict) -> None:
    """Evaluates one checkpoint at every length. key_texts: of long_ppl.prepare, by length."""
    config, settings = open_checkpoint(name_or_path, args.trust_remote_code, args.dtype, args.attention)
    tokens_N, document_starts, data = open_tokens(args.data_path, args.documents, config.vocab_size)
    settings["data_sha256"] = data["sha256"]
    description = describe(name_or_path, config)
    method = description["method"]
    script = Path(sys.argv[0]).stem
    if method not in SCRIPT_METHODS.get(script, [method]):
        raise ValueError(f"{script}.py does not take {name_or_path}, a {method} checkpoint; eval_ppl.py takes any")
    device = run.default_device()
    facts = {"model": name_or_path, **description, "data": data, "tokens": len(tokens_N)}
    facts["sdpa_kernels"] = sdpa_kernels(device)
    windows, texts = [], []
    for length in args.seq_len:
        path = result_path(args, name_or_path, length)
        parameters = rope_at(config, length)
        windows.append(make_window_job(args, path, length, tokens_N, document_starts, settings, parameters))
        if length in key_texts:
            texts.append(long_ppl.make_text_job(path, length, key_texts[length], name_or_path, settings))

    @functools.cache
    def load():
        kind = f"{method}, {settings['dtype']}, {settings['attention']}"
        run.print_rank0(f"{name_or_path}: {kind}, {run.WORLD_SIZE} x {device.type}")
        return load_scored_model(name_or_path, config, settings)

    for job in windows + texts:
        job.evaluate(load, facts)


def main():
    args = parse_args()
    key_texts = long_ppl.prepare(args) if args.long_ppl else {}
    run.for_each_checkpoint(args.base_model, lambda path: evaluate_checkpoint(args, path, key_texts))


if __name__ == "__main__":
    run.run_script(main)
