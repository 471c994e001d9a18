"""Documents of the pocket study's tasks: each states something and asks for it again.

Seven tasks, with words, names, numbers, labels and wordings drawn anew for each document; none of the wordings is that
of a benchmark. A task is a function of (draw, size, level) and returns a Document of at most about `size` characters;
`level`, from 0 to 1, is its difficulty. The same random generator gives the same documents on every machine.
"""

from pocket_draw import Document, Draw

LINKS = ("is", "is", "is", "is:", "was", "are", "equals", "has", "in", "means", "=", ":")
INTROS = ("", "", "Now tell:", "Look above.", "Recall:", "Task:", "Q:", "Then", "Please answer.", "Read it again.")
ANSWER_WORDS = ("A:", "Reply:", "Result:", "Solution:", "Response:", "Out:", "->", "=", "It is", "That is")
PARTS = ("Section", "Passage", "Part", "Block", "Chapter", "Item", "Piece", "Note", "Page", "Text", "Record", "Entry")
QUOTING = ("Where", "Find", "Which", "Source", "From")
ARTICLES = ("The", "A", "One of the", "Here, the", "This", "Our")
PREPOSITIONS = ("of", "for", "in", "with", "at", "on", "by", "to")
ASKING = ("What is the", "What are the", "What was the", "Which is the", "Tell me the", "Give the", "Who knows the")
FACTS = (
    "The {relation} of {thing} is {value}.", "In {thing} the {relation} was {value}.", "{relation} {thing}: {value}",
    "{thing} has {value} as its {relation}.", "The {relation} at {thing} was set to {value}.",
    "With {thing}, the {relation} is {value}.", "A {relation} in {thing} came in {value}.",
)  # fmt: skip
QUESTIONS = (
    "Which {relation} has {thing}?", "What is the {relation} of {thing}?", "{thing}, {relation}?",
    "Give the {relation} of {thing}.", "What was the {relation} in {thing}?", "Where is the {relation} at {thing} set?",
    "When did the {relation} of {thing} come?", "Who has the {relation} with {thing}?",
)  # fmt: skip
FREQUENT = ("Frequent", "Often seen", "Repeated", "Main words", "Not rare", "Most of all")
COUNTED = ("Times", "How often", "Number of", "Count of")
ASSIGNMENTS = ("{0} := {1}", "set {0} to {1}", "{0} <- {1}", "let {0} = {1}", "{0} gets {1}", "copy {1} into {0}")
HOLDERS = ("Same as", "Equal to", "Have", "Holders of", "Names with")
TAGGED = 12  # words that may stand before a cue in an example of `classify`


