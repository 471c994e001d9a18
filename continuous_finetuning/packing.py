"""Training data: rows of exactly `model_max_length` token ids, read ready-made or packed here from raw text."""

import hashlib
from collections.abc import Iterable, Iterator
from glob import escape
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.fingerprint import Hasher

from documents import FORMATS, hash_files
from records import read_fields, read_records
from run import print_rank0

INT_LISTS = datasets.List(datasets.Value("int32"))
COLUMNS = ("input_ids", "labels", "document_starts", "text")
CODE = 3  # increase it with every change of what is read or packed: `datasets` keeps the result and uses it again


def read(dataset_dir: str) -> datasets.Dataset:
    """Opens training data without looking at its rows.

    dataset_dir: a hub dataset id; a folder written by `datasets` (save_to_disk); a JSON-lines or Parquet file; or a
    folder of such files, or with them in data/. Raises OSError or ValueError if it cannot be read or has no rows.
    """
    path = Path(dataset_dir)
    try:
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            data = datasets.load_from_disk(str(path))
        elif path.exists():
            data = read_files(path)
        else:
            data = datasets.load_dataset(dataset_dir, split="train")
        if isinstance(data, datasets.DatasetDict):
            if "train" not in data:
                raise ValueError(f"no split is called train; give the folder of one of {', '.join(data)}")
            data = data["train"]
    except (ValueError, TypeError, KeyError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(f"--dataset_dir {path} cannot be read: {error.__cause__ or error}") from None
    if len(data) == 0 or not {"input_ids", "text"} & set(data.column_names):
        raise ValueError(f"--dataset_dir {dataset_dir} needs rows with `input_ids` (token ids) or `text`")
    return data


def read_files(path: Path) -> datasets.Dataset:
    """Reads a file, or the files of one kind in a folder: Parquet first, since JSON beside it may be a manifest."""
    files = [path]
    for pattern in ("*.parquet", "data/*.parquet", "*.jsonl", "data/*.jsonl", "*.json"):  # data/: as on the hub
        matching = sorted(path.glob(pattern))
        if matching:
            files = matching
            break
    kind = FORMATS.get(files[0].suffix)
    if kind is None:
        raise ValueError("expected *.parquet, *.jsonl or *.json, a file or a folder of files")
    if kind == "parquet":
        return datasets.load_dataset(kind, data_files=[escape(str(file)) for file in files], split="train")
    first = next(read_records(files[0]), {})
    fields = [name for name in COLUMNS if name in first] or ["text"]
    options = {"files": tuple(files), "fields": tuple(fields)}
    fingerprint = Hasher.hash([CODE, options, hash_files(files)])
    return datasets.Dataset.from_generator(read_fields, gen_kwargs=options, fingerprint=fingerprint)


def rows(
    data: datasets.Dataset, tokenizer, length: int, vocab_size: int, cut: bool = False, documents: bool = False
) -> datasets.Dataset:
    """A dataset whose column `input_ids` has exactly `length` ids in every row.

    `input_ids` and `labels`, if there are any, are checked and used as they are; `text` is tokenised and packed. cut:
    rows may be longer, any multiple of `length`, and are cut. documents: a column `document_starts` lists where
    documents begin in the row, from 0.

    Raises ValueError on a row of another length, an id outside the vocabulary, or missing `document_starts`.
    """
    columns = ["input_ids", "document_starts"] if documents else ["input_ids"]
    if "input_ids" not in data.column_names:
        data = pack_dataset(data, tokenizer, length)
    if documents and "document_starts" not in data.column_names:
        raise ValueError("--document_mask needs rows made with prepare_data.py --document_boundaries, or `text`")
    if "labels" in data.column_names:
        columns.append("labels")
        print_rank0("--dataset_dir: the rows have labels of their own, which are learned, except -100")
    data = data.select_columns(columns)
    check_rows(data, length, vocab_size, cut)
    return data.map(cut_rows, batched=True, fn_kwargs={"length": length}) if cut else data


def draw_skips(data: datasets.Dataset, length: int, target: int, seed: int) -> datasets.Dataset:
    """Adds the positions of PoSE (arXiv 2309.10400) to rows of `length` tokens, which then stand for `target` tokens.

    The tokens from the column `chunk` on have positions that are `skip` higher: chunk is uniform in 1 ...
    (length + 1) // 2, skip in 0 ... target - length. The text of a row is not cut. A row's draw is that of every epoch.
    """
    generator = np.random.default_rng(seed)
    chunks = generator.integers(1, (length + 1) // 2, len(data), endpoint=True)
    skips = generator.integers(0, target - length, len(data), endpoint=True)
    return data.add_column("chunk", chunks).add_column("skip", skips)


def cut_rows(batch: dict, length: int) -> dict:
    pieces = {}
    for name, rows in batch.items():
        pieces[name] = [row[i : i + length] for row in rows for i in range(0, len(row), length)]
    return pieces


def pack_dataset(data: datasets.Dataset, tokenizer, length: int) -> datasets.Dataset:
    """Packs the column `text` into rows with `input_ids` and `document_starts`; see `pack`."""
    options = {"data": data.select_columns(["text"]), "tokenizer": tokenizer, "length": length}
    if next(pack_texts(**options), None) is None:
        raise ValueError(f"the text of --dataset_dir has fewer than {length} tokens, not one row; give more")
    return datasets.Dataset.from_generator(
        pack_texts,
        features=datasets.Features({"input_ids": INT_LISTS, "document_starts": INT_LISTS}),
        gen_kwargs=options,
        fingerprint=Hasher.hash([CODE, *options.values()]),
    )


def pack_texts(data: datasets.Dataset, tokenizer, length: int) -> Iterator[dict]:
    for ids_L, starts in pack(tokenize(data, tokenizer), length):
        yield {"input_ids": ids_L, "document_starts": starts}


def tokenize(data: datasets.Dataset, tokenizer) -> Iterator[np.ndarray]:
    """Yields the ids of each text, int32, with the tokenizer's BOS. A text that is null is left out."""
    for batch in data.iter(batch_size=1000):
        texts = [text for text in batch["text"] if text is not None]
        if texts:
            for ids in tokenizer(texts, split_special_tokens=True)["input_ids"]:
                yield np.array(ids, dtype=np.int32)


def pack(documents: Iterable[np.ndarray], length: int) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Joins documents in order and cuts them every `length` tokens, without the last partial row.

    Yields (ids int32 [length], where documents begin in the row). The first is 0: a row may begin inside a document.
    """
    pieces, starts, tokens = [], [], 0  # of the rows that are not complete
    for ids_N in documents:
        pieces.append(ids_N)
        starts.append(tokens)
        tokens += len(ids_N)
        if tokens < length:
            continue
        joined_N = np.concatenate(pieces)
        complete = tokens - tokens % length
        for first in range(0, complete, length):
            inside = [start - first for start in starts if first < start < first + length]
            yield joined_N[first : first + length], [0, *inside]
        pieces = [joined_N[complete:]]
        starts = [start - complete for start in starts if start >= complete]
        tokens -= complete


def check_rows(data: datasets.Dataset, length: int, vocab_size: int, cut: bool = False) -> None:
    """Raises ValueError unless ids and labels are of the vocabulary, labels also -100, and document starts in the row.

    Every row must have `length` ids and labels, or a multiple of it with `cut`.
    """
    for chunk in data.with_format("arrow").iter(batch_size=1000):
        for name in chunk.column_names:
            lists = chunk[name].combine_chunks()
            if not pa.types.is_integer(getattr(lists.type, "value_type", pa.null())):
                raise ValueError(f"--dataset_dir: `{name}` is {lists.type}, not a list of integers")
            if lists.null_count or lists.flatten().null_count:
                raise ValueError(f"--dataset_dir: `{name}` has a null; remove that row")
            values = lists.flatten().to_numpy()
            if name == "labels":
                values = values[values != -100]
            limit = length if name == "document_starts" else vocab_size
            if values.size and (values.min() < 0 or values.max() >= limit):
                found = f"{name} from {values.min()} to {values.max()}"
                raise ValueError(f"--dataset_dir has {found}, not 0 to {limit - 1}: another tokenizer's, or other rows")
            lengths = pc.list_value_length(lists).to_numpy()
            misfits = lengths % length if cut else lengths - length
            if name != "document_starts" and misfits.any():
                found = f"{name} in rows of {lengths.min()} to {lengths.max()} tokens"
                raise ValueError(f"--dataset_dir has {found}, not of {length}; give rows of that length")


def rows_sha256(data: datasets.Dataset) -> str:
    """SHA-256 over all rows as little-endian int32: of `input_ids` alone, the `input_ids_sha256` of prepare_data.py."""
    digest = hashlib.sha256()
    for chunk in data.with_format("arrow").iter(batch_size=1000):
        for column in chunk.columns:
            digest.update(column.combine_chunks().flatten().to_numpy().astype("<i4").tobytes())
    return digest.hexdigest()
