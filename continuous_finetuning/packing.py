"""Training data: rows of exactly `model_max_length` token ids, read ready-made or packed here from raw text."""

import hashlib
from collections.abc import Iterator
from glob import escape
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.fingerprint import Hasher

from documents import hash_files
from records import check_text, column_names, file_format, read_records
from run import print_rank0

INT_LISTS = datasets.List(datasets.Value("int32"))
COLUMNS = ("input_ids", "labels", "document_starts", "text")  # that are read from files
CODE = 2  # increase it with every change of what is packed or read: `datasets` reuses what it has stored


def read(dataset_dir: str) -> datasets.Dataset:
    """Opens training data without looking at its rows.

    dataset_dir: a hub dataset id; a folder written by `datasets` (save_to_disk); a JSON-lines or Parquet file; or a
    folder of such files, or with such files in data/. Raises OSError or ValueError if it cannot be read or has no rows.
    """
    path = Path(dataset_dir)
    try:
        data = open_folder(path) if path.exists() else datasets.load_dataset(dataset_dir, split="train")
    except (ValueError, KeyError, TypeError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(f"--dataset_dir {path} cannot be read: {error.__cause__ or error}") from None
    if len(data) == 0 or not {"input_ids", "text"} & set(data.column_names):
        raise ValueError(f"--dataset_dir {dataset_dir} needs rows with `input_ids` (token ids) or `text`")
    return data


def open_folder(path: Path) -> datasets.Dataset:
    """Opens local data; see `read`."""
    if not ((path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()):
        return read_files(find_files(path))
    data = datasets.load_from_disk(str(path))
    if isinstance(data, datasets.DatasetDict):
        if "train" not in data:
            raise ValueError(f"it has the splits {', '.join(data)}, not `train`; give the folder of one of these")
        data = data["train"]
    return data


def find_files(path: Path) -> list[Path]:
    """The file, or the files of one kind in a folder: Parquet first, since JSON beside it may be a manifest."""
    if path.is_file() and file_format(path):
        return [path]
    for folder in (path, path / "data"):  # data/: as a dataset lies on the hub
        for pattern in ("*.parquet", "*.jsonl", "*.json"):
            files = sorted(filter(Path.is_file, folder.glob(pattern)))
            if files:
                return files
    raise ValueError("expected *.parquet, *.jsonl or *.json, a file or a folder of files")


def read_files(files: list[Path]) -> datasets.Dataset:
    """Reads those of COLUMNS that the files have, into the cache of `datasets`."""
    columns = [name for name in COLUMNS if name in column_names(files[0])]
    if not columns:
        raise ValueError(f"{files[0]} needs rows with `input_ids` (token ids) or `text`")
    if file_format(files[0]) == "parquet":
        patterns = [escape(str(file)) for file in files]
        return datasets.load_dataset("parquet", data_files=patterns, columns=columns, split="train")
    fingerprint = Hasher.hash([CODE, columns, hash_files(files)])
    options = {"files": tuple(files), "columns": tuple(columns)}
    return datasets.Dataset.from_generator(read_json, gen_kwargs=options, fingerprint=fingerprint)


def read_json(files: tuple[Path, ...], columns: tuple[str, ...]) -> Iterator[dict]:
    for file in files:
        for values in read_records(file, columns):
            record = dict(zip(columns, values, strict=True))
            check_text(record.get("text"), "text", file)
            yield record


def rows(
    data: datasets.Dataset, tokenizer, length: int, vocab_size: int, cut: bool = False, documents: bool = False
) -> datasets.Dataset:
    """A dataset whose column `input_ids` has exactly `length` ids in every row.

    `input_ids` and, where they exist, `labels` are checked and used as they are; `text` is tokenised (each document
    with the tokenizer's BOS), joined in order and cut every `length` tokens, without the last partial row. cut: rows
    may be longer, any multiple of `length`, and are cut. documents: a column `document_starts` lists where documents
    begin in the row, from 0.

    Raises ValueError on a row of another length, an id outside the vocabulary, or missing `document_starts`.
    """
    starts = ["document_starts"] if documents else []
    if "input_ids" in data.column_names:
        if documents and "document_starts" not in data.column_names:
            raise ValueError("--document_mask needs rows made with prepare_data.py --document_boundaries, or `text`")
        labels = ["labels"] if "labels" in data.column_names else []
        if labels:
            print_rank0("--dataset_dir: the rows have labels of their own, which are learned, except -100")
        data = data.select_columns(["input_ids", *labels, *starts])
        check_rows(data, length, vocab_size, cut)
        return data.map(cut_rows, batched=True, fn_kwargs={"length": length}) if cut else data
    data = data.select_columns(["text"])
    if data.features["text"].dtype not in ("string", "large_string"):
        raise ValueError(f"--dataset_dir: the column `text` has {data.features['text'].dtype}, not text")
    if next(pack(data, tokenizer, length), None) is None:
        raise ValueError(f"the text of --dataset_dir has fewer than {length} tokens, not one row; give more")
    packed = datasets.Dataset.from_generator(
        pack,
        features=datasets.Features({"input_ids": INT_LISTS, "document_starts": INT_LISTS}),
        gen_kwargs={"data": data, "tokenizer": tokenizer, "length": length},
        fingerprint=Hasher.hash([CODE, data, tokenizer, length]),
    )
    packed = packed.select_columns(["input_ids", *starts])
    check_rows(packed, length, vocab_size)
    return packed


def cut_rows(batch: dict, length: int) -> dict:
    pieces = {}
    for name, rows in batch.items():
        pieces[name] = [row[i : i + length] for row in rows for i in range(0, len(row), length)]
    return pieces


def pack(data: datasets.Dataset, tokenizer, length: int) -> Iterator[dict]:
    """Yields {"input_ids": `length` ids, "document_starts": offsets, the first 0} from documents of text."""
    buffer: list[int] = []
    starts: list[int] = []
    for batch in data.iter(batch_size=1000):
        texts = [text for text in batch["text"] if text is not None]
        if not texts:
            continue
        for ids in tokenizer(texts, split_special_tokens=True)["input_ids"]:
            starts.append(len(buffer))
            buffer += ids
            end = len(buffer) - len(buffer) % length
            for first in range(0, end, length):
                inside = [start - first for start in starts if first < start < first + length]
                yield {"input_ids": buffer[first : first + length], "document_starts": [0, *inside]}
            if end > 0:
                del buffer[:end]
                starts = [start - end for start in starts if start >= end]


def check_rows(data: datasets.Dataset, length: int, vocab_size: int, cut: bool = False) -> None:
    """Raises ValueError unless each row has `length` ids of the vocabulary, or with `cut` a multiple of it.

    `labels` has an id or -100 for each of them, and `document_starts` lie inside the row.
    """
    for chunk in data.with_format("arrow").iter(batch_size=1000):
        lengths = {}
        for name in chunk.column_names:
            limit = length if name == "document_starts" else vocab_size
            lengths[name] = check_lists(name, chunk[name].combine_chunks(), limit)
        tokens = lengths["input_ids"]
        if np.any(tokens % length if cut else tokens != length) or 0 in tokens:
            found = f"rows of {tokens.min()} to {tokens.max()} tokens"
            raise ValueError(f"--dataset_dir has {found}, --model_max_length is {length}; give rows of that length")
        if not np.array_equal(lengths.get("labels", tokens), tokens):
            raise ValueError("--dataset_dir has rows with more or fewer `labels` than `input_ids`")


def check_lists(name: str, lists: pa.Array, limit: int) -> np.ndarray:
    """The lengths of lists of integers from 0 to limit - 1, or -100 in labels. Raises ValueError on anything else."""
    value_type = getattr(lists.type, "value_type", None)
    if value_type is None or not pa.types.is_integer(value_type):
        raise ValueError(f"--dataset_dir: `{name}` is {lists.type}, not a list of integers")
    values = lists.flatten()
    if lists.null_count or values.null_count:
        raise ValueError(f"--dataset_dir: `{name}` has a null; remove that row")
    if name == "labels":
        values = values.filter(pc.not_equal(values, -100))
    extremes = pc.min_max(values).as_py()
    if len(values) and (extremes["min"] < 0 or extremes["max"] >= limit):
        found = f"{name} from {extremes['min']} to {extremes['max']}"
        raise ValueError(f"--dataset_dir has {found}, not 0 to {limit - 1} (rows of another tokenizer or length?)")
    return pc.list_value_length(lists).to_numpy(zero_copy_only=False)


def rows_sha256(data: datasets.Dataset) -> str:
    """SHA-256 over the columns of all rows as little-endian int32; prepare_data.py's `input_ids_sha256` if only ids."""
    digest = hashlib.sha256()
    for chunk in data.with_format("arrow").iter(batch_size=1000):
        for column in chunk.columns:
            digest.update(column.combine_chunks().flatten().to_numpy().astype("<i4").tobytes())
    return digest.hexdigest()
