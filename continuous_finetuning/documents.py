"""Documents for prepare_data.py: a hub dataset or local files, streamed in a fixed order, a chunk at a time."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
READ_DOCUMENTS = 500  # read at a time
CHUNK_BYTES = 4 << 20  # of text: a worker's task, a second or two of tokenising
NO_SOURCE = "all"  # the name of the only source if the data have no --source_column


@dataclass
class Chunk:
    """Consecutive documents of one shard, N of them."""

    texts: pa.Array  # of strings, N
    bytes_N: np.ndarray  # UTF-8 bytes of each text, int64; -1 if there is no text
    sources: list[str]
    draws_N: np.ndarray  # uniform in [0, 1), float64: depend on seed, shard and place in the shard only


def kind_of(path: Path) -> str | None:
    """ "json" or "parquet" by the file's name, .gz or .zst behind it allowed; None for other files."""
    stem = path.name.removesuffix(".gz").removesuffix(".zst")
    return KINDS.get(Path(stem).suffix)


def local_files(name: str) -> list[Path]:
    """The JSON-lines or Parquet files of a local dataset, a file or a folder with subfolders, in sorted order.

    Raises ValueError if there are none or of both kinds.
    """
    path = Path(name).expanduser()
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and kind_of(file))
    kinds = {kind_of(file) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise ValueError(f"--dataset {path}: expected files of one kind, *.parquet or *.jsonl / *.json (.gz, .zst)")
    return files


def fingerprint(files: list[Path]) -> str:
    """SHA-256 over each file's name, size, and first and last MiB."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(1 << 20, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()


def open_dataset(name: str, subset: str | None, split: str, revision: str | None):
    """(a `datasets.IterableDataset`, what identifies its data) of local files or a hub dataset.

    Runs no code of the hub. Raises OSError or ValueError if it cannot be opened.
    """
    import datasets
    from huggingface_hub import HfApi

    path = Path(name).expanduser()
    if path.exists():
        files = local_files(name)
        names = [str(file) for file in files]
        stream = datasets.load_dataset(kind_of(files[0]), data_files=names, split="train", streaming=True)
        return stream, f"sha256:{fingerprint(files)}"
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or kind_of(path):
        raise ValueError(f"no file or folder {name}; --dataset takes those or a hub dataset id")
    commit = HfApi().dataset_info(name, revision=revision).sha
    stream = datasets.load_dataset(name, subset, split=split, revision=commit, streaming=True)
    return stream, f"{name}@{commit}"


def shard_order(n: int, seed: int | None) -> list[int]:
    """The order in which the n shards of a dataset, its files, are read: drawn by the seed, or as they are for None."""
    if seed is None:
        return list(range(n))
    return np.argsort(random_words(seed, 2**64 - 1).random_raw(n), kind="stable").tolist()


def random_words(seed: int, stream: int) -> np.random.Philox:
    """One of many streams of a seed; NumPy keeps these words the same in all its versions."""
    return np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))


def read(dataset, order: list[int], seed: int, text_column: str, source_column: str | None) -> Iterator[Chunk]:
    """Yields all documents. A chunk ends after CHUNK_BYTES of text, at the latest after READ_DOCUMENTS.

    Raises ValueError if the data cannot be read or have no such column.
    """
    for shard in order:
        tables = dataset.shard(num_shards=len(order), index=shard).with_format("arrow")
        words = random_words(seed, shard)
        for table in tables.iter(batch_size=READ_DOCUMENTS):
            draws_N = (words.random_raw(len(table)) >> 11) * 2.0**-53
            texts = column(table, text_column, "--text_column")
            if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
                raise ValueError(f"the column {text_column} has {texts.type}, not text; give --text_column")
            sources = [NO_SOURCE] * len(table)
            if source_column is not None:
                sources = [str(name) for name in column(table, source_column, "--source_column").to_pylist()]
            bytes_N = pc.fill_null(pc.binary_length(texts), -1).to_numpy().astype(np.int64)
            chunk_N = np.maximum(bytes_N, 0).cumsum() // CHUNK_BYTES
            ends = [*(np.flatnonzero(np.diff(chunk_N)) + 1).tolist(), len(table)]
            for begin, end in zip([0, *ends], ends, strict=False):
                part = slice(begin, end)
                yield Chunk(texts.slice(begin, end - begin), bytes_N[part], sources[part], draws_N[part])


def column(table, name: str, flag: str):
    """A column of an Arrow table as one array; a dotted name leads into objects. Raises ValueError without it."""
    if name in table.column_names:
        return table[name].combine_chunks()
    array, names = None, table.column_names
    for part in name.split("."):
        if part not in names:
            raise ValueError(f"the dataset has no column {name}, only {', '.join(names) or 'values'}; give {flag}")
        array = table[part].combine_chunks() if array is None else pc.struct_field(array, part)
        names = [field.name for field in array.type] if pa.types.is_struct(array.type) else []
    return array
