"""Variable tracking: a number goes from variable to variable through lines of noise; which variables have it?

num_chains of num_hops assignments each; the first chain is asked for. One solved example comes before the task: three
letters a variable instead of five, the value 12345, at most 500 tokens; below 2,048 tokens a quarter of the length at
most. As in RULER, but: the values of the chains, and the names of a sample, are distinct.

Profile upstream: the example's names are new in every sample. Profile lceg: one example for all, with spaces where the
template has line breaks, and its question without its last word; assignments are inside the lines of noise.
"""

import string
from random import Random

from sampling import Draft, Job, Task, largest_size
from templates import Texts
from tokens import Tokens
from words import draw_new

EXAMPLE_TOKENS, EXAMPLE_NEW, EXAMPLE_VALUE = 500, 30, "12345"


def draw_names(rng: Random, letters: int, n: int, taken: set[str]) -> list[str]:
    """n new names of capital letters."""
    return [draw_new(lambda r: "".join(r.choices(string.ascii_uppercase, k=letters)), rng, taken) for _ in range(n)]


def chain(names: list[str], value: str) -> list[str]:
    """The statements that give the value to the first name and from each name to the next."""
    statements = [f"VAR {names[0]} = {value}"]
    for old, new in zip(names, names[1:], strict=False):
        statements.append(f"VAR {new} = VAR {old} ")
    return statements


class VariableTracking(Task):
    minimum = "its example, its chain and a line of noise"

    def __init__(self, tokens: Tokens, job: Job, texts: Texts):
        super().__init__(tokens, job)
        self.chains, self.hops = job.args["num_chains"], job.args["num_hops"]
        self.template, self.prefix = texts.templates["vt_lceg" if self.lceg else "vt"]
        self.noise = [texts.noise + ("\n" if self.lceg else "")]
        self.sentences = [part.strip() + "." for part in texts.noise.split(".") if part.strip()]
        budget = min(EXAMPLE_TOKENS, max(job.length // 4, 1)) - EXAMPLE_NEW
        # the smallest example has one line of noise, whatever it takes
        self.example_units = max(1, largest_size(lambda n: self.count(self.example(0, 0, n)), budget, 1, 500, 10))
        if self.lceg and self.example_units > 5:
            self.example_units -= self.example_units % 5
        self.step = 10
        self.calibrate()

    def hide(self, rng: Random, units: int, chains: list[list[str]]) -> str:
        """The statements at random places between `units` lines of noise; between their sentences if lines are few."""
        lines = (self.noise if units > self.hops + 1 else self.sentences) * units
        for statements in chains:
            places = sorted(rng.sample(range(len(lines)), len(statements)))
            for shift, (place, statement) in enumerate(zip(places, statements, strict=True)):
                lines.insert(place + shift, statement)
        return (" " if self.lceg else "\n").join(lines)

    def example(self, index: int, attempt: int, units: int) -> str:
        """The solved example, with what separates it from the task."""
        rng = self.rng(-1, 0, "example")
        names = draw_names(rng, 3, min(10, self.hops) + 1, set())
        context = self.hide(rng, units, [chain(names, EXAMPLE_VALUE)])
        if not self.lceg:
            new_names = draw_names(self.rng(index, attempt, "example"), 3, len(names), set(names))
            for old, new in zip(names, new_names, strict=True):
                context = context.replace(f"VAR {old} ", f"VAR {new} ")
            names = new_names
        text, prefix = (part.replace("{query}", EXAMPLE_VALUE) for part in (self.template, self.prefix))
        if self.lceg:
            text = " " + " ".join(text.split()[:-1])
        prefix = prefix.replace("{num_v}", str(len(names)))
        separator = "\n\n\n\n" if self.lceg else "\n\n"
        return text.replace("{context}", context) + prefix.rstrip(" ") + " " + " ".join(names) + separator

    def draw(self, index: int, attempt: int) -> Draft:
        rng, taken, values = self.rng(index, attempt), set(), {EXAMPLE_VALUE}
        chains, answers, query = [], None, None
        for _ in range(self.chains):
            names = draw_names(rng, 5, self.hops + 1, taken)
            value = draw_new(lambda r: str(r.randint(10000, 99998)), rng, values)
            chains.append(chain(names, value))
            answers, query = answers or names, query or value
        example = self.example(index, attempt, self.example_units)
        text, prefix = (part.replace("{query}", query) for part in (self.template, self.prefix))
        prefix = prefix.replace("{num_v}", str(self.hops + 1))
        before, after = (text + prefix).split("{context}")

        def render(n: int) -> str:
            return example + before + self.hide(self.rng(index, attempt, "places"), n, chains) + after

        return Draft(render, prefix, answers, 1, self.room)
