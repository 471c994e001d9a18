"""From a job, one task at one length, to rows; in this process or in several."""

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import sources
from common_words_extraction import CommonWords
from freq_words_extraction import FrequentWords
from niah import Niah
from qa import QuestionAnswering
from sampling import Job, Sample, Task, TooShort
from templates import read_texts
from tokens import Tokens
from variable_tracking import VariableTracking

FAMILIES = {
    "niah": Niah,
    "variable_tracking": VariableTracking,
    "common_words_extraction": CommonWords,
    "freq_words_extraction": FrequentWords,
    "qa": QuestionAnswering,
}
VERIFIED = 32  # of so many samples one is tokenised whole, of more where that is cheap
ATTEMPTS = 8  # draws of a sample whose needles are too long for a very short prompt


class Outside:
    """The texts from outside that some tasks need, each read when it is first wanted."""

    def __init__(self, paths: dict[str, Path | None]):
        self.paths = paths
        self.texts = {}

    @staticmethod
    def kind(job: Job) -> str | None:
        """squad, hotpotqa, essays, or None."""
        if job.family == "qa":
            return job.args["dataset"]
        return "essays" if job.args.get("type_haystack") == "essay" else None

    def read(self, job: Job) -> tuple:
        """(the texts of a job, what they are); None for both if it needs none."""
        kind = self.kind(job)
        if kind is None:
            return None, None
        if kind not in self.paths:
            raise ValueError(f"unknown data set {kind}; known: squad, hotpotqa")
        if kind not in self.texts:
            path = self.paths[kind]
            self.texts[kind] = sources.read_essays(path) if kind == "essays" else sources.read_questions(kind, path)
        return self.texts[kind]


class Maker:
    """source: a tokenizer as JSON."""

    def __init__(self, source: str, outside: Outside):
        self.source = source
        self.outside = outside
        self.tokens = Tokens(source)
        self.tasks = {}

    def __reduce__(self):
        return Maker, (self.source, self.outside)

    def task(self, job: Job) -> Task:
        """The task of a job, made once. Raises TooShort."""
        key = job.name, job.length, job.profile, job.whole
        if key not in self.tasks:
            parts = [self.tokens, job, read_texts()]
            if job.family in ("niah", "qa"):
                parts.append(self.outside.read(job)[0])
            try:
                self.tasks[key] = FAMILIES[job.family](*parts)
            except KeyError as name:
                raise ValueError(f"{job.name}: the benchmark gives no {name}") from None
        return self.tasks[key]

    def check(self, job: Job) -> None:
        """Raises TooShort if the samples do not fit; a few are tried where it could be close."""
        for index in range(min(8, job.rows) if job.length < 4096 else 1):
            self.task(job).build(index, 0)

    def sample(self, job: Job, index: int) -> Sample:
        """Sample `index`, drawn anew if it does not fit. Raises ValueError if no draw does."""
        for attempt in range(ATTEMPTS):
            try:
                return self.task(job).build(index, attempt)
            except TooShort as error:
                reason = error
        raise ValueError(f"{job.name} at {job.length}: sample {index} does not fit: {reason}")

    def rows(self, job: Job, first: int, end: int) -> list[tuple[bytes, float]] | None:
        """[(line, fill)] of the samples from `first` to before `end`; None if a prompt tokenised whole has another
        count than the sum over its words."""
        rows = []
        for index in range(first, end):
            sample = self.sample(job, index)
            verified = index % max(1, min(VERIFIED, job.length // 256)) == 0
            if verified and self.tokens.count_whole(sample.text) != sample.tokens:
                return None
            rows.append(self.row(job, index, sample))
        return rows

    def row(self, job: Job, index: int, sample: Sample) -> tuple[bytes, float]:
        length = sample.tokens + job.new_tokens
        fill = round(length / job.length, 5)
        row = {
            "index": index,
            "input": sample.text,
            "outputs": sample.answers,
            "length": length,
            "length_w_model_temp": length,
            "answer_prefix": sample.prefix,
            "token_position_answer": sample.positions,
            "tokens_to_generate": job.new_tokens,
            "fill": fill,
        }
        return (json.dumps(row, ensure_ascii=False) + "\n").encode(), fill


_maker = None  # of a worker


def start_worker(maker: Maker) -> None:
    global _maker
    _maker = maker
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()


def end_with(parent: int) -> None:
    """Ends this worker when its parent is gone, since a parent that is killed cannot."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def rows_of(block: tuple) -> list[tuple[bytes, float]] | None:
    return _maker.rows(*block)


def map_blocks(maker: Maker, blocks: list[tuple], workers: int) -> Iterator:
    """The rows of each block (job, first, end), in order, made by `workers` processes.

    Raises ValueError if a process dies.
    """
    if workers == 1:
        yield from (maker.rows(*block) for block in blocks)
        return
    # a fork has what its parent has prepared; where forks are unsafe, workers prepare it anew
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, start_worker, (maker,)) as pool:
        try:
            yield from pool.map(rows_of, blocks)
        except BrokenProcessPool:
            raise ValueError("a process died, probably for want of memory; fewer --workers need less") from None
