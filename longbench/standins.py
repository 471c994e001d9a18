"""Rows of the stand-in sets, made of local text and generated facts. make_standin.py writes them.

Each function makes one row, (context, input, answers), from a random generator and what it is made of; so a set's rows
depend neither on their number nor on other sets. Lengths are words, split at white space.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from random import Random

PASSED_OVER = ("`", "#", "//")  # LongBench's metric passes over lines of code that have one
LARGEST_SNIPPET = 400  # words of another file in a repobench-p context


@dataclass(frozen=True)
class Source:
    """What rows are made of. sentences: prose, in its order, each once.  code: {name: text of a source file}."""

    sentences: list[str]
    code: dict[str, str]

    @cached_property
    def files(self) -> dict[str, list[str]]:
        return {name: text.split("\n") for name, text in self.code.items()}

    @cached_property
    def vocabulary(self) -> set[str]:
        return set(re.findall(r"\w+", " ".join(self.sentences)))

    def prose(self, rng: Random, words: int) -> list[str]:
        """Sentences that follow one another from a random place on, as many as come closest to `words` words."""
        at, taken, total = rng.randrange(len(self.sentences)), [], 0
        while True:
            sentence = self.sentences[at % len(self.sentences)]
            if total + length(sentence) / 2 > words:
                return taken
            taken.append(sentence)
            total += length(sentence)
            at += 1

    def passages(self, rng: Random, count: int, words: int) -> list[list[str]]:
        """`count` passages of about `words` words that have no sentence in common; ValueError if there are fewer."""
        passages, total = [[]], 0
        for sentence in self.sentences[rng.randrange(50) :]:
            if total and total + length(sentence) / 2 > words:
                passages.append([])
                total = 0
            passages[-1].append(sentence)
            total += length(sentence)
        if len(passages) <= count:
            raise ValueError(f"the prose here makes {len(passages) - 1} passages of {words} words, not {count}")
        return rng.sample(passages[:-1], count)


def length(text: str) -> int:
    return len(text.split())


# ----------------------------------------------------------------------------- passages
def passage_count(rng: Random, source: Source, words: int):
    """Passages of which some stand there several times; how many different ones?"""
    total = max(3, min(30, words // 20))
    unique = source.passages(rng, rng.randint(2, total), words // total - 2)
    copies = unique + rng.choices(unique, k=total - len(unique))
    rng.shuffle(copies)
    return numbered(copies), "", [str(len(unique))]


def passage_retrieval(rng: Random, source: Source, words: int):
    """30 passages, fewer if they would be too short, and some sentences of one of them; which one is it?"""
    total = max(3, min(30, words // 20))
    passages = source.passages(rng, total, words // (total + 1) - 2)  # what is asked for takes words as well
    at = rng.randrange(total)
    keep = sorted(rng.sample(range(len(passages[at])), max(1, len(passages[at]) // 3)))
    return numbered(passages), " ".join(passages[at][i] for i in keep), [f"Paragraph {at + 1}"]


def numbered(passages: list[list[str]]) -> str:
    return "\n\n".join(f"Paragraph {i}: {' '.join(passage)}" for i, passage in enumerate(passages, 1))


# ----------------------------------------------------------------------------- facts
SYLLABLES = "ba bel cor dal den dor fa fen gal gor hal ka kel lan lor ma mir nar nel or pel qua ra ren sa sol ta tor ul"
SYLLABLES = (SYLLABLES + " va ven wil xan yor zan zel").split()
ROLES = "mayor librarian gardener ferryman judge surgeon organist baker archivist beekeeper surveyor harbour-master"
MEASURES = (
    "density hardness mass volume boiling-point conductivity viscosity elasticity porosity acidity frequency depth"
)
PLACES = "library theatre museum observatory bridge mill station garden harbour market brewery lighthouse"
# set: (statement, question, what is stated, whether it is a person or a number); {0} what, {1} of which, {2} the answer
ONE_HOP = {
    "narrativeqa": ("The {0} of {1} is {2}.", "Who is the {0} of {1}?", ROLES, "name"),
    "qasper": ("For sample {1} the {0} is {2}.", "What is the {0} for sample {1}?", MEASURES, "number"),
    "multifieldqa_en": ("The {0} in {1} was opened in {2}.", "When was the {0} in {1} opened?", PLACES, "number"),
    "triviaqa": ("{2} was once {0} of {1}.", "Who was once {0} of {1}?", ROLES, "name"),
}
# set: (one statement a hop, from {0} to {1}; question about the first name, whose answer is the last)
CHAINS = {
    "hotpotqa": (("{0} was painted by {1}.", "{0} was born in {1}."), "Where was the painter of {0} born?"),
    "2wikimqa": (
        ("The novel {0} was written by {1}.", "{0} is married to {1}."),
        "Who is the author of {0} married to?",
    ),
    "musique": (
        ("{0} was built by {1}.", "{0} was born in {1}.", "The town of {0} lies on the river {1}."),
        "On which river lies the town where the builder of {0} was born?",
    ),
}


def names(rng: Random, source: Source, count: int) -> list[str]:
    """Invented names; none is in the prose, or part of another."""
    found = []
    while len(found) < count:
        name = "".join(rng.choices(SYLLABLES, k=3)).capitalize()
        if name not in source.vocabulary and not any(name in other or other in name for other in found):
            found.append(name)
    return found


def one_hop(rng: Random, source: Source, kind: str, words: int) -> tuple[str, str, str]:
    """(prose with facts in it, a question about one, its answer). No two facts have the same answer."""
    statement, question, whats, answer = ONE_HOP[kind]
    count = max(2, min(12, words // 25))
    places = names(rng, source, 2 * count)
    values = rng.sample(range(1001, 2000), count) if answer == "number" else places[count:]
    facts = [(rng.choice(whats.split()), place, value) for place, value in zip(places, values, strict=False)]
    sentences = source.prose(rng, words - sum(length(statement.format(*fact)) for fact in facts))
    for fact in facts:
        sentences.insert(rng.randint(0, len(sentences)), statement.format(*fact))
    what, place, value = rng.choice(facts)
    return " ".join(sentences), question.format(what, place), str(value)


def single_document(rng: Random, source: Source, words: int, kind: str):
    context, question, answer = one_hop(rng, source, kind, words)
    return context, question, [answer]


def several_documents(rng: Random, source: Source, words: int, kind: str):
    """Passages, one fact in each; facts in a row lead from the question's name to the answer."""
    statements, question = CHAINS[kind]
    hops = len(statements)
    count = max(2, min(5, words // 60))
    invented = iter(names(rng, source, count * (hops + 1)))
    chains = list(zip(*[invented] * (hops + 1), strict=True))
    each = words // (len(chains) * hops) - 3  # less "Passage 12:" and the title
    passages = []
    for chain in chains:
        for hop, statement in enumerate(statements):
            fact = statement.format(chain[hop], chain[hop + 1])
            sentences = source.prose(rng, each - length(fact))
            sentences.insert(rng.randint(0, len(sentences)), fact)
            passages.append(f"{chain[hop]}\n{' '.join(sentences)}")
    rng.shuffle(passages)
    context = "\n\n".join(f"Passage {i}:\n{passage}" for i, passage in enumerate(passages, 1))
    asked = rng.choice(chains)
    return context, question.format(asked[0]), [asked[-1]]


def trivia(rng: Random, source: Source, words: int):
    """Examples of a passage, a question and an answer; then one without the answer."""
    examples = max(2, min(5, words // 300))
    blocks = []
    for _ in range(examples + 1):
        passage, question, answer = one_hop(rng, source, "triviaqa", words // (examples + 1))
        blocks.append((f"Passage:\n{passage}\nQuestion:\n{question}\nAnswer:", answer))
    return "\n\n".join(f"{block}\n{answer}" for block, answer in blocks[:-1]), blocks[-1][0], [blocks[-1][1]]


# ----------------------------------------------------------------------------- questions and their types
# 50 types; two nouns that tell a question's type, none of them in the type's own name, so it takes examples to know it
TYPES = dict(
    line.split(": ")
    for line in """Flowing water: river stream
High ground: mountain hill
Standing water: lake pond
Dry land: desert dune
Settlement: town village
Dwelling: house cottage
Place of worship: temple chapel
Place of learning: school college
Fortified place: castle fort
Way to travel: road path
Crossing: bridge ford
Seagoing craft: ship boat
Land vehicle: wagon cart
Flying machine: airplane balloon
Hand tool: hammer saw
Weapon: sword spear
Garment: coat shirt
Headgear: hat cap
Footwear: shoe boot
Ornament: ring necklace
Seat or bed: chair bench
Container: box barrel
Dish: soup stew
Drink: tea wine
Fruit: apple pear
Vegetable: carrot onion
Grain: wheat barley
Spice: pepper ginger
Tree kind: oak pine
Blossom: rose lily
Farm animal: cow sheep
Wild animal: wolf bear
Winged creature: eagle owl
Water creature: trout salmon
Small creature: ant beetle
Metal kind: iron copper
Precious stone: ruby emerald
Colour word: red green
Musical device: flute drum
Piece of music: song hymn
Printed work: novel atlas
Game or sport: chess tennis
Celebration: wedding birthday
Occupation: miller tailor
Family member: uncle sister
Body part: elbow knee
Illness: fever cough
Moment of day: dawn noon
Season or month: autumn april
Sum of money: price debt""".split("\n")
)
OPENINGS = (
    "Where did {0} see the {1} ?|Who told {0} of the {1} ?|Why does {0} like that {1} ?|What did {0} call the {1} ?"
)
OPENINGS = (OPENINGS + "|When was {0} shown a {1} ?|How did {0} come by this {1} ?").split("|")
PEOPLE = (
    "Ada Ben Cora Dan Emma Finn Gina Hugo Ida Jack Kate Leo Mary Nick Olga Paul Rosa Sam Tina Uma Vera Will Yara Zoe"
).split()


def question(rng: Random, kind: str) -> str:
    return rng.choice(OPENINGS).format(rng.choice(PEOPLE), rng.choice(TYPES[kind].split()))


def kinds(count: int) -> list[str]:
    """`count` of the types."""
    return list(TYPES)[:: len(TYPES) // count][:count]


def trec(rng: Random, source: Source, words: int, shots: int | None, kinds: list[str]):
    """`shots` questions with their types, or as many as fill `words`; then one without.

    All types are asked for equally often, as far as that goes, and more shots begin with fewer; so with fewer shots
    than types some rows have no example of the right one. The question asked is not among the examples.
    """
    gold = rng.choice(kinds)
    asked = question(rng, gold)
    blocks, total = [], 0
    while len(blocks) < shots if shots else total < words:
        for kind in rng.sample(kinds, len(kinds)):
            example = asked
            while example == asked:
                example = question(rng, kind)
            blocks.append(f"Question: {example}\nType: {kind}")
            total += length(blocks[-1])
            if len(blocks) == shots if shots else total >= words:
                break
    return "\n".join(blocks), f"Question: {asked}\nType:", [gold]


# ----------------------------------------------------------------------------- code
def code_place(rng: Random, source: Source, words: int) -> tuple[str, list[str], str]:
    """(file, its lines before a place with at most `words` words, the line that comes there).

    That line can be scored: it has text of 8 characters or more, and nothing that the metric passes over.
    """
    for _ in range(10_000):
        name = rng.choice(list(source.files))
        lines = source.files[name]
        at = rng.randrange(len(lines))
        line = lines[at]
        if len(line.strip()) < 8 or any(mark in line for mark in PASSED_OVER) or not line.isprintable():
            continue
        before, total = at, 0
        while before and total + length(lines[before - 1]) <= words:
            before -= 1
            total += length(lines[before])
        if total >= words / 2:
            return name, lines[before:at], line
    raise ValueError(f"no source file here is long enough for {words} words of code; take fewer --words")


def lcc(rng: Random, source: Source, words: int):
    _, lines, line = code_place(rng, source, words)
    return "\n".join(lines) + "\n", "", [line]


def repobench(rng: Random, source: Source, words: int):
    """The beginnings of other files, those first that the file imports, and then the file's own code."""
    name, lines, line = code_place(rng, source, max(1, words // 3))
    imported = re.findall(r"^\s*(?:from|import)\s+([\w.]+)", source.code[name], re.MULTILINE)
    wanted = [f"{module.replace('.', '/')}{end}" for module in imported for end in (".py", "/__init__.py")]
    others = [other for other in dict.fromkeys(wanted) if other in source.files and other != name]
    rest = [other for other in source.files if other not in others and other != name]
    others += rng.sample(rest, min(len(rest), 60))
    snippets, left = [], words - words // 3
    for other in others:
        taken = []
        for text in source.files[other]:
            if left <= 0 or sum(map(length, taken)) > LARGEST_SNIPPET:
                break
            taken.append(text)
            left -= length(text)
        if taken:
            snippets.append("\n".join([f"# {other}", *taken]) + "\n")
    return "\n".join(snippets) + "\n", "\n".join([f"# {name}", *lines]) + "\n", [line]
