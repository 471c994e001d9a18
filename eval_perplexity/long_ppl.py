"""LongPPL (arXiv 2410.23771): perplexity of the key tokens, those that a model predicts well from a long context only.

The texts are documents of the token file, cut to the first `length` tokens and decoded. An evaluator model finds their
key tokens. They are kept as intervals of characters, so that models with another tokenizer can be tested on them, in
<output_dir>/key_text_.../slice_<i>.txt, which has the format of the published lists: [0, 5];[17, 29].

As in the package `longppl`, the evaluator reads BOS before a text, and the tested model reads the text alone.
"""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import run

import numpy as np
import torch

from checkpoint import open_config
from job import Job
from rope import RopeSetter, rope_at
from scoring import load_scored_model, open_checkpoint, score
from stats import mean_over_documents
from tokenizer import open_tokenizer
from windows import exp_interval, open_tokens

LEAST_GAIN = 2.0  # nats: key tokens have a loss that is so much lower with the whole text before them,
MOST_LOSS = 2.0  # nats: and is then below this (section 3 of the paper)


def text_losses(model, rope: RopeSetter, ids: list) -> np.ndarray:
    """The loss of each token of a text, float64 [N], nats; infinite for the first, which nothing predicts."""
    loss_N = np.full(len(ids), math.inf)
    if len(ids) > 1:
        rope.set(rope_at(model.config, len(ids)))
        loss_N[1:], _ = score(model, torch.tensor([ids]))
    return loss_N


def find_key_intervals(model, rope: RopeSetter, tokenizer, text: str, context: int, stride: int) -> list:
    """The character intervals of the key tokens of a text, adjacent ones merged.

    The short context of a token are the last `context` to `context + stride - 1` tokens before it.
    """
    encoding = tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids = encoding.input_ids
    offsets = encoding.offset_mapping
    whole_N = text_losses(model, rope, ids)
    short_N = np.zeros(len(ids))
    for first in range(context, len(ids), stride):
        piece = ids[first - context : first + stride]
        losses = text_losses(model, rope, piece)[context:]
        short_N[first : first + stride] = losses
    is_key_N = (short_N - whole_N > LEAST_GAIN) & (whole_N < MOST_LOSS)
    intervals = []
    for i in np.flatnonzero(is_key_N):
        start, end = offsets[i]
        if intervals and intervals[-1][1] == start:
            intervals[-1][1] = end
        else:
            intervals.append([start, end])
    return intervals


def tokens_inside(offsets: list, intervals: list) -> np.ndarray:
    """Indices of the tokens, without the first one, whose characters are all in one of the sorted intervals."""
    start_N, end_N = np.reshape(offsets, (-1, 2)).T
    intervals_K2 = np.array([*intervals, (np.inf, np.inf)])
    k_N = np.searchsorted(intervals_K2[:, 1], end_N)  # the first interval that does not end before the token
    inside_N = intervals_K2[k_N, 0] <= start_N
    inside_N[:1] = False
    return np.flatnonzero(inside_N)


