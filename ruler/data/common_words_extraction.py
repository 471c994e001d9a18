"""Common words: a numbered list in which num_cw words occur freq_cw times each and the others freq_ucw times.

One solved example with a list of its own comes before the task. Below 4,096 tokens both lists are shorter: 6 and 1
times. Words are wonderwords' nouns, adjectives and verbs; where there are not enough (beyond 128k tokens, depending on
the tokenizer) adjective-noun pairs follow in profile upstream, whose own second list is not to be had by installing a
package; profile lceg stops at the list.
"""

from itertools import accumulate
from random import Random

from sampling import Draft, Job, Task, shuffled
from templates import Texts
from tokens import Tokens
from words import all_words, draw_new, word


class CommonWords(Task):
    step = 10

    def __init__(self, tokens: Tokens, job: Job, texts: Texts):
        super().__init__(tokens, job)
        self.common, self.short = job.args["num_cw"], job.length < 4096
        self.minimum = f"its example, {self.common} common words and another one"
        self.repeats = (6, 1) if self.short else (job.args["freq_cw"], job.args["freq_ucw"])
        template, self.prefix = texts.templates["cwe"]
        self.before, self.after = (template + self.prefix).split("{context}")
        self.vocabulary = shuffled(all_words(), job.seed)
        # an item of the list takes at least two tokens
        self.number_sums = [0, *accumulate(self.cost(f"{i}.") for i in range(1, self.room // 2 + 1))]
        often, seldom = self.repeats
        self.most = self.common + max(0, self.room // 2 - self.common * often) // seldom
        if self.lceg:
            self.most = min(self.most, len(self.vocabulary))
        self.calibrate()

    def listed(self, words: list[str], repeats: tuple[int, int]) -> str:
        """The numbered list: the first words often, the others seldom, in the fixed order."""
        items = words[: self.common] * repeats[0] + words[self.common :] * repeats[1]
        return " ".join([f"{i}. {item}" for i, item in enumerate(shuffled(items, self.job.seed), 1)])

    def example(self, rng: Random) -> str:
        words = rng.sample(self.vocabulary, 20 if self.short else 40)
        space = "" if self.lceg else " "
        answers = " ".join([f"{i}. {item}" for i, item in enumerate(words[: self.common], 1)])
        return self.before + self.listed(words, (3, 1) if self.short else (10, 3)) + self.after + space + answers + "\n"

    def draw(self, index: int, attempt: int) -> Draft:
        before = self.example(self.rng(index, attempt)) + self.before
        rng = self.rng(index, attempt, "words")
        words = rng.sample(self.vocabulary, min(self.most, len(self.vocabulary)))
        taken = set(words)
        words += [draw_new(word, rng, taken) for _ in range(self.most - len(words))]
        often, seldom = self.repeats
        k = self.common
        sums = [0, *accumulate(sum(map(self.cost, item.split(" "))) for item in words)]

        def tokens(n: int) -> int:
            items = k * often + (n - k) * seldom
            return self.number_sums[items] + often * sums[k] + seldom * (sums[n] - sums[k])

        def render(n: int) -> str:
            return before + self.listed(words[:n], self.repeats) + self.after

        return Draft(render, self.prefix, words[:k], k + 1, self.most, tokens)
