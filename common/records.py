"""Reads JSON-lines files as people have them. What is in fields that are not asked for does not matter."""

import io
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FIRST_RECORDS = 1000  # one of them must have the field that is asked for
MISSING = object()


def read_fields(files: list[Path], fields: list[str]) -> Iterator[dict]:
    """Yields `select_fields` of the records of each file. Raises ValueError, which names the file, if it is damaged."""
    for path in files:
        yield from select_fields(read_records(path), fields, str(path))


def select_fields(records: Iterator[dict], fields: list[str], source: str) -> Iterator[dict]:
    """Yields {field: value} for each record, None where it lacks the field; `a.b` is b of the object in a.

    Raises ValueError, which names the source, if it has no such field.
    """
    first = list(islice(records, FIRST_RECORDS))
    for field in fields:
        if first and all(find_value(record, field, MISSING) is MISSING for record in first):
            raise ValueError(f"{source} has no {field}, only {', '.join(first[0])}; give the name of one of these")
    for record in chain(first, records):
        yield {field: find_value(record, field) for field in fields}


def find_value(record: dict, field: str, default=None):
    outer, _, inner = field.partition(".")
    nested = record.get(outer)
    found = nested.get(inner, default) if isinstance(nested, dict) else default
    return record.get(field, found)


def read_records(path: Path) -> Iterator[dict]:
    """Yields the objects of a .jsonl or .json file, or .gz or .zst of it: one a line, or one array.

    A byte order mark, Windows line ends and empty lines are no data.
    """
    number = 0
    with path.open("rb") as file:
        lines = io.BufferedReader(pa.input_stream(file, compression=COMPRESSIONS.get(path.suffix)))
        try:
            for line in lines:
                number += 1
                text = line.removeprefix(BOM_UTF8).strip()
                if not text:
                    continue
                is_array = text.startswith(b"[")
                value = json.loads(text + lines.read() if is_array else text)
                if b"\\ud" in text.lower():  # half of a surrogate pair is no text
                    json.dumps(value, ensure_ascii=False).encode()
                yield from map(dict, value if is_array else [value])
        except (ValueError, TypeError, OSError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read, line {number}: {getattr(error, 'msg', error)}") from None
