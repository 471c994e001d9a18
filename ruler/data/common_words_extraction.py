"""Common words: a numbered list in which num_cw words stand freq_cw times each and the others freq_ucw times.

One solved example with a list of its own stands before the task. Below 4,096 tokens both lists are shorter: 6 and 1
times. Words are wonderwords' nouns, adjectives and verbs; where there are not enough (beyond 128k tokens, depending on
the tokenizer) adjective-noun pairs follow in profile upstream, whose own second list is not to be had by installing a
package; profile lceg stops at the list.
"""

from bisect import bisect_right
from itertools import accumulate

from sampling import TRIES, Sample, Setting, Task, TooShort, fixed_order, shuffled
from templates import Texts
from tokens import Tokens
from words import all_words, draw_new, word


class CommonWords(Task):
    step = 10

    def __init__(self, tokens: Tokens, setting: Setting, texts: Texts, args: dict):
        super().__init__(tokens, setting)
        self.common, self.short = args["num_cw"], setting.length < 4096
        self.repeats = (6, 1) if self.short else (args["freq_cw"], args["freq_ucw"])
        self.template = texts.templates["cwe"]
        self.before, self.after = self.full(self.template)
        self.vocabulary = shuffled(all_words(), setting.seed)
        costs = tokens.costs([f" {item}" for item in self.vocabulary])
        self.word_cost = dict(zip(self.vocabulary, costs, strict=True))
        first, *rest = tokens.costs(["1.", *(f" {i}." for i in range(2, max(2, self.room // 2) + 1))])
        self.number_sums = [0, *accumulate([first, *rest])]
        # more words than any sample can hold, were all of its words the cheapest
        cheapest = sum(sorted(costs)[: len(costs) // 2]) // max(1, len(costs) // 2)
        self.most = self.common + self.room // (self.repeats[1] * (cheapest + min(rest, default=1))) + 1
        if setting.lceg:
            self.most = min(self.most, len(self.vocabulary))
        self.calibrate()

    def listed(self, words: list[str], repeats: tuple[int, int]) -> list[str]:
        """The list: the first words often, the others seldom, in the fixed order."""
        return shuffled(words[: self.common] * repeats[0] + words[self.common :] * repeats[1], self.setting.seed)

    def number(self, items: list[str]) -> str:
        return " ".join([f"{i}. {item}" for i, item in enumerate(items, 1)])

    def example(self, rng) -> str:
        words = rng.sample(self.vocabulary, 20 if self.short else 40)
        items = self.number(self.listed(words, (3, 1) if self.short else (10, 3)))
        space = "" if self.setting.lceg else " "
        return self.before + items + self.after + space + self.number(words[: self.common]) + "\n"

    def build(self, index: int, room: int, attempt: int) -> Sample:
        rng, words_rng = self.rng(index, attempt), self.rng(index, attempt, "words")
        head = self.example(rng) + self.before
        words = words_rng.sample(self.vocabulary, min(self.most, len(self.vocabulary)))
        taken = set(words)
        words += [draw_new(word, words_rng, taken) for _ in range(self.most - len(words))]
        for item in words[len(self.vocabulary) :]:
            self.word_cost[item] = self.tokens.cost(f" {item}")
        often, seldom = self.repeats
        sums = [0, *accumulate(self.word_cost[item] for item in words)]
        k, base = self.common, self.tokens.beginning(head)

        def items(n: int) -> int:
            return k * often + (n - k) * seldom

        def total(n: int) -> int:
            numbers = self.number_sums
            if n < k or items(n) >= len(numbers):
                return room + 1 if n >= k else 0
            return base + numbers[items(n)] + often * sums[k] + seldom * (sums[n] - sums[k])

        left = room - self.tokens.ending(self.after)
        for _ in range(TRIES):
            n = self.size(bisect_right(range(self.most + 1), left, key=total) - 1)
            if n <= k or total(n) > left:
                raise TooShort(f"{self.setting.name} cannot hold its example, {k} common words and another one")
            order = fixed_order(self.setting.seed, items(n))
            at = order[-1]
            last = words[at % k] if at < k * often else words[k + (at - k * often) % (n - k)]
            tokens = total(n) - self.word_cost[last] + self.tokens.ending(f" {last}{self.after}")
            if tokens <= room:
                break
            left -= tokens - room
        text = head + self.number(self.listed(words[:n], self.repeats)) + self.after
        return Sample(text, self.template.prefix, words[:k], tokens, n)
