"""What is hidden in the haystack, what is asked, and what the answer is.

The first prompt of a cell has the paper's fact, or the user's. Further ones draw a name and a number, and so do all
prompts of a user's fact that contains {key} or {number}.
"""

import random
import re
from dataclasses import asdict, dataclass, replace

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


PAPER = Fact(
    "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.\n",
    "What is the best thing to do in San Francisco?",
    "eat a sandwich and sit in Dolores Park on a sunny day.",
)
MAGIC = Fact("\nThe magic number of {name} is {number}.\n", "What is the magic number of {name}?", "{number}")
STYLES = {  # a prompt's template, the fact of its first trial (None: drawn), what is drawn, the number's digits
    "book": {  # for models without instruction tuning: an introduction, the book, the question, an open answer
        "template": "What follows is the text of a very long story book. <book>{context}</book>.\nUse what the book "
        "says to answer the question.\nQuestion: {question}\nAnswer:",
        "fixed": PAPER,
        "drawn": MAGIC,
        "digits": 7,
    },
    "passkey": {  # for small models: the text and the question, whose answer is begun
        "template": "{context}{question}",
        "fixed": None,
        "drawn": replace(MAGIC, question="\nWhat is the magic number of {name}? The magic number of {name} is"),
        "digits": 4,
    },
}


class Facts:
    """Gives each cell and trial its fact, which depends on nothing else but the seed.

    style: a key of STYLES.  own: the user's fact, instead of the fixed one, or None. Raises ValueError if the tokenizer
    has too few words of one token for passkeys.
    """

    def __init__(self, style, own, seed, tokenizer):
        self.seed = seed
        self.names = CITIES
        if style == "passkey":
            words = {token[1:] for token in tokenizer.get_vocab() if re.fullmatch("[Ġ▁][a-z]{3,}", token)}
            if len(words) < 10:
                raise ValueError(f"the tokenizer has {len(words)} words of one token, not 10; use --template book")
            self.names = sorted(words)
        self.digits = STYLES[style]["digits"]
        self.drawn = STYLES[style]["drawn"]
        self.fixed = own or STYLES[style]["fixed"]
        if own and ("{key}" in own.needle or "{number}" in own.needle):
            self.drawn, self.fixed = own, None

    def settings(self) -> dict:
        return {"fixed": self.fixed and asdict(self.fixed), "drawn": asdict(self.drawn)}

    def draw(self, length: int, depth: float, trial: int) -> Fact:
        """The fact of one prompt of the cell at `length` tokens and `depth` percent."""
        if trial == 0 and self.fixed:
            return self.fixed
        rng = random.Random(f"needle {self.seed} {length} {depth:g} {trial}")
        [name] = rng.sample(self.names, 1)
        number = str(rng.randrange(10**self.digits)).zfill(self.digits)
        texts = {}
        for field, text in asdict(self.drawn).items():
            text = text.replace("{name}", name).replace("{key}", name)
            texts[field] = text.replace("{number}", number)
        return Fact(**texts)
