"""Documents of the pocket study's tasks: each answer follows from the text before it."""

import itertools
import re

import pytest

import pocket_draw
import pocket_tasks

SYLLABLES = ("ba", "ko", "li", "stee", "mu", "ra", "ple", "to", "gri", "nen")
WORDS = ["".join(parts) for parts in itertools.product(SYLLABLES, repeat=3)]
TEXT = "\n".join(f"def function_{i}(argument, other={i * 7}):  # line {i}" for i in range(200))
SENTENCES = [f"Return the {word} of every {other} in it." for word, other in itertools.pairwise(WORDS[:300])]
QUOTING = "|".join(pocket_draw.WORDINGS["quoting"])
SIZES, LEVELS = (60, 200, 660, 2600), (0.0, 0.4, 1.0)


def make(task, seed, size, level):
    draw = pocket_draw.Draw(f"{task} {seed} {size} {level}", WORDS, [TEXT], SENTENCES)
    return pocket_tasks.draw_document(draw, task, size, level)


def documents(task):
    """Ten of each size and level."""
    for size, level, seed in itertools.product(SIZES, LEVELS, range(10)):
        yield size, make(task, seed, size, level)


@pytest.mark.parametrize("task", pocket_tasks.TASKS)
def test_documents_fit_and_have_their_answers(task):
    """Each answer but that of `passage`, or a count, occurs in the text before it."""
    answers = 0
    for size, document in documents(task):
        assert len(document.text) < 2.5 * size + 700, document.text  # the quotes of `passage` make it longer
        last_end = 0
        for start, end in document.answers:
            assert last_end <= start < end <= len(document.text)
            last_end = end
            answers += 1
            answer, before = document.text[start:end].strip(), document.text[:start]
            is_count = task == "frequent" and answer.isdecimal()
            assert answer in before or is_count or task == "passage", document.text
    assert answers > 120  # one in each document, on average
    assert make(task, 1, 660, 1.0).text == make(task, 1, 660, 1.0).text != make(task, 2, 660, 1.0).text


def test_a_label_of_classify_has_been_seen_with_its_cue():
    for _, document in documents("classify"):
        for start, end in document.answers:
            label = document.text[start:end].strip()
            examples = document.text[:start].split("\n")
            words = set(examples[-2].split())
            earlier = [examples[i - 1] for i in range(1, len(examples) - 2) if examples[i].endswith(f": {label}")]
            assert any(words & set(example.split()) for example in earlier)


def test_a_passage_has_the_words_of_its_quote():
    for _, document in documents("passage"):
        for start, end in document.answers:
            part, number = document.text[:end].split()[-2:]
            quote = re.findall(rf"(?:{QUOTING}): (.*)$", document.text[:start], re.MULTILINE)[-1]
            passages = re.findall(rf"(?:^| ){part} (\d+): (.*)$", document.text, re.MULTILINE)
            assert quote in dict(passages)[number]


def test_frequent_words_are_the_most_frequent_ones():
    for _, document in documents("frequent"):
        listed, _, rest = document.text.rpartition("\n")[0].rpartition("\n")
        items = re.sub(r"\b\d+\. |\.\.\. ", "", listed).split()
        answers = [document.text[start:end].strip() for start, end in document.answers]
        counts = sorted(map(items.count, set(items)), reverse=True)
        if answers[0].isdecimal():
            assert items.count(rest.split(":")[0].split()[-1]) == int(answers[0])
        else:
            assert [items.count(answer) for answer in answers] == counts[: len(answers)]
