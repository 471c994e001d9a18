"""What the families of tasks share: a task at one length, its random numbers, and the size that fills the length."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from tokens import Tokens


class TooShort(ValueError):
    """Not even the smallest prompt of this task fits."""


class Job(NamedTuple):
    """One task at one length.  length: tokens of prompt and answer.  new_tokens: of the answer.  rows: samples in all.
    profile: upstream, or lceg for sizes and layout of the LCEG paper's copy.  whole: tokenise every prompt whole."""

    name: str
    family: str
    args: dict
    length: int
    new_tokens: int
    rows: int
    seed: int
    profile: str
    whole: bool = False


class Sample(NamedTuple):
    """text: the prompt with the answer's prefix.  tokens: of the text, special tokens included.  units: the size of the
    haystack in lines, words or documents.  positions: of the answers, in tokens of the prompt, or None."""

    text: str
    prefix: str
    answers: list[str]
    tokens: int
    units: int
    positions: list[int] | None = None


@dataclass
class Draft:
    """A sample of which all is drawn but its size.  render(n): the text with n units.  least, most: of units.
    tokens(n): what n units take, the rest of the text not counted; faster than to count the text, and less exact."""

    render: Callable[[int], str]
    prefix: str
    answers: list[str]
    least: int
    most: int
    tokens: Callable[[int], int] | None = None


def largest_size(tokens: Callable[[int], int], room: int, least: int, most: int, guess: int) -> int:
    """The largest n from least to most with tokens(n) <= room; least - 1 if there is none.

    Goes from the guess in proportion to what is missing, between sizes known to fit and not to fit.
    """
    fits, too_large = least - 1, most + 1
    n, last = guess, None
    while too_large - fits > 1:
        n = min(max(n, fits + 1), too_large - 1)
        total = tokens(n)
        per_unit = total / n if last is None else (total - last[1]) / (n - last[0])
        last = (n, total)
        step = int((room - total) / max(per_unit, 0.5))
        if total <= room:
            fits, n = n, n + max(1, step)
        else:
            too_large, n = n, n + min(-1, step)
    return fits


class Task:
    """A family with its arguments. `draw(index, attempt)` draws sample `index`."""

    step, start = 1, 0  # of RULER's old linear search: units at a time, units to begin with

    def __init__(self, tokens: Tokens, job: Job):
        self.job = job
        self.lceg = job.profile == "lceg"
        self.room = job.length - job.new_tokens
        self.cost = tokens.cost
        self.count = tokens.count_whole if job.whole else tokens.count
        self.guess = self.room // 20
        self.units = None  # of all samples, profile lceg

    def calibrate(self) -> None:
        """Finds the size of the first sample, near which all others are."""
        sample = self.build(0, 0)
        self.guess = sample.units
        if self.lceg:
            self.units = sample.units

    def rng(self, index: int, attempt: int, what: str = "") -> random.Random:
        """The same for any length and tokenizer, and for any order in which samples are made."""
        return random.Random(f"{self.job.seed}/{self.job.name}/{index}/{attempt}/{what}")

    def size(self, fits: int) -> int:
        """Units of a sample that has room for `fits` of them: all, or by the old rule. It went from `start` upwards in
        steps to find a size for all samples, and down in steps from there for a sample that does not fit."""
        if not self.lceg:
            return fits
        stepped = self.start + max(0, fits - self.start) // self.step * self.step
        if self.units is not None:
            stepped = min(stepped, self.units)
        return max(1, min(fits, stepped))

    def draw(self, index: int, attempt: int) -> Draft:
        raise NotImplementedError

    def build(self, index: int, attempt: int) -> Sample:
        """Sample `index`, as large as the length allows. Raises TooShort; another attempt draws it anew."""
        draft = self.draw(index, attempt)
        tokens, rest = draft.tokens, 0
        if tokens and not self.job.whole:
            rest = self.count(draft.render(draft.least)) - tokens(draft.least)
        else:
            tokens = lambda n: self.count(draft.render(n))  # noqa: E731
        fits = largest_size(tokens, self.room - rest, draft.least, draft.most, self.guess)
        while fits >= draft.least:
            n = self.size(fits)
            if n < draft.least:
                break
            text = draft.render(n)
            total = self.count(text)
            if total <= self.room:
                return Sample(text, draft.prefix, draft.answers, total, n, self.positions(text, draft.answers))
            fits = n - 1
        raise TooShort(f"{self.job.name} cannot hold {self.minimum}")

    def positions(self, text: str, answers: list[str]) -> list[int] | None:
        """Where the answers are in the text, in tokens."""
        return None


@lru_cache(maxsize=32)
def fixed_order(seed: int, n: int) -> list[int]:
    """The permutation that random.Random(seed).shuffle makes of n things: the same for every sample."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return order


def shuffled(things: list, seed: int) -> list:
    return [things[i] for i in fixed_order(seed, len(things))]
