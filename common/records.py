"""Reads records from JSON-lines and Parquet files. What is in columns that are not needed does not matter."""

import contextlib
import io
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FIRST_RECORDS = 1000  # of a JSON file: their fields are its columns


def file_format(path: Path) -> str | None:
    """ "json" or "parquet" by a file's name, with or without .gz or .zst; None for other files."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    return FORMATS.get(Path(name).suffix)


def read_records(path: Path, columns: list[str]) -> Iterator[list]:
    """Yields the values of `columns` in each record of a file, None where a record lacks one.

    `a.b` is column b of the objects in a. A byte order mark, Windows line ends and empty lines are no data. Raises
    ValueError, which names the file, if the file is damaged or has no such column.
    """
    names = column_names(path)
    if names:
        check_columns(names, columns, path)
    for record in read_objects(path, columns):
        yield [find_value(record, column) for column in columns]


def check_columns(names, columns: list[str], source) -> None:
    """Raises ValueError if one of the columns is not among the names of those in `source`."""
    for column in columns:
        if column not in names:
            raise ValueError(f"{source} has no column {column}, only {', '.join(names)}; give the name of one of these")


def column_names(path: Path) -> list[str]:
    """The columns of a file, also `a.b` for column b of the objects in a; none if it has no records."""
    if file_format(path) == "parquet":
        with name_in_errors(path):
            schema = pyarrow.parquet.read_schema(path)
        return list(dict.fromkeys([*schema.names, *schema.empty_table().flatten().column_names]))
    names = {}
    for record in islice(read_objects(path), FIRST_RECORDS):
        names |= dict.fromkeys(record)
        for name, value in record.items():
            if isinstance(value, dict):
                names |= dict.fromkeys(f"{name}.{inner}" for inner in value)
    return list(names)


def find_value(record: dict, name: str):
    """The value of a column; `a.b` is the value of b in the object a. None if there is none."""
    if name in record:
        return record[name]
    outer, _, inner = name.partition(".")
    nested = record.get(outer)
    return nested.get(inner) if isinstance(nested, dict) else None


def check_text(value, column: str, source) -> str | None:
    """A document's text or None. Raises ValueError, which names the source, if the value is anything else."""
    if value is not None and not isinstance(value, str):
        kind = type(value).__name__
        raise ValueError(f"{source}: the column {column} has {kind}, not text; give another --text_column")
    try:
        (value or "").encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{source}: a document is not Unicode text ({error.reason}); remove or repair it") from None
    return value


def read_objects(path: Path, columns: list[str] | None = None) -> Iterator[dict]:
    """Yields the records of a file; of a Parquet file only their `columns`."""
    with name_in_errors(path), path.open("rb") as file:
        if file_format(path) == "parquet":
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(500, columns=columns):
                yield from batch.to_pylist()
        else:
            stream = pa.input_stream(file, compression=COMPRESSIONS.get(path.suffix))
            yield from parse_lines(io.BufferedReader(stream))


def parse_lines(file) -> Iterator[dict]:
    """Yields the objects of JSON lines, or of one JSON array. file: opened in binary mode."""
    for number, line in enumerate(file, 1):
        text = line.removeprefix(BOM_UTF8).strip()
        if not text:
            continue
        is_array = text.startswith(b"[")
        try:
            value = json.loads(text + file.read() if is_array else text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {getattr(error, 'msg', error)}") from None
        for record in value if is_array else [value]:
            if not isinstance(record, dict):
                raise ValueError(f"line {number}: not an object with fields")
            yield record


@contextlib.contextmanager
def name_in_errors(path: Path):
    """Turns what the libraries raise on a damaged file into a ValueError that names the file."""
    try:
        yield
    except (ValueError, OSError, pa.ArrowException) as error:
        if getattr(error, "filename", None):
            raise
        raise ValueError(f"{path} cannot be read: {error}") from None
