"""Training data of fine-tune.py: rows of token ids, as prepare_data.py writes them."""

import hashlib
from glob import escape
from pathlib import Path

from run import errors_of, print_rank0

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from documents import FORMATS


def read(dataset_dir: str) -> datasets.Dataset:
    """Opens training data without looking at its rows.

    dataset_dir: a hub dataset id; a folder written by `datasets` (save_to_disk); a JSON-lines or Parquet file; or a
    folder of such files, as on the hub. Raises ValueError if it cannot be read or has no rows.
    """
    path = Path(dataset_dir)
    with errors_of(f"--dataset_dir {dataset_dir} cannot be read"):
        if path.is_file():
            if path.suffix not in FORMATS:
                raise ValueError("expected a .parquet, .jsonl or .json file, or a folder of such files")
            data = datasets.load_dataset(FORMATS[path.suffix], data_files=escape(dataset_dir), split="train")
        elif (path / "dataset_dict.json").exists():
            data = datasets.load_from_disk(dataset_dir)["train"]
        elif (path / "dataset_info.json").exists():
            data = datasets.load_from_disk(dataset_dir)
        else:
            data = datasets.load_dataset(dataset_dir, split="train")
    if "input_ids" not in data.column_names or len(data) == 0:
        raise ValueError(f"--dataset_dir {dataset_dir} has no rows of `input_ids`; prepare_data.py makes them")
    return data


def select(
    data: datasets.Dataset, length: int, vocab_size: int, cut: bool = False, documents: bool = False
) -> datasets.Dataset:
    """The columns to train on, with exactly `length` ids, and labels if there are any, in every row.

    cut: rows may be longer, any multiple of `length`, and are cut.
    documents: also the column `document_starts`, where documents begin in the row.

    Raises ValueError on a row of another length, an id outside the vocabulary, or missing `document_starts`.
    """
    columns = ["input_ids"]
    if documents:
        columns.append("document_starts")
        if "document_starts" not in data.column_names:
            raise ValueError("--document_mask needs rows made with prepare_data.py --document_boundaries")
    if "labels" in data.column_names:
        columns.append("labels")
        print_rank0("--dataset_dir: the rows have labels of their own, which are learned, except -100")
    data = data.select_columns(columns).with_format(None)  # lists, also if it was saved with torch's format
    for table in data.with_format("arrow").iter(batch_size=1000):
        for name in columns:
            limit = length if name == "document_starts" else vocab_size
            check_column(name, table[name].combine_chunks(), length, limit, cut)
    return data.map(cut_rows, batched=True, fn_kwargs={"length": length}) if cut else data


def check_column(name: str, lists: pa.Array, length: int, limit: int, cut: bool) -> None:
    """Raises ValueError unless `lists` has integers from 0 to limit - 1, and -100 among labels, in rows of `length`.

    cut: the rows may have any multiple of `length`.
    """
    is_integer = pa.types.is_integer(getattr(lists.type, "value_type", pa.null()))
    if not is_integer or lists.null_count or lists.flatten().null_count:
        raise ValueError(f"--dataset_dir: `{name}` is {lists.type}; give lists of integers without nulls")
    values = lists.flatten().to_numpy()
    if name == "labels":
        values = values[values != -100]
    if values.size and (values.min() < 0 or values.max() >= limit):
        found = f"{name} from {values.min()} to {values.max()}"
        raise ValueError(f"--dataset_dir has {found}, not 0 to {limit - 1}: another tokenizer's, or other rows")
    if name == "document_starts":
        return
    lengths = pc.list_value_length(lists).to_numpy()
    excess = lengths % length if cut else lengths - length
    if excess.any():
        found = f"{name} in rows of {lengths.min()} to {lengths.max()} tokens"
        raise ValueError(f"--dataset_dir has {found}, not of {length}; give rows of that length")


def cut_rows(batch: dict, length: int) -> dict:
    return {name: np.concatenate(rows).reshape(-1, length) for name, rows in batch.items()}


def draw_skips(data: datasets.Dataset, length: int, target: int, seed: int) -> datasets.Dataset:
    """Adds the positions of PoSE (arXiv 2309.10400) to rows of `length` tokens, which then stand for `target` tokens.

    The tokens from the column `chunk` on have positions that are `skip` higher: chunk is uniform in 1 ...
    (length + 1) // 2, skip in 0 ... target - length. The text of a row is not cut. A row's draw is that of every epoch.
    """
    generator = np.random.default_rng(seed)
    chunks = generator.integers(1, (length + 1) // 2, len(data), endpoint=True)
    skips = generator.integers(0, target - length, len(data), endpoint=True)
    return data.add_column("chunk", chunks).add_column("skip", skips)


def rows_sha256(data: datasets.Dataset) -> str:
    """SHA-256 over all rows as little-endian int32: of `input_ids` alone, the `input_ids_sha256` of prepare_data.py."""
    digest = hashlib.sha256()
    for chunk in data.with_format("arrow").iter(batch_size=1000):
        for column in chunk.columns:
            digest.update(column.combine_chunks().flatten().to_numpy().astype("<i4"))
    return digest.hexdigest()
