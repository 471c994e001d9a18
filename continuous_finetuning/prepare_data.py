"""Makes training data: documents mixed by source, long ones upsampled, packed into rows of exactly --length tokens.

    python prepare_data.py --dataset cerebras/SlimPajama-627B --tokenizer meta-llama/Llama-2-7b-hf \\
        --length 32768 --total_tokens 1B --output_dir data/slimpajama_32k_1B --workers 16
    python prepare_data.py --dataset my_texts.jsonl --tokenizer CKPT --length 32768 --output_dir data/mine
    python prepare_data.py --dataset my_folder/ --tokenizer CKPT --length 32768 --total_tokens 200M \\
        --source_column meta.kind --mix code=0.3,books=0.7 --output_dir data/mixed
    torchrun --nproc_per_node=8 fine-tune.py ... --dataset_dir data/slimpajama_32k_1B

--dataset: a hub id, which is streamed; a JSON-lines or Parquet file (.jsonl.gz and .jsonl.zst too); a folder of them.
--mix: `slimpajama`, the study's shares, the default for that dataset; name=share,... by the values of --source_column;
or `none`, the default for others: every document, in the order of the files. With a mix the files are read in an order
drawn by the seed; documents of --min_length tokens or more are kept, shorter ones with probability --keep_short; and a
source takes whole documents until it has its share of --total_tokens (mixing.py says where this recipe is from).

Runs on the CPU of any machine. Writes train-*.parquet with the column `input_ids` (with --document_boundaries also
`document_starts`, for fine-tune.py --document_mask), manifest.json, and README.md, a data card. The rows depend on the
settings alone, not on --workers nor on interruptions: killed, the same command goes on.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import shlex
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data_folder
import documents
import mixing

SLIMPAJAMA = "cerebras/slimpajama-627b"
SCANNED_DOCUMENTS = 20_000  # looked at before the work, for the names of the sources
FILE_TOKENS = 2**24  # of an output file, 64 MiB of ids


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that tokenise [one a core]")
    data = parser.add_argument_group("documents")
    data.add_argument("--dataset", required=True, help="hub id, file or folder")
    data.add_argument("--subset", help="of a hub dataset that has several")
    data.add_argument("--split", default="train", help="of a hub dataset [train]")
    data.add_argument("--revision", help="branch, tag or commit of a hub dataset [its newest commit]")
    data.add_argument("--text_column", default="text", help="name; a.b for column b of the objects in a [text]")
    data.add_argument("--source_column", help="name, or a.b; says a document's source [none: one source]")
    recipe = parser.add_argument_group("mixture")
    recipe.add_argument("--mix", help="slimpajama, none, or name=share,... [by the dataset]")
    recipe.add_argument("--total_tokens", type=token_count, help="1B, 500M, ...; needed with a mix [all]")
    recipe.add_argument("--min_length", type=int, default=4096, help="tokens of a long document [4096]")
    recipe.add_argument("--keep_short", type=float, help="share kept of the shorter ones [0.1 with a mix, else 1]")
    recipe.add_argument("--seed", type=int, default=0)
    rows = parser.add_argument_group("rows")
    rows.add_argument("--tokenizer", required=True, help="checkpoint folder or hub id")
    rows.add_argument("--length", required=True, type=int, help="tokens of a row: 32768, 65536, ...")
    rows.add_argument("--document_boundaries", action="store_true", help="also write where documents begin in a row")
    rows.add_argument("--rows_per_file", type=int, help="[those of 16M tokens]")
    args = parser.parse_args()

    if args.length < 2:
        sys.exit("error: --length must be at least 2")
    if args.mix is None:
        args.mix = "slimpajama" if args.dataset.lower() == SLIMPAJAMA else "none"
    if args.mix == "slimpajama" and args.source_column is None:
        args.source_column = "meta.redpajama_set_name"
    args.mix = mixing.parse_mix(args.mix)
    if args.keep_short is None:
        args.keep_short = 0.1 if args.mix else 1.0
    if args.rows_per_file is None:
        args.rows_per_file = max(1, FILE_TOKENS // args.length)
    if not 0 <= args.keep_short <= 1:
        sys.exit("error: --keep_short must be from 0 to 1")
    if args.mix and (args.source_column is None or args.total_tokens is None):
        sys.exit("error: --mix needs --source_column, the name of each document's source, and --total_tokens")
    if args.total_tokens is not None and args.total_tokens < args.length:
        sys.exit(f"error: --total_tokens {args.total_tokens} is less than one row of --length {args.length}")
    if args.mix and min(args.mix.values()) * args.total_tokens < 1:
        sys.exit("error: --mix gives a source less than one token of --total_tokens")
    if min(args.rows_per_file, args.workers) < 1 or not 0 <= args.seed < 2**63:
        sys.exit("error: --rows_per_file and --workers must be at least 1, --seed at least 0")
    if args.rows_per_file * args.length >= 2**31:
        sys.exit("error: --rows_per_file times --length must be below 2**31 tokens")
    return args


def token_count(text: str) -> int:
    try:
        return mixing.parse_tokens(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens like 1B, 500M or 2000000") from None


def tokenizer_sha256(tokenizer) -> str:
    """SHA-256 of all that a tokenizer is, whatever folder it lies in."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = json.dumps(tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str()
    return hashlib.sha256(text.encode()).hexdigest()


