"""LongPPL (arXiv 2410.23771): perplexity of the key tokens, those that a model predicts well from a long context only.

The texts are documents of the token file, cut to the first `length` tokens and decoded. An evaluator model finds their
key tokens. They are kept as intervals of characters, so that models with another tokenizer can be tested on them, in
<output_dir>/key_text_.../slice_<i>.txt, which has the format of the published lists: [0, 5];[17, 29].

As in the package `longppl`, the evaluator reads BOS before a text, and the tested model reads the text alone.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import run
from attention import choose_attention
from checkpoint import choose_dtype, fingerprint, open_config
from job import Job
from rope import RopeSetter, rope_at
from scoring import load_scored_model, score
from stats import mean_over_documents
from tokenizer import open_tokenizer
from windows import open_tokens

LEAST_GAIN = 2.0  # nats: key tokens have a loss that is so much lower with the whole text before them,
MOST_LOSS = 2.0  # nats: and is then below this (section 3 of the paper)


@dataclass
class KeyTexts:
    """Texts and the character intervals [start, end) of the key tokens of each.  record: how they were found."""

    texts: list[str]
    intervals: list[list[tuple[int, int]]]
    record: dict


def add_flags(parser) -> None:
    evaluator = "also measure LongPPL; a checkpoint that finds the key tokens, or a folder of slice_*.txt"
    parser.add_argument("--long_ppl", metavar="EVALUATOR", help=evaluator)
    short = "LongPPL: tokens of the short context [4096]; shorter --seq_len have no LongPPL"
    parser.add_argument("--short_context", type=run.positive_int, default=4096, help=short)
    stride = "LongPPL: tokens that share a beginning of their short context [1024]"
    parser.add_argument("--short_stride", type=run.positive_int, default=1024, help=stride)


def text_losses(model, rope: RopeSetter, ids: list[int]) -> np.ndarray:
    """The loss of each token of a text, float64 [N], nats; infinite for the first, which nothing predicts."""
    if len(ids) < 2:
        return np.full(len(ids), math.inf)
    rope.set(rope_at(model.config, len(ids)))
    nll_1N, _ = score(model, torch.tensor([ids], device=model.device))
    return np.concatenate([[math.inf], nll_1N[0].cpu().double().numpy()])


def find_key_intervals(model, rope: RopeSetter, tokenizer, text: str, context: int, stride: int) -> list:
    """The character intervals of the key tokens of a text, adjacent ones merged.

    The short context of a token are the last `context` to `context + stride - 1` tokens before it.
    """
    encoding = tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids, offsets = encoding.input_ids, encoding.offset_mapping
    whole_N = text_losses(model, rope, ids)
    intervals = []
    for first in range(context, len(ids), stride):
        end = min(first + stride, len(ids))
        short_n = text_losses(model, rope, ids[first - context : end])[context:]
        whole_n = whole_N[first:end]
        is_key_n = (short_n - whole_n > LEAST_GAIN) & (whole_n < MOST_LOSS)
        for i in first + np.flatnonzero(is_key_n):
            start, stop = offsets[i]
            if intervals and intervals[-1][1] == start:
                start, _ = intervals.pop()
            intervals.append((start, stop))
    return intervals


def tokens_inside(offsets: list, intervals: list) -> np.ndarray:
    """Indices of the tokens, without the first one, whose characters are all in one of the sorted intervals."""
    start_N, stop_N = np.array(offsets).reshape(-1, 2).T
    start_K, stop_K = np.array([*intervals, (math.inf, math.inf)]).T
    next_N = np.searchsorted(stop_K, stop_N)  # the first interval that does not end before the token
    inside_N = start_K[next_N] <= start_N
    inside_N[:1] = False
    return np.flatnonzero(inside_N)


def prepare(args) -> dict[int, KeyTexts]:
    """The texts at each of --seq_len that is longer than the short context, with their key tokens.

    Raises ValueError if no length is, or if the published list has too few texts.
    """
    lengths = [length for length in args.seq_len if length > args.short_context]
    if not lengths:
        raise ValueError(f"--long_ppl needs a --seq_len above --short_context, {args.short_context} tokens")
    first = args.base_model[0]  # all checkpoints share the vocabulary of the token file
    config = open_config(first, args.trust_remote_code)
    tokens_N, starts, data = open_tokens(args.data_path, args.documents, config.vocab_size)
    tokenizer = open_tokenizer(first)
    texts = {}
    for length in lengths:
        texts[length] = []
        for document in np.split(tokens_N, starts[1:]):
            ids = document[1:length].tolist()  # without BOS
            text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            texts[length].append(text.rstrip("\ufffd"))  # half a character at its end
    folder = Path(args.long_ppl)
    if any(folder.glob("slice_*.txt")):
        folders, record = dict.fromkeys(lengths, folder), {"evaluator": folder.name}
    else:
        folders, record = find_key_tokens(args, texts, data["sha256"])
    return {length: read_list(folders[length], texts[length], record) for length in lengths}


def read_list(folder: Path, texts: list[str], record: dict) -> KeyTexts:
    """The texts with the key tokens of a folder. Raises ValueError if a text has no file, or one has no intervals."""
    intervals = []
    for i in range(len(texts)):
        path = folder / f"slice_{i}.txt"
        with run.errors_of(f"{path} has no key tokens, such as [0, 5];[17, 29]"):
            content = run.read_text(path).strip(" \n;").replace(";", ",")
            intervals.append([(start, stop) for start, stop in json.loads(f"[{content}]")])
    return KeyTexts(texts, intervals, record)


def find_key_tokens(args, texts: dict[int, list[str]], sha256: str) -> tuple[dict[int, Path], dict]:
    """({length: folder}, record): finds the key tokens that are not on disk yet, each text by one of the ranks."""
    config = open_config(args.long_ppl, args.trust_remote_code)
    device = run.default_device()
    dtype = choose_dtype(device, args.dtype)
    attention = choose_attention(args.attention, device, dtype, config)
    record = {
        "evaluator": args.long_ppl,
        "evaluator_checkpoint": fingerprint(args.long_ppl, config),
        "short_context": args.short_context,
        "short_stride": args.short_stride,
        "evaluator_dtype": dtype,
    }
    root = args.output_dir.parent if args.output_dir.suffix == ".json" else args.output_dir
    folders, missing = {}, []
    for length, own_texts in texts.items():
        key = run.run_key({**record, "data": sha256, "length": length})
        folders[length] = root / f"key_text_{run.checkpoint_name(args.long_ppl)}_{length}_{key}"
        if length > config.max_position_embeddings:
            run.print_rank0(f"WARNING: {args.long_ppl} finds key tokens of {length} tokens, which exceed its window")
        for i in range(run.RANK, len(own_texts), run.WORLD_SIZE):
            path = folders[length] / f"slice_{i}.txt"
            if not path.exists():
                missing.append((path, own_texts[i]))
    if missing:
        tokenizer = open_tokenizer(args.long_ppl)
        model, rope = load_scored_model(args.long_ppl, config, dtype, attention, device)
        for path, text in missing:
            intervals = find_key_intervals(model, rope, tokenizer, text, args.short_context, args.short_stride)
            run.write_text(path, ";".join(f"[{start}, {stop}]" for start, stop in intervals))
        del model, rope
        run.release_memory()
    run.barrier()
    return folders, record


def make_text_job(path: Path, length: int, key_texts: KeyTexts, name_or_path: str, settings: dict) -> Job:
    """LongPPL of one length. path: the result of the windows, beside which it is written."""
    tokenizer = open_tokenizer(name_or_path)
    texts, intervals = key_texts.texts, key_texts.intervals
    settings = {
        "protocol": "longppl",
        "seq_len": length,
        "documents": len(texts),
        "key_tokens": run.run_key({"intervals": intervals}),
        **key_texts.record,
        **settings,
    }

    def score_texts(model, rope: RopeSetter, numbers: list[int]) -> list[dict]:
        return [{"start": i, **score_text(model, rope, tokenizer, texts[i], intervals[i])} for i in numbers]

    path = path.with_name(f"{path.stem}_longppl.json")
    keys = ("long_ppl", "long_ppl_interval_95")
    return Job(path, length, list(range(len(texts))), 1, settings, score_texts, summarise_texts, keys)


def score_text(model, rope: RopeSetter, tokenizer, text: str, intervals: list) -> dict:
    """Sum of the losses of the key tokens, nats; the numbers of key tokens and of tokens."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    keys = tokens_inside(encoding.offset_mapping, intervals)
    losses = text_losses(model, rope, encoding.input_ids)[keys]
    return {"key_loss": float(losses.sum()), "key_tokens": len(keys), "tokens": len(encoding.input_ids)}


def summarise_texts(records: list[dict]) -> dict:
    """LongPPL with its 95 % interval over the texts, the sampled units; None without key tokens."""
    sum_D = [record["key_loss"] for record in records]
    target_D = [record["key_tokens"] for record in records]
    result = {
        "long_ppl": None,
        "long_ppl_interval_95": None,
        "n_key_tokens": sum(target_D),
        "n_documents": len(records),
    }
    if sum(target_D):
        estimate = mean_over_documents(sum_D, target_D)
        bounds = estimate.interval()
        result["long_ppl"] = math.exp(estimate.mean_M[0])
        result["long_ppl_interval_95"] = list(map(math.exp, bounds)) if bounds else None
        result["document_losses"] = {"sum": sum_D, "targets": target_D}
    return result
