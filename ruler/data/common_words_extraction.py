"""Common words: a numbered list in which num_cw words occur freq_cw times each and the others freq_ucw times.

A solved example with a list of its own precedes the task. Below 4,096 tokens both lists are shorter: 6 and 1 times. The
words are wonderwords' nouns, adjectives and verbs; a prompt beyond about 128k tokens has all of them.
"""

from task import Sample, Task, shuffled
from texts import read_words


def numbered(items: list[str]) -> str:
    lines = [f"{i}. {item}" for i, item in enumerate(items, 1)]
    return " ".join(lines)


class CommonWords(Task):
    step = 10

    def __init__(self, tokens, job, source=None):
        super().__init__(tokens, job)
        self.use_template("cwe")
        self.num_common = job.args["num_cw"]
        self.repeats = (job.args["freq_cw"], job.args["freq_ucw"])  # of a common word, of another word
        self.example_words = 40
        self.example_repeats = (10, 3)
        if job.length < 4096:
            self.repeats = (6, 1)
            self.example_words = 20
            self.example_repeats = (3, 1)
        nouns, adjectives, verbs = read_words()
        words = sorted({*nouns, *adjectives, *verbs})
        self.vocabulary = shuffled(words, job.seed)
        max_items = self.token_budget // 2  # an item of the list has at least two tokens
        common_repeats, other_repeats = self.repeats
        other_items = max(0, max_items - self.num_common * common_repeats)
        max_words = self.num_common + other_items // other_repeats
        self.max_words = min(max_words, len(words))

    def numbered_list(self, words, common_repeats, other_repeats):
        """The list, in the fixed order. The first num_common words are the common ones."""
        items = words[: self.num_common] * common_repeats
        items += words[self.num_common :] * other_repeats
        return numbered(shuffled(items, self.job.seed))

    def example(self, index):
        words = self.rng(index).sample(self.vocabulary, self.example_words)
        context = self.numbered_list(words, *self.example_repeats)
        answers = numbered(words[: self.num_common])
        if not self.lceg:
            answers = f" {answers}"
        return f"{self.before}{context}{self.after}{answers}\n"

    def draw(self, index):
        before = self.example(index) + self.before
        words = self.rng(index, "words").sample(self.vocabulary, self.max_words)

        def render(size):
            context = self.numbered_list(words[:size], *self.repeats)
            return before + context + self.after

        return Sample(render, self.prefix, words[: self.num_common], self.num_common + 1, self.max_words)
