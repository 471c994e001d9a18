"""Needles in a haystack: keys with values are hidden in repeated noise, in essays, or among needles of the same kind.

type_haystack: noise (one line repeated), essay, needle (lines with other keys).  type_needle_k, type_needle_v: words,
numbers or uuids.  num_needle_k keys with num_needle_v values each are hidden, num_needle_q of the keys are asked for.
As in RULER, but: keys and values are distinct within a sample; a needle at the very beginning or end of an essay has no
stray space beside it; sentences are found by a regular expression instead of nltk's model.
"""

import re
from bisect import bisect_left
from itertools import accumulate

from task import Sample, Task, shuffled
from texts import draw_new, random_number, random_uuid, random_word, read_texts

DRAW = {"words": random_word, "numbers": random_number, "uuids": random_uuid}
DEPTHS = [round(100 * i / 39) for i in range(40)]  # percent
SENTENCE_END = re.compile(r"[.!?][\"')\]\u2019\u201d]*$")
MIN_WORDS = 8  # of an essay


class Niah(Task):
    """essay: its words."""

    def __init__(self, tokens, job, essay=None):
        super().__init__(tokens, job)
        args = job.args
        self.haystack = args["type_haystack"]
        self.draw_key = DRAW[args["type_needle_k"]]
        self.draw_value = DRAW[args["type_needle_v"]]
        self.num_asked = args["num_needle_q"]
        self.num_values = args["num_needle_v"]
        self.num_keys = max(args["num_needle_k"], self.num_asked)
        self.kind = self.asked_kind = args["type_needle_v"]
        if self.num_asked * self.num_values == 1:
            self.asked_kind = self.kind.removesuffix("s")
            self.use_template("niah_single")
        else:
            self.use_template("niah_multi")
        texts = read_texts()
        self.needle = texts["needle"]
        self.noise = texts["noise"]
        self.step = 25 if job.length >= 4096 else 5
        if self.haystack == "essay":
            self.step = 500
            self.read_essay(essay)

    def read_essay(self, words):
        """Repeats the essays until they fill the prompt; in profile lceg the haystack stops where they end."""
        if not self.lceg:
            words = words * (self.token_budget // len(words) + 1)
        self.words = words[: self.token_budget]
        word_tokens = map(self.tokens.cost, self.words)
        self.word_sums = list(accumulate(word_tokens, initial=0))
        self.sentence_starts = [0]
        for i, word in enumerate(self.words[:-1], 1):
            if SENTENCE_END.search(word):
                self.sentence_starts.append(i)

    def draw(self, index):
        rng = self.rng(index)
        taken = set()
        values = {}  # by key
        needles = []
        for _ in range(self.num_keys):
            key = draw_new(self.draw_key, rng, taken)
            values[key] = []
            for _ in range(self.num_values):
                value = draw_new(self.draw_value, rng, taken)
                values[key].append(value)
                needles.append(self.statement(key, value))
        needles = shuffled(needles, self.job.seed)

        asked = rng.sample(sorted(values), self.num_asked)
        answers = []
        for key in asked:
            answers += values[key]
        query = asked[-1]
        if len(asked) > 1:
            query = ", ".join(asked[:-1]) + ", and " + query
        names = {"query": query, "type_needle_v": self.asked_kind}
        before = self.before.format(**names)
        after = self.after.format(**names)
        prefix = self.prefix.format(**names)

        if self.haystack == "essay":
            smallest, sums = MIN_WORDS, self.word_sums
            depths = sorted(rng.sample(DEPTHS, len(needles)))
        else:
            smallest = len(needles)
            lines, sums = self.draw_lines(index, taken)

        def render(size):
            if self.haystack == "essay":
                context = self.in_essay(needles, depths, size)
            else:
                context = self.in_lines(needles, lines[:size], self.rng(index, "places"))
            return before + context + after

        return Sample(render, prefix, answers, smallest, len(sums) - 1, sums.__getitem__)

    def statement(self, key, value):
        return self.needle.format(key=key, value=value, type_needle_v=self.kind)

    def draw_lines(self, index, taken):
        """(more lines than fit, the tokens of the first 0, 1, 2, ... of them)."""
        rng = self.rng(index, "lines")
        line = self.noise
        lines, sums = [], [0]
        while sums[-1] <= self.token_budget:
            if self.haystack == "needle":
                key = draw_new(self.draw_key, rng, taken)
                value = draw_new(self.draw_value, rng, taken)
                line = self.statement(key, value)
            first, rest = line.split(" ", 1)
            tokens = self.tokens.count_words(f"{rest}\n{first}")  # the next line begins with the same word
            lines.append(line)
            sums.append(sums[-1] + tokens)
        return lines, sums

    def in_lines(self, needles, lines, rng):
        """The needles before distinct random lines, each in a line of its own."""
        spots = rng.sample(range(len(lines)), len(needles))
        spots.sort(reverse=True)
        for spot, needle in zip(spots, needles, strict=True):
            lines.insert(spot, needle)
        return "\n".join(lines)

    def in_essay(self, needles, depths, n):
        """The needles between the sentences of the first n words, at depths in percent of the sentences."""
        num_sentences = bisect_left(self.sentence_starts, n)
        starts = [*self.sentence_starts[:num_sentences], n]
        parts = []
        last_spot = 0
        for depth, needle in zip(depths, needles, strict=True):
            spot = starts[int(num_sentences * depth / 100)]
            parts += [*self.words[last_spot:spot], needle]
            last_spot = spot
        return " ".join(parts + self.words[last_spot:n])

    def positions(self, prompt, answers):
        positions = []
        for answer in answers:
            start = prompt.index(f" {answer}.")
            positions.append(self.tokens.count(prompt[:start]))
        return positions
