"""Documents for prepare_data.py: a hub dataset or local files, streamed in a fixed order, and their token ids."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import datasets
import numpy as np
import pyarrow as pa
from huggingface_hub import HfApi

from run import run_key

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
READ_DOCUMENTS = 500  # at a time
ALL = "all"  # the source of every document without a mixture
ENCODED_DOCUMENTS = 64  # at a time: while a text is encoded, it takes many times the memory of its ids


def file_format(path: Path) -> str | None:
    """ "json" or "parquet" by a file's name, with or without .gz or .zst; None for other files."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    return FORMATS.get(Path(name).suffix)


def open_dataset(name: str, subset: str | None, split: str, revision: str | None):
    """Opens local files or a hub dataset; returns (datasets.IterableDataset, string that identifies the data).

    Runs no code of the hub. Raises OSError or ValueError if the data cannot be opened.
    """
    path = Path(name).expanduser()
    if path.exists():
        files = sorted(filter(file_format, path.rglob("*"))) if path.is_dir() else [path]
        formats = set(map(file_format, files))
        if len(formats) != 1 or None in formats:
            raise ValueError(f"--dataset {path}: expected *.parquet or *.jsonl / *.json files (.gz, .zst), not both")
        paths = list(map(str, files))
        stream = datasets.load_dataset(formats.pop(), data_files=paths, split="train", streaming=True)
        sizes = [(file.name, file.stat().st_size) for file in files]
        return stream, f"files {run_key(sizes)}"
    if name.startswith((".", "/", "~")) or file_format(path):
        raise ValueError(f"--dataset: no file or folder {name}")
    commit = HfApi().dataset_info(name, revision=revision).sha
    stream = datasets.load_dataset(name, subset, split=split, revision=commit, streaming=True)
    return stream, f"{name}@{commit}"


def read_batches(dataset, text_column: str, source_column: str | None, seed: int | None) -> Iterator[list]:
    """Yields lists of documents, (text or None, source). With a seed, the dataset's files are shuffled.

    dataset: an IterableDataset. Without `source_column`, the source is ALL. Raises ValueError on a missing column.
    """
    shards = list(range(dataset.num_shards))
    if seed is not None:
        Random(seed).shuffle(shards)
    for shard in shards:
        tables = dataset.shard(num_shards=len(shards), index=shard).with_format("arrow")
        for table in tables.iter(batch_size=READ_DOCUMENTS):
            texts = read_column(table, text_column, "--text_column")
            if str(texts.type) not in ("string", "large_string"):
                raise ValueError(f"the column {text_column} has {texts.type}, not text; set --text_column")
            sources = [ALL] * len(table)
            if source_column is not None:
                sources = map(str, read_column(table, source_column, "--source_column").to_pylist())
            yield list(zip(texts.to_pylist(), sources, strict=True))


def read_column(table: pa.Table, name: str, flag: str) -> pa.ChunkedArray:
    """A column of a table; `a.b` is column b of the objects in column a."""
    columns = table.flatten()
    if name not in columns.column_names:
        raise ValueError(f"the dataset has no column {name}, only {', '.join(columns.column_names)}; set {flag}")
    return columns[name]


def encode(tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Token ids of each text, int32, with the BOS. Text that spells a special token is encoded as ordinary text."""
    tokenizer.encode_special_tokens = True
    documents = []
    for i in range(0, len(texts), ENCODED_DOCUMENTS):
        for encoding in tokenizer.encode_batch_fast(texts[i : i + ENCODED_DOCUMENTS]):
            documents.append(np.array(encoding.ids, dtype=np.int32))
    tokenizer.encode_special_tokens = False
    return documents
