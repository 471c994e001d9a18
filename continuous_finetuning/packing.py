"""Training data: rows of exactly `model_max_length` token ids, read ready-made or packed here from raw text."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow.compute as pc

from documents import FORMATS

INT_LISTS = datasets.List(datasets.Value("int32"))


def read(dataset_dir: str) -> datasets.Dataset:
    """Opens training data without looking at its rows.

    dataset_dir: a hub dataset id; a folder written by `datasets` (save_to_disk); a JSON-lines or Parquet file; or a
    folder of such files. Raises OSError or ValueError if it cannot be read or has no rows.
    """
    path = Path(dataset_dir)
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        data = datasets.load_from_disk(str(path))
        data = data["train"] if isinstance(data, datasets.DatasetDict) else data
    elif path.exists():
        data = read_files(path)
    else:
        data = datasets.load_dataset(dataset_dir, split="train")
    if len(data) == 0 or not {"input_ids", "text"} & set(data.column_names):
        raise ValueError(f"--dataset_dir {dataset_dir} needs rows with `input_ids` (token ids) or `text`")
    return data


def read_files(path: Path) -> datasets.Dataset:
    """Reads a file, or the files of one kind in a folder: Parquet first, since JSON beside it may be a manifest."""
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("*.parquet")) or sorted(path.glob("*.jsonl")) or sorted(path.glob("*.json"))
    kind = FORMATS.get(files[0].suffix) if files else None
    if kind is None:
        raise ValueError(f"--dataset_dir {path}: expected *.parquet, *.jsonl or *.json, a file or a folder of files")
    try:
        return datasets.load_dataset(kind, data_files=[str(file) for file in files], split="train")
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"--dataset_dir {path} cannot be read: {error.__cause__ or error}") from None


def rows(
    data: datasets.Dataset, tokenizer, length: int, vocab_size: int, cut: bool = False, documents: bool = False
) -> datasets.Dataset:
    """A dataset whose column `input_ids` has exactly `length` ids in every row.

    `input_ids` are checked and used as they are; `text` is tokenised (each document with the tokenizer's BOS), joined
    in order and cut every `length` tokens, without the last partial row. cut: rows may be longer, any multiple of
    `length`, and are cut. documents: a column `document_starts` lists where documents begin in the row, from 0.

    Raises ValueError on a row of another length, an id outside the vocabulary, or missing `document_starts`.
    """
    columns = ["input_ids", "document_starts"] if documents else ["input_ids"]
    if "input_ids" in data.column_names:
        if documents and "document_starts" not in data.column_names:
            raise ValueError("--document_mask needs rows made with prepare_data.py --document_boundaries, or `text`")
        data = data.select_columns(columns)
        if cut:
            data = data.map(cut_rows, batched=True, fn_kwargs={"length": length})
        check_rows(data, length, vocab_size)
        return data
    data = data.select_columns(["text"])
    if next(pack(data, tokenizer, length), None) is None:
        raise ValueError(f"the text of --dataset_dir has fewer than {length} tokens, not one row; give more")
    packed = datasets.Dataset.from_generator(
        pack,
        features=datasets.Features({"input_ids": INT_LISTS, "document_starts": INT_LISTS}),
        gen_kwargs={"data": data, "tokenizer": tokenizer, "length": length},
    )
    packed = packed.select_columns(columns)
    check_rows(packed, length, vocab_size)
    return packed


def cut_rows(batch: dict, length: int) -> dict:
    pieces = []
    for ids in batch["input_ids"]:
        pieces += [ids[i : i + length] for i in range(0, len(ids), length)]
    return {"input_ids": pieces}


def pack(data: datasets.Dataset, tokenizer, length: int) -> Iterator[dict]:
    """Yields {"input_ids": `length` ids, "document_starts": offsets, the first 0} from documents of text."""
    buffer: list[int] = []
    starts: list[int] = []
    for batch in data.iter(batch_size=1000):
        for ids in tokenizer(batch["text"], split_special_tokens=True)["input_ids"]:
            starts.append(len(buffer))
            buffer += ids
            while len(buffer) >= length:
                inside = [start for start in starts if 0 < start < length]
                yield {"input_ids": buffer[:length], "document_starts": [0, *inside]}
                buffer = buffer[length:]
                starts = [start - length for start in starts if start >= length]


def check_rows(data: datasets.Dataset, length: int, vocab_size: int) -> None:
    for chunk in data.with_format("arrow").iter(batch_size=1000):
        ids = chunk["input_ids"].combine_chunks()
        lengths = pc.min_max(pc.list_value_length(ids)).as_py()
        if lengths != {"min": length, "max": length}:
            found = f"rows of {lengths['min']} to {lengths['max']} tokens"
            raise ValueError(f"--dataset_dir has {found}, --model_max_length is {length}; give rows of that length")
        extremes = pc.min_max(pc.list_flatten(ids)).as_py()
        if extremes["min"] < 0 or extremes["max"] >= vocab_size:
            found = f"token ids from {extremes['min']} to {extremes['max']}"
            raise ValueError(f"--dataset_dir has {found}, the model's are 0 to {vocab_size - 1}: another tokenizer's")
