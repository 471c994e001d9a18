"""Each metric on worked cases, and against the library or the published function where that is right."""

import importlib.util
import random
import sys
import types
from pathlib import Path

import pytest
from rapidfuzz import fuzz

import metrics


@pytest.fixture(scope="module")
def published():
    """The metrics of the installed lm-eval, which are LongBench's. It imports `fuzzywuzzy`, which is not installed:
    rapidfuzz stands in for it, in whole percent as there."""
    folder = importlib.util.find_spec("lm_eval").submodule_search_locations[0]
    path = Path(folder) / "tasks" / "longbench" / "metrics.py"
    fuzzy, jieba = types.ModuleType("fuzzywuzzy"), types.ModuleType("jieba")
    fuzzy.fuzz = types.SimpleNamespace(ratio=lambda a, b: round(fuzz.ratio(a, b)))
    sys.modules.update({"fuzzywuzzy": fuzzy, "jieba": jieba})
    try:
        spec = importlib.util.spec_from_file_location("published_metrics", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        del sys.modules["fuzzywuzzy"], sys.modules["jieba"]
    return module


def texts(rng: random.Random, words: list[str], most: int, ends=(" ", " ", " ", ". ", ".", "\n", "  ", "..", " . ")):
    return "".join(rng.choice(words) + rng.choice(ends) for _ in range(rng.randint(0, most)))


def test_worked_cases():
    assert metrics.qa_f1("The cat sat", "a cat") == pytest.approx(2 * 1 * 0.5 / 1.5)  # cat sat | cat
    assert metrics.qa_f1("no no yes", "no no no") == pytest.approx(2 / 3)  # each word as often as both have it
    assert metrics.count("There are 7 or 17, no: 7", "7") == pytest.approx(2 / 3)
    assert metrics.retrieval("Paragraph 12, not 1", "Paragraph 12") == 0.5
    assert metrics.classification("Date or City", "Date", ["Date", "City"]) == 0.5
    # three parts of the right name: the loop removes the 1st, skips the 2nd, removes the 3rd
    assert metrics.classification("Food and drink", "Food and drink", ["Food", "and", "drink", "Food and drink"]) == 0.5


def test_qa_f1_count_and_retrieval_are_the_published_ones(published):
    rng = random.Random(0)
    words = "the The a an cat cat's dog, sat. 7 12 7. don't (no) Ärger x1 12th ١٢".split()
    for _ in range(1000):
        prediction, answer = texts(rng, words, 12), texts(rng, words, 6)
        assert metrics.qa_f1(prediction, answer) == published.qa_f1_score(prediction, answer)
        number = str(rng.choice([7, 12, 1]))
        assert metrics.count(prediction, number) == published.count_score(prediction, number)
        paragraph = f"Paragraph {number}"
        assert metrics.retrieval(prediction, paragraph) == published.retrieval_score(prediction, paragraph)


# --- ROUGE
def test_rouge():
    assert metrics.rouge_l("the cat the cat the cat", "the cat") == pytest.approx(1.0)  # a word counts once
    # the words of two sentences are put together: {b} and {a}, 2 of the prediction's 2 and of the answer's 3
    assert metrics.rouge_l("b. a", "a b c") == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert metrics.rouge_l("...", "some answer") == metrics.rouge_l("some text", "") == 0.0


def test_rouge_is_the_published_one_except_for_long_sentences(published):
    rng = random.Random(1)
    for _ in range(100):
        prediction, answer = texts(rng, ["w1", "w2", "w3"], 25), texts(rng, ["w1", "w2", "w3"], 25)
        assert metrics.rouge_l(prediction, answer) == published.rouge_score(prediction, answer)
    text = " ".join(f"w{i}" for i in range(1200))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    assert published.rouge_score(text, "w0") == 0.0  # RecursionError
    sys.setrecursionlimit(limit)
    assert metrics.rouge_l(text, "w0") == pytest.approx(2 / 1201)


# --- classification and code
def test_classification_is_the_published_one(published):
    rng, names = random.Random(4), ["a", "b", "ab", "abc", "bc", "c", "cab", "abcab"]
    for _ in range(3000):
        classes = rng.sample(names, rng.randint(1, 8)) + rng.choices(names, k=rng.randint(0, 2))
        prediction, answer = "".join(rng.choices("abc ", k=rng.randint(0, 8))), rng.choice(names)
        expected = published.classification_score(prediction, answer, all_classes=classes)
        assert metrics.classification(prediction, answer, classes) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("\n\nreturn x\nmore", "return x", 1.0),
        ("// no\n`no`\nx = 1 # no\nreturn x", "return x", 1.0),
        ("# nothing else", "return x", 0.0),
        ("    return x", "return x", 0.8),  # 2 * 8 / (12 + 8): leading spaces count
        ("   \nreturn x", "return x", round(100 * 2 * 1 / 11) / 100),  # a line of spaces is the first line
        ("aaab", "aaa", 0.86),  # 85.7 %, whole percent
    ],
)
def test_code_sim(prediction, answer, score):
    assert metrics.code_sim(prediction, answer) == score


def test_code_sim_is_the_published_one_except_for_lines_of_spaces(published):
    """lm-eval's skips lines of white space (its task version 6); LongBench's scorer takes them."""
    rng = random.Random(5)
    for _ in range(1000):
        prediction = texts(rng, ["x", "= 1", "def f():", "#", "  ", "//"], 6)
        answer = texts(rng, ["x", "= 1", "def"], 4)
        if all(line.strip() for line in prediction.lstrip("\n").split("\n")):
            assert metrics.code_sim(prediction, answer) == published.code_sim_score(prediction, answer)
