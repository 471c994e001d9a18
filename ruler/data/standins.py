"""Made-up documents with questions, in the form of the SQuAD and HotpotQA files, to try the tasks without them.

Towns, bridges and people of no real world: nothing can be answered from memory. Every fact stands in one sentence, and
every name is used once. The lengths of the paragraphs spread as those of the originals do.
"""

from random import Random

SYLLABLES = "bal cor dan el fir gor hal is jor kel lun mar nor os pel quin ras sol tam ul vor wen yar zel".split()
ENDS = "a en ia o ow ara eth ine ost und".split()
TRADES = "weaver miller potter glazier shipwright printer farrier cooper mason clockmaker".split()
KINDS = "market town;fishing village;mining town;harbour town;hill village".split(";")
CROPS = "barley flax hops plums rye walnuts mustard apples".split()
FILLERS = (
    "In winter the road over the pass is closed for several weeks.",
    "Most of the older houses are built of grey stone and roofed with slate.",
    "A weekly market is held in the square in front of the church.",
    "The fields around it yield {crop} and, in good years, {crop2}.",
    "Visitors come in summer, chiefly to walk along the water.",
    "The archive keeps its records in a vaulted room below the hall.",
    "A fire destroyed part of the quarter by the mill, which was rebuilt within two years.",
    "Its school has been moved twice since it was opened.",
    "Trade declined when the canal was filled in, and recovered only slowly.",
    "The local dialect has kept several words that are found nowhere else.",
    "Two families owned nearly all of the land until the reform.",
    "A painting of the old harbour hangs in the council chamber.",
)


class World:
    """Names that are not repeated, and sentences."""

    def __init__(self, seed: int):
        self.rng, self.taken = Random(seed), set()

    def name(self) -> str:
        for syllables in (2, 2, 2, 2, 2, 3, 3, 3, 3, 3):
            made = "".join(self.rng.choices(SYLLABLES, k=syllables)) + self.rng.choice(ENDS)
            if made not in self.taken:
                break
        else:
            made += str(len(self.taken))
        self.taken.add(made)
        return made.capitalize()

    def person(self) -> str:
        return f"{self.name()} {self.name()}"

    def year(self) -> int:
        return self.rng.randint(1100, 1899)

    def filler(self, least: int, most: int) -> str:
        chosen = self.rng.sample(FILLERS, self.rng.randint(least, most))
        crop, crop2 = self.rng.sample(CROPS, 2)
        return "".join(" " + text.replace("{crop2}", crop2).replace("{crop}", crop) for text in chosen)


def squad(articles: int = 120) -> dict:
    """Articles of eight paragraphs on a town each, two questions a paragraph."""
    world, data = World(1), []
    for _ in range(articles):
        town, paragraphs = world.name(), []
        facts = [
            (f"{town} is a {world.rng.choice(KINDS)} on the river {world.name()}.", [])
        ]  # the first paragraph's beginning; the rest of the facts are one a paragraph
        subjects = ["town hall", "mill", "school", "library", "lighthouse", "theatre", "hospital", "museum"]
        for i, subject in enumerate(subjects):
            builder, year, trade = world.person(), world.year(), world.rng.choice(TRADES)
            lead = facts[0][0] + " " if i == 0 else ""
            text = f"{lead}The {subject} of {town} was built in {year} by the {trade} {builder}."
            asked = [
                (f"Who built the {subject} of {town}?", builder),
                (f"In which year was the {subject} of {town} built?", str(year)),
            ]
            context = text + world.filler(0 if i % 4 == 0 else 3, 3 if i % 4 == 0 else 12)
            qas = []
            for question, answer in asked:
                said = {"text": answer, "answer_start": context.index(answer)}
                identity = f"{len(data)}-{i}-{len(qas)}"
                qas.append({"id": identity, "question": question, "is_impossible": False, "answers": [said]})
            paragraphs.append({"context": context, "qas": qas})
        data.append({"title": town, "paragraphs": paragraphs})
    return {"version": "standin", "data": data}


def hotpotqa(questions: int = 1000) -> list[dict]:
    """Questions over two paragraphs, a bridge's and its architect's, among ten."""
    world, pairs = World(2), []
    for _ in range(questions):
        bridge, architect, home = f"{world.name()} Bridge", world.person(), world.name()
        first = [f"The {bridge} crosses the river {world.name()}.", f" It was designed by {architect}."]
        year, trade = world.year(), world.rng.choice(TRADES)
        second = [f"{architect} was a {trade} and builder.", f" {architect} was born in {home} in {year}."]
        first.append(world.filler(0, 4))
        second.append(world.filler(0, 4))
        pairs.append(((bridge, first), (architect, second), home, year))
    rows = []
    for i, (bridge, architect, home, year) in enumerate(pairs):
        where = i % 2 == 0
        question = f"{'In which town' if where else 'In which year'} was the designer of the {bridge[0]} born?"
        others = [world.rng.choice(pairs[(i + shift) % questions][:2]) for shift in range(1, 9)]
        context = [bridge, architect, *others]
        world.rng.shuffle(context)
        rows.append(
            {
                "_id": f"standin-{i}",
                "question": question,
                "answer": home if where else str(year),
                "type": "bridge",
                "level": "standin",
                "supporting_facts": [[bridge[0], 1], [architect[0], 1]],
                "context": [[title, sentences] for title, sentences in context],
            }
        )
    return rows