def check_sources(chunks, mix: dict[str, float], dataset: str) -> None:
    """Exits with one line if --mix names sources that the data do not have, by their first documents."""
    seen, names = 0, set()
    for chunk in chunks:
        seen += len(chunk.sources)
        names.update(chunk.sources)
        if seen >= SCANNED_DOCUMENTS:
            break
    unknown = [name for name in mix if name not in names]
    if unknown and (seen < SCANNED_DOCUMENTS or len(unknown) == len(mix)):  # these were all documents, or all is wrong
        sys.exit(
            f"error: --dataset {dataset} has no source {', '.join(unknown)}, only {', '.join(sorted(names)[:20])}; "
            "mend --mix or --source_column"
        )
    if unknown:
        print(f"note: none of the first {seen:,} documents is of {', '.join(unknown)}", flush=True)


def make_task(chunk: documents.Chunk, mixture: mixing.Mixture, keep_short: float, sure_bytes: int) -> dict:
    """The documents of a chunk that must be tokenised: of sources that take more, and drawn or perhaps long.

    sure_bytes: a document of fewer bytes is short, for a token is at least a byte of text.
    """
    wants = {name: mixture.wants(name) for name in set(chunk.sources)}
    drawn_N = chunk.draws_N < keep_short
    perhaps_N = (chunk.bytes_N >= 0) & (drawn_N | (chunk.bytes_N >= sure_bytes))
    chosen = [i for i in np.flatnonzero(perhaps_N).tolist() if wants[chunk.sources[i]]]
    return {
        "texts": [chunk.texts[i].as_py() for i in chosen],
        "drawn": drawn_N[chosen].tolist(),
        "sources": [chunk.sources[i] for i in chosen],
        "seen": dict(collections.Counter(chunk.sources)),
        "place": (chunk.place, chunk.end),
    }


