"""Each metric on worked cases, and against the library or the published function where that is right."""

import importlib.util
import random
import re
import sys
import threading
import types
from pathlib import Path

import pytest
from rapidfuzz import fuzz
from rouge import Rouge

import metrics


@pytest.fixture(scope="module")
def published():
    """The metrics of the installed lm-eval, which it took from LongBench; `fuzzywuzzy`, which it imports and the kit
    does without, is stood in for by rapidfuzz, in whole percent as there."""
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


def help_sentences() -> list[str]:
    from pydoc_data.topics import topics

    return [s for _, page in sorted(topics.items()) for s in re.split(r"(?<=[.])\s+", " ".join(page.split()))]


# ----------------------------------------------------------------------------- QA F1
@pytest.mark.parametrize(
    "prediction, answer, score",
    [
        ("The cat sat", "a cat", 2 * 1 * 0.5 / 1.5),  # cat sat | cat
        ("It's Mr. Smith-Jones.", "its mr smithjones", 1.0),
        ("no no yes", "no no no", 2 / 3),  # each word as often as both have it
        ("", "", 0.0),
        ("the", "a", 0.0),
        ("Paris", "London", 0.0),
        ("anthem", "them", 0.0),  # an article is a whole word
    ],
)
def test_qa_f1(prediction, answer, score):
    assert metrics.qa_f1(prediction, answer) == pytest.approx(score, abs=1e-12)


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


# ----------------------------------------------------------------------------- ROUGE
def test_rouge_counts_a_word_once():
    # sets {the, cat}: all are found, whatever their number
    assert metrics.rouge_l("the cat the cat the cat", "the cat") == pytest.approx(1.0)
    # of two sentences the words are put together: {b} and {a}, 2 of the prediction's 2 and the answer's 3
    assert metrics.rouge_l("b. a", "a b c") == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    # "b a" and "a b c" have two longest common subsequences, a and b; `rouge` takes one
    assert metrics.rouge_l("b a", "a b c") == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))


@pytest.mark.parametrize("text", ["", ".", "...", "....."])
def test_rouge_without_a_sentence_is_zero(text):
    assert metrics.rouge_l(text, "some answer") == metrics.rouge_l("some text", text) == 0.0


def test_rouge_is_the_librarys_number_on_random_texts():
    """Few different words, so that most pairs have several longest common subsequences."""
    rng, original, compared = random.Random(1), Rouge(), 0
    for _ in range(1500):
        words = [f"w{i}" for i in range(rng.choice([2, 3, 5, 10, 40]))]
        prediction, answer = texts(rng, words, 25), texts(rng, words, 25)
        try:
            expected = original.get_scores([prediction], [answer], avg=True)["rouge-l"]["f"]
        except ValueError:  # no sentence
            expected = 0.0
        assert metrics.rouge_l(prediction, answer) == expected, (prediction, answer)
        compared += expected > 0
    assert compared > 1100


def test_rouge_is_the_librarys_number_on_natural_texts():
    rng, original, sentences = random.Random(2), Rouge(), help_sentences()
    for _ in range(15):
        at = rng.randrange(len(sentences) - 20)
        answer = sentences[at : at + rng.randint(2, 12)]
        mixed = rng.sample(answer, len(answer) // 2) + rng.sample(sentences, 4)
        prediction = " ".join(word for s in mixed for word in s.split() if rng.random() < 0.8)
        pair = prediction, " ".join(answer)
        assert metrics.rouge_l(*pair) == original.get_scores([pair[0]], [pair[1]], avg=True)["rouge-l"]["f"]


def test_words_and_path_are_the_librarys_step_by_step():
    """Against a walk through the full table of lengths, as the docstring of lcs_words describes it."""
    rng = random.Random(3)
    for _ in range(300):
        ours, theirs = ([rng.choice("abcde") for _ in range(rng.randint(1, 12))] for _ in range(2))
        n, m = len(theirs), len(ours)
        table = [[0] * (m + 1) for _ in range(n + 1)]
        for i in range(n):
            for j in range(m):
                longer = max(table[i][j + 1], table[i + 1][j])
                table[i + 1][j + 1] = table[i][j] + 1 if theirs[i] == ours[j] else longer
        words, i, j, steps = [], n, m, 1
        while i and j:
            if theirs[i - 1] == ours[j - 1]:
                words.append(theirs[i - 1])
                i, j = i - 1, j - 1
            elif table[i - 1][j] > table[i][j - 1]:
                i -= 1
            else:
                j -= 1
            steps += 1
        places = metrics._sentences(" ".join(ours))[0][2]
        assert metrics.lcs_words(theirs, m, places) == (set(words), steps)
        assert len(words) == table[n][m]


def library_fails(prediction: str, answer: str) -> bool:
    """Whether `rouge` raises RecursionError, with about as few frames below it as under LongBench's scorer."""
    failed = []

    def run():
        try:
            Rouge().get_scores([prediction], [answer], avg=True)
        except RecursionError:
            failed.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return bool(failed)


@pytest.mark.parametrize("ours, theirs, fails", [(600, 600, False), (700, 700, True), (1100, 1, True), (1, 1100, True)])
def test_texts_on_which_the_library_fails_are_scored_and_known(ours, theirs, fails):
    """No full stops, every other word in common; the library recurses once for each word that it passes."""
    prediction = " ".join(f"w{i}" for i in range(ours))
    answer = " ".join(f"w{i}" if i % 2 == 0 else f"x{i}" for i in range(theirs))
    score, path = metrics.rouge_l_and_path(prediction, answer)
    common = len(set(prediction.split()) & set(answer.split()))
    precision, recall = common / ours, common / theirs
    assert score == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-7)
    assert library_fails(prediction, answer) == fails == (path > metrics.DEEPEST_PATH)


