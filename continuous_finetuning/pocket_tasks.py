"""Documents of the pocket study's tasks: each states something and asks for it again.

Seven tasks, with words, names, numbers, labels and wordings drawn anew for each document; none of the wordings, which
are in pocket_wordings.json, is that of a benchmark. A task is a generator: task(draw, size, level) yields the parts of
a document, texts and Answers, of at most about `size` characters; `level`, from 0 to 1, is its difficulty.
"""

import textwrap
from collections import defaultdict
from itertools import islice, product

import numpy as np

from pocket_draw import Answer, Document

TAGS = 12  # words that may stand before a cue in an example of `classify`
ANSWER_LENGTH = 14  # of an answer of `lookup` with what separates it from others, characters


def tidy(text: str) -> str:
    """The words of a text with one space between two, and none before a question mark."""
    return " ".join(text.split()).replace(" ?", "?")


def answer_line(answers, separator):
    """A line of answers after what begins it."""
    yield " "
    for number, answer in enumerate(answers):
        if number > 0:
            yield separator
        yield Answer(answer)
    yield "\n"


def copy(draw, size, level):
    """Items that are repeated from a random one on, after something else."""
    kind = draw.kind("word word word name hexadecimal number line")
    separator = draw.choice((" ", " ", "\n", ", ", " / "))
    between = []
    if kind == "line":
        separator = "\n"
        items = list(filter(str.strip, draw.lines(size // 2)))
    else:
        item_length = 18 if kind == "hexadecimal" else 6
        most = int(size * 0.45) // item_length
        count = draw.randint(2, max(3, most))
        items = [draw.value(kind) for _ in range(count)]
        most = size // 12 - count
        count = draw.randint(0, max(1, most))
        between = [draw.value(kind) for _ in range(count)]
    if len(items) < 2:
        yield from copy(draw, size, level)
        return
    first = draw.randrange(len(items) - 1)
    yield separator.join(items + between + items[first : first + 1])
    for item in items[first + 1 :]:
        yield separator
        yield Answer(item)
    yield "\n"


def repeated_wording(draw):
    """(statement with {key} and {value}, question with {key}), in the same words drawn for a document."""
    start = draw.wording("statement_starts") + draw.phrase(0, 3)
    link = draw.phrase(0, 2) + " " + draw.wording("links")
    tail = draw.phrase(0, 5)
    question = f"{start} {{key}} {link}"
    statement = question + " {value}"
    style = draw.random()
    if style >= 0.5:
        intro = draw.wording("intros")
        question = f"{intro} {start} {{key}} {tail} {link}"
    if style >= 0.75:
        end = draw.marker("answer_words")
        question = f"{intro} {start} {{key}} {tail}? {end}"
    return statement, question


def asked_wording(draw):
    """Like `repeated_wording`, as a question whose answer is begun."""
    subject = draw.phrase(1, 3)
    asked, preposition, plural, article, link = draw.wordings("asking prepositions plurals articles links")
    statement = f"{article} {subject}{plural} {preposition} {{key}} {link} {{value}}"
    name = f"{subject} {preposition} {{key}} " + draw.phrase(0, 6)
    link = draw.wording("links")
    return statement, f"{asked} {name}? The {name} {link}"


def draw_pairs(draw, key_kind, value_kind, count):
    """(keys, shuffled pairs of key and value) of `lookup`; in a quarter of the cases some keys are the same."""
    keys = draw.values(key_kind, count)
    values = draw.values(value_kind, count)
    if count >= 4 and draw.chance(0.25):
        repeated = draw.randint(2, 4)
        keys[:repeated] = keys[:1] * repeated
    pairs = list(zip(keys, values, strict=True))
    draw.shuffle(pairs)
    return keys, pairs


def lookup(draw, size, level):
    """Values by key. A key may have several values, and a question several keys."""
    key_kind = draw.kind("word word name pair pair capitals hexadecimal")
    value_kind = draw.kind("number number passkey word name hexadecimal")
    if key_kind == "hexadecimal" and draw.chance(0.5):
        value_kind = "hexadecimal"
    make_wording = repeated_wording if draw.chance(0.4) else asked_wording
    statement, question = map(tidy, make_wording(draw))
    statement += draw.wording("statement_ends")
    asked_length = len(question) + ANSWER_LENGTH
    questions = draw.number(min(8, size // 3 // asked_length))
    asked_length *= questions
    pair_length = 30 if "hexadecimal" in (key_kind, value_kind) else 10
    most = (size - asked_length) // (len(statement) + pair_length)
    count = draw.count(1 + round(12 * level))
    count = min(max(1, most), count)
    keys, pairs = draw_pairs(draw, key_kind, value_kind, count)
    statements = [statement.format(key=key, value=value) for key, value in pairs]
    yield draw.scatter(statements, size // 3, size - size // 16 - asked_length)
    yield draw.instruction(size // 8)
    groups = [[key] for key in draw.choices(keys, k=questions)]
    if count > 1 and draw.chance(0.25):
        different = sorted(set(keys))
        groups = [draw.sample(different, min(len(different), questions))]
    for group in groups:
        yield question.format(key=draw.enumeration(group))
        values = [value for name in group for key, value in pairs if key == name]
        yield from answer_line(values, ", ")


def draw_templates(draw, most):
    """Examples with {cue} and maybe {tag}, and up to `most` words before, between and after them."""
    templates = []
    for _ in range(draw.number(1 + most)):
        tag = draw.choice(("", "{tag}")) if most else ""
        before = draw.phrase(0, most)
        between = draw.phrase(0, most)
        after = draw.phrase(0, most)
        template = tidy(f"{before} {tag} {between} {{cue}} {after}")
        template += draw.wording("example_ends")
        if draw.chance(0.5):
            template = template.capitalize()
        templates.append(template)
    return templates


def classify(draw, size, level):
    """Examples with their labels. Each has a cue for its label: an answer is a label whose cue has occurred before."""
    field = draw.title()
    label_field = draw.title()
    classes = draw.randint(2, 2 + round(4 * level))
    cues_of_class = draw.number(1 + round(2 * level))
    cues = draw.values("word word word name", classes * cues_of_class)
    labels = [draw.phrase(2, 3).capitalize() for _ in range(classes)]
    if draw.chance(0.5):
        labels = draw.values("word name number", classes)
    tags = draw.values("word name", TAGS)
    templates = draw_templates(draw, round(3 * level))
    instruction = draw.instruction(size // 4)
    yield instruction
    room = size - 50 - len(instruction)
    seen, order = set(), []
    while room > 0:
        if not order:
            order = draw.sample(range(classes), classes)
        number = order.pop() if draw.in_turn else draw.randrange(classes)
        cue = cues[number * cues_of_class + draw.randrange(cues_of_class)]
        template = draw.choice(templates)
        example = template.format(cue=cue, tag=draw.choice(tags))
        example = f"{field}: {example}\n{label_field}: "
        label = labels[number]
        yield example
        yield Answer(label) if cue in seen else label
        yield "\n"
        seen.add(cue)
        room -= len(example) + len(label) + 1


def answer(draw, size, level):
    """Facts about invented things, one or several for each, and questions in other words."""
    kind = draw.kind("name name word pair")
    things = draw.values(kind, draw.count(1 + round(4 * level)))
    relations = []
    for _ in range(draw.randint(1, 3)):
        relation = draw.phrase(1, 2)
        relations.append((relation, draw.kind("number name word")))
    wording = draw.wording("facts")
    question = draw.wording("questions")
    intro = draw.marker("intros")
    end = draw.marker("answer_words")
    line_break = draw.choice(("\n", "\n\n", " "))
    if draw.chance(0.5):  # "sample Xyz" instead of "Xyz"
        word = draw.value("word")
        things = [f"{word} {thing}" for thing in things]
    most = max(1, (size - 80) // 40)
    facts = []
    sentences = defaultdict(list)
    for thing, (relation, kind) in islice(product(things, relations), most):
        fact = {"thing": thing, "relation": relation, "value": draw.value(kind)}
        facts.append(fact)
        sentences[thing].append(wording.format(**fact))
    paragraphs = list(map(" ".join, sentences.values()))
    yield draw.scatter(paragraphs, size // 4, size - 120)
    yield draw.instruction(size // 6)
    for fact in draw.choices(facts, k=draw.number(min(6, size // 200))):
        asked = f"{intro} {question.format(**fact)}".lstrip()
        yield f"{asked}{line_break}{end} "
        yield Answer(fact["value"])
        yield "\n"


def passage_text(draw, length):
    """Words of plain text, or drawn ones, at most `length` characters, or a single word."""
    words = " ".join(draw.lines(2 * length)).split()
    if draw.chance(0.5) or not words:
        most = draw.count(min(12, length // 7))
        words = draw.phrase(1, most).split()
    first, *_ = textwrap.wrap(" ".join(words), length, break_long_words=False, break_on_hyphens=False)
    return first


def passage(draw, size, level):
    """Numbered passages, and words of one of them: which one is it?"""
    part = draw.wording("parts")
    line_break = draw.choice(("\n", "\n\n"))
    count = draw.randint(2, 2 + round(6 * level))
    first = 1 if draw.chance(0.7) else draw.randint(1, 90)
    length = (size - 60) * 2 // 3 // count - len(part)
    length = max(16, length)
    yield draw.instruction(size // 4)
    passages = []
    for number in range(first, first + count):
        text = passage_text(draw, length)
        passages.append((number, text))
        yield f"{part} {number}: {text}{line_break}"
    yield draw.instruction(size // 8)
    end = draw.instruction(size // 8) + draw.marker("answer_words")
    is_begun = draw.chance(0.5)
    for _ in range(draw.number(min(8, size // 60))):
        number, text = draw.choice(passages)
        words = text.split()
        start = draw.randrange(max(1, len(words) - 2))
        length = draw.choice((3, 6, 12, len(words)))
        quote = " ".join(words[start : start + length])
        quoting = draw.wording("quoting")
        yield f"{quoting}: {quote}{line_break}{end} "
        if is_begun:
            yield part
            yield Answer(f" {number}")
        else:
            yield Answer(f"{part} {number}")
        yield line_break


def frequent(draw, size, level):
    """A list with repeated words: which are the most frequent ones, or how often does one occur?"""
    numbered = draw.chance(0.5)
    n_common = draw.number(1 + round(3 * level))
    item_length = 12 if numbered else 8
    room = (size - 60 - 10 * n_common) // item_length
    repeats = min(draw.randint(2, 6), room // (n_common + 1))
    repeats = max(2, repeats)
    rare = draw.number(room - n_common * repeats)
    words = draw.values("word word name", n_common + rare)
    common = words[:n_common]
    more = n_common - 1 if draw.chance(0.5) else 0  # the first is the most frequent one, and so on
    items = words[n_common:]
    for word in common:
        items += [word] * (repeats + more)
        more = max(0, more - 1)
    draw.shuffle(items)
    first = common[0]
    first_count = items.count(first)
    if numbered:
        items = [f"{i}. {item}" for i, item in enumerate(items, 1)]
    separator = draw.choice((" ", " ", "\n", " ... "))
    yield separator.join(items) + "\n"
    if draw.chance(0.25):
        yield draw.wording("counted") + f" {first}:"
        yield Answer(f" {first_count}")
    else:
        question = draw.wording("frequent") if draw.chance(0.5) else draw.phrase(1, 5).capitalize()
        intro = draw.wording("intros")
        marker = draw.marker("answer_words")
        end = draw.choice((":", f"? {marker}"))
        yield f"{intro} {question}{end}".lstrip()
        for place, word in enumerate(common, 1):
            yield f" {place}. " if numbered else " "
            yield Answer(word)
    yield "\n"


def draw_assignments(draw, assignment, values, groups):
    """Statements that hand each value on from name to name of its group, the chains mixed."""
    sources = list(values)
    waiting = list(map(iter, groups))
    chains = [i for i, names in enumerate(groups) for _ in names]
    statements = []
    for i in draw.sample(chains, len(chains)):
        name = next(waiting[i])
        statements.append(assignment.format(name, sources[i]))
        sources[i] = name
    return statements


def chain(draw, size, level):
    """Assignments from name to name: which names have the value?"""
    assignment = draw.wording("assignments")
    kind = draw.kind("word capitals name capitals")
    if draw.chance(0.5):  # a word before each name
        word = draw.value("word")
        capitals = draw.value("word").upper()
        word = draw.choice((word, capitals))
        assignment = assignment.replace("{", word + " {")
    chains = draw.number(1 + round(level))
    longest = (size - 60) // (30 * chains)
    length = draw.number(min(1 + round(4 * level), longest))
    names = draw.values(kind, chains * length)
    values = draw.values("number", chains)
    groups = np.reshape(names, (chains, length)).tolist()
    statements = draw_assignments(draw, assignment, values, groups)
    yield draw.scatter(statements, size // 4, size - 100)
    before = draw.phrase(0, 5)
    after = draw.phrase(0, 4)
    end = draw.marker("answer_words")
    for i in draw.sample(range(chains), draw.randint(1, chains)):
        value = values[i]
        style = draw.random()
        question = f"{before} {value} {after}? {end}"
        if style < 0.4:
            question = " ".join([*draw.wordings("intros holders"), f"{value}:"])
        elif style >= 0.7:  # asked, and begun to answer
            question += f" {after} {value} " + draw.wording("links")
        yield tidy(question)
        yield from answer_line(groups[i], " ")


def draw_document(draw, task: str, size: int, level: float) -> Document:
    """draw: a Draw.  task: the name of one of TASKS."""
    return Document(TASKS[task](draw, size, level))


TASKS = {task.__name__: task for task in (copy, lookup, classify, answer, passage, frequent, chain)}
