"""A task at one length: how a sample is drawn, sized to fill the length, and verified.

Each family of tasks (niah.py, variable_tracking.py, ...) subclasses `Task` and defines draw(index) -> Sample.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from texts import read_texts
from tokens import Tokens

VERIFY_EVERY = 32  # samples
MAX_DRAWS = 8  # of a sample whose words are too long for a short prompt


class Job(NamedTuple):
    """One task at one length.  length: tokens of prompt and answer.  new_tokens: of the answer."""

    name: str
    family: str
    args: dict
    length: int
    new_tokens: int
    num_samples: int
    seed: int
    profile: str


@dataclass
class Sample:
    """A question and a haystack of any size (its lines, words or documents)."""

    render: Callable  # render(size): the prompt
    prefix: str  # its end, the beginning of the answer
    answers: list[str]
    smallest: int  # size that is possible
    largest: int
    estimate: Callable | None = None  # estimate(size): the tokens that grow with the size, fast
    # those that fill the length, set by Task.build
    size: int = 0
    prompt: str = ""
    tokens: int = 0  # with the special ones


def largest_size(tokens: Callable, budget: int, smallest: int, largest: int, guess: int) -> int:
    """The largest size with tokens(size) <= budget; smallest - 1 if there is none.

    Goes from the guess in proportion to the missing tokens, between sizes known to fit and not to fit.
    """
    fits, too_large = smallest - 1, largest + 1
    size, last_size, last_total = guess, 0, 0
    while too_large - fits > 1:
        size = min(max(size, fits + 1), too_large - 1)
        total = tokens(size)
        slope = (total - last_total) / (size - last_size)
        last_size, last_total = size, total
        step = int((budget - total) / max(slope, 0.5))
        if total <= budget:
            fits = size
            size += max(1, step)
        else:
            too_large = size
            size += min(-1, step)
    return fits


class Task:
    """A family of tasks with the arguments of one job.

    guess: where the search for the size of a sample begins.  common_size: profile lceg: the size of all samples that
    have room for it. prepare.set_up sets both to the size of the first sample.
    """

    step, start = 1, 0  # of RULER's linear search (profile lceg): units at a time, units to begin with

    def __init__(self, tokens: Tokens, job: Job):
        self.tokens = tokens
        self.job = job
        self.seed = f"{job.seed}/{job.name}"
        self.lceg = job.profile == "lceg"
        self.token_budget = job.length - job.new_tokens
        self.guess = self.token_budget // 20
        self.common_size = self.token_budget
        self.attempt = 0

    def use_template(self, name: str) -> None:
        """Sets `before` and `after`, the prompt around the context, and `prefix`, the beginning of the answer."""
        template, self.prefix = read_texts()[name]
        self.before, after = template.split("{context}")
        self.after = after + self.prefix

    def positions(self, prompt: str, answers: list[str]) -> list[int] | None:
        """Where the answers are in the prompt, in tokens; None for tasks that do not say."""
        return None

    def rng(self, index: int, purpose: str = "") -> random.Random:
        """Random numbers of a sample: the same for any length and tokenizer."""
        return random.Random(f"{self.seed}/{index}/{self.attempt}/{purpose}")

    def round_size(self, fits: int) -> int:
        """The size of a sample that has room for `fits` units. Profile lceg: `start` and a multiple of `step`."""
        if not self.lceg:
            return fits
        size = self.start + max(0, fits - self.start) // self.step * self.step
        return min(fits, size, self.common_size)

    def build(self, index: int) -> Sample:
        """Sample `index`, drawn again if not even the smallest size fits. Raises ValueError if no draw fits."""
        for self.attempt in range(MAX_DRAWS):
            sample = self.draw(index)
            if sample.smallest <= sample.largest and self.fit(sample):
                return sample
        raise ValueError(f"{self.job.length} tokens are too few for a prompt of {self.job.name}; leave this task out")

    def fit(self, sample: Sample) -> bool:
        """Gives a sample the largest size that fits; returns whether there is one."""

        @lru_cache(maxsize=2)
        def render(size):
            prompt = sample.render(size)
            return prompt, self.tokens.count(prompt)

        def count(size):
            _, tokens = render(size)
            return tokens

        budget, smallest = self.token_budget, sample.smallest
        if sample.estimate:
            budget -= count(smallest) - sample.estimate(smallest)
        fits = largest_size(sample.estimate or count, budget, smallest, sample.largest, self.guess)
        while fits >= smallest:
            sample.size = max(smallest, self.round_size(fits))
            sample.prompt, sample.tokens = render(sample.size)
            if sample.tokens <= self.token_budget:
                return True
            fits = sample.size - 1
        return False

    def row(self, index: int) -> dict:
        """The row of sample `index`. Raises ValueError if its tokens were not counted correctly."""
        sample = self.build(index)
        if index % VERIFY_EVERY == 0 and self.tokens.count_whole(sample.prompt) != sample.tokens:
            raise ValueError("this tokenizer has tokens that span several words; prompts cannot be sized for it")
        length = sample.tokens + self.job.new_tokens
        return {
            "index": index,
            "input": sample.prompt,
            "outputs": sample.answers,
            "length": length,
            "length_w_model_temp": length,
            "answer_prefix": sample.prefix,
            "token_position_answer": self.positions(sample.prompt, sample.answers),
            "tokens_to_generate": self.job.new_tokens,
            "fill": round(length / self.job.length, 5),
        }


@lru_cache(maxsize=32)
def fixed_order(seed: int, n: int) -> list[int]:
    """A random permutation of n items: the same for every sample."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return order


def shuffled(items: list, seed: int) -> list:
    order = fixed_order(seed, len(items))
    return [items[i] for i in order]
