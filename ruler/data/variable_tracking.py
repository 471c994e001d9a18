"""Variable tracking: a number goes from variable to variable through lines of noise; which variables have it?

num_chains chains of num_hops assignments each; the first chain is asked for. A solved example precedes the task: names
of three letters instead of five, the value 12345, at most 500 tokens, and at most a quarter of a length below 2,048.
As in RULER, but: the values of the chains, and the names within a sample, are distinct. Profile lceg: one example for
all samples, with spaces for the template's line breaks and its question without its last word; and RULER's "assgined".
"""

from itertools import pairwise
from random import Random
from string import ascii_uppercase

from task import Sample, Task, largest_size
from texts import draw_letters, draw_new, read_texts

EXAMPLE_TOKENS = 500  # with its answer
EXAMPLE_ANSWER_TOKENS = 30
EXAMPLE_VALUE = "12345"


def random_value(rng: Random) -> str:
    return str(rng.randint(10000, 99998))


def assignments(names: list[str], value: str) -> list[str]:
    """The statements that give the value to the first name and from each name to the next."""
    statements = [f"VAR {names[0]} = {value}"]
    for name, next_name in pairwise(names):
        statements.append(f"VAR {next_name} = VAR {name} ")
    return statements


class VariableTracking(Task):
    step = 10

    def __init__(self, tokens, job, source=None):
        super().__init__(tokens, job)
        texts = read_texts()
        self.num_chains = job.args["num_chains"]
        self.num_names = job.args["num_hops"] + 1
        self.noise = texts["noise"]
        self.sentences = self.noise.replace(". ", ".\n").splitlines()
        self.template, self.prefix = texts["vt"]
        self.separator = "\n"
        if self.lceg:
            self.noise += "\n"
            self.separator = " "
        else:
            self.prefix = self.prefix.replace("assgined", "assigned")
        self.example_lines = self.size_example()

    def size_example(self):
        """Lines of noise in the example, at least one."""
        budget = min(EXAMPLE_TOKENS, self.job.length // 4) - EXAMPLE_ANSWER_TOKENS

        def count(size):
            example = self.example(0, size)
            return self.tokens.count(example)

        size = largest_size(count, budget, 1, 500, 10)
        if self.lceg and size > 5:
            size -= size % 5
        return max(1, size)

    def hide(self, rng, size, chains):
        """The statements at random places between `size` lines of noise; between their sentences if lines are few."""
        noise = [self.noise] if size > self.num_names else self.sentences
        lines = noise * size
        for statements in chains:
            places = rng.sample(range(len(lines)), len(statements))
            places.sort()
            for shift, place in enumerate(places):
                lines.insert(place + shift, statements[shift])
        return self.separator.join(lines)

    def fill_in(self, value, num_names):
        """(template, prefix) with the number asked for and how many variables have it."""
        template = self.template.replace("{query}", value)
        prefix = self.prefix.format(query=value, num_v=num_names)
        return template, prefix

    def example(self, index, size):
        """The solved example, with what separates it from the task."""
        rng = Random(f"{self.seed}/-1/0/example")  # the same for all samples
        names = draw_letters(rng, ascii_uppercase, 3, min(11, self.num_names), set())
        if not self.lceg:
            names = draw_letters(self.rng(index, "example"), ascii_uppercase, 3, len(names), set(names))
        statements = assignments(names, EXAMPLE_VALUE)
        context = self.hide(rng, size, [statements])
        template, prefix = self.fill_in(EXAMPLE_VALUE, len(names))
        end = "\n\n"
        if self.lceg:
            *words, _ = template.split()
            template = " " + " ".join(words)
            end = "\n\n\n\n"
        question = template.replace("{context}", context)
        answer = " ".join([prefix.rstrip(" "), *names])
        return question + answer + end

    def draw(self, index):
        rng = self.rng(index)
        taken_names, taken_values = set(), {EXAMPLE_VALUE}
        chains, statements = [], []
        for _ in range(self.num_chains):
            names = draw_letters(rng, ascii_uppercase, 5, self.num_names, taken_names)
            value = draw_new(random_value, rng, taken_values)
            chains.append((names, value))
            statements.append(assignments(names, value))
        answers, value = chains[0]
        template, prefix = self.fill_in(value, self.num_names)
        example = self.example(index, self.example_lines)

        def render(size):
            context = self.hide(self.rng(index, "places"), size, statements)
            return example + template.replace("{context}", context) + prefix

        return Sample(render, prefix, answers, 1, self.token_budget)
