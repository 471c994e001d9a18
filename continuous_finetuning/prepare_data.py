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
source takes complete documents until it has its share of --total_tokens (mixing.py has the source of this recipe).

Runs on the CPU. Writes train-*.parquet with the column `input_ids` (with --document_boundaries also `document_starts`,
for fine-tune.py --document_mask) and manifest.json. The rows depend on the settings only, not on --workers.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

import documents
import mixing

SCANNED_DOCUMENTS = 20_000  # looked at before the work, for the names of the sources
FILE_TOKENS = 2**24  # of an output file, 64 MiB of ids
GROUP_TOKENS = 2**20  # of a Parquet row group


def token_count(text: str) -> int:
    """1000000, 500k, 20M, 1.5B: a number of tokens."""
    factor = {"k": 10**3, "m": 10**6, "b": 10**9}.get(text[-1:].lower())
    return round(float(text[:-1]) * factor) if factor else int(text)


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that tokenise [one per core]")
    data = parser.add_argument_group("documents")
    data.add_argument("--dataset", required=True, help="hub id, file or folder")
    data.add_argument("--subset", help="config name of a hub dataset")
    data.add_argument("--split", default="train", help="of a hub dataset [train]")
    data.add_argument("--revision", help="branch, tag or commit of a hub dataset [its newest commit]")
    data.add_argument("--text_column", default="text", help="name; a.b for column b of the objects in a [text]")
    data.add_argument("--source_column", help="name, or a.b, of a document's source [none: one source]")
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

    if args.mix is None:
        args.mix = "slimpajama" if args.dataset.lower() == "cerebras/slimpajama-627b" else "none"
    if args.mix == "slimpajama" and args.source_column is None:
        args.source_column = "meta.redpajama_set_name"
    args.mix = mixing.parse_mix(args.mix)
    if args.keep_short is None:
        args.keep_short = 0.1 if args.mix else 1.0
    if args.rows_per_file is None:
        args.rows_per_file = max(1, FILE_TOKENS // args.length)
    if args.mix and (args.source_column is None or args.total_tokens is None):
        raise ValueError("--mix needs --source_column, the name of each document's source, and --total_tokens")
    if args.total_tokens is not None and args.total_tokens < args.length:
        raise ValueError(f"--total_tokens {args.total_tokens} is less than one row of --length {args.length}")
    return args


def tokenizer_sha256(tokenizer) -> str:
    """SHA-256 of all that a tokenizer is, whatever its folder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = json.dumps(tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str()
    return hashlib.sha256(text.encode()).hexdigest()


def check_columns(chunks, mix: dict[str, float] | None) -> None:
    """Raises ValueError if the first documents lack a column, or the sources that --mix names."""
    seen, names = 0, set()
    for chunk in chunks:
        seen += len(chunk.sources)
        names.update(chunk.sources)
        if mix is None or seen >= SCANNED_DOCUMENTS:
            break
    unknown = [name for name in mix or () if name not in names]
    if unknown and (seen < SCANNED_DOCUMENTS or len(unknown) == len(mix)):  # these were all documents, or all is wrong
        raise ValueError(
            f"--mix: the data have no source {', '.join(unknown)}, only {', '.join(sorted(names)[:20])}; correct --mix "
            "or --source_column"
        )


class ThisProcess:
    """The executor of --workers 1."""

    def __init__(self, encoder):
        mixing.start_worker(encoder)

    def submit(self, function, *args) -> concurrent.futures.Future:
        future = concurrent.futures.Future()
        future.set_result(function(*args))
        return future

    def shutdown(self, **kwargs) -> None:
        pass


def start_task(chunk: documents.Chunk, mixture: mixing.Mixture, executor, args, sure_bytes: int):
    """(sources, future of mixing.tokenise) of a chunk's documents that may be kept.

    sure_bytes: a document of fewer bytes is short, for a token is at least a byte of text.
    """
    wanted = {name: mixture.wants(name) for name in set(chunk.sources)}
    drawn_N = chunk.draws_N < args.keep_short
    possible_N = (chunk.bytes_N >= 0) & (drawn_N | (chunk.bytes_N >= sure_bytes))
    chosen = [i for i in np.flatnonzero(possible_N).tolist() if wanted[chunk.sources[i]]]
    texts = [chunk.texts[i].as_py() for i in chosen]
    future = executor.submit(mixing.tokenise, texts, drawn_N[chosen].tolist(), args.min_length)
    return chunk.sources, [chunk.sources[i] for i in chosen], future


def kept_documents(chunks, mixture: mixing.Mixture, encoder, args, sure_bytes: int):
    """Yields the token ids of the documents that the mixture takes, in the order of reading.

    Workers tokenise a bounded number of chunks ahead.
    """
    if args.workers == 1:
        executor, ahead = ThisProcess(encoder), 1
    else:
        spawn = multiprocessing.get_context("spawn")
        executor = concurrent.futures.ProcessPoolExecutor(args.workers, spawn, mixing.start_worker, (encoder,))
        ahead = 2 * args.workers
    tasks = collections.deque()
    try:
        while not mixture.complete():
            while len(tasks) < ahead and (chunk := next(chunks, None)) is not None:
                tasks.append(start_task(chunk, mixture, executor, args, sure_bytes))
            if not tasks:
                break
            seen, sources, future = tasks.popleft()
            for name, count in collections.Counter(seen).items():
                mixture.source(name)["documents_seen"] += count
            for i, ids_N in zip(*future.result(), strict=True):
                if mixture.take(sources[i], len(ids_N)):
                    yield ids_N
    except concurrent.futures.process.BrokenProcessPool:
        raise ValueError("a worker died (out of memory?); give fewer --workers") from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


class Writer:
    """Joins documents, cuts them every `length` tokens, and writes files of `rows_per_file` rows."""

    def __init__(self, folder: Path, length: int, rows_per_file: int, boundaries: bool):
        self.folder, self.length, self.rows_per_file, self.boundaries = folder, length, rows_per_file, boundaries
        self.documents, self.tokens = [], 0  # that fill no file yet
        self.files, self.digest = [], hashlib.sha256()

    def add(self, ids_N: np.ndarray) -> None:
        self.documents.append(ids_N)
        self.tokens += len(ids_N)
        while self.tokens >= self.rows_per_file * self.length:
            self.write(self.rows_per_file)

    def write(self, rows: int) -> None:
        """The next file: `input_ids` and perhaps `document_starts`, lists of int32; equal bytes for equal rows."""
        ids_N, cut = np.concatenate(self.documents), rows * self.length
        starts_D = np.cumsum([0, *map(len, self.documents[:-1])])
        self.documents, self.tokens = [ids_N[cut:]], len(ids_N) - cut
        offsets = pa.array(np.arange(0, cut + 1, self.length), pa.int32())
        columns = {"input_ids": pa.ListArray.from_arrays(offsets, pa.array(ids_N[:cut], pa.int32()))}
        if self.boundaries:
            starts = [{0} for _ in range(rows)]  # a row begins a document, or goes on with that of the row before
            for start in starts_D[starts_D < cut].tolist():
                starts[start // self.length].add(start % self.length)
            columns["document_starts"] = pa.array([sorted(row) for row in starts], pa.list_(pa.int32()))
        path = self.folder / f"train-{len(self.files):05d}.parquet"
        group = max(1, GROUP_TOKENS // self.length)
        pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=group, compression="zstd")
        self.digest.update(ids_N[:cut].astype("<i4").tobytes())
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.files.append({"file": path.name, "rows": rows, "sha256": sha256})


def main() -> None:
    from checkpoint import open_tokenizer  # not at the top: each worker imports this file
    from checkpoint_writer import claim
    from run import command_line, progress_bar, versions, write_json

    args = parse_flags()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a worker is a core
    tokenizer = open_tokenizer(args.tokenizer)
    dataset, data = documents.open_dataset(args.dataset, args.subset, args.split, args.revision)
    names = ["subset", "split", "text_column", "source_column", "mix", "total_tokens", "min_length", "keep_short"]
    names += ["seed", "length", "document_boundaries", "rows_per_file"]
    settings = {"data": data, "tokenizer_sha256": tokenizer_sha256(tokenizer)}
    settings |= {name: getattr(args, name) for name in names}
    order = documents.shard_order(dataset.num_shards, args.seed if args.mix else None)
    reading = (dataset, order, args.seed, args.text_column, args.source_column)
    check_columns(documents.read(*reading), args.mix)
    if claim(args.output_dir, settings, "manifest.json"):
        print(f"training data: {args.output_dir} is already finished")
        return

    started = time.monotonic()
    mixture = mixing.Mixture(args.mix, args.total_tokens)
    writer = Writer(args.output_dir, args.length, args.rows_per_file, args.document_boundaries)
    sure_bytes = args.min_length - tokenizer.num_special_tokens_to_add() - 1  # 1: SentencePiece begins a text with "▁"
    encoder = getattr(tokenizer, "backend_tokenizer", tokenizer)  # its Rust part starts without Transformers
    with progress_bar(args.total_tokens, "training data", "token") as bar:
        for ids_N in kept_documents(documents.read(*reading), mixture, encoder, args, sure_bytes):
            writer.add(ids_N)
            bar.update(len(ids_N))
    if writer.tokens >= args.length:
        writer.write(writer.tokens // args.length)
    if not writer.files:
        raise ValueError(f"the documents kept have {writer.tokens} tokens, not one row of {args.length}")

    rows, seconds = sum(file["rows"] for file in writer.files), time.monotonic() - started
    for name, source in mixture.counts.items():
        source["budget"] = (mixture.budgets or {}).get(name)
        source["share"] = source["tokens"] / mixture.tokens
    manifest = {
        "dataset": args.dataset,
        "tokenizer": args.tokenizer,
        "workers": args.workers,
        "command": command_line(),
        "settings": settings,
        "rows": rows,
        "length": args.length,
        "tokens": rows * args.length,
        "tokens_dropped": writer.tokens,  # of the last documents: they fill no row
        "missing_tokens": mixture.missing(),  # if the data ended before the budgets were met
        "sources": mixture.counts,
        "files": writer.files,
        "input_ids_sha256": writer.digest.hexdigest(),  # over all ids in order, as little-endian int32
        "seconds": round(seconds, 1),
        "tokens_per_second": round(mixture.tokens / seconds),
        "versions": versions("datasets", "tokenizers", "pyarrow", "numpy"),
    }
    write_json(args.output_dir / "manifest.json", manifest)
    for name, tokens in manifest["missing_tokens"].items():
        print(f"training data: the data ended early, {tokens:,} {name} are missing")
    print(
        f"training data: {args.output_dir} has {rows:,} rows of {args.length:,} tokens "
        f"({manifest['tokens_per_second']:,} tokens/s, input_ids sha256 {manifest['input_ids_sha256'][:16]})"
    )


if __name__ == "__main__":
    from run import run_script

    run_script(main)
