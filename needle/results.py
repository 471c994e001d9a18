"""Answers on disk as they are made, and the result file of each cell.

results/<test name>/answers.jsonl         settings in the first line, then one answer a line; process r > 0 writes
                                          answers.rank<r>.jsonl, put together when the next run begins or this one ends
results/<test name>/<test name>_len_<tokens>_depth_<percent * 100>_results.json      a cell: the names and keys of the
                                          paper's code, which concern the first trial, and after them ours
"""

import hashlib
import json
import os
from pathlib import Path

from scoring import lceg_overlap, rouge1_f, wilson


def digest(settings: dict) -> str:
    """16 hex digits that stand for a dict of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Writes so that a kill leaves the old file or the new one."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def key(entry: dict) -> tuple[int, float, int]:
    return entry["length"], entry["depth"], entry["trial"]


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


class Answers:
    """The answer files of one test. `settings` holds what all cells have in common: a larger grid, or more trials, go
    on from the same file."""

    def __init__(self, folder: Path, settings: dict):
        self.folder, self.settings = folder, settings
        self.file = None

    def path(self, rank: int) -> Path:
        return self.folder / ("answers.jsonl" if rank == 0 else f"answers.rank{rank}.jsonl")

    def read(self) -> dict[tuple, dict] | None:
        """Answers by (length, depth, trial), without lines that a kill cut off; None if a file is of other settings.
        An answer goes before a failure noted for the same trial."""
        entries = {}
        for path in sorted(self.folder.glob("answers*.jsonl")):
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
            if not lines:
                continue  # killed before the first line was whole
            if _parse(lines[0]) != self.settings:
                return None
            for entry in map(_parse, lines[1:]):
                if entry and ("error" not in entry or key(entry) not in entries):
                    entries[key(entry)] = entry
        return entries

    def gather(self) -> tuple[dict[tuple, dict], Path | None]:
        """(like `read`, where another set-up's folder was moved to or None); leaves one whole file. For rank 0."""
        for path in self.folder.glob("answers*.jsonl"):
            keep_broken(path)
        entries, moved = self.read(), None
        if entries is None or (not self.path(0).exists() and any(self.folder.glob("*_results.json"))):
            entries, moved = {}, self.folder.with_name(self.folder.name + ".old")
            count = 1
            while moved.exists():
                count += 1
                moved = self.folder.with_name(f"{self.folder.name}.old{count}")
            os.replace(self.folder, moved)
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [self.settings, *(entries[name] for name in sorted(entries))]
        write_text(self.path(0), "".join(json.dumps(line) + "\n" for line in lines))
        for path in self.folder.glob("answers.rank*.jsonl"):
            path.unlink()
        return entries, moved

    def append(self, rank: int, entry: dict) -> None:
        """Adds an answer to the file of process `rank`; it is with the operating system when this returns."""
        if self.file is None:
            new = not self.path(rank).exists()
            self.file = self.path(rank).open("a", encoding="utf-8")
            if new:
                self.file.write(json.dumps(self.settings) + "\n")
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def cell_path(folder: Path, length: int, depth: float) -> Path:
    return folder / f"{folder.name}_len_{length}_depth_{round(depth * 100)}_results.json"


def write_cell(folder: Path, entries: list[dict], lceg: bool, run: dict) -> None:
    """The result file of one cell.

    entries: its trials, answered or failed.  run: what all cells share: model, data, settings, versions.  lceg: add
    the scores of the paper's code, of the first trial.
    """
    entries = sorted(entries, key=key)
    answered = [entry for entry in entries if "error" not in entry]
    scores, exact = [e["score"] for e in answered], [e["exact"] for e in answered]
    n, first = len(answered), entries[0]
    result = {
        "model": run["model"],
        "context_length": first["length"],
        "depth_percent": first["depth"],
        "version": 1,
        "needle": "".join(first["needles"]),
        "model_response": first.get("response"),
        "score": sum(scores) / n if n else None,
        "test_duration_seconds": first.get("seconds"),
        "test_timestamp_utc": first["utc"],
        "n": n,
        "score_interval_95": wilson(sum(scores), n) if n else None,
        "exact": sum(exact),
        "rate": sum(exact) / n if n else None,
        "rate_interval_95": wilson(sum(exact), n) if n else None,
    }
    if lceg:
        response, answer = first.get("response"), first["answer"]
        result["lceg_overlap"] = None if response is None else lceg_overlap(answer, response)
        result["lceg_rouge1_f_x10"] = None if response is None else 10 * rouge1_f(result["needle"], response)
    result["trials"] = [{name: value for name, value in e.items() if name not in ("length", "depth")} for e in entries]
    result["prompt_tokens"] = first.get("prompt_tokens")
    peaks = [entry["peak_memory_bytes"] for entry in answered if entry["peak_memory_bytes"]]
    result["peak_memory_bytes"] = max(peaks, default=None)
    text = json.dumps(result | run, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(cell_path(folder, first["length"], first["depth"]), text)


def _parse(line: str | bytes) -> dict | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
