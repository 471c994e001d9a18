"""Predictions on disk as they are made, and the record of the run beside them.

<folder>/<set>.jsonl               a row a prediction, at the end in the order of the data; first the keys of
                                   the paper's code, then ours
<folder>/runs/<set>.json           model, data, settings, versions, speed; there from the start, whole at the end
<folder>/runs/<set>.rank<r>.jsonl  rows of process r > 0, put together when the next run begins or this one ends
<folder>/runs/<set>.errors.jsonl   rows that ran out of memory; the next run tries them again
<folder>/old/                      what was made with other settings
"""

import json
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes so that a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def read_lines(path: Path) -> list[dict]:
    """The JSON objects of a file, without lines that a kill cut off."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [entry for entry in map(_parse, lines) if isinstance(entry, dict)]


def keep_broken(path: Path) -> None:
    """Where a file has whole lines that are no JSON objects, says so and keeps a copy: they will be made again."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    broken = [number for number, line in enumerate(lines, 1) if not isinstance(_parse(line), dict)]
    if broken:
        copy = path.with_name(path.name + ".broken")
        copy.write_bytes(path.read_bytes())
        print(
            f"{path}: line {broken[0]} and {len(broken) - 1} more are broken; kept as {copy.name}, made again",
            flush=True,
        )


class Predictions:
    """The files of one set. settings: what predictions made earlier must have in common with those to come."""

    def __init__(self, folder: Path, name: str, settings: dict):
        self.folder, self.name, self.settings = folder, name, settings
        self.record, self.errors = folder / "runs" / f"{name}.json", folder / "runs" / f"{name}.errors.jsonl"
        self.file = None

    def path(self, rank: int) -> Path:
        return self.folder / (f"{self.name}.jsonl" if rank == 0 else f"runs/{self.name}.rank{rank}.jsonl")

    def parts(self) -> list[Path]:
        """The files that hold rows."""
        ranks = sorted((self.folder / "runs").glob(f"{self.name}.rank*.jsonl"))
        return [path for path in [self.path(0), *ranks] if path.exists()]

    def begin(self, ids: list[str], run: dict) -> tuple[dict[str, dict], str | None]:
        """(rows that are there, by `_id`; what was moved aside and why, or None). For rank 0."""
        moved = None
        known = _parse(self.record.read_text(encoding="utf-8")) if self.record.exists() else None
        theirs = (known or {}).get("settings")
        if theirs != self.settings and (self.parts() or known):
            changed = [key for key, value in self.settings.items() if (theirs or {}).get(key) != value]
            moved = f"{self.aside()} ({'other ' + ', '.join(changed) if theirs else 'without a record of their run'})"
        for path in self.parts():
            keep_broken(path)
        rows = self.gather(ids)
        write_text(self.record, to_json(run | {"n": None, "settings": self.settings}))
        self.errors.unlink(missing_ok=True)
        return rows, moved

    def aside(self) -> Path:
        """Moves the set's files to where nothing is lost and nothing is scored; where to."""
        count, old = 1, self.folder / "old"
        while any((old / name).exists() for name in (self.path(0).name, self.record.name)):
            count += 1
            old = self.folder / f"old{count}"
        old.mkdir(exist_ok=True)
        for path in [*self.parts(), self.record]:  # the record last: without it rows are nobody's
            if path.exists():
                os.replace(path, old / path.name)
        return old / self.path(0).name

    def gather(self, ids: list[str]) -> dict[str, dict]:
        """The rows made so far by `_id`, in the order of `ids`; leaves one file of whole lines. For rank 0."""
        found = {row["_id"]: row for path in self.parts() for row in read_lines(path) if "pred" in row}
        rows = {name: found[name] for name in ids if name in found}
        if self.parts():
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()]
            write_text(self.path(0), "".join(lines))
        for path in self.parts()[1:]:
            path.unlink()
        return rows

    def append(self, rank: int, row: dict) -> None:
        """Adds a row to the file of process `rank`; it is with the operating system when this returns."""
        if self.file is None:
            self.file = self.path(rank).open("a", encoding="utf-8")
        self.file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.file.flush()

    def fail(self, name: str, error: str) -> None:
        """Notes that the row with this `_id` could not be predicted."""
        with self.errors.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"_id": name, "error": error}) + "\n")

    def end(self, ids: list[str], run: dict) -> dict:
        """Puts the rows together and writes the record; returns it. For rank 0, once all have closed."""
        rows = list(self.gather(ids).values())
        seconds = sum(row["seconds"] for row in rows)
        lengths, new = [row["prompt_tokens"] for row in rows], sum(row["generated_tokens"] for row in rows)
        peaks = [row["peak_memory_bytes"] for row in rows if row["peak_memory_bytes"]]
        record = run | {
            "n": len(rows),
            "errors": read_lines(self.errors),
            "truncated": sum(row["truncated"] for row in rows),
            "prompt_tokens": {"mean": sum(lengths) / len(rows), "max": max(lengths)} if rows else None,
            "seconds": seconds,
            "tokens_per_second": (sum(lengths) + new) / seconds if rows else None,
            "peak_memory_bytes": max(peaks, default=None),
            "settings": self.settings,
        }
        write_text(self.record, to_json(record))
        return record

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def to_json(record: dict) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _parse(line: str | bytes):
    try:
        return json.loads(line)
    except ValueError:
        return None
