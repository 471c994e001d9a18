"""Finished batches on disk, so that a killed evaluation goes on where it was.

`<result>.progress.rank{r}.jsonl`: a first line with the settings, then one line per finished batch, appended by
process r. Batches are fixed before the work is shared out, so any number of processes and of kills gives the same
records, bit for bit (JSON keeps every digit of a float).
"""

import hashlib
import json
import os
from pathlib import Path


def digest(settings: dict) -> str:
    """16 hex digits that stand for a dict of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, value: dict) -> None:
    """Writes `value` so that a kill leaves the old file or the new one. Raises ValueError on NaN or infinity."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    os.replace(partial, path)


class Progress:
    """The progress files of one result. Files are shared by all processes of a run."""

    def __init__(self, result: Path, settings: dict):
        self.result, self.settings = result, settings
        self.file = None

    def path(self, rank: int) -> Path:
        return self.result.with_name(f"{self.result.stem}.progress.rank{rank}.jsonl")

    def files(self) -> list[Path]:
        prefix = f"{self.result.stem}.progress.rank"
        return sorted(path for path in self.result.parent.glob("*.jsonl") if path.name.startswith(prefix))

    def read(self) -> tuple[dict[int, dict], int]:
        """(finished batches by number, how many files are of other settings); leaves out lines cut off by a kill."""
        batches, foreign = {}, 0
        for path in self.files():
            lines = path.read_text().split("\n")[:-1]  # what follows the last newline was cut off
            if not lines:
                continue
            if _parse(lines[0]) != self.settings:
                foreign += 1
                continue
            for entry in map(_parse, lines[1:]):
                if entry:
                    batches[entry["batch"]] = entry
        return batches, foreign

    def gather(self) -> tuple[dict[int, dict], int]:
        """Like `read`, and puts everything usable into one file, without cut-off lines. For rank 0, before the work."""
        batches, foreign = self.read()
        lines = [self.settings, *(batches[number] for number in sorted(batches))]
        partial = self.path(0).with_name(self.path(0).name + ".tmp")
        partial.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
        os.replace(partial, self.path(0))
        for path in self.files():
            if path != self.path(0):
                path.unlink()
        return batches, foreign

    def append(self, rank: int, entry: dict) -> None:
        """Adds a finished batch to the file of process `rank`; on disk for the system once this returns."""
        if self.file is None:
            path = self.path(rank)
            new = not path.exists()
            self.file = path.open("a")
            if new:
                self.file.write(json.dumps(self.settings) + "\n")
        self.file.write(json.dumps(entry, allow_nan=False) + "\n")
        self.file.flush()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def remove(self) -> None:
        for path in self.files():
            path.unlink()


def _parse(line: str) -> dict | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
