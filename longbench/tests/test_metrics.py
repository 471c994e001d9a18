"""Each metric on worked cases, and against the published function where that is right."""

import importlib.util
import random
import sys
import types
from pathlib import Path

import pytest
from rapidfuzz import fuzz

import metrics

ENDS = (" ", " ", " ", ". ", ".", "\n", "  ", "..", " . ")


@pytest.fixture(scope="module")
def published():
    """The metrics of the installed lm-eval, which are LongBench's. rapidfuzz, in whole percent, stands in for the
    `fuzzywuzzy` that it imports, which is not installed."""
    folder = importlib.util.find_spec("lm_eval").submodule_search_locations[0]
    fuzzy, jieba = types.ModuleType("fuzzywuzzy"), types.ModuleType("jieba")
    fuzzy.fuzz = types.SimpleNamespace(ratio=lambda a, b: round(fuzz.ratio(a, b)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fuzzywuzzy", fuzzy)
        patch.setitem(sys.modules, "jieba", jieba)
        spec = importlib.util.spec_from_file_location("published", Path(folder, "tasks", "longbench", "metrics.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def random_text(rng: random.Random, words: list[str], most: int) -> str:
    return "".join(rng.choice(words) + rng.choice(ENDS) for _ in range(rng.randint(0, most)))


def test_worked_cases():
    assert metrics.qa_f1("The cat sat", "a cat") == pytest.approx(2 * 1 * 0.5 / 1.5)  # cat sat | cat
    assert metrics.count("There are 7 or 17, no: 7", "7") == pytest.approx(2 / 3)
    # three parts of the right name: the loop removes the 1st, skips the 2nd, removes the 3rd
    assert metrics.classification("Food and drink", "Food and drink", ["Food", "and", "drink", "Food and drink"]) == 0.5
    assert metrics.rouge("the cat the cat the cat", "the cat") == pytest.approx(1.0)  # a word counts once
    # the words of two sentences are put together: {b} and {a}, 2 of the prediction's 2 and of the answer's 3
    assert metrics.rouge("b. a", "a b c") == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert metrics.rouge("...", "some answer") == metrics.rouge("some text", "") == 0.0
    # longer than Python's recursion limit, at which the published code fails
    assert metrics.rouge(" ".join(f"w{i}" for i in range(1200)), "w0") == pytest.approx(2 / 1201)


def test_code_sim_takes_the_first_line_of_code():
    assert metrics.code_sim("\n\nreturn x\nmore", "return x") == 1.0
    assert metrics.code_sim("// no\n`no`\nx = 1 # no\nreturn x", "return x") == 1.0
    assert metrics.code_sim("    return x", "return x") == 0.8  # 2 * 8 / (12 + 8): leading spaces count
    assert metrics.code_sim("   \nreturn x", "return x") == round(100 * 2 * 1 / 11) / 100  # a line of spaces counts
    assert metrics.code_sim("aaab", "aaa") == 0.86  # 85.7 %, whole percent


def test_random_texts_score_as_in_the_published_code(published):
    rng = random.Random(0)
    words = "the The a an cat cat's dog, sat. 7 12 7. don't (no) Ärger x1 12th ١٢".split()
    names = ["a", "b", "ab", "abc", "bc", "c", "cab", "abcab"]
    for _ in range(1000):
        prediction, answer = random_text(rng, words, 12), random_text(rng, words, 6)
        assert metrics.qa_f1(prediction, answer) == published.qa_f1_score(prediction, answer)
        assert metrics.rouge(prediction, answer) == published.rouge_score(prediction, answer)
        number = str(rng.choice([7, 12, 1]))
        assert metrics.count(prediction, number) == published.count_score(prediction, number)
        paragraph = f"Paragraph {number}"
        assert metrics.retrieval(prediction, paragraph) == published.retrieval_score(prediction, paragraph)
        classes = rng.sample(names, rng.randint(1, 8)) + rng.choices(names, k=rng.randint(0, 2))
        prediction, answer = "".join(rng.choices("abc ", k=rng.randint(0, 8))), rng.choice(names)
        expected = published.classification_score(prediction, answer, all_classes=classes)
        assert metrics.classification(prediction, answer, classes) == expected
        # the published code_sim skips lines of white space; LongBench's own scorer does not
        prediction = random_text(rng, ["x", "= 1", "def f():", "#", "//"], 6)
        if all(line.strip() for line in prediction.lstrip("\n").split("\n")):
            assert metrics.code_sim(prediction, "x = 1") == published.code_sim_score(prediction, "x = 1")
