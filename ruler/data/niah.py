"""Needles in a haystack: keys with values are hidden in repeated noise, in essays, or among needles of the same kind.

type_haystack: noise (one line repeated), essay, needle (lines with other keys).  type_needle_k, type_needle_v: words,
numbers or uuids.  num_needle_k keys with num_needle_v values each are hidden, num_needle_q of the keys are asked for.
As in RULER, but: keys and values do not occur twice in a sample; where a needle stands at the very beginning or end of
an essay no stray space is left beside it; sentences are found by a regular expression instead of nltk's model.
"""

import re
from bisect import bisect_left, bisect_right
from itertools import accumulate

from sampling import TRIES, Sample, Setting, Task, TooShort, shuffled
from templates import Texts
from tokens import Tokens
from words import DRAW, draw_new

DEPTHS = [round(100 * i / 39) for i in range(40)]  # percent
SENTENCE_END = re.compile(r"[.!?][\"')\]\u2019\u201d]*$")
BLOCK = 16  # lines
LEAST_WORDS = 8  # of an essay


class Needle:
    """One of them, as two pieces: up to the value, and the value with its full stop."""

    def __init__(self, text: str, value: str):
        at = text.rindex(f" {value}")
        self.text, self.value, self.pieces = text, value, (text[:at], text[at:])


