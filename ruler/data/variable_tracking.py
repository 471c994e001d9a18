"""Variable tracking: a number goes from variable to variable through lines of noise; which variables have it?

num_chains of num_hops assignments each; the first chain is asked for. One solved example stands before the task: three
letters a variable instead of five, the value 12345, at most 500 tokens; below 2,048 tokens a quarter of the length at
most. As in RULER, but: the values of the chains, and the names of a sample, are distinct.

Profile upstream: the example's names are new in every sample. Profile lceg: one example for all, with spaces where the
template has line breaks, and its question without its last word; assignments stand in the lines of noise.
"""

import string
from bisect import bisect_right

from sampling import Sample, Setting, Task, TooShort
from templates import Texts
from tokens import Tokens
from words import draw_new

EXAMPLE_TOKENS, EXAMPLE_NEW, EXAMPLE_VALUE = 500, 30, "12345"


class VariableTracking(Task):
    def __init__(self, tokens: Tokens, setting: Setting, texts: Texts, args: dict):
        super().__init__(tokens, setting)
        self.chains, self.hops, self.noise = args["num_chains"], args["num_hops"], texts.noise
        self.sentences = [part.strip() + "." for part in texts.noise.split(".") if part.strip()]
        self.template = texts.templates["vt_lceg" if setting.lceg else "vt"]
        self.head, self.tail = self.full(self.template)
        self.begin = "" if not setting.lceg else " "  # of a piece of the context
        self.end = "\n" if not setting.lceg else ""
        self.noises = self.pieces([self.noise]), self.pieces(self.sentences)
        self.noise_costs = [sum(tokens.costs(noise)) for noise in self.noises]
        self.step, budget = 5, min(EXAMPLE_TOKENS, max(setting.length // 4, 1))
        # the smallest example has one line of noise, whatever it takes
        self.example_units, least = 1, EXAMPLE_TOKENS // min(self.noise_costs) + 2
        for units in range(2, least):
            self.example_units = units
            if tokens.count(self.example(0, 0)) + EXAMPLE_NEW > budget:
                self.example_units = units - 1
                break
        if setting.lceg and self.example_units > self.step:
            self.example_units -= self.example_units % self.step
        self.step = 10
        self.calibrate()

    def pieces(self, lines: list[str]) -> list[str]:
        return [self.begin + line + ("\n" if self.setting.lceg and line == self.noise else self.end) for line in lines]

    def chain(self, rng, taken: set[str], values: set[str], letters: int, hops: int, value: str | None = None):
        """(names, statements, value)."""
        names = [
            draw_new(lambda r: "".join(r.choices(string.ascii_uppercase, k=letters)), rng, taken)
            for _ in range(hops + 1)
        ]
        value = value or draw_new(lambda r: str(r.randint(10000, 99998)), rng, values)
        lines = [f"VAR {names[0]} = {value}"] + [
            f"VAR {new} = VAR {old} " for old, new in zip(names, names[1:], strict=False)
        ]
        return names, lines, value

    def lines_do(self, units: int) -> bool:
        """Are so many lines of noise enough? Where they are not, their sentences stand on lines of their own."""
        return units > self.hops + 1

    def noise_cost(self, units: int) -> int:
        return units * self.noise_costs[0 if self.lines_do(units) else 1]

    def hide(self, rng, units: int, chains: list[list[str]]) -> list[str]:
        """The pieces of a context: `units` lines of noise, or their sentences, and the chains at random places."""
        pieces = self.noises[0 if self.lines_do(units) else 1] * units
        for chain in chains:
            places = sorted(rng.sample(range(len(pieces)), len(chain)))
            for shift, (place, line) in enumerate(zip(places, self.pieces(chain), strict=True)):
                pieces.insert(place + shift, line)
        return pieces

    def context(self, pieces: list[str]) -> str:
        """The joined pieces, without what stands between them at the ends."""
        text = "".join(pieces)
        return text[len(self.begin) :] if self.setting.lceg else text[: -len(self.end)]

    def example(self, index: int, attempt: int) -> str:
        """The solved example, with what separates it from the task."""
        fixed = self.setting.lceg
        rng = self.rng(-1, 0, "example")
        names, chain, _ = self.chain(rng, set(), set(), 3, min(10, self.hops), EXAMPLE_VALUE)
        context = self.context(self.hide(rng, self.example_units, [chain]))
        names = list(names)
        if not fixed:
            fresh, taken = self.rng(index, attempt, "example"), set(names)
            new = [draw_new(lambda r: "".join(r.choices(string.ascii_uppercase, k=3)), fresh, taken) for _ in names]
            for old, name in zip(names, new, strict=True):
                context = context.replace(f"VAR {old} ", f"VAR {name} ")
            names = new
        text, prefix = (part.replace("{query}", EXAMPLE_VALUE) for part in self.template)
        if fixed:
            text = " " + " ".join(text.split()[:-1])
        prefix = prefix.replace("{num_v}", str(len(names)))
        separator = "\n\n\n\n" if fixed else "\n\n"
        return text.replace("{context}", context) + prefix.rstrip(" ") + " " + " ".join(names) + separator

    def build(self, index: int, room: int, attempt: int) -> Sample:
        rng, taken, values = self.rng(index, attempt), set(), {EXAMPLE_VALUE}
        made = [self.chain(rng, taken, values, 5, self.hops) for _ in range(self.chains)]
        names, _, value = made[0]
        fields = {"{query}": value, "{num_v}": str(self.hops + 1)}
        tail, prefix = self.tail, self.template.prefix
        for field, said in fields.items():
            tail, prefix = tail.replace(field, said), prefix.replace(field, said)
        head = self.example(index, attempt) + self.head
        costs = self.tokens.costs(self.pieces([line for _, lines, _ in made for line in lines]))
        ending = tail[len(self.end) :]
        fixed = self.tokens.beginning(head) + self.tokens.ending(ending) + sum(costs)
        most = bisect_right(range(room + 1), room - fixed, key=self.noise_cost) - 1
        if most < 1:
            raise TooShort(f"{self.setting.name} cannot hold its example, its chain and a line of noise")
        n = self.size(most)
        pieces = self.hide(self.rng(index, attempt, "places"), n, [lines for _, lines, _ in made])
        total = fixed + self.noise_cost(n)
        if self.setting.lceg:  # the end depends on what it follows: a line break or a space
            joint = self.tokens.ending(pieces[-1] + ending) - self.tokens.cost(pieces[-1])
            total += joint - self.tokens.ending(ending)
        return Sample(head + self.context(pieces) + tail, prefix, names, total, n)
