r"""Makes training data: documents mixed by source, long ones upsampled, packed into rows of exactly --length tokens.

    python prepare_data.py --dataset cerebras/SlimPajama-627B --tokenizer meta-llama/Llama-2-7b-hf \
        --length 32768 --total_tokens 1B --output_dir data/slimpajama_32k_1B --workers 16
    python prepare_data.py --dataset my_texts.jsonl --tokenizer CKPT --length 32768 --output_dir data/mine
    python prepare_data.py --dataset my_folder/ --tokenizer CKPT --length 32768 --total_tokens 200M \
        --source_column meta.kind --mix code=0.3,books=0.7 --output_dir data/mixed
    torchrun --nproc_per_node=8 fine-tune.py ... --dataset_dir data/slimpajama_32k_1B

--dataset: a hub id, which is streamed; a JSON-lines or Parquet file (.jsonl.gz and .jsonl.zst too); a folder of them.
--mix: `slimpajama`, the study's shares, the default for that dataset; name=share,... by the values of --source_column;
or `none`, the default for others: every document, in the order of the files. With a mix the files are read in an order
drawn by the seed; documents of --min_length tokens or more are kept, shorter ones with probability --keep_short; and a
source takes complete documents until it has its share of --total_tokens (documents.py has the source of this recipe).

Writes train-*.parquet with the column `input_ids` (with --document_boundaries also `document_starts`, for fine-tune.py
--document_mask) and manifest.json. The rows depend on the settings only, not on --workers. Rerunning the same command
does nothing once the build is finished; a build that was killed starts again.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

from run import Parser, command_line, positive_int, progress_bar, run_script, versions, write_json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from tokenizers import Tokenizer, processors

import documents
from checkpoint_writer import claim, move_in
from tokenizer import open_tokenizer

FILE_TOKENS = 2**24  # tokens of an output file, 64 MiB of ids
INT_LIST = pa.list_(pa.int32())


def token_count(text: str) -> int:
    """1000000, 500k, 20M, 1.5B: a number of tokens."""
    number = text.lower().replace("k", "e3").replace("m", "e6").replace("b", "e9")
    return positive_int(str(round(float(number))))


def parse_args():
    parser = Parser(__doc__)
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--workers", type=positive_int, default=os.cpu_count(), help="threads [one per core]")
    parser.add_argument("--dataset", required=True, help="hub id, file or folder")
    parser.add_argument("--subset", help="config name of a hub dataset")
    parser.add_argument("--split", default="train", help="split of a hub dataset [train]")
    parser.add_argument("--revision", help="branch, tag or commit of a hub dataset [the newest commit]")
    parser.add_argument("--text_column", default="text", help="column of the text; a.b: key b in column a [text]")
    parser.add_argument("--source_column", help="column of a document's source, or a.b; needed with a mix")
    parser.add_argument("--mix", help="slimpajama, none, or name=share,... [by the dataset]")
    parser.add_argument("--total_tokens", type=token_count, help="1B, 500M, ...; needed with a mix [all]")
    parser.add_argument("--min_length", type=int, default=4096, help="tokens of a long document [4096]")
    parser.add_argument("--keep_short", type=float, help="share kept of shorter documents [0.1 with a mix, else 1]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--length", required=True, type=positive_int, help="tokens of a row: 32768, 65536, ...")
    parser.add_argument("--document_boundaries", action="store_true", help="also write where documents begin in a row")
    args = parser.parse_args()

    if args.mix is None:
        args.mix = "slimpajama" if args.dataset.lower() == "cerebras/slimpajama-627b" else "none"
    if args.mix == "slimpajama" and args.source_column is None:
        args.source_column = "meta.redpajama_set_name"
    args.mix = documents.parse_mix(args.mix)
    if args.keep_short is None:
        args.keep_short = 0.1 if args.mix else 1.0
    if not 0 <= args.keep_short <= 1:
        raise ValueError(f"--keep_short {args.keep_short}: must be from 0 to 1")
    if args.mix and (args.source_column is None or args.total_tokens is None):
        raise ValueError("--mix needs --source_column, the name of each document's source, and --total_tokens")
    return args


def open_document_tokenizer(name_or_path: str) -> Tokenizer:
    """The tokenizer, with BOS before a document (EOS if it has no BOS), as in the token files for perplexity.

    Those of Qwen or SmolLM2 would put nothing there, and documents would not be told apart.
    """
    tokenizer = open_tokenizer(name_or_path)
    backend, first = tokenizer.backend_tokenizer, tokenizer.bos_token or tokenizer.eos_token
    if first and backend.num_special_tokens_to_add(False) == 0:
        ids = [(first, tokenizer.convert_tokens_to_ids(first))]
        backend.post_processor = processors.TemplateProcessing(single=[first, "$A"], special_tokens=ids)
    return backend


def pack(documents: Iterable[np.ndarray], length: int) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Joins documents in order and cuts them every `length` tokens, without the last partial row.

    Yields (ids int32 [length], where documents begin in the row). The first is 0: a row may begin inside a document.
    """
    row_N = np.empty(0, np.int32)
    starts = {0}
    for ids_N in documents:
        starts.add(len(row_N))
        row_N = np.concatenate([row_N, ids_N])
        while len(row_N) >= length:
            yield row_N[:length], sorted(starts)
            row_N = row_N[length:]
            starts = {0}


