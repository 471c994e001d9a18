"""The files of a task: rows as they are made, and run.json, which says how.

    <folder>/<name>.jsonl.partial, run.json.partial     while it is being made, and after a kill
    <folder>/<name>.jsonl, run.json                     when it is complete

With a shared folder the files are made there, in a folder named by the digest of everything that decides them, and
linked to where they are wanted: a second model with the same tokenizer costs nothing.
"""

import hashlib
import json
import os
import shutil
import time
from importlib.metadata import version
from pathlib import Path


def write(path: Path, content: dict) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def versions() -> dict:
    return {name: version(name) for name in ("tokenizers", "lm_eval", "wonderwords")}


def identity(settings: dict) -> dict:
    """Settings without where the data lay: what matters is their digest."""
    data = settings["data"]
    return {**settings, "data": data["sha256"] if data else None}


class Target:
    """The file of one task, samples `start` to before `end`. `settings` decide its rows."""

    def __init__(self, folder: Path, name: str, settings: dict, start: int, end: int, shared: Path | None):
        self.wanted, self.name, self.settings, self.start, self.end = folder, name, settings, start, end
        self.folder = folder
        if shared:
            key = json.dumps([identity(settings), name, start, end], sort_keys=True)
            self.folder = shared / hashlib.sha256(key.encode()).hexdigest()[:24] / folder.name
        self.rows, self.fills, self.least, self.whole, self.file = 0, 0.0, 1.0, False, None
        self.run = "run.json" if "-" not in name else f"run-{name.rpartition('-')[2]}.json"

    def held(self, folder: Path) -> dict | None:
        """run.json of a complete file with these settings, or None. ValueError if the file has other settings."""
        run, path = read(folder / self.run), folder / f"{self.name}.jsonl"
        if state := read(folder / f"{self.run}.partial"):  # unfinished
            self.compare(state, path)
            return None
        if run and path.exists():
            self.compare(run, path)
            return run
        if path.exists():
            raise ValueError(f"{path} was not made by this script (no {self.run}); give another --save_dir or move it")
        return None

    def compare(self, run: dict, path: Path) -> None:
        try:
            had, now = identity({name: run[name] for name in self.settings}), identity(self.settings)
        except KeyError as name:
            raise ValueError(
                f"{path} was made by another version (no {name}); delete it, or give another --save_dir"
            ) from None
        for name in now:
            if json.loads(json.dumps(now[name])) != had[name]:
                raise ValueError(
                    f"{path} was made with other settings: {name} was {had[name]}, now it is {now[name]}. Give another "
                    "--save_dir, or delete that folder"
                )

    def ready(self) -> bool:
        """Is the file there, complete? Links it from the shared folder if it is there."""
        run = self.held(self.wanted)
        if run and run["num_samples"] >= self.end - self.start:
            if run["num_samples"] > self.end - self.start:
                print(f"ruler data: {self.wanted} has {run['num_samples']} samples, which are more; left as it is")
            return True
        if self.folder != self.wanted and self.held(self.folder):
            self.link()
            return True
        return False

    def open(self) -> None:
        """Begins, or goes on after a kill, or with more samples than there were."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.partial = self.folder / f"{self.name}.jsonl.partial"
        complete, state_path = self.folder / f"{self.name}.jsonl", self.folder / f"{self.run}.partial"
        state = read(state_path)
        if state:
            self.whole = state["whole"]
        else:
            self.partial.unlink(missing_ok=True)
        if complete.exists() and not self.partial.exists():  # fewer samples than are wanted now
            self.whole = read(self.folder / self.run)["whole"]
            shutil.copyfile(complete, self.partial)
        if not state:
            write(state_path, {**self.settings, "whole": self.whole})
        self.began, self.digest = time.monotonic(), hashlib.sha256()
        self.file = self.partial.open("a+b")
        self.file.seek(0)
        size = 0
        for line in self.file:
            if not line.endswith(b"\n") or self.rows == self.end - self.start:
                break
            self.count(line, json.loads(line)["fill"])
            size += len(line)
        self.file.truncate(size)

    def count(self, line: bytes, fill: float) -> None:
        self.digest.update(line)
        self.rows, self.fills, self.least = self.rows + 1, self.fills + fill, min(self.least, fill)

    def append(self, rows: list[tuple[bytes, float]]) -> None:
        for line, fill in rows:
            self.file.write(line)
            self.count(line, fill)
        self.file.flush()

    def restart(self) -> None:
        """From the first row again, every prompt tokenised whole."""
        write(self.folder / f"{self.run}.partial", {**self.settings, "whole": True})
        self.file.truncate(0)
        self.rows, self.fills, self.least, self.whole, self.digest = 0, 0.0, 1.0, True, hashlib.sha256()

    def mean_fill(self) -> float:
        return self.fills / self.rows

    def finish(self, more: dict) -> None:
        self.file.close()
        run = {
            "complete": True,
            **self.settings,
            "num_samples": self.rows,
            "mean_fill": round(self.mean_fill(), 5),
            "least_fill": round(self.least, 5),
            "whole": self.whole,  # True: the sums of costs did not add up with this tokenizer
            "sha256": self.digest.hexdigest(),
            "seconds": round(time.monotonic() - self.began, 2),
            **more,
        }
        write(self.folder / self.run, run)
        os.replace(self.partial, self.folder / f"{self.name}.jsonl")
        (self.folder / f"{self.run}.partial").unlink()
        if self.folder != self.wanted:
            self.link()

    def link(self) -> None:
        """Puts the shared files where they are wanted, as links or, where the file system has none, as copies."""
        self.wanted.mkdir(parents=True, exist_ok=True)
        for name in (self.run, f"{self.name}.jsonl"):
            source, partial = self.folder / name, self.wanted / f"{name}.tmp"
            partial.unlink(missing_ok=True)
            try:
                os.link(source, partial)
            except OSError:
                shutil.copyfile(source, partial)
            os.replace(partial, self.wanted / name)
            partial.unlink(missing_ok=True)  # replacing a link by one to the same file leaves both
