"""The work on one result of eval_ppl.py: how it is shared among ranks, recorded, resumed and written."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import run

from store import Store


@dataclass
class Job:
    """One result file: a checkpoint at one length.

    settings: what must be equal to resume.
    starts: what to score, `batch_size` at a time: the starts of windows, or the numbers of texts.
    score: score(model, rope, starts) returns a record with its "start" for each of them.
    summarise: summarise(records) returns the values of the result.  keys: of the perplexity and its interval in these.
    """

    path: Path
    starts: list
    batch_size: int
    settings: dict
    score: Callable
    summarise: Callable
    keys: tuple

    def __post_init__(self):
        def start_of(record: dict) -> int:
            record["seconds"]  # raises KeyError if it is not a whole record
            return record["start"]

        progress = self.path.with_name(f"{self.path.stem}.progress.jsonl")
        self.store = Store(progress, self.settings, start_of, results=lambda: [self.path])

    def open_store(self) -> set[int] | None:
        """The recorded starts, on rank 0; None if the result of exactly these settings is there."""
        self.store.lock()  # another run may have this length, and finish it
        result = run.read_json(self.path) or {}
        if result.get("settings") == self.store.settings:
            self.store.remove()
            run.print_rank0(f"{self.path}: already done")
            return None
        if self.path.exists():
            self.store.set_aside(result.get("settings"))
        finished = set(self.store.open())
        if finished:
            run.print_rank0(f"{self.path}: resuming, {len(finished)} of {len(self.starts)} are done")
        return finished

    def evaluate(self, load, facts: dict) -> None:
        """Scores what is not recorded and writes the result. load: returns the model and its RopeSetter."""
        finished = run.broadcast(self.open_store() if run.RANK == 0 else None)
        if finished is None:
            return
        model, rope = load()
        run.reset_peak_memory(model.device)
        self.score_unfinished(model, rope, finished)
        run.barrier()
        if run.RANK == 0:
            self.write(facts | {"peak_memory_bytes": run.peak_memory(model.device)})
        run.barrier()

    def score_unfinished(self, model, rope, finished: set[int]) -> None:
        """Scores this rank's share of the unfinished batches, and records each batch as soon as it is done."""
        unfinished = []
        for i in range(0, len(self.starts), self.batch_size):
            batch = self.starts[i : i + self.batch_size]
            if not finished.issuperset(batch):
                unfinished.append(batch)
        own = unfinished[run.RANK :: run.WORLD_SIZE]
        bar = run.progress_bar(len(own), self.path.stem, "batch")
        for starts in own:
            start_time = time.perf_counter()
            records = self.score(model, rope, starts)
            seconds = time.perf_counter() - start_time
            for record in records:
                record["seconds"] = round(seconds / len(starts), 6)
                self.store.append(record)
            bar.update()
        bar.close()
        self.store.close()

    def write(self, facts: dict) -> None:
        """Writes the result, removes the record and prints one line. Raises ValueError if a record was deleted."""
        entries = self.store.gather()
        if not entries.keys() >= set(self.starts):
            raise ValueError(f"{self.store.path}: records are missing; rerun the same command, one at a time")
        records = [entries[start] for start in self.starts]
        length = self.settings["seq_len"]
        seconds = sum(record["seconds"] for record in records)
        n_tokens = sum(record.get("tokens", length) for record in records)
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
        shown = "none no interval"
        value, interval = [result[key] for key in self.keys]
        if value is not None:
            bounds = "no interval" if interval is None else "[{:.3f}, {:.3f}]".format(*interval)
            shown = f"{value:.3f} {bounds}"
        run.print_rank0(f"{self.path}: perplexity {shown}, {len(records)} scored, {seconds:.1f} s")
