"""What the families of tasks share: the setting of a task, its random numbers, the size of a haystack."""

import random
from functools import lru_cache
from typing import NamedTuple

from templates import Template
from tokens import Tokens

TRIES = 8  # corrections of a size, redraws of a sample


class TooShort(ValueError):
    """Not even the smallest prompt of this task fits."""


class Setting(NamedTuple):
    """Of one task at one length.  length: tokens of prompt and answer.  new: tokens to generate.  rows: samples in all.
    lceg: sizes and layout of the LCEG paper's copy."""

    name: str
    length: int
    new: int
    seed: int
    rows: int
    lceg: bool


class Sample(NamedTuple):
    """text: the prompt with the answer's prefix.  tokens: its cost, special tokens included.  units: the size of the
    haystack in lines, words or documents.  positions: of the answers, in tokens of the prompt, or None."""

    text: str
    prefix: str
    answers: list[str]
    tokens: int
    units: int
    positions: list[int] | None = None


class Task:
    """A family with its arguments. `build(index, room, attempt)` makes sample `index` in `room` tokens."""

    step, start = 1, 0  # of the old linear search: units at a time, units to begin with

    def __init__(self, tokens: Tokens, setting: Setting):
        self.tokens, self.setting = tokens, setting
        self.room = setting.length - setting.new
        self.units = None  # of all samples, profile lceg

    def rng(self, index: int, attempt: int, what: str = "") -> random.Random:
        """The same for any length and tokenizer, and for any order in which samples are made."""
        return random.Random(f"{self.setting.seed}/{self.setting.name}/{index}/{attempt}/{what}")

    def size(self, fits: int) -> int:
        """Units of a sample in which `fits` would have room: all, or by the old rule. That went from `start` upwards
        in steps to find a size for all samples, and down in steps from there for a sample in which it is too much."""
        if not self.setting.lceg:
            return fits
        stepped = self.start + max(0, fits - self.start) // self.step * self.step
        if self.units is not None:
            stepped = min(stepped, self.units)
        return max(1, min(fits, stepped))

    def calibrate(self) -> None:
        """Finds the size for all samples, on the first one."""
        if self.setting.lceg:
            self.units = self.build(0, self.room, 0).units

    def full(self, template: Template) -> tuple[str, str]:
        """The whole prompt before and behind {context}."""
        head, tail = template.text.split("{context}")
        return head, tail + template.prefix


@lru_cache(maxsize=32)
def fixed_order(seed: int, n: int) -> list[int]:
    """The permutation that random.Random(seed).shuffle makes of n things: the same for every sample."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return order


def shuffled(things: list, seed: int) -> list:
    return [things[i] for i in fixed_order(seed, len(things))]
