"""The files of a task's data: validation.jsonl, a row per sample, and run.json, which says how they were made."""

import hashlib
import os
import shutil
from pathlib import Path

from run import read_json, write_json


def samples_in(folder: Path, settings: dict) -> int:
    """How many samples made with these settings a folder holds; 0 if it is not complete or has other settings.

    Raises ValueError if the folder holds data that this script did not make.
    """
    run, rows = read_json(folder / "run.json"), folder / "validation.jsonl"
    if run is None:
        if rows.exists():
            raise ValueError(f"{rows} was not made by this script (no run.json); give another --save_dir or move it")
        return 0
    if not run.get("complete") or not rows.exists():
        return 0
    for name, value in settings.items():
        known = run.get(name)
        if name == "data" and value and known:  # where the text came from may differ, not what it is
            value, known = value["sha256"], known["sha256"]
        if value != known:
            return 0
    return run["num_samples"]


def link(source: Path, folder: Path) -> None:
    """Puts the data of the folder `source` into `folder`, as hard links or, where those are impossible, as copies."""
    write_json(folder / "run.json", {"complete": False})
    for name in ("validation.jsonl", "run.json"):
        partial = folder / f"{name}.partial"
        partial.unlink(missing_ok=True)
        try:
            os.link(source / name, partial)
        except OSError:
            shutil.copyfile(source / name, partial)
        os.replace(partial, folder / name)
        partial.unlink(missing_ok=True)  # a link to the same file is not moved


class Writer:
    """Writes the data of one task. Killed before `finish`, it leaves a folder that `samples_in` calls empty."""

    def __init__(self, folder: Path, settings: dict):
        self.folder = folder
        self.settings = settings
        self.fills = []
        self.digest = hashlib.sha256()
        write_json(folder / "run.json", {"complete": False, **settings})
        self.partial = folder / "validation.jsonl.partial"
        self.file = self.partial.open("wb")

    def append(self, rows: list[tuple[bytes, float]]) -> None:
        """rows: the lines, and which share of the length each sample fills."""
        for line, fill in rows:
            self.file.write(line)
            self.digest.update(line)
            self.fills.append(fill)

    def mean_fill(self) -> float:
        return sum(self.fills) / len(self.fills)

    def finish(self, about: dict) -> None:
        """about: what run.json says beside the settings."""
        self.file.close()
        os.replace(self.partial, self.folder / "validation.jsonl")
        run = {
            "complete": True,
            **self.settings,
            "num_samples": len(self.fills),
            "mean_fill": round(self.mean_fill(), 5),
            "sha256": self.digest.hexdigest(),
        }
        write_json(self.folder / "run.json", run | about)
