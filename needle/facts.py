"""What is hidden in the haystack, what is asked, and what the answer is.

The paper's needle is fixed. Further trials draw a name and a number of their own; the draw depends only on seed,
length, depth and trial, so neither the order of the work nor the number of processes changes it.
"""

import random
import re
from dataclasses import dataclass

from scoring import contained

KEY, NUMBER = "{key}", "{number}"


@dataclass(frozen=True)
class Fact:
    """A needle, the question whose answer it holds, and that answer. May hold {key} and {number}."""

    needle: str
    question: str
    answer: str

    @property
    def drawn(self) -> bool:
        return any(field in text for text in (self.needle, self.question, self.answer) for field in (KEY, NUMBER))


@dataclass(frozen=True)
class Style:
    """A template for prompts, with {context} and behind it {question}; the fact of the first trial (None: drawn like
    the others); the fact that is drawn; how many digits its number has."""

    template: str
    fixed: Fact | None
    drawn: Fact
    digits: int


STYLES = {
    # for instruction-free models: a lead-in, the book, the question, an open answer (parts in the paper's order)
    "book": Style(
        "What follows is the text of a very long story book. <book>{context}</book>.\nUse what the book says to answer "
        "the question.\nQuestion: {question}\nAnswer:",
        Fact(
            "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.\n",
            "What is the best thing to do in San Francisco?",
            "eat a sandwich and sit in Dolores Park on a sunny day.",
        ),
        Fact("\nThe magic number of {key} is {number}.\n", "What is the magic number of {key}?", "{number}"),
        7,
    ),
    # the line that make_base_model.py teaches its pocket base; any model can continue it
    "passkey": Style(
        "{context}{question}",
        None,
        Fact("\n# key {key} is {number}\n", "\n# key {key} is", "{number}"),
        4,
    ),
}
CITIES = (
    "Accra Algiers Amman Ankara Antwerp Athens Auckland Bangkok Barcelona Beijing Belgrade Berlin Bogota Boston "
    "Brussels Budapest Cairo Chicago Copenhagen Dakar Damascus Delhi Denver Dublin Edinburgh Florence Geneva "
    "Glasgow Hamburg Hanoi Havana Helsinki Istanbul Jakarta Karachi Kyiv Kyoto Lagos Lima Lisbon London Madrid "
    "Manila Melbourne Milan Montreal Moscow Mumbai Munich Nairobi Naples Osaka Oslo Paris Prague Quito Riga Rome "
    "Santiago Seattle Seoul Shanghai Singapore Stockholm Sydney Tehran Tokyo Toronto Tunis Turin Vienna Warsaw "
    "Zagreb Zurich"
).split()


def keys_of(style: str, tokenizer) -> list[str]:
    """The names a drawn fact can have: cities, or for passkeys the lower-case words that are one token.

    Raises ValueError if the tokenizer has too few of those.
    """
    if style != "passkey":
        return CITIES
    words = {match[1] for token in tokenizer.get_vocab() if (match := re.fullmatch("[Ġ▁]([a-z]{3,})", token))}
    if len(words) < 10:
        raise ValueError(f"the tokenizer has {len(words)} words of one token; passkeys need 10, use --template book")
    return sorted(words)


@dataclass(frozen=True)
class Trial:
    """needles in the order in which they stand in the text."""

    needles: list[str]
    question: str
    answer: str


class Facts:
    """Gives each cell and trial its fact.

    style: a name in STYLES.  needle, question, answer: the user's, or None: the style's.  count: needles to a prompt;
    with more than one all are drawn, and all are asked for.  Raises ValueError if these do not fit together.
    """

    def __init__(self, style: str, needle: str | None, question: str | None, answer: str | None, count: int, seed: int):
        chosen = STYLES[style]
        self.count, self.seed, self.digits = count, seed, chosen.digits
        given = {"needle": needle, "question": question, "answer": answer}
        given = {name: value for name, value in given.items() if value is not None}
        first = chosen.fixed or chosen.drawn
        if given and Fact(**{"needle": "", "question": "", "answer": "", **given}).drawn:
            first = chosen.drawn
        first = Fact(**{**first.__dict__, **given})
        self.fixed, self.drawn = (None, first) if first.drawn else (first, chosen.drawn)
        if not contained(first.answer, first.needle):
            raise ValueError(f"--answer {first.answer!r} is not contained in --needle {first.needle!r}")
        if count > 1:
            self.fixed = None
            if style == "passkey" or (given and not first.drawn):
                raise ValueError(
                    "--needles above 1 hides drawn facts and asks for all of them: use --template book, and "
                    "{key} and {number} in a --needle of your own"
                )

    def settings(self) -> dict:
        return {"fixed": self.fixed and self.fixed.__dict__, "drawn": self.drawn.__dict__, "needles": self.count}

    def trial(self, keys: list[str], length: int, depth: float, trial: int) -> Trial:
        """The fact of one prompt. `length` tokens and `depth` percent say which cell it is."""
        if trial == 0 and self.fixed:
            return Trial([self.fixed.needle], self.fixed.question, self.fixed.answer)
        rng = random.Random(f"needle {self.seed} {length} {depth:g} {trial}")
        names = rng.sample(keys, self.count)
        numbers = [f"{rng.randrange(10**self.digits):0{self.digits}d}" for _ in names]

        def fill(text: str, key: str, number: str) -> str:
            return text.replace(KEY, key).replace(NUMBER, number)

        several, all_numbers = _listed(names), " ".join(numbers)
        return Trial(
            [fill(self.drawn.needle, *pair) for pair in zip(names, numbers, strict=True)],
            fill(self.drawn.question, several, all_numbers),
            fill(self.drawn.answer, several, all_numbers),
        )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
