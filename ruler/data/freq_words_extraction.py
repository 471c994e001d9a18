"""Frequent words: a text of made-up words whose frequencies fall off as rank^-alpha; which three are the most frequent?

The most frequent of all are dots, to be ignored; the answers are ranks 2 to 4. Of rank r there are int(n r^-alpha /
zeta(alpha)); n is what fits. As in RULER, but: n is not stepped in 32nds of the length, and in a very short text it is
lowered until the fourth rank stands above the fifth, without which the question has no answer.
"""

import string
from bisect import bisect_right

from sampling import TRIES, Sample, Setting, Task, TooShort, shuffled
from templates import Texts
from tokens import Tokens
from words import draw_new

LETTERS, DOTS, ASKED = 6, "...", 3


def zeta(alpha: float) -> float:
    """Riemann's zeta for alpha > 1, by Euler and Maclaurin: 1e-15 off at most."""
    n = 1000
    tail = n ** (1 - alpha) / (alpha - 1) + n**-alpha / 2 + alpha * n ** (-alpha - 1) / 12
    return sum(k**-alpha for k in range(1, n)) + tail


class FrequentWords(Task):
    def __init__(self, tokens: Tokens, setting: Setting, texts: Texts, args: dict):
        super().__init__(tokens, setting)
        if args["alpha"] <= 1:
            raise ValueError(f"{setting.name}: alpha must be above 1")
        self.size_of_vocabulary = args.get("vocab_size") or (setting.length if setting.lceg else self.room) // 50
        ranks = range(1, max(self.size_of_vocabulary, ASKED + 1) + 1)
        constant = zeta(args["alpha"])
        self.shares = [rank ** -args["alpha"] / constant for rank in ranks]
        self.start, self.step = setting.length // LETTERS, max(1, setting.length // 32)
        self.template = texts.templates["fwe"]
        self.head, self.tail = self.full(self.template)
        self.head = self.head.rstrip(" ")  # the space belongs to the first word
        self.head_cost = tokens.beginning(self.head)
        self.dots_cost = tokens.cost(" " + DOTS)
        self.calibrate()

    def counts(self, n: int) -> list[int]:
        """Of each rank that occurs at all."""
        counts = []
        for share in self.shares:
            if n * share < 1:
                break
            counts.append(int(n * share))
        return counts

    def build(self, index: int, room: int, attempt: int) -> Sample:
        rng, taken = self.rng(index, attempt), set()
        words = [
            draw_new(lambda r: "".join(r.choices(string.ascii_lowercase, k=LETTERS)), rng, taken)
            for _ in range(len(self.shares))
        ]
        words = shuffled(sorted(words), self.setting.seed)
        words[0] = DOTS
        occurring = len(self.counts(room))
        costs = [self.dots_cost, *self.tokens.costs([f" {item}" for item in words[1:occurring]])]
        answers = words[1 : ASKED + 1]
        left = room - self.head_cost - self.tokens.ending(self.tail)

        def total(n: int) -> int:
            return sum(count * cost for count, cost in zip(self.counts(n), costs, strict=False))

        for _ in range(TRIES):
            n = self.size(max(0, bisect_right(range(room + 1), left, key=total) - 1))
            n = next((m for m in range(n, 0, -1) if self.distinct(m)), 0)
            if n == 0 or total(n) > left:
                raise TooShort(f"{self.setting.name} cannot hold words of four frequencies")
            counts = self.counts(n)
            listed = [item for item, count in zip(words, counts, strict=False) for _ in range(count)]
            listed = shuffled(listed, self.setting.seed)
            last = listed[-1]
            ending = self.tokens.ending(f" {last}{self.tail}") - costs[words.index(last)]
            tokens = self.head_cost + total(n) + ending
            if tokens <= room:
                break
            left -= tokens - room
        text = f"{self.head} {' '.join(listed)}{self.tail}"
        return Sample(text, self.template.prefix, answers, tokens, n)

    def distinct(self, n: int) -> bool:
        """Are the asked ranks more frequent than the next?"""
        counts = [*self.counts(n)[: ASKED + 2], 0, 0]
        return len(counts) > ASKED + 2 and counts[ASKED] > counts[ASKED + 1]
