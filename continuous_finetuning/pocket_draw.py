"""What the documents of the pocket study's tasks are drawn from: words, names, numbers, phrases and lines of text.

The same random generator gives the same documents on every machine.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

WORDINGS = json.loads(Path(__file__).with_name("pocket_wordings.json").read_text(encoding="utf-8"))
HEX_GROUPS = ((4,), (8,), (4, 4), (6, 2, 6), (8, 4, 4), (8, 4, 4, 4, 12))
CONSONANTS, VOWELS, CAPITALS = "bcdfghjklmnprstvwz", "aeiou", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Answer(str):
    """A part of a document that can be known from the text before it."""


class Document:
    """A text made of `parts`, and the (start, end) characters of its answers.

    An answer begins with the space before it, if there is one: to answer is to write that, too.
    """

    def __init__(self, parts: Iterable[str]):
        self.text = ""
        self.answers = []
        for part in parts:
            start = len(self.text) - self.text.endswith(" ")
            self.text += part
            if isinstance(part, Answer):
                self.answers.append((start, len(self.text)))


class Draw(Random):
    """A random generator that also draws what documents are made of.

    words: lower-case words.  texts: plain texts of several lines each.  sentences: of prose.
    in_turn: whether the labels of `classify` come in turn, each as often as the others, which is easier.
    """

    in_turn = False

    def __new__(cls, seed: str, *_):
        return super().__new__(cls, seed)  # in Python 3.10 it takes no more

    def __init__(self, seed: str, words: list, texts: list, sentences: list):
        super().__init__(seed)
        self.words = words
        self.texts = texts
        self.sentences = sentences

    def wording(self, name: str) -> str:
        """One of the wordings of this name in pocket_wordings.json."""
        return self.choice(WORDINGS[name])

    def wordings(self, names: str) -> list:
        return list(map(self.wording, names.split()))

    def kind(self, kinds: str) -> str:
        """One of a list of kinds of `value`, which repeats those that are to be more frequent."""
        return self.choice(kinds.split())

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def number(self, most: int) -> int:
        """From 1 to `most`, at least 1."""
        return self.randint(1, max(1, most))

    def count(self, most: int) -> int:
        """From 1 to `most`; small numbers are as frequent as large ones."""
        return int(max(1, most) ** self.random() + 0.5)

    def value(self, kind: str) -> str:
        """A value or a key of a kind: number, passkey (four digits), word, pair, capitals, hexadecimal, or name."""
        match kind:
            case "number":
                smallest = 10 ** (self.randint(1, 7) - 1)
                return str(self.randrange(smallest, 10 * smallest))
            case "passkey":
                return f"{self.randrange(10_000):04d}"
            case "word":
                return self.choice(self.words)
            case "pair":
                return self.choice(self.words) + "-" + self.choice(self.words)
            case "capitals":
                return "".join(self.choices(CAPITALS, k=self.randint(3, 5)))
            case "hexadecimal":
                groups = [self.choices("0123456789abcdef", k=digits) for digits in self.choice(HEX_GROUPS)]
                return "-".join(map("".join, groups))
        name = ""
        for _ in range(self.randint(2, 3)):
            name += self.choice(CONSONANTS) + self.choice(VOWELS)
        name += self.choice(("", "n", "r", "l", "s"))
        return name.capitalize()

    def values(self, kind: str, count: int) -> list:
        """`count` distinct values of a kind, or of one that is drawn from a list of kinds."""
        if " " in kind:
            kind = self.kind(kind)
        values = {}  # a dict keeps the order
        while len(values) < count:
            values[self.value(kind)] = None
        return list(values)

    def phrase(self, smallest: int, largest: int) -> str:
        """Words, half the time those of a sentence."""
        length = self.randint(smallest, largest)
        words = self.choice(self.sentences).split()
        if len(words) <= length or self.chance(0.5):
            words = self.sample(self.words, length)
        else:
            start = self.randrange(len(words) - length)
            words = words[start : start + length]
        return " ".join(words)

    def title(self) -> str:
        return self.choice(self.words).capitalize()

    def instruction(self, characters: int) -> str:
        """Sentences and phrases, at most so many characters; nothing in a third of the cases."""
        text = ""
        while self.chance(0.67):
            if self.chance(0.5):
                part = self.choice(self.sentences)
            else:
                part = self.phrase(3, 10).capitalize()
                part += self.choice((".", ".", ":"))
            if len(text) + len(part) > characters:
                break
            text += part + self.choice((" ", "\n", "\n\n"))
        return text

    def marker(self, name: str) -> str:
        """What stands before a question or an answer: one of these wordings, or a word and a colon."""
        if self.chance(0.5):
            return self.wording(name)
        return self.title() + ":"

    def enumeration(self, items: list) -> str:
        """The items with commas between them, half the time with `and` before the last."""
        if len(items) == 1 or self.chance(0.5):
            return ", ".join(items)
        *items, last = items
        return ", ".join(items) + self.choice((" and ", ", and ")) + last

    def lines(self, characters: int) -> list:
        """Consecutive lines of a plain text, at most so many characters; none for fewer than 20."""
        if characters < 20:
            return []
        text = self.choice(self.texts)
        start = self.randrange(max(1, len(text) - characters))
        start = text.find("\n", start) + 1
        end = text.rfind("\n", start, start + characters)
        if end <= start:
            return []
        return text[start:end].split("\n")

    def scatter(self, statements: list, most: int, room: int) -> str:
        """An instruction of at most `most` characters, then the statements, in order, between lines of plain text.

        room: for all of it, in characters. A third of the documents has no plain text.
        """
        instruction = self.instruction(most)
        room -= len(instruction) + len("".join(statements))
        lines = []
        if not self.chance(0.33):
            smallest = room // 3
            lines = self.lines(self.randint(smallest, max(smallest, room)))
        separator = self.choice(("\n", "\n", " "))
        places = [self.randint(0, len(lines)) for _ in statements]
        places.sort(reverse=True)
        for place, statement in zip(places, reversed(statements), strict=True):
            lines.insert(place, statement)
        return instruction + separator.join(lines) + separator
