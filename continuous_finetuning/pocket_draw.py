"""What the documents of the pocket study's tasks are drawn from: words, names, numbers, phrases and lines of text.

The same random generator gives the same documents on every machine.
"""

import json
from pathlib import Path
from random import Random

WORDINGS = json.loads(Path(__file__).with_name("pocket_wordings.json").read_text(encoding="utf-8"))
HEX_GROUPS = ((4,), (8,), (4, 4), (6, 2, 6), (8, 4, 4), (8, 4, 4, 4, 12))
CONSONANTS, VOWELS, CAPITALS = "bcdfghjklmnprstvwz", "aeiou", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Document:
    """A text, and the (start, end) characters of its answers: what can be known from the text before them.

    An answer begins with the space before it, if there is one: to answer is to write that, too.
    """

    def __init__(self):
        self.text = ""
        self.answers = []

    def add(self, text: str) -> None:
        self.text += text

    def add_answer(self, text: str) -> None:
        start = len(self.text) - self.text.endswith(" ")
        self.answers.append((start, len(self.text) + len(text)))
        self.text += text

    def add_answers(self, texts: list[str], separator: str) -> None:
        """Adds a line of answers after what begins it."""
        self.add(" ")
        for number, text in enumerate(texts):
            if number > 0:
                self.add(separator)
            self.add_answer(text)
        self.add("\n")


class Draw:
    """Draws what documents are made of.

    words: lower-case words.  texts: plain texts of several lines each.  sentences: of prose.
    in_turn: whether the labels of `classify` come in turn, each as often as the others, which is easier.
    """

    in_turn = False

    def __init__(self, rng: Random, words: list[str], texts: list[str], sentences: list[str]):
        self.rng, self.words, self.texts, self.sentences = rng, words, texts, sentences
        self.choice, self.randint = rng.choice, rng.randint

    def wording(self, name: str) -> str:
        """One of the wordings of this name in pocket_wordings.json."""
        return self.choice(WORDINGS[name])

    def kind(self, kinds: str) -> str:
        """One of the words of a list: a kind of `value`, repeated if it is to be more frequent."""
        return self.choice(kinds.split())

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def number(self, most: int) -> int:
        """From 1 to `most`, at least 1."""
        return self.randint(1, max(1, most))

    def count(self, most: int) -> int:
        """From 1 to `most`; small numbers are as frequent as large ones."""
        return int(max(1, most) ** self.rng.random() + 0.5)

    def name(self) -> str:
        syllables = [self.choice(CONSONANTS) + self.choice(VOWELS) for _ in range(self.randint(2, 3))]
        name = "".join(syllables) + self.choice(("", "n", "r", "l", "s"))
        return name.capitalize()

    def hexadecimal(self) -> str:
        groups = [self.rng.choices("0123456789abcdef", k=digits) for digits in self.choice(HEX_GROUPS)]
        return "-".join(map("".join, groups))

    def value(self, kind: str) -> str:
        """A value or a key of a kind: number, passkey (four digits), word, pair, name, capitals or hexadecimal."""
        if kind == "number":
            digits = self.randint(1, 7)
            return str(self.rng.randrange(10 ** (digits - 1), 10**digits))
        if kind == "passkey":
            return f"{self.rng.randrange(10**4):04d}"
        if kind == "word":
            return self.choice(self.words)
        if kind == "pair":
            return f"{self.choice(self.words)}-{self.choice(self.words)}"
        if kind == "capitals":
            return "".join(self.rng.choices(CAPITALS, k=self.randint(3, 5)))
        if kind == "hexadecimal":
            return self.hexadecimal()
        return self.name()

    def values(self, kind: str, count: int) -> list[str]:
        """`count` distinct values."""
        values = {}  # a dict keeps the order
        while len(values) < count:
            values[self.value(kind)] = None
        return list(values)

    def phrase(self, smallest: int, largest: int) -> str:
        """Words, half the time those of a sentence."""
        length = self.randint(smallest, largest)
        words = self.choice(self.sentences).split()
        if len(words) <= length or self.chance(0.5):
            return " ".join(self.rng.sample(self.words, length))
        start = self.rng.randrange(len(words) - length)
        return " ".join(words[start : start + length])

    def title(self) -> str:
        return self.choice(self.words).capitalize()

    def instruction(self, characters: int) -> str:
        """Sentences and phrases, at most so many characters; nothing in a third of the cases."""
        text = ""
        while self.chance(0.67):
            if self.chance(0.5):
                part = self.choice(self.sentences)
            else:
                part = self.phrase(3, 10).capitalize() + self.choice((".", ".", ":"))
            if len(text) + len(part) > characters:
                break
            text += part + self.choice((" ", "\n", "\n\n"))
        return text

    def marker(self, name: str) -> str:
        """What stands before a question or an answer: one of these wordings, or a word and a colon."""
        return self.wording(name) if self.chance(0.5) else f"{self.title()}:"

    def enumeration(self, items: list[str]) -> str:
        """The items with commas between them, half the time with `and` before the last."""
        if len(items) == 1 or self.chance(0.5):
            return ", ".join(items)
        return ", ".join(items[:-1]) + self.choice((" and ", ", and ")) + items[-1]

    def lines(self, characters: int) -> list[str]:
        """Consecutive lines of a plain text, at most so many characters; none for fewer than 20."""
        if characters < 20:
            return []
        text = self.choice(self.texts)
        start = self.rng.randrange(max(1, len(text) - characters))
        start = text.find("\n", start) + 1
        end = text.rfind("\n", start, start + characters)
        return text[start:end].split("\n") if end > start else []

    def scatter(self, statements: list[str], room: int) -> str:
        """The statements, in order, between lines of plain text if there is room for it, in characters.

        A third of the documents has no plain text.
        """
        room -= sum(map(len, statements))
        characters = 0 if self.chance(0.33) else self.randint(room // 3, max(room // 3, room))
        lines = self.lines(characters)
        separator = self.choice(("\n", "\n", " "))
        places = sorted(self.randint(0, len(lines)) for _ in statements)
        for shift, (place, statement) in enumerate(zip(places, statements, strict=True)):
            lines.insert(place + shift, statement)
        return separator.join(lines) + separator
