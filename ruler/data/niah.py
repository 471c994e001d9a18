"""Needles in a haystack: keys with values are hidden in repeated noise, in essays, or among needles of the same kind.

type_haystack: noise (one line repeated), essay, needle (lines with other keys).  type_needle_k, type_needle_v: words,
numbers or uuids.  num_needle_k keys with num_needle_v values each are hidden, num_needle_q of the keys are asked for.
As in RULER, but: keys and values do not occur twice in a sample; where a needle is at the very beginning or end of an
essay no stray space is left beside it; sentences are found by a regular expression instead of nltk's model.
"""

import re
from bisect import bisect_left
from itertools import accumulate
from random import Random

from sampling import Draft, Job, Task, shuffled
from templates import Texts
from tokens import Tokens
from words import DRAW, draw_new

DEPTHS = [round(100 * i / 39) for i in range(40)]  # percent
SENTENCE_END = re.compile(r"[.!?][\"')\]\u2019\u201d]*$")
MIN_WORDS = 8  # of an essay


class Niah(Task):
    def __init__(self, tokens: Tokens, job: Job, texts: Texts, essay: list[str] | None):
        super().__init__(tokens, job)
        args = job.args
        self.kind_k, self.kind_v, self.haystack = args["type_needle_k"], args["type_needle_v"], args["type_haystack"]
        self.asked, self.values_each = args["num_needle_q"], args["num_needle_v"]
        self.keys = max(args["num_needle_k"], self.asked)
        single = self.asked * self.values_each == 1
        template, prefix = texts.templates["niah_single" if single else "niah_multi"]
        kinds = {"{type_needle_v_singular}": self.kind_v[:-1], "{type_needle_v}": self.kind_v}
        for field, word in kinds.items():
            template, prefix = template.replace(field, word), prefix.replace(field, word)
        self.template, self.prefix = template, prefix
        self.needle, self.noise = texts.needle.replace("{type_needle_v}", self.kind_v), texts.noise
        self.minimum = f"its needles and {self.keys * self.values_each} other lines"
        self.step = 25 if job.length >= 4096 else 5
        if self.haystack == "essay":
            self.minimum = f"its needles and {MIN_WORDS} other words"
            self.step = 500
            copies = 1 if self.lceg else -(-self.room // len(essay))  # lceg stops where the essays end
            self.words = (essay * copies)[: self.room]
            self.word_sums = [0, *accumulate(map(self.cost, self.words))]
            self.starts = [i for i in range(len(self.words)) if i == 0 or SENTENCE_END.search(self.words[i - 1])]
        self.noise_tokens = self.line_tokens(self.noise)
        self.calibrate()

    def statement(self, key: str, value: str) -> str:
        return self.needle.replace("{key}", key).replace("{value}", value)

    def draw(self, index: int, attempt: int) -> Draft:
        rng, taken = self.rng(index, attempt), set()
        needles, by_key = [], {}
        for _ in range(self.keys):
            key = draw_new(DRAW[self.kind_k], rng, taken)
            by_key[key] = [draw_new(DRAW[self.kind_v], rng, taken) for _ in range(self.values_each)]
            needles += [self.statement(key, value) for value in by_key[key]]
        needles = shuffled(needles, self.job.seed)
        asked = rng.sample(sorted(by_key), self.asked)
        answers = [value for key in asked for value in by_key[key]]
        query = asked[0] if len(asked) == 1 else ", ".join(asked[:-1]) + ", and " + asked[-1]
        prefix = self.prefix.replace("{query}", query)
        before, after = (self.template.replace("{query}", query) + prefix).split("{context}")
        if self.haystack == "essay":
            depths = rng.sample(DEPTHS, len(needles))
            context, least, most = lambda n: self.in_essay(needles, depths, n), MIN_WORDS, len(self.words)
            tokens = self.word_sums.__getitem__
        else:
            lines, sums, lines_rng = [], [0], self.rng(index, attempt, "lines")

            def first_lines(n: int) -> list[str]:
                while len(lines) < n:
                    line, cost = self.draw_line(lines_rng, taken)
                    lines.append(line)
                    sums.append(sums[-1] + cost)
                return lines[:n]

            def context(n: int) -> str:
                return self.in_lines(needles, first_lines(n), self.rng(index, attempt, "places"))

            def tokens(n: int) -> int:
                first_lines(n)
                return sums[n]

            least, most = len(needles), self.room
        return Draft(lambda n: before + context(n) + after, prefix, answers, least, most, tokens)

    def draw_line(self, rng: Random, taken: set[str]) -> tuple[str, int]:
        """A line of the haystack, and its tokens with the line break and the first word of a line like it."""
        if self.haystack == "noise":
            return self.noise, self.noise_tokens
        key = draw_new(DRAW[self.kind_k], rng, taken)
        line = self.statement(key, draw_new(DRAW[self.kind_v], rng, taken))
        return line, self.line_tokens(line)

    def line_tokens(self, line: str) -> int:
        words = line.split(" ")
        return sum(map(self.cost, words[1:-1])) + self.cost(f"{words[-1]}\n{words[0]}")

    def in_lines(self, needles: list[str], lines: list[str], rng: Random) -> str:
        """The needles before distinct random lines, each in a line of its own."""
        spots = sorted(rng.sample(range(len(lines)), len(needles)), reverse=True)
        for spot, needle in zip(spots, needles, strict=True):
            lines.insert(spot, needle)
        return "\n".join(lines)

    def in_essay(self, needles: list[str], depths: list[int], n: int) -> str:
        """The needles between the sentences of the first n words, at depths in percent of the sentences."""
        sentences = bisect_left(self.starts, n)
        parts, at = [], 0
        for sentence, needle in zip(sorted(int(sentences * depth / 100) for depth in depths), needles, strict=True):
            spot = self.starts[sentence] if sentence < sentences else n
            parts += self.words[at:spot]
            parts.append(needle)
            at = spot
        return " ".join(parts + self.words[at:n])

    def positions(self, text: str, answers: list[str]) -> list[int]:
        return [self.count(text[: text.index(f" {value}.")]) for value in answers]
