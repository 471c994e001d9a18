"""Documents of the pocket study's tasks: each states something and asks for it again.

Seven tasks, with words, names, numbers, labels and wordings drawn anew for each document; none of the wordings, which
are in pocket_wordings.json, is that of a benchmark. A task is a function of (draw, size, level) and returns a Document
of at most about `size` characters; `level`, from 0 to 1, is its difficulty. The same random generator gives the same
documents on every machine.
"""

from pocket_draw import Document, Draw

TAGS = 12  # words that may stand before a cue in an example of `classify`
ANSWER_LENGTH = 14  # of an answer of `lookup` with what separates it from others, characters


def copy(draw: Draw, size: int, level: float) -> Document:
    """Items that are repeated from a random one on, after something else."""
    kind = draw.kind("word word word name hexadecimal number line")
    separator = draw.choice((" ", " ", "\n", ", ", " / "))
    between = []
    if kind == "line":
        separator = "\n"
        items = [line for line in draw.lines(size // 2) if line.strip()]
    else:
        item_length = 18 if kind == "hexadecimal" else 6
        most = int(size * 0.45) // item_length
        items = [draw.value(kind) for _ in range(draw.randint(2, max(3, most)))]
        most = max(1, size // 12 - len(items))
        between = [draw.value(kind) for _ in range(draw.randint(0, most))]
    if len(items) < 2:
        return copy(draw, size, level)
    first = draw.rng.randrange(len(items) - 1)
    document = Document()
    document.add(separator.join([*items, *between, items[first]]))
    for item in items[first + 1 :]:
        document.add(separator)
        document.add_answer(item)
    document.add("\n")
    return document


def repeated_wording(draw: Draw) -> tuple[str, str]:
    """(statement with {key} and {value}, question with {key}), in the same words drawn for a document."""
    start = draw.wording("statement_starts") + draw.phrase(0, 3)
    link = f"{draw.phrase(0, 2)} {draw.wording('links')}"
    tail = draw.phrase(0, 5)
    statement = f"{start} {{key}} {link} {{value}}"
    style = draw.rng.random()
    if style < 0.5:
        question = f"{start} {{key}} {link}"
    elif style < 0.75:
        question = f"{draw.wording('intros')} {start} {{key}} {tail} {link}"
    else:
        intro, end = draw.wording("intros"), draw.marker("answer_words")
        question = f"{intro} {start} {{key}} {tail}? {end}"
    return statement, question


def asked_wording(draw: Draw) -> tuple[str, str]:
    """Like `repeated_wording`, as a question whose answer is begun."""
    subject, asked = draw.phrase(1, 3), draw.wording("asking")
    preposition = draw.wording("prepositions")
    plural = draw.choice(("", "s"))
    article, link = draw.wording("articles"), draw.wording("links")
    statement = f"{article} {subject}{plural} {preposition} {{key}} {link} {{value}}"
    name = f"{subject} {preposition} {{key}} {draw.phrase(0, 6)}"
    return statement, f"{asked} {name}? The {name} {draw.wording('links')}"


def lookup_wording(draw: Draw) -> tuple[str, str]:
    make_wording = repeated_wording if draw.chance(0.4) else asked_wording
    statement, question = make_wording(draw)
    statement = one_space(statement) + draw.wording("statement_ends")
    return statement, one_space(question).replace(" ?", "?")


def one_space(text: str) -> str:
    """The words of a text with one space between two."""
    return " ".join(text.split())


def draw_pairs(draw: Draw, key_kind: str, value_kind: str, count: int) -> tuple[list, list]:
    """(keys, shuffled pairs of key and value) of `lookup`; in a quarter of the cases some keys are the same."""
    keys = draw.values(key_kind, count)
    values = draw.values(value_kind, count)
    if count >= 4 and draw.chance(0.25):
        repeated = draw.randint(2, 4)
        keys[:repeated] = keys[:1] * repeated
    pairs = list(zip(keys, values, strict=True))
    draw.rng.shuffle(pairs)
    return keys, pairs


def lookup(draw: Draw, size: int, level: float) -> Document:
    """Values by key. A key may have several values, and a question several keys."""
    key_kind = draw.kind("word word name pair pair capitals hexadecimal")
    value_kind = draw.kind("number number passkey word name hexadecimal")
    if key_kind == "hexadecimal" and draw.chance(0.5):
        value_kind = "hexadecimal"
    statement, question = lookup_wording(draw)
    asked_length = len(question) + ANSWER_LENGTH
    questions = draw.number(min(8, size // 3 // asked_length))
    asked_length *= questions
    pair_length = 30 if "hexadecimal" in (key_kind, value_kind) else 10
    most = (size - asked_length) // (len(statement) + pair_length)
    count = min(max(1, most), draw.count(1 + round(12 * level)))
    keys, pairs = draw_pairs(draw, key_kind, value_kind, count)
    document = Document()
    document.add(draw.instruction(size // 3))
    statements = [statement.format(key=key, value=value) for key, value in pairs]
    room = size - len(document.text) - size // 16 - asked_length
    document.add(draw.scatter(statements, room))
    document.add(draw.instruction(size // 8))
    groups = [[key] for key in draw.rng.choices(keys, k=questions)]
    if count > 1 and draw.chance(0.25):
        different = sorted(set(keys))
        groups = [draw.rng.sample(different, min(len(different), questions))]
    for group in groups:
        document.add(question.format(key=draw.enumeration(group)))
        values = [value for name in group for key, value in pairs if key == name]
        document.add_answers(values, ", ")
    return document


def draw_templates(draw: Draw, most: int) -> list[str]:
    """Examples with {cue} and maybe {tag}, and up to `most` words before, between and after them."""
    templates = []
    for _ in range(draw.randint(1, 1 + most)):
        tag = draw.choice(("", "{tag}")) if most else ""
        before, between, after = draw.phrase(0, most), draw.phrase(0, most), draw.phrase(0, most)
        template = one_space(f"{before} {tag} {between} {{cue}} {after}") + draw.wording("example_ends")
        templates.append(template.capitalize() if draw.chance(0.5) else template)
    return templates


def classify(draw: Draw, size: int, level: float) -> Document:
    """Examples with their labels. Each has a cue for its label: an answer is a label whose cue has occurred before."""
    field, label_field = draw.title(), draw.title()
    classes = draw.randint(2, 2 + round(4 * level))
    cues_of_class = draw.number(1 + round(2 * level))
    cues = draw.values(draw.kind("word word word name"), classes * cues_of_class)
    labels = [draw.phrase(2, 3).capitalize() for _ in range(classes)]
    if draw.chance(0.5):
        labels = draw.values(draw.kind("word name number"), classes)
    tags = draw.values(draw.kind("word name"), TAGS)
    templates = draw_templates(draw, round(3 * level))
    document = Document()
    document.add(draw.instruction(size // 4))
    seen, order = set(), []
    while len(document.text) < size - 50:
        if not order:
            order = draw.rng.sample(range(classes), classes)
        number = order.pop() if draw.in_turn else draw.rng.randrange(classes)
        cue = cues[number * cues_of_class + draw.rng.randrange(cues_of_class)]
        template, tag = draw.choice(templates), draw.choice(tags)
        example = template.format(cue=cue, tag=tag)
        document.add(f"{field}: {example}\n{label_field}: ")
        add = document.add_answer if cue in seen else document.add
        add(labels[number])
        document.add("\n")
        seen.add(cue)
    return document


def answer(draw: Draw, size: int, level: float) -> Document:
    """Facts about invented things, one or several for each, and questions in other words."""
    things = draw.values(draw.kind("name name word pair"), draw.count(1 + round(4 * level)))
    relations = []
    for _ in range(draw.randint(1, 3)):
        relation = draw.phrase(1, 2)
        relations.append((relation, draw.kind("number name word")))
    fact, question = draw.wording("facts"), draw.wording("questions")
    intro, end = draw.marker("intros"), draw.marker("answer_words")
    line_break = draw.choice(("\n", "\n\n", " "))
    if draw.chance(0.5):  # "sample Xyz" instead of "Xyz"
        word = draw.choice(draw.words)
        things = [f"{word} {thing}" for thing in things]
    most = max(1, (size - 80) // 40)
    facts, paragraphs = [], []
    for thing in things:
        sentences = []
        for relation, kind in relations:
            if len(facts) < most:
                fields = {"thing": thing, "relation": relation, "value": draw.value(kind)}
                facts.append(fields)
                sentences.append(fact.format(**fields))
        if sentences:
            paragraphs.append(" ".join(sentences))
    document = Document()
    document.add(draw.instruction(size // 4))
    document.add(draw.scatter(paragraphs, size - 120 - len(document.text)))
    document.add(draw.instruction(size // 6))
    for fields in draw.rng.choices(facts, k=draw.number(min(6, size // 200))):
        asked = f"{intro} {question.format(**fields)}".lstrip()
        document.add(f"{asked}{line_break}{end} ")
        document.add_answer(fields["value"])
        document.add("\n")
    return document


def passage_words(draw: Draw, length: int) -> list[str]:
    """The words of a passage of at most `length` characters, or a single word: of plain text, or drawn."""
    words = " ".join(draw.lines(2 * length)).split()
    if draw.chance(0.5) or not words:
        words = draw.phrase(1, draw.count(min(12, length // 7))).split()
    while len(" ".join(words)) > length and len(words) > 1:
        words.pop()
    return words


def passage(draw: Draw, size: int, level: float) -> Document:
    """Numbered passages, and words of one of them: which one is it?"""
    part, line_break = draw.wording("parts"), draw.choice(("\n", "\n\n"))
    count = draw.randint(2, 2 + round(6 * level))
    first = 1 if draw.chance(0.7) else draw.randint(1, 90)
    length = max(16, (size - 60) * 2 // 3 // count - len(part))
    document = Document()
    document.add(draw.instruction(size // 4))
    passages = []
    for number in range(first, first + count):
        words = passage_words(draw, length)
        passages.append((number, words))
        text = " ".join(words)
        document.add(f"{part} {number}: {text}{line_break}")
    document.add(draw.instruction(size // 8))
    end = draw.instruction(size // 8) + draw.marker("answer_words")
    is_begun = draw.chance(0.5)
    for _ in range(draw.number(min(8, size // 60))):
        number, words = draw.choice(passages)
        start = draw.rng.randrange(max(1, len(words) - 2))
        length = draw.choice((3, 6, 12, len(words)))
        quote = " ".join(words[start : start + length])
        document.add(f"{draw.wording('quoting')}: {quote}{line_break}{end} ")
        if is_begun:
            document.add(part)
            document.add_answer(f" {number}")
        else:
            document.add_answer(f"{part} {number}")
        document.add(line_break)
    return document


def frequent(draw: Draw, size: int, level: float) -> Document:
    """A list with repeated words: which are the most frequent ones, or how often does one occur?"""
    numbered = draw.chance(0.5)
    common = draw.number(1 + round(3 * level))
    item_length = 12 if numbered else 8
    room = (size - 60 - 10 * common) // item_length
    repeats = max(2, min(draw.randint(2, 6), room // (common + 1)))
    rare = draw.number(room - common * repeats)
    words = draw.values(draw.kind("word word name"), common + rare)
    falling = draw.chance(0.5)  # the first of them is the most frequent one, and so on
    items = words[common:]
    for i in range(common):
        more = common - 1 - i if falling else 0
        items += [words[i]] * (repeats + more)
    draw.rng.shuffle(items)
    first_count = items.count(words[0])
    if numbered:
        items = [f"{i}. {item}" for i, item in enumerate(items, 1)]
    separator = draw.choice((" ", " ", "\n", " ... "))
    document = Document()
    document.add(separator.join(items) + "\n")
    if draw.chance(0.25):
        document.add(f"{draw.wording('counted')} {words[0]}:")
        document.add_answer(f" {first_count}")
    else:
        question = draw.wording("frequent") if draw.chance(0.5) else draw.phrase(1, 5).capitalize()
        intro = draw.wording("intros")
        marker = draw.marker("answer_words")
        end = draw.choice((":", f"? {marker}"))
        document.add(f"{intro} {question}{end}".lstrip())
        for place, word in enumerate(words[:common], 1):
            document.add(f" {place}. " if numbered else " ")
            document.add_answer(word)
    document.add("\n")
    return document


def draw_assignments(draw: Draw, assignment: str, values: list[str], groups: list[list[str]]) -> list[str]:
    """Statements that hand each value on from name to name of its group, the chains mixed."""
    waiting = []
    for value, names in zip(values, groups, strict=True):
        sources = [value, *names[:-1]]
        waiting.append([assignment.format(name, source) for name, source in zip(names, sources, strict=True)])
    chains = [i for i, names in enumerate(groups) for _ in names]
    statements = []
    for i in draw.rng.sample(chains, len(chains)):
        statements.append(waiting[i].pop(0))
    return statements


def chain_question(draw: Draw, value: str, before: str, after: str, end: str) -> str:
    style = draw.rng.random()
    if style < 0.4:
        question = f"{draw.wording('intros')} {draw.wording('holders')} {value}:"
    elif style < 0.7:
        question = f"{before} {value} {after}? {end}"
    else:  # asked, and begun to answer
        question = f"{before} {value} {after}? {end} {after} {value} {draw.wording('links')}"
    return one_space(question).replace(" ?", "?")


def chain(draw: Draw, size: int, level: float) -> Document:
    """Assignments from name to name: which names have the value?"""
    assignment, kind = draw.wording("assignments"), draw.kind("word capitals name capitals")
    if draw.chance(0.5):  # a word before each name
        word, capitals = draw.choice(draw.words), draw.choice(draw.words).upper()
        word = draw.choice((word, capitals))
        assignment = assignment.replace("{0}", f"{word} {{0}}").replace("{1}", f"{word} {{1}}")
    chains = draw.number(1 + round(level))
    longest = (size - 60) // (30 * chains)
    length = draw.number(min(1 + round(4 * level), longest))
    names, values = draw.values(kind, chains * length), draw.values("number", chains)
    groups = [names[start : start + length] for start in range(0, len(names), length)]
    statements = draw_assignments(draw, assignment, values, groups)
    document = Document()
    document.add(draw.instruction(size // 4))
    document.add(draw.scatter(statements, size - 100 - len(document.text)))
    before, after, end = draw.phrase(0, 5), draw.phrase(0, 4), draw.marker("answer_words")
    for i in draw.rng.sample(range(chains), draw.randint(1, chains)):
        document.add(chain_question(draw, values[i], before, after, end))
        document.add_answers(groups[i], " ")
    return document


TASKS = {task.__name__: task for task in (copy, lookup, classify, answer, passage, frequent, chain)}
