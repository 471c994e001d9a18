"""The work on one result of eval_ppl.py: how it is recorded, resumed and written."""

from pathlib import Path

import run
from store import Store


class Job:
    """One result: a checkpoint at one length.

    path: the result's file.  length: tokens.  settings: what must be equal to resume.
    starts: what to score: the starts of windows, or the numbers of texts.

    A subclass has `score(model, rope, finished)`, which appends a record of each start to `store`;
    `summarise(records)`, the values of the result; `name`, of the perplexity, and its keys in these.
    """

    name = value_key = interval_key = ""

    def __init__(self, path: Path, length: int, starts: list[int], settings: dict):
        self.path = path
        self.length = length
        self.starts = starts
        self.settings = settings
        progress = path.with_name(f"{path.stem}.progress.jsonl")
        self.store = Store(progress, settings, lambda record: record["start"], results=lambda: [path])

    def read_result(self) -> dict:
        return run.read_json(self.path) or {}

    def find_finished(self) -> set[int] | None:
        """The recorded starts, on every rank; None if the result of exactly these settings is there."""
        finished = None
        if run.RANK == 0:
            self.store.lock()  # another run may have this length, and finish it
            known = self.read_result().get("settings")
            if known == self.store.settings:
                self.store.remove()
                run.print_rank0(f"{self.path}: already done")
            else:
                if self.path.exists():
                    self.store.set_aside(known)
                finished = set(self.store.open())
                if finished:
                    run.print_rank0(f"{self.path}: resuming, {len(finished)} of {len(self.starts)} are done")
        return run.broadcast(finished)

    def evaluate(self, load, facts: dict) -> None:
        """Scores what is not recorded and writes the result. load: returns the model and its RopeSetter."""
        finished = self.find_finished()
        if finished is None:
            return
        model, rope = load()
        run.reset_peak_memory(model.device)
        self.score(model, rope, finished)
        self.store.close()
        run.barrier()
        if run.RANK == 0:
            self.write(facts | {"peak_memory_bytes": run.peak_memory(model.device)})
        run.barrier()

    def write(self, facts: dict) -> None:
        """Writes the result, removes the record and prints one line.

        Raises ValueError if a record is missing: it was deleted, or another run wrote to the same files.
        """
        entries = self.store.gather()
        records = [entries[start] for start in self.starts if start in entries]
        if len(records) < len(self.starts):
            recorded = f"{len(records)} of {len(self.starts)} windows are recorded"
            raise ValueError(f"{self.store.path}: {recorded}; rerun the same command, one at a time")
        seconds = sum(record["seconds"] for record in records)
        n_tokens = sum(record.get("tokens", self.length) for record in records)
        result = {
            **self.summarise(records),
            **facts,
            "settings": self.settings,
            "versions": run.versions("numpy"),
            "command": run.command_line(),
            "processes": run.WORLD_SIZE,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(n_tokens / seconds, 1),
        }
        for key in ("protocol", "seq_len", "sliding_window", "documents", "seed", "dtype", "attention"):
            result[key] = self.settings.get(key)
        run.write_json(self.path, result)
        self.store.remove()

        value, interval = result[self.value_key], result[self.interval_key]
        shown = "none" if value is None else f"{value:.3f}"
        bounds = "no interval" if interval is None else "[{:.3f}, {:.3f}]".format(*interval)
        run.print_rank0(f"{self.path}: {self.name} {shown} {bounds}, {len(records)} scored, {seconds:.1f} s")
