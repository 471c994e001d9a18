"""What is hidden in the haystack, what is asked, and what the answer is.

The first prompt of a cell has the paper's fact, or the user's. Further ones draw a name and a number, and so do all
prompts of a user's fact that contains {key} or {number}. The draw depends only on seed, length, depth and trial, so
neither the order of the work nor the number of processes changes it.
"""

import random
import re
from dataclasses import asdict, dataclass

from scoring import contained

PAPER_ANSWER = "eat a sandwich and sit in Dolores Park on a sunny day."
CITIES = (
    "Accra Algiers Amman Ankara Antwerp Athens Auckland Bangkok Barcelona Beijing Belgrade Berlin Bogota Boston "
    "Brussels Budapest Cairo Chicago Copenhagen Dakar Damascus Delhi Denver Dublin Edinburgh Florence Geneva "
    "Glasgow Hamburg Hanoi Havana Helsinki Istanbul Jakarta Karachi Kyiv Kyoto Lagos Lima Lisbon London Madrid "
    "Manila Melbourne Milan Montreal Moscow Mumbai Munich Nairobi Naples Osaka Oslo Paris Prague Quito Riga Rome "
    "Santiago Seattle Seoul Shanghai Singapore Stockholm Sydney Tehran Tokyo Toronto Tunis Turin Vienna Warsaw "
    "Zagreb Zurich"
).split()


@dataclass(frozen=True)
class Fact:
    """A needle, the question about it, and the answer, which the needle contains."""

    needle: str
    question: str
    answer: str


@dataclass(frozen=True)
class Style:
    """template: a prompt with {context} and, after it, {question}.  fixed: the fact of the first trial; None: drawn as
    well.  drawn: a fact with {name} and {number}.  digits: length of the number.
    """

    template: str
    fixed: Fact | None
    drawn: Fact
    digits: int


PAPER = Fact(
    f"\nThe best thing to do in San Francisco is {PAPER_ANSWER}\n",
    "What is the best thing to do in San Francisco?",
    PAPER_ANSWER,
)
STYLES = {
    # for models without instruction tuning: an introduction, the book, the question, an open answer
    "book": Style(
        "What follows is the text of a very long story book. <book>{context}</book>.\nUse what the book says to answer "
        "the question.\nQuestion: {question}\nAnswer:",
        PAPER,
        Fact("\nThe magic number of {name} is {number}.\n", "What is the magic number of {name}?", "{number}"),
        7,
    ),
    # the line that make_base_model.py teaches its pocket base; any model can continue it
    "passkey": Style(
        "{context}{question}", None, Fact("\n# key {name} is {number}\n", "\n# key {name} is", "{number}"), 4
    ),
}


def list_names(style: str, tokenizer) -> list[str]:
    """The names that a drawn fact can have: cities, or for passkeys the lower-case words that are one token.

    Raises ValueError if the tokenizer has fewer than ten of those.
    """
    if style != "passkey":
        return CITIES
    names = [token[1:] for token in tokenizer.get_vocab() if re.fullmatch("[Ġ▁][a-z]{3,}", token)]
    if len(names) < 10:
        raise ValueError(f"the tokenizer has {len(names)} words of one token, passkeys need 10; use --template book")
    return sorted(set(names))


class Facts:
    """Gives each cell and trial its fact.

    style: a key of STYLES.  needle, question, answer: for the first trial, None: the paper's. Where the needle contains
    {key} or {number}, these are drawn, and the fact is for all trials.

    Raises ValueError if needle, question and answer do not fit together, or if `list_names` does.
    """

    def __init__(self, style: str, needle: str | None, question: str | None, answer: str | None, seed: int, tokenizer):
        self.seed = seed
        self.names = list_names(style, tokenizer)
        self.digits = STYLES[style].digits
        self.drawn = STYLES[style].drawn
        self.fixed = STYLES[style].fixed
        if needle or question or answer:
            self.fixed = Fact(needle or PAPER.needle, question or PAPER.question, answer or PAPER.answer)
            if not contained(self.fixed.answer, self.fixed.needle):
                raise ValueError(f"--needle {self.fixed.needle!r} does not contain --answer {self.fixed.answer!r}")
            if needle and answer and not question:
                raise ValueError("--needle and --answer replace the paper's fact; add the --question about them")
            if re.search(r"\{(key|number)\}", self.fixed.needle):
                self.drawn, self.fixed = self.fixed, None

    def settings(self) -> dict:
        return {"fixed": asdict(self.fixed) if self.fixed else None, "drawn": asdict(self.drawn)}

    def draw(self, length: int, depth: float, trial: int) -> Fact:
        """The fact of one prompt; `length` tokens and `depth` percent identify the cell."""
        if trial == 0 and self.fixed:
            return self.fixed
        rng = random.Random(f"needle {self.seed} {length} {depth:g} {trial}")
        [name] = rng.sample(self.names, 1)
        number = str(rng.randrange(10**self.digits)).zfill(self.digits)
        texts = []
        for text in vars(self.drawn).values():
            text = text.replace("{name}", name).replace("{key}", name)
            texts.append(text.replace("{number}", number))
        return Fact(*texts)
