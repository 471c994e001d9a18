"""Answers on disk as they are made, so that a killed evaluation can be resumed.

store = Store(path, settings, key=lambda entry: entry["index"])
answered = store.open()            rank 0, first: what earlier runs have answered
store.append({"index": 3, ...})    any rank, as soon as an answer is made
answered = store.gather()          rank 0, when all ranks are done: one file without duplicates

<path>                                 one JSON object per line; rank 0 appends here
<record folder>/<stem>.rank<r>.jsonl   what rank r > 0 appended since the last `gather`
<record>                               JSON: "settings", which a run must share to resume, and notes on the run
<folder>/old/, old2/, ...              answers made with other settings
"""

import glob
import json
import os
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path

from run import RANK, check_types, read_json, read_text, write_json, write_text

from lock import lock
from records import NOT_JSON, parse


def read_lines(path: Path) -> tuple[list[dict], int]:
    """(the JSON objects of a file, one per line; the number of unreadable lines, without a last one cut off)."""
    entries, unreadable = [], 0
    if path.is_file():
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entries.append({**parse(line)})
            except NOT_JSON:
                unreadable += number < len(lines)
    return entries, unreadable


TEXTS = "name model method base_model checkpoint engine dtype attention protocol command".split()
NUMBERS = "original_length trained_length trained_tokens training_seed seed max_length max_seq_length limit".split()
NUMBERS += ["samples", "seconds", "tokens_per_second", "peak_memory_bytes"]
RECORD_TYPES = {
    **dict.fromkeys(TEXTS, str),
    **dict.fromkeys(NUMBERS, int | float),
    **dict.fromkeys(("settings", "versions"), dict),
    "exact_attention": bool,
}


def read_record(path: Path) -> dict:
    """The record of a run for its scores, empty without a file. Raises ValueError or AttributeError if it is odd."""
    record = json.loads(read_text(path)) if path.exists() else {}
    for part in (record, record.get("settings") or {}):
        check_types(part, RECORD_TYPES, str(path))
    return record


class Store:
    """The answers of one unit of work: the windows of one length, a needle grid, a set of LongBench, a task of RULER.

    path: the .jsonl file.  settings: what a run must have in common with earlier answers to keep them.
    key: gives the identity of an entry.  record: the record's file [<stem>.run.json beside `path`].
    results: further files made from the answers, which `set_aside` moves along with them.
    errors: {key: entry} of the answers that could not be made, which have the key "error". They are tried again.
    """

    def __init__(self, path: Path, settings: dict, key: Callable, record: Path | None = None, results: Callable = list):
        self.path = path
        self.settings = json.loads(json.dumps(settings))  # as the record has them: tuples become lists
        self.key = key
        self.record = record or path.with_name(f"{path.stem}.run.json")
        self.results = results
        self.errors = {}
        self.file = None
        self.lock_path = self.record.with_name(f".{path.stem}.lock")
        self.lock_file = None  # held from `lock` or `open` on, until `remove` or as long as this object exists

    def files(self) -> list[Path]:
        """The existing files with answers, that of rank 0 first."""
        pattern = f"{glob.escape(self.path.stem)}.rank*.jsonl"
        paths = [self.path, *sorted(self.record.parent.glob(pattern))]
        return list(filter(Path.is_file, paths))

    # --- rank 0
    def lock(self) -> None:
        """Waits while another process has this unit of work."""
        self.lock_file = lock(self.lock_path)

    def open(self, notes: dict | None = None) -> dict[Hashable, dict]:
        """Calls `lock`, writes the record, `notes` and the settings; returns the answers that are there, by key."""
        self.lock()
        known = (read_json(self.record) or {}).get("settings")
        if known != self.settings:
            self.set_aside(known)
        answered = self.gather()
        self.write_record(notes or {})
        return answered

    def gather(self) -> dict[Hashable, dict]:
        """Merges the files of all ranks into `path`, in the order of the keys; returns the answers by key."""
        self.close()
        answered, failed = {}, {}
        files = self.files()
        for path in files:
            for entry in read_lines(path)[0]:
                entries = failed if "error" in entry else answered
                with suppress(KeyError, TypeError):  # a JSON object, but not an answer
                    entries[self.key(entry)] = entry
        answered = dict(sorted(answered.items()))
        self.errors = {key: entry for key, entry in failed.items() if key not in answered}
        if files:
            lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in answered.values()]
            write_text(self.path, "".join(lines))
        for path in set(files) - {self.path}:
            path.unlink()
        return answered

    def write_record(self, notes: dict) -> None:
        write_json(self.record, notes | {"settings": self.settings})

    def set_aside(self, known: dict | None) -> None:
        """Moves earlier answers and results to old/ and reports why. known: their settings, None if unknown."""
        files = [*self.files(), *filter(Path.exists, self.results())]
        if not files:
            return
        if self.record.exists():
            files.insert(0, self.record)  # first: answers without a record are never used, and moved after a kill
        folder = self.path.parent / "old"
        number = 1
        while any((folder / path.name).exists() for path in files):
            number += 1
            folder = self.path.parent / f"old{number}"
        folder.mkdir(parents=True, exist_ok=True)
        for path in files:
            os.replace(path, folder / path.name)
        reason = "no record of their settings"
        if known:
            names = sorted(known.keys() | self.settings.keys())
            changed = [name for name in names if known.get(name) != self.settings.get(name)]
            reason = f"other {', '.join(changed)}"
        print(f"{self.path}: earlier answers moved to {folder.name}/ ({reason}); they are made again", flush=True)

    def remove(self) -> None:
        """Deletes the answers and the record, once the result is written, and releases the lock."""
        for path in [*self.files(), self.record, self.lock_path]:
            path.unlink(missing_ok=True)
        self.lock_file = None

    # --- any rank
    def append(self, entry: dict) -> None:
        """Appends an entry. A kill after the call does not lose it."""
        if not self.file:
            path = self.path if RANK == 0 else self.record.with_name(f"{self.path.stem}.rank{RANK}.jsonl")
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a", encoding="utf-8")
        self.file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Closes this rank's file, which ranks above 0 do before rank 0 calls `gather`."""
        if self.file:
            self.file.close()
        self.file = None