def copy(draw: Draw, size: int, level: float) -> Document:
    """Items that are repeated from a random one on, after something else."""
    document = Document()
    kind = draw.choice(("word", "word", "word", "name", "hexadecimal", "number", "line"))
    separator = draw.choice((" ", " ", "\n", ", ", " / "))
    between = []
    if kind == "line":
        separator = "\n"
        items = [line for line in draw.lines(size // 2) if line.strip()]
    else:
        most = int(size * 0.45) // (18 if kind == "hexadecimal" else 6)
        items = [draw.value(kind) for _ in range(draw.randint(2, max(3, most)))]
        for _ in range(draw.randint(0, max(1, size // 12 - len(items)))):
            between.append(draw.value(kind))
    if len(items) < 2:
        return copy(draw, size, level)
    first = draw.rng.randrange(len(items) - 1)
    document.add(separator.join([*items, *between, items[first]]))
    for item in items[first + 1 :]:
        document.add(separator)
        document.add_answer(item)
    document.add("\n")
    return document


def repeated_wording(draw: Draw) -> tuple[str, str]:
    """(statement with {key} and {value}, question with {key}), in the same words drawn for a document."""
    start = draw.choice(("", "", "# ", "- ", "The ", "* ")) + draw.phrase(0, 3)
    link = f"{draw.phrase(0, 2)} {draw.choice(LINKS)}"
    tail = draw.phrase(0, 5)
    statement = f"{start} {{key}} {link} {{value}}"
    style = draw.rng.random()
    if style < 0.5:
        question = f"{start} {{key}} {link}"
    elif style < 0.75:
        question = f"{draw.choice(INTROS)} {start} {{key}} {tail} {link}"
    else:
        question = f"{draw.choice(INTROS)} {start} {{key}} {tail}? {draw.marker(ANSWER_WORDS)}"
    return statement, question


def asked_wording(draw: Draw) -> tuple[str, str]:
    """Like `repeated_wording`, as a question whose answer is begun."""
    subject, asked = draw.phrase(1, 3), draw.choice(ASKING)
    preposition = draw.choice(PREPOSITIONS)
    plural = draw.choice(("", "s"))
    statement = f"{draw.choice(ARTICLES)} {subject}{plural} {preposition} {{key}} {draw.choice(LINKS)} {{value}}"
    name = f"{subject} {preposition} {{key}} {draw.phrase(0, 6)}"
    return statement, f"{asked} {name}? The {name} {draw.choice(LINKS)}"


def lookup_wording(draw: Draw) -> tuple[str, str]:
    make_wording = repeated_wording if draw.rng.random() < 0.4 else asked_wording
    statement, question = make_wording(draw)
    statement = " ".join(statement.split()) + draw.choice((".", ".", "", ";", " ."))
    return statement, " ".join(question.split()).replace(" ?", "?")


def lookup(draw: Draw, size: int, level: float) -> Document:
    """Values by key. A key may have several values, and a question several keys."""
    key_kind = draw.choice(("word", "word", "name", "pair", "pair", "capitals", "hexadecimal"))
    value_kind = draw.choice(("number", "number", "passkey", "word", "name", "hexadecimal"))
    if key_kind == "hexadecimal" and draw.rng.random() < 0.5:
        value_kind = "hexadecimal"
    statement, question = lookup_wording(draw)
    questions = draw.randint(1, max(1, min(8, size // 3 // (len(question) + 14))))
    characters = len(statement) + (30 if "hexadecimal" in (key_kind, value_kind) else 10)
    most = (size - questions * (len(question) + 14)) // characters
    count = min(max(1, most), draw.count(1 + round(12 * level)))
    keys, values = draw.values(key_kind, count), draw.values(value_kind, count)
    if count >= 4 and draw.rng.random() < 0.25:
        repeated = draw.randint(2, 4)
        keys[:repeated] = keys[:1] * repeated
    pairs = list(zip(keys, values, strict=True))
    draw.rng.shuffle(pairs)
    document = Document()
    statements = [statement.format(key=key, value=value) for key, value in pairs]
    document.add(draw.instruction(size // 3))
    room = size - len(document.text) - size // 16 - questions * (len(question) + 14)
    document.add(draw.scatter(statements, room) + draw.instruction(size // 8))
    asked = [[key] for key in draw.rng.choices(keys, k=questions)]
    if count > 1 and draw.rng.random() < 0.25:
        asked = [draw.rng.sample(sorted(set(keys)), min(len(set(keys)), questions))]
    for group in asked:
        document.add(question.format(key=draw.enumeration(group)))
        separator = " "
        for value in [value for name in group for key, value in pairs if key == name]:
            document.add(separator)
            document.add_answer(value)
            separator = ", "
        document.add("\n")
    return document


def classify(draw: Draw, size: int, level: float) -> Document:
    """Examples with their labels. Each has a cue for its label: an answer is a label whose cue has occurred before."""
    field, label_field = draw.title(), draw.title()
    classes = draw.randint(2, 2 + round(4 * level))
    cues_of_class = draw.randint(1, 1 + round(2 * level))
    cues = draw.values(draw.choice(("word", "word", "word", "name")), classes * cues_of_class)
    labels = [draw.phrase(2, 3).capitalize() for _ in range(classes)]
    if draw.rng.random() < 0.5:
        labels = draw.values(draw.choice(("word", "name", "number")), classes)
    tagged = draw.values(draw.choice(("word", "name")), TAGGED)
    templates = []
    more = round(3 * level)  # words around the cue
    for _ in range(draw.randint(1, 1 + more)):
        tag = draw.choice(("", "{tag}")) if more else ""
        template = f"{draw.phrase(0, more)} {tag} {draw.phrase(0, more)} {{cue}} {draw.phrase(0, more)}"
        template = " ".join(template.split()) + draw.choice(("", "", " ?", "?", ".", " !"))
        templates.append(template.capitalize() if draw.rng.random() < 0.5 else template)
    document = Document()
    document.add(draw.instruction(size // 4))
    seen, order = set(), []
    while len(document.text) < size - 50:
        if not order:
            order = draw.rng.sample(range(classes), classes)
        number = order.pop() if draw.in_turn else draw.rng.randrange(classes)
        cue = cues[number * cues_of_class + draw.rng.randrange(cues_of_class)]
        text = draw.choice(templates).format(cue=cue, tag=draw.choice(tagged))
        document.add(f"{field}: {text}\n{label_field}: ")
        add = document.add_answer if cue in seen else document.add
        add(labels[number])
        document.add("\n")
        seen.add(cue)
    return document


def answer(draw: Draw, size: int, level: float) -> Document:
    """Facts about invented things, one or several for each, and questions in other words."""
    things = draw.values(draw.choice(("name", "name", "word", "pair")), draw.count(1 + round(4 * level)))
    relations = []
    for _ in range(draw.randint(1, 3)):
        relations.append((draw.phrase(1, 2), draw.choice(("number", "name", "word"))))
    fact, question = draw.choice(FACTS), draw.choice(QUESTIONS)
    ask, end = draw.marker(INTROS), draw.marker(ANSWER_WORDS)
    line_break = draw.choice(("\n", "\n\n", " "))
    if draw.rng.random() < 0.5:  # "sample Xyz" instead of "Xyz"
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
        paragraphs.append(" ".join(sentences))
    document = Document()
    document.add(draw.instruction(size // 4))
    document.add(draw.scatter(list(filter(None, paragraphs)), size - 120 - len(document.text)))
    document.add(draw.instruction(size // 6))
    for fields in draw.rng.choices(facts, k=draw.randint(1, max(1, min(6, size // 200)))):
        document.add(f"{ask} {question.format(**fields)}{line_break}{end} ".lstrip())
        document.add_answer(fields["value"])
        document.add("\n")
    return document


def passage(draw: Draw, size: int, level: float) -> Document:
    """Numbered passages, and words of one of them: which one is it?"""
    part, line_break = draw.choice(PARTS), draw.choice(("\n", "\n\n"))
    count = draw.randint(2, 2 + round(6 * level))
    first = 1 if draw.rng.random() < 0.7 else draw.randint(1, 90)
    length = max(16, (size - 60) * 2 // 3 // count - len(part))
    document = Document()
    document.add(draw.instruction(size // 4))
    passages = []
    for number in range(first, first + count):
        words = " ".join(draw.lines(2 * length)).split()
        if draw.rng.random() < 0.5 or not words:
            words = draw.phrase(1, draw.count(min(12, length // 7))).split()
        while len(" ".join(words)) > length and len(words) > 1:
            words.pop()
        passages.append((number, words))
        document.add(f"{part} {number}: {' '.join(words)}{line_break}")
    document.add(draw.instruction(size // 8))
    end = draw.instruction(size // 8) + draw.marker(ANSWER_WORDS)
    named = draw.rng.random() < 0.5
    for _ in range(draw.randint(1, max(1, min(8, size // 60)))):
        number, words = draw.choice(passages)
        start = draw.rng.randrange(max(1, len(words) - 2))
        quote = " ".join(words[start : start + draw.choice((3, 6, 12, len(words)))])
        document.add(f"{draw.choice(QUOTING)}: {quote}{line_break}{end} ")
        if named:
            document.add(part)
            document.add_answer(f" {number}")
        else:
            document.add_answer(f"{part} {number}")
        document.add(line_break)
    return document


def frequent(draw: Draw, size: int, level: float) -> Document:
    """A list with repeated words: which are the most frequent ones, or how often does one occur?"""
    numbered = draw.rng.random() < 0.5
    common = draw.randint(1, 1 + round(3 * level))
    room = (size - 60 - 10 * common) // (12 if numbered else 8)
    repeats = max(2, min(draw.randint(2, 6), room // (common + 1)))
    rare = max(1, draw.randint(1, max(1, room - common * repeats)))
    words = draw.values(draw.choice(("word", "word", "name")), common + rare)
    more = draw.rng.random() < 0.5  # the first of them is the most frequent one, and so on
    items = words[common:]
    for i in range(common):
        items += [words[i]] * (repeats + (common - 1 - i if more else 0))
    draw.rng.shuffle(items)
    counted = words[0], items.count(words[0])
    if numbered:
        items = [f"{i}. {item}" for i, item in enumerate(items, 1)]
    document = Document()
    document.add(draw.choice((" ", " ", "\n", " ... ")).join(items) + "\n")
    if draw.rng.random() < 0.25:
        document.add(f"{draw.choice(COUNTED)} {counted[0]}:")
        document.add_answer(f" {counted[1]}")
    else:
        question = draw.choice(FREQUENT) if draw.rng.random() < 0.5 else draw.phrase(1, 5).capitalize()
        document.add(f"{draw.choice(INTROS)} {question}{draw.choice((':', '? ' + draw.marker(ANSWER_WORDS)))}".lstrip())
        for place, word in enumerate(words[:common], 1):
            document.add(f" {place}. " if numbered else " ")
            document.add_answer(word)
    document.add("\n")
    return document


def chain(draw: Draw, size: int, level: float) -> Document:
    """Assignments from name to name: which names have the value?"""
    assignment, kind = draw.choice(ASSIGNMENTS), draw.choice(("word", "capitals", "name", "capitals"))
    if draw.rng.random() < 0.5:  # a word before each name
        word = draw.choice((draw.choice(draw.words), draw.choice(draw.words).upper()))
        assignment = assignment.replace("{0}", f"{word} {{0}}").replace("{1}", f"{word} {{1}}")
    chains = draw.randint(1, 1 + round(level))
    longest = (size - 60) // (30 * chains)
    length = draw.randint(1, max(1, min(1 + round(4 * level), longest)))
    names, values = draw.values(kind, chains * length), draw.values("number", chains)
    groups, waiting = [], []
    for i, value in enumerate(values):
        group = names[i * length : (i + 1) * length]
        groups.append(group)
        sources = [value, *group[:-1]]
        waiting.append([assignment.format(name, source) for name, source in zip(group, sources, strict=True)])
    statements = []
    for i in draw.rng.sample([i for i in range(chains) for _ in range(length)], chains * length):
        statements.append(waiting[i].pop(0))
    document = Document()
    document.add(draw.instruction(size // 4))
    document.add(draw.scatter(statements, size - 100 - len(document.text)))
    before, after, end = draw.phrase(0, 5), draw.phrase(0, 4), draw.marker(ANSWER_WORDS)
    for i in draw.rng.sample(range(chains), draw.randint(1, chains)):
        style = draw.rng.random()
        if style < 0.4:
            question = f"{draw.choice(INTROS)} {draw.choice(HOLDERS)} {values[i]}:"
        elif style < 0.7:
            question = f"{before} {values[i]} {after}? {end}"
        else:  # asked, and begun to answer
            question = f"{before} {values[i]} {after}? {end} {after} {values[i]} {draw.choice(LINKS)}"
        document.add(" ".join(question.split()).replace(" ?", "?"))
        for name in groups[i]:
            document.add(" ")
            document.add_answer(name)
        document.add("\n")
    return document


TASKS = {task.__name__: task for task in (copy, lookup, classify, answer, passage, frequent, chain)}