class Niah(Task):
    def __init__(self, tokens: Tokens, setting: Setting, texts: Texts, args: dict, essay: list[str] | None):
        super().__init__(tokens, setting)
        self.kind_k, self.kind_v, self.haystack = args["type_needle_k"], args["type_needle_v"], args["type_haystack"]
        self.asked, self.values_each = args["num_needle_q"], args["num_needle_v"]
        self.keys = max(args["num_needle_k"], self.asked)
        single = self.asked * self.values_each == 1
        kind = {"{type_needle_v_singular}": self.kind_v[:-1], "{type_needle_v}": self.kind_v}
        self.head, self.tail = self.full(texts.templates["niah_single" if single else "niah_multi"])
        self.prefix = texts.templates["niah_single" if single else "niah_multi"].prefix
        for field, word in kind.items():
            self.head, self.tail = self.head.replace(field, word), self.tail.replace(field, word)
            self.prefix = self.prefix.replace(field, word)
        self.needle, self.noise = texts.needle.replace("{type_needle_v}", self.kind_v), texts.noise
        self.head_cost = tokens.beginning(self.head)
        if self.haystack == "essay":
            self.step = 500
            self.prepare_essay(essay)
        else:
            self.step = 25 if setting.length >= 4096 else 5
            self.noise_cost = tokens.cost(self.noise + "\n")
            stem, rest = self.needle.split("{key}")
            self.stem, self.between = stem.rstrip(" "), rest.split(" {value}")[0]
            self.frame_cost = sum(tokens.costs([self.stem, self.between]))
        self.calibrate()

    def fill(self, key: str, value: str) -> str:
        return self.needle.replace("{key}", key).replace("{value}", value)

    def build(self, index: int, room: int, attempt: int) -> Sample:
        rng, taken = self.rng(index, attempt), set()
        needles, by_key = [], {}
        for _ in range(self.keys):
            key = draw_new(DRAW[self.kind_k], rng, taken)
            by_key[key] = [draw_new(DRAW[self.kind_v], rng, taken) for _ in range(self.values_each)]
            needles += [Needle(self.fill(key, value), value) for value in by_key[key]]
        needles = shuffled(needles, self.setting.seed)
        asked = rng.sample(sorted(by_key), self.asked)
        answers = [value for key in asked for value in by_key[key]]
        query = asked[0] if len(asked) == 1 else ", ".join(asked[:-1]) + ", and " + asked[-1]
        tail, prefix = self.tail.replace("{query}", query), self.prefix.replace("{query}", query)
        if self.haystack == "essay":
            depths = rng.sample(DEPTHS, len(needles))
            context, cost, units, places = self.in_essay(needles, depths, tail, room)
        else:
            context, cost, units, places = self.in_lines(needles, tail, room, taken, index, attempt)
        positions = [places[value] for value in answers]
        return Sample(self.head + context + tail, prefix, answers, cost, units, positions)

    # --- lines: every line, the last one too, ends in a line break that belongs to it

    def in_lines(self, needles, tail, room, taken, index, attempt):
        stems = self.tokens.costs([needle.pieces[0] for needle in needles])
        ends = self.tokens.costs([needle.pieces[1] + "\n" for needle in needles])
        tail_cost = self.tokens.ending(tail[1:])
        left = room - self.head_cost - tail_cost - sum(stems + ends)
        if self.haystack == "needle":
            lines, cost_of_first = self.distractors(left, taken, index, attempt)
        else:
            lines, cost_of_first = [self.noise] * (left // self.noise_cost), self.noise_cost.__mul__
        n = self.size(len(lines))
        if len(lines) < len(needles) or n < len(needles):
            raise TooShort(f"{self.setting.name} cannot hold its needles and {len(needles)} other lines")
        spots = sorted(self.rng(index, attempt, "places").sample(range(n), len(needles)), reverse=True)
        lines, places = lines[:n], {}
        for spot, needle in zip(spots, needles, strict=True):
            lines.insert(spot, needle.text)
        above = self.head_cost  # the needles', and what stands before the lines
        for spot, needle, stem, end in reversed(list(zip(spots, needles, stems, ends, strict=True))):
            places[needle.value] = above + cost_of_first(spot) + stem
            above += stem + end
        return "\n".join(lines), above + cost_of_first(n) + tail_cost, n, places

    def distractors(self, left: int, taken: set, index: int, attempt: int):
        """(as many lines as `left` tokens hold, a function that gives the tokens of the first i of them).

        They are measured by blocks, without what all have in common: one text is faster than many short ones."""
        rng, pairs, sums = self.rng(index, attempt, "lines"), [], [0]

        def costs(blocks: list[list[tuple[str, str]]]) -> list[int]:
            texts = ["".join([f" {key} {value}.\n" for key, value in block]) for block in blocks]
            made = self.tokens.costs(texts)
            return [max(1, cost) + self.frame_cost * len(block) for cost, block in zip(made, blocks, strict=True)]

        def cost_of_first(i: int) -> int:
            block = min(i // BLOCK, len(sums) - 1)
            rest = pairs[block * BLOCK : i]
            return sums[block] + (costs([rest])[0] if rest else 0)

        while sums[-1] <= left:  # each line costs something
            for _ in range(BLOCK):
                key = draw_new(DRAW[self.kind_k], rng, taken)
                pairs.append((key, draw_new(DRAW[self.kind_v], rng, taken)))
            sums.append(sums[-1] + costs([pairs[-BLOCK:]])[0])
        n = 0
        if len(sums) > 1:  # of the last block, the lines that fit
            whole = (len(sums) - 2) * BLOCK
            lines = accumulate(costs([[pair] for pair in pairs[whole:]]), initial=sums[-2])
            n = whole + bisect_right(list(lines), left) - 1
        return [self.fill(*pair) for pair in pairs[:n]], cost_of_first

    # --- an essay: every piece but the first begins with a space; the end is measured together with what follows it

    def prepare_essay(self, essay: list[str]) -> None:
        words = essay[: self.room]
        if not self.setting.lceg:  # which stops where the essays end
            words = (essay * -(-self.room // len(essay)))[: self.room]
        distinct = sorted(set(words))
        cost = dict(zip(distinct, self.tokens.costs([f" {word}" for word in distinct]), strict=True))
        self.words, self.text = words, " ".join(words)
        self.first_costs = self.tokens.cost(words[0]), cost[words[0]]  # behind a line break, behind a space
        self.word_cost = cost
        self.sums = [0, *accumulate(cost[word] for word in words)]
        self.starts = [i for i in range(len(words)) if i == 0 or SENTENCE_END.search(words[i - 1])]
        self.offsets = [0, *accumulate(len(word) + 1 for word in words)]

    def in_essay(self, needles, depths, tail, room):
        pieces = [piece for needle in needles for piece in (f" {needle.pieces[0]}", needle.pieces[0], needle.pieces[1])]
        costs = self.tokens.costs(pieces)
        costs = [(costs[i], costs[i + 1], costs[i + 2]) for i in range(0, len(costs), 3)]
        tail_cost = self.tokens.ending(tail)
        left = room - self.head_cost - tail_cost - sum(stem + value for stem, _, value in costs)
        for _ in range(TRIES):
            n = self.size(bisect_right(self.sums, left) - 1)
            if left < 0 or n < LEAST_WORDS:
                raise TooShort(f"{self.setting.name} cannot hold its needles and {LEAST_WORDS} other words")
            context, total, places = self.place(needles, depths, costs, n, tail)
            if total <= room:
                break
            left = self.sums[n] - (total - room)
        return context, total, n, places

    def place(self, needles, depths, costs, n, tail):
        """Puts the needles into the first n words. (context, tokens of the whole prompt, {value: its position})."""
        sentences = bisect_left(self.starts, n)
        spots = sorted(int(sentences * depth / 100) for depth in depths)
        spots = [self.starts[spot] if spot < sentences else n for spot in spots]
        parts, places, at, tokens = [], {}, 0, self.head_cost
        first_line, first_space = self.first_costs
        for spot, needle, (stem, stem_first, value) in zip(spots, needles, costs, strict=True):
            if spot > at:
                parts.append(self.text[self.offsets[at] : self.offsets[spot] - 1])
                tokens += self.sums[spot] - self.sums[at] - (first_space - first_line) * (len(parts) == 1)
            parts.append(needle.text)
            tokens += stem if len(parts) > 1 else stem_first
            places[needle.value] = tokens
            tokens += value
            at = spot
        if at < n:
            parts.append(self.text[self.offsets[at] : self.offsets[n] - 1])
            tokens += self.sums[n] - self.sums[at] - (first_space - first_line) * (len(parts) == 1)
            last, counted = f" {self.words[n - 1]}", self.word_cost[self.words[n - 1]]
        else:
            last, counted = needles[-1].pieces[1], costs[-1][2]
        return " ".join(parts), tokens - counted + self.tokens.ending(last + tail), places
