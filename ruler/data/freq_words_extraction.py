"""Frequent words: a text of made-up words whose frequencies fall off as rank^-alpha; which three are the most frequent?

The most frequent of all are dots, to be ignored; the answers are ranks 2 to 4. Of rank r there are int(n r^-alpha /
zeta(alpha)); n is what fits. As in RULER, but: n is not stepped in 32nds of the length, and in a very short text it is
lowered until the fourth rank is above the fifth, without which the question has no answer.
"""

import string
from math import ceil

from scipy.special import zeta

from sampling import Draft, Job, Task, shuffled
from templates import Texts
from tokens import Tokens
from words import draw_new

LETTERS, DOTS, ASKED = 6, "...", 3


class FrequentWords(Task):
    minimum = "words of four frequencies"

    def __init__(self, tokens: Tokens, job: Job, texts: Texts):
        super().__init__(tokens, job)
        alpha = job.args["alpha"]
        if alpha <= 1:
            raise ValueError(f"{job.name}: alpha must be above 1")
        vocabulary = job.args.get("vocab_size") or (job.length if self.lceg else self.room) // 50
        self.shares = [rank**-alpha / zeta(alpha) for rank in range(1, max(vocabulary, ASKED + 1) + 1)]
        self.start, self.step = job.length // LETTERS, max(1, job.length // 32)
        template, self.prefix = texts.templates["fwe"]
        self.before, self.after = (template + self.prefix).split("{context}")
        self.calibrate()

    def counts(self, n: int) -> list[int]:
        """Of each rank that occurs at all."""
        counts = []
        for share in self.shares:
            if n * share < 1:
                break
            counts.append(int(n * share))
        return counts

    def size(self, fits: int) -> int:
        """As for all tasks, lowered until the last rank that is asked for is more frequent than the next."""
        n = super().size(fits)
        while n > 0:
            counts = [*self.counts(n), 0, 0]
            if len(counts) > ASKED + 2 and counts[ASKED] > counts[ASKED + 1]:
                break
            n -= 1
        return n

    def draw(self, index: int, attempt: int) -> Draft:
        rng, taken, words = self.rng(index, attempt), set(), []
        for _ in self.shares:
            words.append(draw_new(lambda r: "".join(r.choices(string.ascii_lowercase, k=LETTERS)), rng, taken))
        words = shuffled(sorted(words), self.job.seed)
        words[0] = DOTS

        def tokens(n: int) -> int:
            return sum(count * self.cost(word) for word, count in zip(words, self.counts(n), strict=False))

        def render(n: int) -> str:
            listed = [word for word, count in zip(words, self.counts(n), strict=False) for _ in range(count)]
            return f"{self.before.rstrip(' ')} {' '.join(shuffled(listed, self.job.seed))}{self.after}"

        least = ceil(1 / self.shares[ASKED])  # with the last rank that is asked for
        return Draft(render, self.prefix, words[1 : ASKED + 1], least, self.room, tokens)
