"""LongBench's metrics: the score of one prediction against one accepted answer, both texts, 0 to 1.

Definitions: LongBench, arXiv 2308.14508, and its published scorer with the libraries it names. The values are equal to
that scorer's, except for ROUGE-L of texts on which its library raises RecursionError: there the scorer counts 0.
"""

import re
import string
import sys
from collections import Counter

from rapidfuzz import fuzz
from rouge import Rouge

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
ROUGE_L = Rouge(["rouge-l"])
ROUGE_RECURSION = 10_000  # LongBench's scorer counts 0 where Python's default of 1,000 is exceeded


def qa_f1(prediction, answer, all_classes=None):
    """F1 of the words in common, with multiplicity; lower case, without punctuation and articles."""
    predicted, expected = normalized_words(prediction), normalized_words(answer)
    common = sum((Counter(predicted) & Counter(expected)).values())
    if not common:
        return 0.0
    precision = common / len(predicted)
    recall = common / len(expected)
    return 2 * precision * recall / (precision + recall)


def normalized_words(text: str) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(NO_PUNCTUATION)).split()


def rouge(prediction, answer, all_classes=None):
    """F1 of summary-level ROUGE-L (Lin 2004), by the library `rouge`; 0 for a text without a sentence."""
    sys.setrecursionlimit(ROUGE_RECURSION)  # the library recurses as deeply as two sentences have words
    try:
        scores = ROUGE_L.get_scores([prediction], [answer], avg=True)
    except ValueError:
        return 0.0
    return scores["rouge-l"]["f"]


def classification(prediction, answer, all_classes):
    """1 / (number of classes named in the prediction) if the right class is among them, else 0; case-sensitive.

    Named classes that are part of the right class's name do not count. LongBench's scorer skips the class after each of
    them; this is reproduced.
    """
    named = [name for name in all_classes if name in prediction]
    for name in named:
        if name != answer and name in answer:
            named.remove(name)  # during the loop: the next class is skipped
    return 1.0 / len(named) if answer in named else 0.0


def count(prediction, answer, all_classes=None):
    """Share of the numbers in the prediction that equal the answer, digit for digit."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(str(answer)) / len(numbers) if numbers else 0.0


def retrieval(prediction, answer, all_classes=None):
    """Share of the numbers in the prediction that are the answer's, "Paragraph <number>"; otherwise ValueError."""
    paragraph = re.search(r"Paragraph (\d+)", answer)
    if not paragraph:
        raise ValueError(f"the answer {answer!r} is not of the form 'Paragraph 12'")
    return count(prediction, paragraph[1])


def code_sim(prediction, answer, all_classes=None):
    """Similarity of the answer and the prediction's first line without a backtick, # or //; in steps of 0.01.

    2 * LCS / (sum of lengths) over characters, in whole percent, as `fuzzywuzzy` 0.18.0 computes it with
    python-Levenshtein 0.27 (with difflib its values differ). Leading spaces count.
    """
    code = ""
    for line in prediction.lstrip("\n").split("\n"):
        if not re.search("`|#|//", line):
            code = line
            break
    return round(fuzz.ratio(code, answer)) / 100


def contained(prediction, answer, all_classes=None):
    """1 if the answer is part of the prediction (HELMET's score of JSON key-value recall)."""
    return float(answer.lower() in prediction.lower())


def exact(prediction, answer, all_classes=None):
    """1 if the prediction is the answer (HELMET's score of labels), spaces and a full stop left out."""
    return float(prediction.strip().rstrip(".") == answer)


FUNCTIONS = (contained, exact, qa_f1, rouge, classification, count, retrieval, code_sim)
METRICS = {function.__name__: function for function in FUNCTIONS}
