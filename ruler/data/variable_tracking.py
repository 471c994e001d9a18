"""Variable tracking: a number goes from variable to variable through lines of noise; which variables have it?

num_chains chains of num_hops assignments each; the first chain is asked for. A solved example precedes the task: names
of three letters instead of five, the value 12345, at most 500 tokens, and at most a quarter of a length below 2,048.
As in RULER, but: the values of the chains, and the names within a sample, are distinct.

Profile upstream: the names of the example are new in every sample. Profile lceg: one example for all samples, with
spaces where the template has line breaks, and its question without its last word; assignments are inside lines of noise.
"""

from random import Random
from string import ascii_uppercase

from task import Draft, Job, Task, largest_size
from texts import draw_new, random_letters, read_texts
from tokens import Tokens

EXAMPLE_TOKENS = 500  # with its answer
EXAMPLE_ANSWER_TOKENS = 30
EXAMPLE_VALUE = "12345"


def draw_names(rng: Random, letters: int, n: int, taken: set[str]) -> list[str]:
    """n new names of capital letters."""
    draw = random_letters(ascii_uppercase, letters)
    return [draw_new(draw, rng, taken) for _ in range(n)]


def assignments(names: list[str], value: str) -> list[str]:
    """The statements that give the value to the first name and from each name to the next."""
    statements = [f"VAR {names[0]} = {value}"]
    for i in range(1, len(names)):
        statements.append(f"VAR {names[i]} = VAR {names[i - 1]} ")
    return statements


class VariableTracking(Task):
    minimum = "its example, its chains and a line of noise"
    step = 10

    def __init__(self, tokens: Tokens, job: Job, source=None):
        super().__init__(tokens, job)
        texts = read_texts()
        self.num_chains = job.args["num_chains"]
        self.num_names = job.args["num_hops"] + 1
        self.template, self.prefix = texts.templates["vt_lceg" if self.lceg else "vt"]
        self.noise = texts.noise + ("\n" if self.lceg else "")
        self.sentences = [f"{part.strip()}." for part in texts.noise.split(".") if part.strip()]
        self.separator = " " if self.lceg else "\n"
        self.example_lines = self.size_example()

    def size_example(self) -> int:
        """Lines of noise in the example; at least one, whatever it takes."""
        budget = min(EXAMPLE_TOKENS, max(self.job.length // 4, 1)) - EXAMPLE_ANSWER_TOKENS

        def tokens(size: int) -> int:
            return self.tokens.count(self.example(0, size))

        size = max(1, largest_size(tokens, budget, 1, 500, 10))
        if self.lceg and size > 5:
            size -= size % 5
        return size

    def hide(self, rng: Random, size: int, chains: list[list[str]]) -> str:
        """The statements at random places between `size` lines of noise; between their sentences if lines are few."""
        if size > self.num_names:
            lines = [self.noise] * size
        else:
            lines = self.sentences * size
        for statements in chains:
            places = sorted(rng.sample(range(len(lines)), len(statements)))
            for shift, place in enumerate(places):
                lines.insert(place + shift, statements[shift])
        return self.separator.join(lines)

    def fill_in(self, value: str, num_names: int) -> tuple[str, str]:
        """Template and prefix with the number asked for and how many variables have it."""
        prefix = self.prefix.replace("{query}", value).replace("{num_v}", str(num_names))
        return self.template.replace("{query}", value), prefix

    def example(self, index: int, size: int) -> str:
        """The solved example, with what separates it from the task."""
        rng = Random(f"{self.job.seed}/{self.job.name}/-1/0/example")  # the same for all samples
        names = draw_names(rng, 3, min(11, self.num_names), set())
        context = self.hide(rng, size, [assignments(names, EXAMPLE_VALUE)])
        text, prefix = self.fill_in(EXAMPLE_VALUE, len(names))
        if self.lceg:
            text = " " + " ".join(text.split()[:-1])
        else:
            new_names = draw_names(self.rng(index, "example"), 3, len(names), set(names))
            for old, new in zip(names, new_names, strict=True):
                context = context.replace(f"VAR {old} ", f"VAR {new} ")
            names = new_names
        question = text.replace("{context}", context) + prefix.rstrip(" ")
        return question + " " + " ".join(names) + ("\n\n\n\n" if self.lceg else "\n\n")

    def draw(self, index: int) -> Draft:
        rng = self.rng(index)
        taken_names = set()
        taken_values = {EXAMPLE_VALUE}
        names_of = {}  # by value, in the order of the chains
        for _ in range(self.num_chains):
            names = draw_names(rng, 5, self.num_names, taken_names)
            value = draw_new(lambda rng: str(rng.randint(10000, 99998)), rng, taken_values)
            names_of[value] = names
        chains = [assignments(names, value) for value, names in names_of.items()]
        value, answers = next(iter(names_of.items()))
        text, prefix = self.fill_in(value, self.num_names)
        before, after = (text + prefix).split("{context}")
        example = self.example(index, self.example_lines)

        def render(size: int) -> str:
            return example + before + self.hide(self.rng(index, "places"), size, chains) + after

        return Draft(render, prefix, answers, 1, self.token_budget)
