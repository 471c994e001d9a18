"""Stand-ins for the essays, SQuAD and HotpotQA, in the form of the official files, to run the tasks without them.

The essays are the manual in this Python. The documents of the questions are invented, as long as the originals: their
towns, bridges and people do not exist, so nothing can be answered from memory.
"""

import json
from itertools import count
from pathlib import Path
from random import Random

from python_text import read_help_pages

WORDS = json.loads(Path(__file__).with_name("standins.json").read_text(encoding="utf-8"))


class World:
    """Distinct names, and sentences."""

    def __init__(self, seed: int):
        self.rng = Random(seed)
        self.taken = set()

    def name(self) -> str:
        """A new name of two syllables and an ending or, after five that are taken, of three syllables."""
        for attempt in count():
            syllables = self.rng.choices(WORDS["syllables"], k=2 if attempt < 5 else 3)
            ending = self.rng.choice(WORDS["ends"])
            name = "".join([*syllables, ending])
            if name not in self.taken:
                self.taken.add(name)
                return name.capitalize()

    def person(self) -> str:
        return f"{self.name()} {self.name()}"

    def year(self) -> str:
        return str(self.rng.randint(1100, 1899))

    def filler(self, smallest: int, largest: int) -> str:
        """So many sentences, each after a space."""
        n = self.rng.randint(smallest, largest)
        sentences = self.rng.sample(WORDS["fillers"], n)
        crop, crop2 = self.rng.sample(WORDS["crops"], 2)
        text = " ".join(["", *sentences])
        return text.format(crop=crop, crop2=crop2)


def essays() -> dict:
    return {"text": " ".join(read_help_pages().values())}


def squad(articles: int = 120) -> dict:
    """Articles of eight paragraphs, each article on a town, two questions a paragraph."""
    world = World(1)
    data = []
    for _ in range(articles):
        town = world.name()
        kind = world.rng.choice(WORDS["kinds"])
        lead = f"{town} is a {kind} on the river {world.name()}. "  # begins the first paragraph
        paragraphs = []
        for i, building in enumerate(WORDS["buildings"]):
            builder = world.person()
            year = world.year()
            trade = world.rng.choice(WORDS["trades"])
            fact = f"The {building} of {town} was built in {year} by the {trade} {builder}."
            filler = world.filler(0, 3) if i % 4 == 0 else world.filler(3, 12)
            asked = f"the {building} of {town}"
            questions = {f"Who built {asked}?": builder, f"In which year was {asked} built?": year}
            qas = []
            for question, answer in questions.items():
                qas.append({"question": question, "is_impossible": False, "answers": [{"text": answer}]})
            paragraphs.append({"context": lead + fact + filler, "qas": qas})
            lead = ""
        data.append({"paragraphs": paragraphs})
    return {"data": data}


def hotpotqa(questions: int = 1000) -> list[dict]:
    """Questions over two paragraphs, a bridge's and its architect's, among ten."""
    world = World(2)
    rows, pairs = [], []
    for i in range(questions):
        bridge = f"{world.name()} Bridge"
        architect = world.person()
        town = world.name()
        river = world.name()
        year = world.year()
        trade = world.rng.choice(WORDS["trades"])
        of_bridge = [f"The {bridge} crosses the river {river}.", f" It was designed by {architect}."]
        of_architect = [f"{architect} was a {trade} and builder.", f" {architect} was born in {town} in {year}."]
        of_bridge.append(world.filler(0, 4))
        of_architect.append(world.filler(0, 4))
        pairs.append([[bridge, of_bridge], [architect, of_architect]])
        asked, answer = ("town", town) if i % 2 == 0 else ("year", year)
        question = f"In which {asked} was the designer of the {bridge} born?"
        facts = [[bridge, 1], [architect, 1]]
        rows.append({"question": question, "answer": answer, "supporting_facts": facts})
    for i, row in enumerate(rows):
        context = list(pairs[i])
        for shift in range(1, 9):
            other_pair = pairs[(i + shift) % questions]
            paragraph = world.rng.choice(other_pair)
            context.append(paragraph)
        world.rng.shuffle(context)
        row["context"] = context
    return rows
