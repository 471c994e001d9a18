"""Training data: rows of exactly `model_max_length` token ids, read ready-made or packed here from raw text."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow.compute as pc

COLUMNS = ("input_ids", "document_starts")
FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def read(dataset_dir: str, cache_dir: str | None = None) -> datasets.Dataset:
    """Opens training data without looking at its rows.

    dataset_dir: a hub dataset id; a folder written by `datasets` (save_to_disk); a JSON-lines or Parquet file; or a
    folder of such files. Exits with one line if it is missing, holds nothing of the kind, or has no rows.
    """
    path = Path(dataset_dir)
    if path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            data = datasets.load_from_disk(str(path))
            data = data["train"] if isinstance(data, datasets.DatasetDict) else data
        else:
            files = sorted(str(file) for file in path.iterdir() if file.suffix in FORMATS)
            files = [file for file in files if file.endswith(".parquet")] or files  # a manifest may lie beside them
            if not files:
                raise SystemExit(f"error: no *.jsonl, *.json or *.parquet files in --dataset_dir {path}")
            data = _read_files(files, cache_dir)
    elif path.is_file():
        data = _read_files([str(path)], cache_dir)
    elif dataset_dir.startswith((".", "/", "~")) or dataset_dir.count("/") != 1 or path.suffix in FORMATS:
        raise SystemExit(f"error: no file or folder {dataset_dir}; --dataset_dir takes those or a hub dataset id")
    else:
        try:
            data = datasets.load_dataset(dataset_dir, split="train", cache_dir=cache_dir)
        except Exception as reason:  # the hub's many ways to fail; the first line says which
            first = (str(reason).splitlines() or [type(reason).__name__])[0]
            raise SystemExit(f"error: cannot load --dataset_dir {dataset_dir} from the hub: {first}") from None
    if len(data) == 0:
        raise SystemExit(f"error: --dataset_dir {dataset_dir} has no rows")
    if not {"input_ids", "text"} & set(data.column_names):
        raise SystemExit(
            f"error: --dataset_dir {dataset_dir} has the columns {', '.join(data.column_names)}; "
            "it needs `input_ids` (rows of token ids) or `text`"
        )
    return data


def _read_files(files: list[str], cache_dir: str | None) -> datasets.Dataset:
    kinds = {FORMATS.get(Path(file).suffix) for file in files}
    if None in kinds or len(kinds) > 1:
        raise SystemExit(f"error: {files[0]} ...: expected one kind of file, *.jsonl / *.json or *.parquet")
    if all(Path(file).stat().st_size == 0 for file in files):
        raise SystemExit(f"error: {files[0]} is empty")
    try:
        return datasets.load_dataset(kinds.pop(), data_files=files, split="train", cache_dir=cache_dir)
    except datasets.exceptions.DatasetGenerationError as reason:
        cause = str(reason.__cause__ or reason).splitlines()[0]
        raise SystemExit(f"error: {files[0]} ... cannot be read as {Path(files[0]).suffix}: {cause}") from None


def rows(
    data: datasets.Dataset, tokenizer, length: int, vocab_size: int, cut: bool = False, documents: bool = False
) -> datasets.Dataset:
    """A dataset whose column `input_ids` has exactly `length` ids in every row.

    `input_ids` are checked and taken as they are; otherwise `text` is tokenised (as a document with the tokenizer's
    BOS), joined in order and cut every `length` tokens, the last partial row dropped. With `cut`, rows may be longer,
    any multiple of `length`, and are cut. With `documents`, a column `document_starts` says where in a row documents
    begin, ascending from 0. Exits with one line on a row of another length, an id outside the vocabulary, or rows that
    do not say where their documents begin.
    """
    columns = list(COLUMNS if documents else COLUMNS[:1])
    if "input_ids" in data.column_names:
        if documents and "document_starts" not in data.column_names:
            raise SystemExit(
                "error: --document_mask needs rows that say where documents begin (`document_starts`): make them with "
                "prepare_data.py --document_boundaries, or give a `text` column"
            )
        data = data.select_columns(columns)
        if cut:
            data = _cut(data, length)
        _check(data, length, vocab_size)
        return data
    data = data.select_columns(["text"])
    if next(pack(data, tokenizer, length), None) is None:
        raise SystemExit(f"error: the text of --dataset_dir has fewer than {length} tokens, not one row; give more")
    packed = datasets.Dataset.from_generator(
        pack,
        features=datasets.Features({name: datasets.List(datasets.Value("int32")) for name in COLUMNS}),
        gen_kwargs={"data": data, "tokenizer": tokenizer, "length": length},
    )
    return packed.select_columns(columns)


def _cut(data: datasets.Dataset, length: int) -> datasets.Dataset:
    def pieces(batch):
        return {"input_ids": [row[i : i + length] for row in batch["input_ids"] for i in range(0, len(row), length)]}

    return data.map(pieces, batched=True)


def pack(data: datasets.Dataset, tokenizer, length: int) -> Iterator[dict]:
    """Yields {"input_ids": `length` ids, "document_starts": offsets, the first 0} from documents of text, tokenised a
    thousand at a time."""
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


def _check(data: datasets.Dataset, length: int, vocab_size: int) -> None:
    seen = 0
    for chunk in data.with_format("arrow").iter(batch_size=1000):
        column = chunk["input_ids"].combine_chunks()
        lengths = pc.list_value_length(column)
        wrong = pc.index(pc.not_equal(lengths, length), True).as_py()
        if wrong >= 0:
            raise SystemExit(
                f"error: row {seen + wrong} of --dataset_dir has {lengths[wrong]} tokens, --model_max_length is "
                f"{length}; give rows of exactly that length, or a `text` column to be packed"
            )
        extremes = pc.min_max(pc.list_flatten(column)).as_py()
        if extremes["min"] < 0 or extremes["max"] >= vocab_size:
            raise SystemExit(
                f"error: --dataset_dir holds token ids from {extremes['min']} to {extremes['max']}, the model knows "
                f"0 to {vocab_size - 1}; it was made with another tokenizer"
            )
        seen += len(column)