def run(build: data_folder.Build, chunks, encoder, args: argparse.Namespace, sure_bytes: int) -> None:
    """Tokenises chunks in workers, a bounded number ahead, and takes the results in the order of reading."""
    if args.workers == 1:
        mixing.start_worker(encoder)
        pool, most = None, 1
    else:
        spawn = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(args.workers, spawn, mixing.start_worker, (encoder,))
        most = 2 * args.workers
    mixture, ahead, failure = build.mixture, collections.deque(), None
    first, began = mixture.tokens, time.monotonic()
    told = began
    terminal = sys.stdout.isatty()
    bar = tqdm(total=args.total_tokens, initial=first, unit="token", unit_scale=True, disable=not terminal)
    try:
        while not mixture.done():
            while len(ahead) < most and failure is None:
                try:
                    chunk = next(chunks, None)
                except SystemExit as error:  # counts when its turn comes: perhaps the mixture is complete before
                    failure = error
                    break
                if chunk is None:
                    break
                task = make_task(chunk, mixture, args.keep_short, sure_bytes)
                work = (task.pop("texts"), task.pop("drawn"), args.min_length)
                ahead.append((task, pool.submit(mixing.tokenise, *work) if pool else work))
            if not ahead and failure:
                build.save()
                raise failure
            if not ahead:
                break
            task, work = ahead.popleft()
            build.add(task, *(work.result() if pool else mixing.tokenise(*work)))
            bar.update(mixture.tokens - bar.n)
            if not terminal and time.monotonic() - told > 10:
                told = time.monotonic()
                line = f"training data: {mixture.tokens / 1e6:,.1f} M tokens"
                line += f" of {args.total_tokens / 1e6:,.1f} M" if args.total_tokens else ""
                line += f", {(mixture.tokens - first) / (told - began):,.0f} tokens/s"
                line += f", not yet full: {', '.join(mixture.missing())}" if args.mix else ""
                print(line, flush=True)
    except concurrent.futures.process.BrokenProcessPool:
        sys.exit("error: a worker died (out of memory? give fewer --workers); the same command goes on")
    finally:
        bar.close()
        if pool:
            pool.shutdown(wait=False, cancel_futures=True)


def main() -> None:
    args = parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a worker is a core
    files = documents.local_files(args.dataset)
    tokenizer = mixing.load_tokenizer(args.tokenizer)
    build = data_folder.Build(args.output_dir, args.mix, args.total_tokens, args.length)
    if files:
        data, revision = f"sha256:{documents.fingerprint(files)}", None
    else:
        held = (build.settings or {}).get("data", "")
        if args.revision is None and held.startswith(f"{args.dataset}@"):  # go on with the commit it was begun with
            data, revision = held, held.split("@")[1]
        else:
            revision = documents.hub_revision(args.dataset, args.revision)
            data = f"{args.dataset}@{revision}"
    names = ["subset", "split", "text_column", "source_column", "mix", "total_tokens", "min_length", "keep_short"]
    names += ["seed", "length", "document_boundaries", "rows_per_file"]
    settings = {"data": data, "tokenizer_sha256": tokenizer_sha256(tokenizer)}
    settings |= {name: getattr(args, name) for name in names}
    if build.claim(settings):
        print(f"training data: {args.output_dir} is finished, nothing to do")
        return

    dataset = documents.open_stream(args.dataset, files, args.subset, args.split, revision)
    order = documents.shard_order(dataset.num_shards, args.seed if args.mix else None)
    reading = (dataset, order, args.seed, args.text_column, args.source_column)
    if build.place == (0, 0):
        if args.mix:
            check_sources(documents.read(*reading), args.mix, args.dataset)
        build.save()
    else:
        print(f"training data: going on after {build.mixture.tokens:,} tokens", flush=True)
    sure_bytes = args.min_length - tokenizer.num_special_tokens_to_add() - 1  # 1: SentencePiece begins a text with "▁"
    run(build, documents.read(*reading, start=build.place), mixing.encoder_of(tokenizer), args, sure_bytes)
    if missing := build.mixture.missing():
        wanted = ", ".join(f"{tokens:,} {name}" for name, tokens in missing.items())
        print(f"training data: the data ended early, missing of --total_tokens: {wanted}", flush=True)
    origin = {"dataset": args.dataset, "tokenizer": args.tokenizer, "workers": args.workers}
    manifest = build.finish(origin | {"command": shlex.join(["python", "prepare_data.py", *sys.argv[1:]])})
    print(
        f"training data: {args.output_dir} has {manifest['rows']:,} rows of {args.length:,} tokens "
        f"({manifest['tokens_per_second']:,} tokens/s, input_ids sha256 {manifest['input_ids_sha256'][:16]})"
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
