"""Frequent words: a text of random words whose frequencies fall off as rank^-alpha; which three are the most frequent?

The most frequent of all are dots, to be ignored; the answers are ranks 2 to 4. In a text of n words rank r occurs
int(n r^-alpha / zeta(alpha)) times. As in RULER, but: n is the largest that fits, and in a very short text it is
lowered until the fourth rank is more frequent than the fifth: otherwise the question has no answer.
"""

from string import ascii_lowercase

import numpy as np
from scipy.special import zeta

from task import Sample, Task, shuffled
from texts import draw_letters

LETTERS = 6
DOTS = "..."
LAST_ASKED = 3  # index of the last rank asked for


class FrequentWords(Task):
    def __init__(self, tokens, job, source=None):
        super().__init__(tokens, job)
        self.use_template("fwe")
        alpha = job.args["alpha"]
        num_words = (job.length if self.lceg else self.token_budget) // 50
        ranks = range(1, max(num_words, LAST_ASKED + 2) + 1)
        self.shares = np.array([rank**-alpha / zeta(alpha) for rank in ranks])
        self.max_ranks = np.count_nonzero(self.counts(self.token_budget))
        self.start = job.length // LETTERS
        self.step = max(1, job.length // 32)
        self.smallest = 1
        while not self.has_answer(self.smallest):
            self.smallest += 1

    def counts(self, n: int) -> np.ndarray:
        """How often each rank occurs in a text of n words."""
        return (n * self.shares).astype(int)

    def has_answer(self, n: int) -> bool:
        """Whether the last rank asked for is more frequent than the next."""
        counts = self.counts(n)
        return counts[LAST_ASKED] > counts[LAST_ASKED + 1]

    def round_size(self, fits):
        n = super().round_size(fits)
        while n > self.smallest and not self.has_answer(n):
            n -= 1
        return n

    def draw(self, index):
        rng = self.rng(index)
        words = draw_letters(rng, ascii_lowercase, LETTERS, len(self.shares), set())
        words = shuffled(sorted(words), self.job.seed)
        words[0] = DOTS
        costs = [self.tokens.cost(word) for word in words[: self.max_ranks]]

        def estimate(n):
            counts = self.counts(n)[: self.max_ranks]
            return int(counts @ costs)

        def render(n):
            text = np.repeat(words, self.counts(n)).tolist()
            text = shuffled(text, self.job.seed)
            return self.before + " ".join(text) + self.after

        return Sample(render, self.prefix, words[1 : LAST_ASKED + 1], self.smallest, self.token_budget, estimate)
