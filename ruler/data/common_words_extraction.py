"""Common words: a numbered list in which num_cw words occur freq_cw times each and the others freq_ucw times.

A solved example with a list of its own precedes the task. Below 4,096 tokens both lists are shorter: 6 and 1 times. The
words are wonderwords' nouns, adjectives and verbs. Where they do not suffice (beyond 128k tokens, depending on the
tokenizer), adjective-noun pairs follow in profile upstream, since RULER's second word list is in no package; profile
lceg ends with the list.
"""

from itertools import accumulate
from random import Random

from task import Draft, Job, Task, shuffled
from texts import draw_new, random_word, read_texts, read_words
from tokens import Tokens


class CommonWords(Task):
    step = 10

    def __init__(self, tokens: Tokens, job: Job, source=None):
        super().__init__(tokens, job)
        self.num_common = job.args["num_cw"]
        self.minimum = f"its example, {self.num_common} common words and another one"
        self.short = job.length < 4096
        self.repeats = (job.args["freq_cw"], job.args["freq_ucw"])  # of a common word, of another word
        if self.short:
            self.repeats = (6, 1)
        template, self.prefix = read_texts().templates["cwe"]
        self.before, self.after = (template + self.prefix).split("{context}")
        words = sorted(set().union(*read_words()))
        self.vocabulary = shuffled(words, job.seed)
        max_items = self.token_budget // 2  # an item of the list has at least two tokens
        numbers = [f"{i}." for i in range(1, max_items + 1)]
        self.number_sums = list(accumulate(map(tokens.cost, numbers), initial=0))
        common_items = self.num_common * self.repeats[0]
        self.max_words = self.num_common + max(0, max_items - common_items) // self.repeats[1]
        if self.lceg:
            self.max_words = min(self.max_words, len(words))

    def numbered_list(self, words: list[str], repeats: tuple[int, int]) -> str:
        """The list, in the fixed order: the first num_common words repeats[0] times, the others repeats[1] times."""
        items = words[: self.num_common] * repeats[0] + words[self.num_common :] * repeats[1]
        return self.numbered(shuffled(items, self.job.seed))

    def numbered(self, items: list[str]) -> str:
        return " ".join([f"{i}. {item}" for i, item in enumerate(items, 1)])

    def example(self, rng: Random) -> str:
        size, repeats = 40, (10, 3)
        if self.short:
            size, repeats = 20, (3, 1)
        words = rng.sample(self.vocabulary, size)
        space = "" if self.lceg else " "
        answers = self.numbered(words[: self.num_common])
        return self.before + self.numbered_list(words, repeats) + self.after + space + answers + "\n"

    def draw_words(self, rng: Random) -> list[str]:
        """max_words distinct words."""
        words = rng.sample(self.vocabulary, min(self.max_words, len(self.vocabulary)))
        taken = set(words)
        while len(words) < self.max_words:
            words.append(draw_new(random_word, rng, taken))
        return words

    def word_tokens(self, words: str) -> int:
        """Tokens of an item; a few entries of the list are several words."""
        return sum(map(self.tokens.cost, words.split(" ")))

    def draw(self, index: int) -> Draft:
        before = self.example(self.rng(index)) + self.before
        words = self.draw_words(self.rng(index, "words"))
        sums = list(accumulate(map(self.word_tokens, words), initial=0))
        n = self.num_common
        common_tokens = self.repeats[0] * sums[n]

        def tokens(size: int) -> int:
            items = n * self.repeats[0] + (size - n) * self.repeats[1]
            return self.number_sums[items] + common_tokens + self.repeats[1] * (sums[size] - sums[n])

        def render(size: int) -> str:
            return before + self.numbered_list(words[:size], self.repeats) + self.after

        return Draft(render, self.prefix, words[:n], n + 1, self.max_words, tokens)