def build_rows(args, dataset, tokenizer, folder: Path) -> tuple[documents.Mixture, int, str]:
    """Writes all rows into `folder`; returns (mixture, number of rows, SHA-256 of their ids as little-endian int32).

    Equal rows make equal files. Raises ValueError if the documents do not fill one row.
    """
    if args.mix:
        budgets = {source: round(share * args.total_tokens) for source, share in args.mix.items()}
        texts = documents.read_documents(dataset, args.text_column, args.source_column, args.seed)
    else:
        budgets = {documents.ALL: args.total_tokens or math.inf}
        texts = documents.read_documents(dataset, args.text_column, None, None)
    mixture = documents.Mixture(budgets, args.min_length, args.keep_short)
    rows = pack(mixture.select(texts, tokenizer, Random(args.seed)), args.length)
    rows_per_file = max(1, FILE_TOKENS // args.length)
    n_rows, digest = 0, hashlib.sha256()
    with progress_bar(args.total_tokens, "training data", "token") as bar:
        while chunk := list(islice(rows, rows_per_file)):
            ids, starts = zip(*chunk, strict=True)
            table = pa.table({"input_ids": pa.array(ids, INT_LIST)})
            if args.document_boundaries:
                table = table.append_column("document_starts", pa.array(starts, INT_LIST))
            file_number = n_rows // rows_per_file
            path = folder / f"train-{file_number:05d}.parquet"
            pyarrow.parquet.write_table(table, path, compression="zstd")
            digest.update(np.concatenate(ids).astype("<i4"))
            n_rows += len(ids)
            bar.update(len(ids) * args.length)
    if n_rows == 0:
        raise ValueError(f"the documents have {mixture.tokens.total()} tokens, less than one row of {args.length}")
    return mixture, n_rows, digest.hexdigest()


def main() -> None:
    args = parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["RAYON_NUM_THREADS"] = str(args.workers)  # the threads of `tokenizers`
    tokenizer = open_document_tokenizer(args.tokenizer)
    dataset, data = documents.open_dataset(args.dataset, args.subset, args.split, args.revision)
    settings = vars(args) | {"data": data}  # what determines the rows
    for name in ("output_dir", "workers", "dataset", "revision", "tokenizer"):
        del settings[name]
    settings["tokenizer_sha256"] = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    if claim(args.output_dir, settings, "manifest.json"):
        print(f"training data: {args.output_dir} is already finished")
        return

    partial = args.output_dir / "rows.partial"
    partial.mkdir()
    mixture, rows, ids_sha256 = build_rows(args, dataset, tokenizer, partial)
    move_in(partial, args.output_dir)
    missing_tokens = mixture.missing_tokens() if args.total_tokens else {}
    manifest = {
        "command": command_line(),
        "settings": settings,
        "rows": rows,
        "tokens": rows * args.length,
        "missing_tokens": missing_tokens,  # by source, if the data ended early
        "documents_kept": mixture.documents_kept,  # by source, as the next
        "tokens_kept": mixture.tokens,
        "input_ids_sha256": ids_sha256,  # over all ids in order, as little-endian int32
        "versions": versions("datasets", "tokenizers", "pyarrow", "numpy"),
    }
    write_json(args.output_dir / "manifest.json", manifest)
    for source, tokens in missing_tokens.items():
        print(f"training data: the data ended early, {tokens:,} {source} are missing")
    print(f"training data: {args.output_dir} has {rows:,} rows of {args.length:,} tokens")


if __name__ == "__main__":
    run_script(main)