def score_text(model, rope: RopeSetter, tokenizer, text: str, intervals: list) -> dict:
    """Sum of the losses of the key tokens, nats; the numbers of key tokens and of tokens."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = encoding.input_ids
    keys = tokens_inside(encoding.offset_mapping, intervals)
    losses = text_losses(model, rope, ids)[keys]
    return {"key_loss": float(losses.sum()), "key_tokens": len(keys), "tokens": len(ids)}


def prepare(args) -> dict:
    """{length: (texts, character intervals [start, end) of the key tokens of each, how they were found)}.

    For each of --seq_len that is longer than the short context. Raises ValueError if none is, or if the published list
    has too few texts.
    """
    if max(args.seq_len) <= args.short_context:
        raise ValueError(f"--long_ppl needs a --seq_len above --short_context, {args.short_context} tokens")
    first = args.base_model[0]  # all checkpoints share the vocabulary of the token file
    config = open_config(first, args.trust_remote_code)
    tokens_N, starts, data = open_tokens(args.data_path, args.documents, config.vocab_size)
    documents = np.split(tokens_N, starts[1:])
    tokenizer = open_tokenizer(first)
    load = functools.cache(functools.partial(load_evaluator, args))  # when a text needs it, once for all lengths
    key_texts = {}
    for length in args.seq_len:
        if length <= args.short_context:
            continue
        texts = []
        for document in documents:
            ids = document[1:length].tolist()  # without BOS
            text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            texts.append(text.rstrip("\ufffd"))  # half a character at its end
        folder = Path(args.long_ppl)
        record = {"evaluator": folder.name}
        if not any(folder.glob("slice_*.txt")):
            folder, record = find_key_tokens(args, length, texts, data["sha256"], load)
        intervals = [read_intervals(folder / f"slice_{i}.txt") for i in range(len(texts))]
        key_texts[length] = texts, intervals, record
    load.cache_clear()
    run.release_memory()
    return key_texts


def load_evaluator(args) -> tuple:
    """(the evaluator's tokenizer, its model, the RopeSetter of that)."""
    config, settings = open_checkpoint(args.long_ppl, args.trust_remote_code, args.dtype, args.attention)
    return open_tokenizer(args.long_ppl), *load_scored_model(args.long_ppl, config, settings)


def read_intervals(path: Path) -> list:
    """The intervals of a text. Raises ValueError if there is no such file, or something else in it."""
    with run.errors_of(f"{path} has no key tokens, such as [0, 5];[17, 29]"):
        content = run.read_text(path).strip(" \n;").replace(";", ",")
        return [[start, end] for start, end in json.loads(f"[{content}]")]


def find_key_tokens(args, length: int, texts: list, sha256: str, load: Callable) -> tuple:
    """(folder, record): finds the key tokens that are not on disk yet, each text by one of the ranks.

    load: returns what `load_evaluator` does.
    """
    config, settings = open_checkpoint(args.long_ppl, args.trust_remote_code, args.dtype, args.attention)
    record = {
        "evaluator": args.long_ppl,
        "evaluator_checkpoint": settings["checkpoint"],
        "short_context": args.short_context,
        "short_stride": args.short_stride,
        "evaluator_dtype": settings["dtype"],
    }
    key = run.run_key({**record, "data": sha256, "length": length})
    root = args.output_dir
    if root.suffix == ".json":
        root = root.parent
    name = run.checkpoint_name(args.long_ppl)
    folder = root / f"key_text_{name}_{length}_{key}"
    if length > config.max_position_embeddings:
        run.print_rank0(f"WARNING: {args.long_ppl} finds key tokens of {length} tokens, which exceed its window")
    for i in range(run.RANK, len(texts), run.WORLD_SIZE):
        path = folder / f"slice_{i}.txt"
        if path.exists():
            continue
        tokenizer, model, rope = load()
        intervals = find_key_intervals(model, rope, tokenizer, texts[i], args.short_context, args.short_stride)
        run.write_text(path, ";".join(map(str, intervals)))
    run.barrier()
    return folder, record


def make_text_job(path: Path, length: int, key_texts: tuple, name_or_path: str, settings: dict) -> Job:
    """LongPPL of one length. path: the result of the windows, beside which it is written.  key_texts: of `prepare`."""
    tokenizer = open_tokenizer(name_or_path)
    texts, intervals, record = key_texts
    settings = {
        "protocol": "longppl",
        "seq_len": length,
        "documents": len(texts),
        "key_tokens": run.run_key({"intervals": intervals}),
        **record,
        **settings,
    }

    def score_texts(model, rope: RopeSetter, numbers: list) -> list:
        [i] = numbers  # the batch size is 1
        scores = score_text(model, rope, tokenizer, texts[i], intervals[i])
        return [{"start": i, **scores}]

    path = path.with_name(f"{path.stem}_longppl.json")
    keys = ("long_ppl", "long_ppl_interval_95")
    return Job(path, list(range(len(texts))), 1, settings, score_texts, summarise_texts, keys)


def summarise_texts(records: list) -> dict:
    """LongPPL with its 95 % interval over the texts, the sampled units; None without key tokens."""
    sum_D = [record["key_loss"] for record in records]
    target_D = [record["key_tokens"] for record in records]
    result = {"long_ppl": None, "long_ppl_interval_95": None}
    result |= {"n_key_tokens": sum(target_D), "n_documents": len(records)}
    if sum(target_D):
        estimate = mean_over_documents(sum_D, target_D)
        result["long_ppl"] = math.exp(estimate.mean_M[0])
        result["long_ppl_interval_95"] = exp_interval(estimate)
        result["document_losses"] = {"sum": sum_D, "targets": target_D}
    return result
