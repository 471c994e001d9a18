"""LongBench's metrics: the score of one prediction against one accepted answer, 0 to 1.

Definitions: LongBench, arXiv 2308.14508, and its published scorer with the libraries it names. The values are equal to
that scorer's, except for ROUGE-L of texts on which its library raises RecursionError: there the scorer counts 0.
"""

import re
import string
from collections import Counter

from rapidfuzz import fuzz

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def qa_f1(prediction: str, answer: str, all_classes=None) -> float:
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


def rouge_l(prediction: str, answer: str, all_classes=None) -> float:
    """F1 of summary-level ROUGE-L (Lin 2004) as the library `rouge` 1.0.1 defines it, without its recursion.

    Sentences end at full stops. The words of a longest common subsequence of each pair of sentences are collected in
    one set; recall and precision are its size over the number of different words of either text.
    """
    predicted, expected = sentences(prediction), sentences(answer)
    if not predicted or not expected:
        return 0.0
    common = set()
    for reference in expected:
        for sentence in predicted:
            shared = set(reference).intersection(sentence)
            if not shared <= common:  # otherwise the pair adds no word
                common |= lcs_words(reference, [word for word in sentence if word in shared])
    recall = len(common) / len(set().union(*expected))
    precision = len(common) / len(set().union(*predicted))
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def sentences(text: str) -> list[list[str]]:
    """The words of each sentence. White space between two full stops counts as one empty word, as in `rouge`."""
    return [part.split() or [""] for part in text.split(".") if part]


def lcs_words(a: list[str], b: list[str]) -> set[str]:
    """The words of the longest common subsequence that `rouge` takes, where there are several of the same length.

    Words of b that are not in a may be left out: they change neither the subsequence nor the choice.
    """
    lengths = [[0] * (len(b) + 1)]  # lengths[i][j]: of the longest common subsequence of a[:i] and b[:j]
    for word in a:
        above, row = lengths[-1], [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        lengths.append(row)
    words, i, j = set(), len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            words.add(a[i])
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words


def classification(prediction: str, answer: str, all_classes: list[str]) -> float:
    """1 / (number of classes named in the prediction) if the right class is among them, else 0; case-sensitive.

    Named classes that are part of the right class's name do not count. LongBench's scorer removes them from the list
    that it iterates over and so skips the class after each one; this is reproduced.
    """
    named = [name for name in all_classes if name in prediction]
    i = 0
    while i < len(named):
        if named[i] != answer and named[i] in answer:
            del named[i]  # the next class moves here and is skipped
        i += 1
    return 1.0 / len(named) if answer in named else 0.0


def count(prediction: str, answer: str, all_classes=None) -> float:
    """Share of the numbers in the prediction that equal the answer, digit for digit."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(str(answer)) / len(numbers) if numbers else 0.0


def retrieval(prediction: str, answer: str, all_classes=None) -> float:
    """Share of the numbers in the prediction that are the answer's, "Paragraph <number>"; otherwise ValueError."""
    paragraph = re.search(r"Paragraph (\d+)", answer)
    if not paragraph:
        raise ValueError(f"the answer {answer!r} is not of the form 'Paragraph 12'")
    return count(prediction, paragraph[1])


def code_sim(prediction: str, answer: str, all_classes=None) -> float:
    """Similarity of the answer and the prediction's first line without a backtick, # or //; in steps of 0.01.

    2 * LCS / (sum of lengths) over characters, in whole percent, as `fuzzywuzzy` 0.18.0 computes it with
    python-Levenshtein 0.27 (with difflib its values differ). Leading spaces count.
    """
    lines = prediction.lstrip("\n").split("\n")
    code = [line for line in lines if not ("`" in line or "#" in line or "//" in line)]
    return round(fuzz.ratio(code[0] if code else "", answer)) / 100


METRICS = {
    "qa_f1": qa_f1,
    "rouge": rouge_l,
    "classification": classification,
    "count": count,
    "retrieval": retrieval,
    "code_sim": code_sim,
}
