"""Answers on disk as they are made, so that a killed evaluation resumes where it was.

    store = Store(path, settings, key=lambda entry: entry["index"])
    answered = store.open()            rank 0, before the work: what is already there
    store.append({"index": 3, ...})    any rank, as soon as an answer is made
    answered = store.gather()          rank 0, once all ranks are done: one file, without duplicates

A store is one unit of work: the windows of one length, a needle grid, a set of LongBench, a task of RULER.

    <path>                             one JSON object per line; rank 0 appends here
    <record folder>/<stem>.rank<r>.jsonl   what rank r > 0 appended since the last `gather`
    <record>                           JSON: "settings", which a run must share to resume, and what else is noted
    <folder>/old/                      answers made with other settings; old2/, old3/, ... for further ones
    <path>.broken                      a copy of a corrupt file, whose unreadable lines are made again
"""

import json
import os
import shutil
from collections.abc import Callable, Hashable
from pathlib import Path

from run import RANK, read_json, write_json, write_text


def parse_line(line: str) -> dict | None:
    """The JSON object on a line; None if the line is not one."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_lines(path: Path) -> tuple[list[dict], int]:
    """(the JSON objects of a file, one per line; how many complete lines are unreadable).

    A last line without its newline was cut off by a kill and is passed over.
    """
    entries, unreadable = [], 0
    if not path.is_file():
        return entries, unreadable
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        entry = parse_line(line)
        if entry is None:
            unreadable += 1
        else:
            entries.append(entry)
    return entries, unreadable


class Store:
    """The answers of one unit of work; see the module's description.

    path: the .jsonl file.  settings: what a run must have in common with the answers already there.
    key: gives the identity of an entry.  record: the record's file [<stem>.run.json beside `path`].
    results: further files made from the answers, which `set_aside` moves along with them.

    An entry with the key "error" notes an answer that could not be made. It is never counted as answered: `gather`
    moves it to `errors`, {key: entry}, and drops it from the file.
    """

    def __init__(
        self,
        path: Path,
        settings: dict,
        key: Callable[[dict], Hashable],
        record: Path | None = None,
        results: Callable[[], list[Path]] = list,
    ):
        self.path = path
        self.settings = json.loads(json.dumps(settings))  # as the record has them: tuples become lists
        self.key = key
        self.record = record or path.with_name(f"{path.stem}.run.json")
        self.results = results
        self.errors = {}
        self.file = None

    def rank_path(self, rank: int) -> Path:
        """The file that a rank appends to."""
        return self.path if rank == 0 else self.record.with_name(f"{self.path.stem}.rank{rank}.jsonl")

    def files(self) -> list[Path]:
        """The files that hold answers."""
        prefix = f"{self.path.stem}.rank"
        folder = self.record.parent
        ranks = sorted(path for path in folder.glob("*.jsonl") if path.name.startswith(prefix))
        return [path for path in (self.path, *ranks) if path.is_file()]

    # --- rank 0
    def open(self, about: dict | None = None) -> dict[Hashable, dict]:
        """Prepares the files for appending and returns the answers already there, by key.

        Answers of other settings are moved to old/, a corrupt file is copied; both are said in one line.
        about: what the record says beside the settings.
        """
        known = (read_json(self.record) or {}).get("settings")
        if known != self.settings and (self.files() or any(path.exists() for path in self.results())):
            self.set_aside(known)
        for path in self.files():
            unreadable = read_lines(path)[1]
            if unreadable:
                copy = path.with_name(path.name + ".broken")
                shutil.copyfile(path, copy)
                print(f"{path}: {unreadable} unreadable lines; kept as {copy.name}, made again", flush=True)
        answered = self.gather()
        self.write_record(about or {})
        self.errors = {}
        return answered

    def gather(self) -> dict[Hashable, dict]:
        """Merges the files of all ranks into `path`, in the order of the keys; returns the answers by key."""
        self.close()
        answered, failed = {}, {}
        files = self.files()
        for path in files:
            for entry in read_lines(path)[0]:
                try:
                    key = self.key(entry)
                except (KeyError, TypeError):
                    continue  # a JSON object, but not an answer
                if "error" in entry:
                    failed[key] = entry
                else:
                    answered[key] = entry
        self.errors = {key: entry for key, entry in failed.items() if key not in answered}
        answered = dict(sorted(answered.items()))
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in answered.values())
        if files and (files != [self.path] or self.path.read_bytes() != text.encode()):
            write_text(self.path, text)
        for path in files:
            if path != self.path:
                path.unlink()
        return answered

    def write_record(self, about: dict) -> None:
        """Writes the record: `about` and the settings."""
        write_json(self.record, about | {"settings": self.settings})

    def set_aside(self, known: dict | None) -> None:
        """Moves all files to old/ and says why. known: the settings they were made with, None if unknown."""
        folder, number = self.path.parent / "old", 1
        files = [*self.files(), *(path for path in self.results() if path.exists())]
        if self.record.exists():
            files.append(self.record)  # last: answers without a record belong to nobody
        while any((folder / path.name).exists() for path in files):
            number += 1
            folder = self.path.parent / f"old{number}"
        folder.mkdir(parents=True, exist_ok=True)
        for path in files:
            os.replace(path, folder / path.name)
        reason = "no record of their settings"
        if known is not None:
            names = sorted(known.keys() | self.settings.keys())
            reason = "other " + ", ".join(name for name in names if known.get(name) != self.settings.get(name))
        print(f"{self.path}: earlier answers moved to {folder.name}/ ({reason}); they are made again", flush=True)

    def remove(self) -> None:
        """Deletes the answers and the record, once their result is written."""
        for path in [*self.files(), self.record]:
            path.unlink(missing_ok=True)

    # --- any rank
    def append(self, entry: dict) -> None:
        """Appends an entry; it is with the operating system when this returns, so a kill does not lose it."""
        if self.file is None:
            path = self.rank_path(RANK)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a", encoding="utf-8")
        self.file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Closes this rank's file. Ranks above 0 call it before rank 0 calls `gather`."""
        if self.file is not None:
            self.file.close()
            self.file = None
