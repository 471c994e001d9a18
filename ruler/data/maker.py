"""From a job, one task at one length, to rows; in this process or in several."""

import concurrent.futures
import json
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import sources
from common_words_extraction import CommonWords
from freq_words_extraction import FrequentWords
from niah import Niah
from qa import QuestionAnswering
from sampling import TRIES, Sample, Setting, Task, TooShort
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
TAKES_TEXT = ("niah", "qa")  # from outside
CHECKED = 32  # of so many samples one is tokenised whole, of more where that is cheap


class Job(NamedTuple):
    """One task at one length.  new: tokens to generate.  rows: samples in all.  whole: tokenise every prompt."""

    name: str
    family: str
    args: dict
    length: int
    new: int
    rows: int
    seed: int
    profile: str
    whole: bool = False

    @property
    def outside(self) -> str | None:
        """The texts that it needs."""
        if self.family == "qa":
            return self.args["dataset"]
        return "essays" if self.args.get("type_haystack") == "essay" else None


class Outside:
    """The texts from outside, each read when it is first wanted."""

    def __init__(self, paths: dict[str, Path | None]):
        self.paths, self.held = paths, {}

    def read(self, kind: str) -> tuple:
        if kind not in self.paths:
            raise ValueError(f"unknown data set {kind}; known: squad, hotpotqa")
        if kind not in self.held:
            path = self.paths[kind]
            self.held[kind] = sources.read_essays(path) if kind == "essays" else sources.read_questions(kind, path)
        return self.held[kind]

    def about(self, job: Job) -> dict | None:
        return self.read(job.outside)[1] if job.outside else None

    def is_standin(self, job: Job) -> bool:
        return job.outside is not None and self.about(job)["source"] == "standin"


class Maker:
    """source: a tokenizer as JSON."""

    def __init__(self, source: str, outside: Outside):
        self.parts = (source, outside)
        self.tokens, self.outside, self.tasks = Tokens(source), outside, {}
        if not self.tokens.count("one two three") - self.tokens.around:
            raise ValueError("the tokenizer makes no tokens of `one two three`; it cannot measure a prompt")

    def task(self, job: Job) -> Task:
        """The task of a job, made once. Raises TooShort."""
        key = job.name, job.length, job.profile
        if key not in self.tasks:
            setting = Setting(job.name, job.length, job.new, job.seed, job.rows, job.profile == "lceg")
            parts = [self.tokens, setting, read_texts(), job.args]
            if job.family in TAKES_TEXT:
                parts.append(self.outside.read(job.outside)[0] if job.outside else None)
            try:
                self.tasks[key] = FAMILIES[job.family](*parts)
            except KeyError as name:
                raise ValueError(f"{job.name}: the benchmark gives no {name}") from None
        return self.tasks[key]

    def check(self, job: Job) -> None:
        """Raises TooShort if the samples do not fit; a few are tried where it could be close."""
        for index in range(min(8, job.rows) if job.length < 4096 else 1):
            self.task(job).build(index, job.length - job.new, 0)

    def rows(self, job: Job, first: int, end: int) -> list[tuple[bytes, float]] | None:
        """[(line, fill)] of the samples from `first` to before `end`; None if a sum of costs is not what the whole
        prompt costs, for then this tokenizer needs `whole`."""
        made = []
        for index in range(first, end):
            sample = self.sample(job, index)
            if sample is None:
                return None
            made.append(self.row(job, index, sample))
        return made

    def sample(self, job: Job, index: int) -> Sample | None:
        """Sample `index`, not above its room. Whole prompts are counted after they are made, and made again in less
        room if need be; a sample whose needles are too long for a very short prompt is drawn again."""
        task, limit, attempt = self.task(job), job.length - job.new, 0
        room = limit
        for _ in range(TRIES):
            try:
                sample = task.build(index, room, attempt)
            except TooShort as reason:
                attempt, room, why = attempt + 1, limit, str(reason)
                continue
            if job.whole:
                counted = self.tokens.count(sample.text)
                room = sample.tokens - max(0, counted - limit)  # what the sum would have had to be
                sample = sample._replace(tokens=counted, positions=None)
            elif (
                index % max(1, min(CHECKED, job.length // 256)) == 0 and self.tokens.count(sample.text) != sample.tokens
            ):
                return None
            if sample.tokens <= limit:
                return sample
            why = f"{sample.tokens} tokens where {limit} have room"
        raise ValueError(f"{job.name} at {job.length}: sample {index} does not fit ({why})")

    def row(self, job: Job, index: int, sample: Sample) -> tuple[bytes, float]:
        text, length = sample.text, sample.tokens + job.new
        fill = round(length / job.length, 5)
        row = {
            "index": index,
            "input": text,
            "outputs": sample.answers,
            "length": length,
            "length_w_model_temp": length,
            "answer_prefix": sample.prefix,
            "token_position_answer": sample.positions,
            "tokens_to_generate": job.new,
            "fill": fill,
        }
        return (json.dumps(row, ensure_ascii=False) + "\n").encode(), fill


_maker = None  # of a worker


def _start(maker: Maker | None, parts: tuple | None) -> None:
    global _maker
    _maker = maker or Maker(*parts)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this worker when its parent is gone: killed, that cannot tell it to."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _rows(block: tuple) -> list[tuple[bytes, float]] | None:
    return _maker.rows(*block)


class Pool:
    """Maps blocks (job, first, end) to their rows, in order, in `workers` processes."""

    def __init__(self, maker: Maker, workers: int):
        self.maker, self.workers, self.pool = maker, workers, None

    def __enter__(self):
        if self.workers > 1:
            fork = sys.platform == "linux"  # what the parent has prepared is there already; elsewhere forks are unsafe
            context = multiprocessing.get_context("fork" if fork else "spawn")
            start = (self.maker, None) if fork else (None, self.maker.parts)
            self.pool = concurrent.futures.ProcessPoolExecutor(self.workers, context, _start, start)
        return self

    def __exit__(self, *_):
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def map(self, blocks: list[tuple]):
        if self.pool is None:
            yield from (self.maker.rows(*block) for block in blocks)
            return
        try:
            yield from self.pool.map(_rows, blocks)
        except concurrent.futures.process.BrokenProcessPool:
            raise ValueError("a process died, probably for want of memory; fewer --workers need less") from None
