"""Predictions on disk as they are made.

pred/<task>.jsonl                  one answer a line, in RULER's format; <task>-<k>.jsonl is chunk k of a divided run.
                                   Process r > 0 writes <...>.rank<r>.jsonl, put together when a run begins or ends
pred/runs/<task>.json              what answered them and how; its settings tell whether a run may go on from them
pred/replaced/<task>.<k>.jsonl     answers of other settings, of another checkpoint or to other data, moved aside
"""

import hashlib
import json
import os
import re
from pathlib import Path

CHUNK = re.compile(r"(.+)-(\d+)\.jsonl")  # no task's own name ends so


def digest(settings: dict) -> str:
    """16 hex digits that stand for a dict of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Writes so that a kill leaves the old file or the new one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict | None:
    """None if there is no such file, or no whole one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_rows(path: Path) -> dict[int, dict]:
    """{index: row} of a file of predictions, without a line that a kill cut off."""
    rows = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            try:
                row = json.loads(line)
                rows[row["index"]] = row
            except (ValueError, TypeError, KeyError):
                continue
    return rows


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


def lines(rows: dict[int, dict]) -> str:
    return "".join(json.dumps(rows[index]) + "\n" for index in sorted(rows))


def merge_chunks(folder: Path) -> None:
    """Puts <task>-<k>.jsonl into <task>.jsonl, and their notes in runs/ together; removes them, as RULER does."""
    chunks = {}
    for path in sorted(folder.glob("*.jsonl")):
        if match := CHUNK.fullmatch(path.name):
            chunks.setdefault(match[1], []).append(path)
    for task, paths in chunks.items():
        whole = folder / f"{task}.jsonl"
        rows = read_rows(whole)
        notes = [read_json(folder / "runs" / f"{name}.json") for name in (task, *(path.stem for path in paths))]
        notes = [note for note in notes if note]
        if len({note["fingerprint"] for note in notes}) > 1:
            raise ValueError(f"{folder}: the chunks of {task} were answered by different models or settings")
        for path in paths:
            rows |= read_rows(path)
        if notes:
            total = notes[0]
            for note in notes[1:]:
                total = total | {key: total[key] + note[key] for key in SUMS}
                total["peak_memory_bytes"] = largest([total["peak_memory_bytes"], note["peak_memory_bytes"]])
            write_json(folder / "runs" / f"{task}.json", rate(total | {"chunk_idx": 0, "chunk_amount": 1}))
        write_text(whole, lines(rows))
        for path in paths:
            path.unlink()
            (folder / "runs" / f"{path.stem}.json").unlink(missing_ok=True)


# --- the note beside the predictions of a task: what their making took. Seconds are those of the slowest process.
SUMS = ("timed", "seconds", "prompt_tokens", "computed_tokens", "new_tokens", "reduced", "errors")
NOTHING = dict(zip(SUMS, (0, 0.0, 0, 0, 0, [], []), strict=True)) | {"peak_memory_bytes": None}


def largest(values: list) -> int | None:
    return max((value for value in values if value is not None), default=None)


def rate(note: dict) -> dict:
    """With tokens_per_second: of prompts and answers, over the `timed` answers."""
    tokens = note["prompt_tokens"] + note["new_tokens"]
    return note | {"tokens_per_second": round(tokens / note["seconds"], 1) if note["seconds"] else None}


class Predictions:
    """The predictions of one task (or chunk): `name` is <task> or <task>-<k>.

    settings: what a run must have in common with another to go on from its answers.  about: what else the note says.
    """

    def __init__(self, folder: Path, name: str, settings: dict, about: dict):
        self.folder, self.name, self.settings, self.about = folder, name, settings, about
        self.note_path = folder / "runs" / f"{name}.json"
        self.file = None

    def path(self, rank: int) -> Path:
        return self.folder / (f"{self.name}.jsonl" if rank == 0 else f"{self.name}.rank{rank}.jsonl")

    def paths(self) -> list[Path]:
        there = [self.path(0), *sorted(self.folder.glob(f"{self.name}.rank*.jsonl"))]
        return [path for path in there if path.is_file()]

    def gather(self, data: list[dict]) -> tuple[dict[int, dict], Path | None]:
        """({index: row} of what is answered, where answers that do not hold for `data` were moved or None); leaves
        one whole file, in the data's order. For rank 0."""
        note, rows = read_json(self.note_path), {}
        for path in self.paths():
            keep_broken(path)
            rows |= read_rows(path)
        wanted = {row["index"]: row for row in data}
        same = all(
            (row.get("input"), row.get("outputs")) == (wanted[index]["input"], wanted[index]["outputs"])
            for index, row in rows.items()
            if index in wanted
        )
        moved = None
        if rows and not (same and note and note.get("fingerprint") == digest(self.settings)):
            moved, rows, note = self.move_aside(), {}, None
        paths, text = self.paths(), lines(rows)
        if paths and (paths != [self.path(0)] or paths[0].read_bytes() != text.encode()):
            write_text(self.path(0), text)
        for path in paths:
            if path != self.path(0):
                path.unlink()
        return rows, moved

    def move_aside(self) -> Path:
        folder, count = self.folder / "replaced", 1
        while any(folder.glob(f"{self.name}.{count}.*")):
            count += 1
        folder.mkdir(exist_ok=True)
        for path in [*self.paths(), self.note_path]:
            if path.exists():
                os.replace(path, folder / f"{self.name}.{count}.{path.name.removeprefix(self.name + '.')}")
        return folder

    def note(self, data_rows: int, work: dict | None = None) -> None:
        """Writes the note: settings, and the work of the runs so far with that of this one. Before the first answer
        it has to be there, since it says whose the answers are. `errors` are those of the last run."""
        before = read_json(self.note_path) or {}
        before = before if before.get("fingerprint") == digest(self.settings) else NOTHING
        total = {key: before[key] for key in NOTHING}
        if work is not None:
            total = {key: total[key] + work[key] for key in SUMS} | {"errors": work["errors"]}
            total["peak_memory_bytes"] = largest([before["peak_memory_bytes"], work["peak_memory_bytes"]])
        self.note_path.parent.mkdir(parents=True, exist_ok=True)
        identity = {"fingerprint": digest(self.settings), "data_rows": data_rows}
        write_json(self.note_path, self.about | self.settings | identity | rate(total))

    def append(self, rank: int, row: dict) -> None:
        """Adds a row to the file of process `rank`; it is with the operating system when this returns."""
        if self.file is None:
            self.file = self.path(rank).open("a", encoding="utf-8")
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def _parse(line: str | bytes):
    try:
        return json.loads(line)
    except ValueError:
        return None
