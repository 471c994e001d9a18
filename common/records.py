"""Reads JSON-lines files as people have them. What is in fields that are not asked for does not matter."""

import io
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

from run import errors_of

import pyarrow as pa

FIRST_RECORDS = 1000  # one of them must have the field that is asked for
MISSING = object()
NOT_JSON = (ValueError, TypeError, RecursionError)  # what {**parse(text)} raises if the text is not an object


def read_fields(files: list[Path], fields: list[str]) -> Iterator[dict]:
    """Yields `select_fields` of the records of each file. Raises ValueError, which names the file, if it is damaged."""
    for path in files:
        records = (record for _, record in read_records(path))
        yield from select_fields(records, fields, str(path))


def select_fields(records: Iterator[dict], fields: list[str], source: str) -> Iterator[dict]:
    """Yields {field: value} for each record, None where it lacks the field. Raises ValueError if no record has it."""
    first = list(islice(records, FIRST_RECORDS))
    for field in fields:
        has_field = [find_value(record, field, MISSING) is not MISSING for record in first]
        if first and not any(has_field):
            names = ", ".join(first[0])
            raise ValueError(f"{source} has no {field}, only {names}; give the name of one of these")
    for record in chain(first, records):
        yield {field: find_value(record, field) for field in fields}


def find_value(record: dict, field: str, default=None):
    """The value of a field; `a.b` is b of the object in a."""
    outer, _, inner = field.partition(".")
    nested = record.get(outer)
    found = nested.get(inner, default) if isinstance(nested, dict) else default
    return record.get(field, found)


def read_rows(path: Path, check: Callable[[dict], None]) -> list[dict]:
    """The rows of a data file. Raises ValueError, which names the line, where check(row) raises, or if it is empty."""
    rows = []
    for number, row in read_records(path):
        with errors_of(f"{path}, line {number} is not a row of this kind of data"):
            check(row)
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows


def read_records(path: Path) -> Iterator[tuple[int, dict]]:
    """Yields (line, object) of a .jsonl or .json file, or .gz or .zst of it: one object a line, or one array.

    A byte order mark, Windows line ends and empty lines are no data.
    """
    number = 0
    with pa.input_stream(path) as file:  # decompresses by the file's name
        lines = io.BufferedReader(file)
        try:
            for line in lines:
                number += 1
                text = line.removeprefix(BOM_UTF8).strip()
                if not text:
                    continue
                is_array = text.startswith(b"[")
                value = parse(text + lines.read() if is_array else text)
                for record in value if is_array else [value]:
                    yield number, {**record}
        except (*NOT_JSON, OSError) as error:
            fault = f"line {number} is not a JSON object of UTF-8 text ({getattr(error, 'msg', error)})"
            raise ValueError(f"{path}, {fault}; get the file again") from None


def parse(text: bytes):
    """The JSON value in a text. Raises one of NOT_JSON if it is none."""
    value = json.loads(text.decode("utf-8-sig"))
    if b"\\ud" in text.lower():  # half of a surrogate pair is no text
        json.dumps(value, ensure_ascii=False).encode()
    return value