def test_the_deepest_path_is_where_the_library_fails():
    def path(n: int) -> tuple[str, str]:
        return " ".join(f"w{i}" for i in range(n - 1)), "none"  # n steps, one more than words

    deepest = metrics.DEEPEST_PATH
    assert [metrics.rouge_l_and_path(*path(n))[1] for n in (deepest, deepest + 1)] == [deepest, deepest + 1]
    first = next(n for n in range(deepest - 20, deepest + 20) if library_fails(*path(n)))
    assert deepest - 5 <= first <= deepest + 5  # a thread has other frames below than a script


# ----------------------------------------------------------------------------- classification
@pytest.mark.parametrize(
    "prediction, answer, classes, score",
    [
        ("Date", "Date", ["Date", "City"], 1.0),
        ("Date or City", "Date", ["Date", "City"], 0.5),
        ("date", "Date", ["Date", "City"], 0.0),  # case counts
        ("Abbreviation of code", "Abbreviation of code", ["code", "Abbreviation of code"], 1.0),  # a part is taken out
        # three parts of the right name: the walk takes out the 1st, passes over the 2nd, takes out the 3rd
        ("Food and drink", "Food and drink", ["Food", "and", "drink", "Food and drink"], 0.5),
        ("Food", "Food and drink", ["Food", "Food and drink"], 0.0),
        ("", "Date", ["Date", "City"], 0.0),
    ],
)
def test_classification(prediction, answer, classes, score):
    assert metrics.classification(prediction, answer, classes) == score


def test_classification_is_the_published_one(published):
    rng, names = random.Random(4), ["a", "b", "ab", "abc", "bc", "c", "cab", "abcab"]
    for _ in range(3000):
        classes = rng.sample(names, rng.randint(1, 8)) + rng.choices(names, k=rng.randint(0, 2))
        prediction, answer = "".join(rng.choices("abc ", k=rng.randint(0, 8))), rng.choice(names)
        expected = published.classification_score(prediction, answer, all_classes=classes)
        assert metrics.classification(prediction, answer, classes) == expected


# ----------------------------------------------------------------------------- numbers
def test_count_and_retrieval():
    assert metrics.count("There are 7 or 17, no: 7", "7") == pytest.approx(2 / 3)
    assert metrics.count("seven", "7") == metrics.count("", "7") == metrics.count("07", "7") == 0
    assert metrics.retrieval("Paragraph 12, not 1", "Paragraph 12") == 0.5
    with pytest.raises(ValueError, match="Paragraph 12"):
        metrics.retrieval("12", "the twelfth")


# ----------------------------------------------------------------------------- code
@pytest.mark.parametrize(
    "prediction, answer, score",
    [
        ("\n\nreturn x\nmore", "return x", 1.0),
        ("# a comment\nreturn x", "return x", 1.0),
        ("// no\n`no`\nx = 1 # no\nreturn x", "return x", 1.0),
        ("# nothing else", "return x", 0.0),
        ("    return x", "return x", 0.8),  # 2 * 8 / (12 + 8): leading spaces count
        ("   \nreturn x", "return x", 0.0 + round(100 * 2 * 1 / 11) / 100),  # a line of spaces is the first line
        ("abcd", "abxd", 0.75),
        ("abc", "ab", 0.8),
        ("aaab", "aaa", 0.86),  # 85.7 %, whole percent
        ("", "return x", 0.0),
    ],
)
def test_code_sim(prediction, answer, score):
    assert metrics.code_sim(prediction, answer) == score


def test_code_sim_is_the_published_one_but_for_lines_of_spaces(published):
    """lm-eval's passes over a first line of white space (its task version 6); LongBench's scorer takes it."""
    rng, differ = random.Random(5), 0
    for _ in range(1000):
        prediction, answer = (
            texts(rng, ["x", "= 1", "def f():", "#", "  ", "//"], 6),
            texts(rng, ["x", "= 1", "def"], 4),
        )
        ours, theirs = metrics.code_sim(prediction, answer), published.code_sim_score(prediction, answer)
        if prediction.lstrip("\n").split("\n")[0].strip() and all(line.strip() for line in prediction.split("\n")):
            assert ours == theirs, (prediction, answer)
        differ += ours != theirs
    assert differ  # the exception is real


def test_differences_to_lm_eval(published):
    """All there are: white space (above); `rouge`'s RecursionError, which it scores 0 like LongBench; and that it
    strips a prediction before scoring, where LongBench strips leading newlines and, for some sets, cuts lines."""
    text = " ".join(f"w{i}" for i in range(1200))
    assert published.rouge_score(text, "w0") == 0.0 and metrics.rouge_l(text, "w0") == pytest.approx(2 / 1201)
    short = "one short text. and another"
    assert published.rouge_score(short, "another. short text") == metrics.rouge_l(short, "another. short text") > 0
