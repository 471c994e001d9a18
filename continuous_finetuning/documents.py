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
NO_SOURCE = "all"  # the name of the one source where the data have none


@dataclass
class Chunk:
    """Consecutive documents of one shard, N of them."""

    place: int  # of the shard in the order of reading
    end: int  # documents of that shard up to the end of this chunk
    texts: pa.Array  # of strings, N
    bytes_N: np.ndarray  # UTF-8 bytes of each text, int64; -1 where there is no text
    sources: list[str]
    draws_N: np.ndarray  # uniform in [0, 1), float64: a function of seed, shard and place in the shard alone


def kind_of(path: Path) -> str | None:
    """ "json" or "parquet" by the file's name, .gz or .zst behind it allowed; None for other files."""
    stem = path.name.removesuffix(".gz").removesuffix(".zst")
    return KINDS.get(Path(stem).suffix)


def local_files(name: str) -> list[Path] | None:
    """The files of a local dataset in sorted order; None if `name` can only be a hub id. Exits with one line otherwise.

    name: a JSON-lines or Parquet file, or a folder of them, searched to the bottom.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and kind_of(file))
        if not files:
            raise SystemExit(f"error: no *.jsonl, *.json or *.parquet files in --dataset {path}")
    elif path.is_file():
        files = [path]
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or kind_of(path):
        raise SystemExit(f"error: no file or folder {name}; --dataset takes those or a hub dataset id")
    else:
        return None
    kinds = {kind_of(file) for file in files}
    if None in kinds or len(kinds) > 1:
        raise SystemExit(f"error: {files[0]} ...: expected one kind of file, *.jsonl / *.json or *.parquet")
    if all(file.stat().st_size == 0 for file in files):
        raise SystemExit(f"error: {files[0]} is empty")
    return files


def fingerprint(files: list[Path]) -> str:
    """What tells local data from others: SHA-256 over each file's name, size, and first and last MiB."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(1 << 20, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()


def hub_revision(name: str, revision: str | None) -> str:
    """The commit of a hub dataset that `revision` (a branch, tag or commit; None: main) stands for now."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except Exception as reason:  # no such id, gated, offline; the first line says which
        first = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
        raise SystemExit(f"error: cannot find --dataset {name} here or on the hub: {first}") from None


def open_stream(name: str, files: list[Path] | None, subset: str | None, split: str, revision: str | None):
    """A `datasets.IterableDataset` over local files or a hub dataset; no code from the hub is run."""
    import datasets
    import fsspec

    if files and any(file.suffix == ".zst" for file in files) and "zstd" not in fsspec.available_compressions():
        raise SystemExit("error: reading .zst files needs the package zstandard; pip install zstandard")
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what fails is said once, below
    try:
        if files:
            names = [str(file) for file in files]
            return datasets.load_dataset(kind_of(files[0]), data_files=names, split="train", streaming=True)
        return datasets.load_dataset(name, subset, split=split, revision=revision, streaming=True)
    except Exception as reason:  # an unknown split, a broken file, the hub's many ways to fail
        raise SystemExit(f"error: cannot open --dataset {name}: {_first_line(reason)}") from None


def shard_order(n: int, seed: int | None) -> list[int]:
    """The order in which the n shards of a dataset, its files, are read: drawn by the seed, or as they are for None."""
    if seed is None:
        return list(range(n))
    return np.argsort(_philox(seed, 2**64 - 1).random_raw(n), kind="stable").tolist()


def _philox(seed: int, stream: int) -> np.random.Philox:
    """Random words, one stream of many of a seed; NumPy keeps these words the same in all its versions."""
    return np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))


def read(
    dataset, order: list[int], seed: int, text_column: str, source_column: str | None, start: tuple[int, int] = (0, 0)
) -> Iterator[Chunk]:
    """Yields all documents from `start`: (place in the order, documents of that shard that are done already).

    Shards, documents and chunks come in the same order every time; a chunk ends after CHUNK_BYTES of text, at a
    document's end, at the latest after READ_DOCUMENTS. Exits with one line where the data cannot be read or have no
    such column.
    """
    for place in range(start[0], len(order)):
        shard = dataset.shard(num_shards=len(order), index=order[place]).with_format("arrow")
        tables, philox, first = shard.iter(batch_size=READ_DOCUMENTS), _philox(seed, order[place]), 0
        while True:
            try:
                table = next(tables, None)
            except Exception as reason:  # a broken line or file, the network
                raise SystemExit(
                    f"error: cannot read on in the dataset's file number {order[place]}, after {first} documents: "
                    f"{_first_line(reason)}"
                ) from None
            if table is None:
                break
            draws_N = (philox.random_raw(len(table)) >> 11) * 2.0**-53
            texts = column(table, text_column, "--text_column")
            if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
                raise SystemExit(f"error: the column {text_column} holds {texts.type}, not text; give --text_column")
            if source_column is None:
                sources = [NO_SOURCE] * len(table)
            else:
                names = column(table, source_column, "--source_column").to_pylist()
                sources = [str(name) for name in names]
            bytes_N = pc.fill_null(pc.binary_length(texts), -1).to_numpy().astype(np.int64)
            pieces_N = np.maximum(bytes_N, 0).cumsum() // CHUNK_BYTES
            ends = [*(np.flatnonzero(np.diff(pieces_N)) + 1).tolist(), len(table)]
            for begin, end in zip([0, *ends], ends, strict=False):
                if place > start[0] or first + begin >= start[1]:
                    part = slice(begin, end)
                    text = texts.slice(begin, end - begin)
                    yield Chunk(place, first + end, text, bytes_N[part], sources[part], draws_N[part])
            first += len(table)


def column(table, name: str, flag: str):
    """A column of an Arrow table as one array; a dotted name leads into objects. Exits with one line without it."""
    if name in table.column_names:
        return table[name].combine_chunks()
    found, have = None, table.column_names
    for part in name.split("."):
        if part not in have:
            raise SystemExit(
                f"error: the dataset has no column {name}, only {', '.join(have) or 'plain values'}; give {flag}"
            )
        found = table[part].combine_chunks() if found is None else pc.struct_field(found, part)
        have = [field.name for field in found.type] if pa.types.is_struct(found.type) else []
    return found


def _first_line(reason: BaseException) -> str:
    """The first line of an error, or of the one behind it, which with `datasets` says more."""
    text = str(reason.__cause__ or reason).strip()
    return text.splitlines()[0] if text else type(reason).__name__
