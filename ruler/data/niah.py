"""Needles in a haystack: keys with values are hidden in repeated noise, in essays, or among needles of the same kind.

type_haystack: noise (one line repeated), essay, needle (lines with other keys).  type_needle_k, type_needle_v: words,
numbers or uuids.  num_needle_k keys with num_needle_v values each are hidden, num_needle_q of the keys are asked for.
As in RULER, but: keys and values are distinct within a sample; a needle at the very beginning or end of an essay has no
stray space beside it; sentences are found by a regular expression instead of nltk's model.
"""

import re
from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate
from random import Random

from task import Draft, Job, Task, shuffled
from texts import draw_new, random_number, random_uuid, random_word, read_texts
from tokens import Tokens

DRAW = {"words": random_word, "numbers": random_number, "uuids": random_uuid}
DEPTHS = [round(100 * i / 39) for i in range(40)]  # percent
SENTENCE_END = re.compile(r"[.!?][\"')\]\u2019\u201d]*$")
MIN_WORDS = 8  # of an essay


class Lines:
    """The lines of a haystack, drawn when they are needed.

    draw(): the next line.  count(line): its tokens with the line break.
    """

    def __init__(self, draw: Callable[[], str], count: Callable[[str], int]):
        self.draw = draw
        self.count = count
        self.lines = []
        self.sums = [0]

    def first(self, n: int) -> list[str]:
        while len(self.lines) < n:
            line = self.draw()
            self.lines.append(line)
            self.sums.append(self.sums[-1] + self.count(line))
        return self.lines[:n]

    def tokens(self, n: int) -> int:
        """Tokens of the first n lines."""
        self.first(n)
        return self.sums[n]


class Niah(Task):
    """source: the words of the essays."""

    def __init__(self, tokens: Tokens, job: Job, source: list[str] | None = None):
        super().__init__(tokens, job)
        args = job.args
        self.haystack = args["type_haystack"]
        self.draw_key = DRAW[args["type_needle_k"]]
        self.draw_value = DRAW[args["type_needle_v"]]
        self.num_asked = args["num_needle_q"]
        self.num_values = args["num_needle_v"]
        self.num_keys = max(args["num_needle_k"], self.num_asked)
        self.step = 25 if job.length >= 4096 else 5
        self.minimum = f"its needles and {self.num_keys * self.num_values} other lines"
        self.read_template(args["type_needle_v"])
        self.noise_tokens = self.line_tokens(self.noise)
        if self.haystack == "essay":
            self.step = 500
            self.minimum = f"its needles and {MIN_WORDS} other words"
            self.read_essay(source)

    def read_template(self, kind: str) -> None:
        """kind: of the values: words, numbers or uuids."""
        texts = read_texts()
        single = self.num_asked * self.num_values == 1
        template, prefix = texts.templates["niah_single" if single else "niah_multi"]
        for field, word in (("{type_needle_v_singular}", kind[:-1]), ("{type_needle_v}", kind)):
            template = template.replace(field, word)
            prefix = prefix.replace(field, word)
        self.template = template
        self.prefix = prefix
        self.needle = texts.needle.replace("{type_needle_v}", kind)
        self.noise = texts.noise

    def read_essay(self, words: list[str]) -> None:
        """Repeats the essays until they fill the prompt; in profile lceg the haystack stops where they end."""
        copies = 1 if self.lceg else -(-self.token_budget // len(words))
        self.words = (words * copies)[: self.token_budget]
        self.word_sums = list(accumulate(map(self.tokens.cost, self.words), initial=0))
        self.sentence_starts = [0]
        for i, word in enumerate(self.words[:-1], 1):
            if SENTENCE_END.search(word):
                self.sentence_starts.append(i)

    def statement(self, key: str, value: str) -> str:
        return self.needle.replace("{key}", key).replace("{value}", value)

    def draw(self, index: int) -> Draft:
        rng = self.rng(index)
        taken = set()
        values_of = {}
        needles = []
        for _ in range(self.num_keys):
            key = draw_new(self.draw_key, rng, taken)
            values_of[key] = []
            for _ in range(self.num_values):
                value = draw_new(self.draw_value, rng, taken)
                values_of[key].append(value)
                needles.append(self.statement(key, value))
        needles = shuffled(needles, self.job.seed)

        asked = rng.sample(sorted(values_of), self.num_asked)
        answers = []
        for key in asked:
            answers += values_of[key]
        query = asked[0]
        if len(asked) > 1:
            query = ", ".join(asked[:-1]) + ", and " + asked[-1]
        prefix = self.prefix.replace("{query}", query)
        question = self.template.replace("{query}", query) + prefix
        before, after = question.split("{context}")

        if self.haystack == "essay":
            depths = sorted(rng.sample(DEPTHS, len(needles)))

            def render(n: int) -> str:
                return before + self.in_essay(needles, depths, n) + after

            return Draft(render, prefix, answers, MIN_WORDS, len(self.words), self.word_sums.__getitem__)

        lines = self.draw_lines(index, taken)

        def render(n: int) -> str:
            context = self.in_lines(needles, lines.first(n), self.rng(index, "places"))
            return before + context + after

        return Draft(render, prefix, answers, len(needles), self.token_budget, lines.tokens)

    def draw_lines(self, index: int, taken: set[str]) -> Lines:
        if self.haystack == "noise":
            return Lines(lambda: self.noise, lambda line: self.noise_tokens)
        rng = self.rng(index, "lines")

        def draw_line() -> str:
            key = draw_new(self.draw_key, rng, taken)
            return self.statement(key, draw_new(self.draw_value, rng, taken))

        return Lines(draw_line, self.line_tokens)

    def line_tokens(self, line: str) -> int:
        """Tokens of a line, the line break and the first word of a line like it, less the first word."""
        words = line.split(" ")
        joint = f"{words[-1]}\n{words[0]}"
        return sum(map(self.tokens.cost, words[1:-1])) + self.tokens.cost(joint)

    def in_lines(self, needles: list[str], lines: list[str], rng: Random) -> str:
        """The needles before distinct random lines, each in a line of its own."""
        spots = sorted(rng.sample(range(len(lines)), len(needles)), reverse=True)
        for spot, needle in zip(spots, needles, strict=True):
            lines.insert(spot, needle)
        return "\n".join(lines)

    def in_essay(self, needles: list[str], depths: list[int], n: int) -> str:
        """The needles between the sentences of the first n words, at depths in percent of the sentences."""
        num_sentences = bisect_left(self.sentence_starts, n)
        parts = []
        last_spot = 0
        for depth, needle in zip(depths, needles, strict=True):
            sentence = int(num_sentences * depth / 100)
            spot = n
            if sentence < num_sentences:
                spot = self.sentence_starts[sentence]
            parts += self.words[last_spot:spot]
            parts.append(needle)
            last_spot = spot
        return " ".join(parts + self.words[last_spot:n])

    def positions(self, text: str, answers: list[str]) -> list[int]:
        positions = []
        for answer in answers:
            end = text.index(f" {answer}.")
            positions.append(self.tokens.count(text[:end]))
        return positions
