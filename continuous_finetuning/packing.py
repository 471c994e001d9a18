"""Training data: rows of exactly `model_max_length` token ids, read ready-made or packed here from raw text."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow.compute as pc

COLUMNS = ("input_ids", "document_starts")
FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}


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
    if len(data) == 0:
        raise ValueError(f"--dataset_dir {dataset_dir} has no rows")
    if not {"input_ids", "text"} & set(data.column_names):
        raise ValueError(
            f"--dataset_dir {dataset_dir} has the columns {', '.join(data.column_names)}; "
            "it needs `input_ids` (rows of token ids) or `text`"
        )
    return data


def read_files(path: Path) -> datasets.Dataset:
    """A file, or the files of one kind in a folder: Parquet if there are any, for a manifest may lie beside them."""
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("*.parquet")) or sorted(path.glob("*.jsonl")) or sorted(path.glob("*.json"))
    if not files or files[0].suffix not in FORMATS:
        raise ValueError(f"--dataset_dir {path}: expected *.parquet, *.jsonl or *.json, a file or a folder of files")
    try:
        names = [str(file) for file in files]
        return datasets.load_dataset(FORMATS[files[0].suffix], data_files=names, split="train")
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"--dataset_dir {path} cannot be read: {error.__cause__ or error}") from None


def rows(
    data: datasets.Dataset, tokenizer, length: int, vocab_size: int, cut: bool = False, documents: bool = False
) -> datasets.Dataset:
    """A dataset whose column `input_ids` has exactly `length` ids in every row.

    `input_ids` are checked and taken as they are; otherwise `text` is tokenised (as a document with the tokenizer's
    BOS), joined in order and cut every `length` tokens, the last partial row dropped. With `cut`, rows may be longer,
    any multiple of `length`, and are cut. With `documents`, a column `document_starts` says where in a row documents
    begin, ascending from 0. Raises ValueError on a row of another length, an id outside the vocabulary, or rows that
    do not say where their documents begin.
    """
    columns = list(COLUMNS if documents else COLUMNS[:1])
    if "input_ids" in data.column_names:
        if documents and "document_starts" not in data.column_names:
            raise ValueError(
                "--document_mask needs rows that say where documents begin (`document_starts`): make them with "
                "prepare_data.py --document_boundaries, or give a `text` column"
            )
        data = data.select_columns(columns)
        if cut:
            data = cut_rows(data, length)
        check_rows(data, length, vocab_size)
        return data
    data = data.select_columns(["text"])
    if next(pack(data, tokenizer, length), None) is None:
        raise ValueError(f"the text of --dataset_dir has fewer than {length} tokens, not one row; give more")
    packed = datasets.Dataset.from_generator(
        pack,
        features=datasets.Features({name: datasets.List(datasets.Value("int32")) for name in COLUMNS}),
        gen_kwargs={"data": data, "tokenizer": tokenizer, "length": length},
    )
    return packed.select_columns(columns)


def cut_rows(data: datasets.Dataset, length: int) -> datasets.Dataset:
    def cut(batch):
        return {"input_ids": [row[i : i + length] for row in batch["input_ids"] for i in range(0, len(row), length)]}

    return data.map(cut, batched=True)


def pack(data: datasets.Dataset, tokenizer, length: int) -> Iterator[dict]:
    """Yields {"input_ids": `length` ids, "document_starts": offsets, the first 0} from documents of text."""
    buffer: list[int] = []
    starts: list[int] = []
    for batch in data.iter(batch_size=1000):
        for ids in tokenizer(batch["text"])["input_ids"]:
            starts.append(len(buffer))
            buffer += ids
            while len(buffer) >= length:
                inside = [start for start in starts if 0 < start < length]
                yield {"input_ids": buffer[:length], "document_starts": [0, *inside]}
                buffer = buffer[length:]
                starts = [start - length for start in starts if start >= length]


def check_rows(data: datasets.Dataset, length: int, vocab_size: int) -> None:
    """Raises ValueError on a row of another length or an id outside the vocabulary."""
    seen = 0
    for chunk in data.with_format("arrow").iter(batch_size=1000):
        column = chunk["input_ids"].combine_chunks()
        lengths = pc.list_value_length(column)
        wrong = pc.index(pc.not_equal(lengths, length), True).as_py()
        if wrong >= 0:
            raise ValueError(
                f"row {seen + wrong} of --dataset_dir has {lengths[wrong]} tokens, --model_max_length is {length}; "
                "give rows of exactly that length, or a `text` column to be packed"
            )
        extremes = pc.min_max(pc.list_flatten(column)).as_py()
        if extremes["min"] < 0 or extremes["max"] >= vocab_size:
            raise ValueError(
                f"--dataset_dir has token ids from {extremes['min']} to {extremes['max']}, the model knows "
                f"0 to {vocab_size - 1}; it was made with another tokenizer"
            )
        seen += len(column)
