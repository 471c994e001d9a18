"""LongBench's metrics: the score of one prediction against one accepted answer, 0 to 1.

Definitions: LongBench, arXiv 2308.14508, and its published scorer, with the libraries it names. The numbers are that
scorer's, but for ROUGE-L of texts so long that its library fails (see rouge_l). `all_classes` is used by one metric.
"""

import re
import string
from collections import Counter
from functools import lru_cache

from rapidfuzz import fuzz

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# `rouge` recurses once a step of its path; of the 1,000 frames Python allows, 10 are LongBench's scorer and the library
DEEPEST_PATH = 990


def qa_f1(prediction: str, answer: str, all_classes=None) -> float:
    """F1 of the words in common, each counted as often as both have it; lower case, no punctuation, no articles."""
    ours, theirs = _plain_words(prediction), _plain_words(answer)
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def _plain_words(text: str) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(NO_PUNCTUATION)).split()


def rouge_l(prediction: str, answer: str, all_classes=None) -> float:
    """F of summary-level ROUGE-L (Lin 2004) as the library `rouge` 1.0.1 defines it, see rouge_l_and_path."""
    return rouge_l_and_path(prediction, answer)[0]


def rouge_l_and_path(prediction: str, answer: str) -> tuple[float, int]:
    """(F of ROUGE-L, steps of the longest path that `rouge` 1.0.1 walks for it).

    Sentences end at full stops. The words of the longest common subsequence of each pair of sentences are put
    together, as a set; recall and precision are its size over the number of different words of either text. Where a
    pair has several such subsequences the words depend on which is taken: see lcs_words. A text without a sentence
    scores 0. The library walks by recursion: with more than DEEPEST_PATH steps it raises RecursionError, for which
    LongBench gives 0; here the score is right.
    """
    ours, theirs = _sentences(prediction), _sentences(answer)
    if not ours or not theirs:
        return 0.0, 0
    our_words, their_words = (set().union(*(words for _, words, _ in text)) for text in (ours, theirs))
    union, longest = set(), 0
    for reference, reference_words, _ in theirs:
        for response, response_words, places in ours:
            may_be_deep = len(reference) + len(response) >= DEEPEST_PATH
            if may_be_deep or not reference_words & response_words <= union:  # else it adds no word
                words, path = lcs_words(reference, len(response), places)
                union |= words
                longest = max(longest, path)
    recall, precision = len(union) / len(their_words), len(union) / len(our_words)
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8)), longest


@lru_cache(maxsize=4096)  # an answer is read once for all models
def _sentences(text: str) -> list[tuple[list[str], set[str], dict[str, int]]]:
    """Of each sentence its words, the set of them, and where each one stands: bit j is set for place j.

    Between two full stops with nothing but white space there is one word, the empty one, as in the library.
    """
    sentences = []
    for part in text.split("."):
        if part:
            words, places = part.split() or [""], {}
            for place, word in enumerate(words):
                places[word] = places.get(word, 0) | 1 << place
            sentences.append((words, set(words), places))
    return sentences


def lcs_words(reference: list[str], length: int, places: dict[str, int]) -> tuple[set[str], int]:
    """(words of a longest common subsequence, steps of the path to it from the ends of both to a beginning).

    places: of the other sequence, `length` words long, as _sentences gives it. The path in the table of lengths is
    the library's: from the far corner diagonally where the words are equal, else up to the shorter reference if
    that alone keeps the length, else left.

    Rows of the table are integers of one bit a column (Hyyro 2004): a bit of `rises` says that the length grows there
    by one, so the way leads up exactly from the bits that are set, and to the left as far as the next bit.
    """
    full = (1 << length) - 1
    rows, flat = [], full  # flat: complement of `rises`
    for word in reference:
        match = places.get(word, 0)
        both = flat & match
        flat = ((flat + both) | (flat - both)) & full
        rows.append((match, match | (flat ^ full)))
    words, left, path = set(), length, 1
    for i in range(len(reference) - 1, -1, -1):
        match, stops = rows[i]
        place = (stops & ((1 << left) - 1)).bit_length()
        path += left - place
        left = place
        if not left:
            break
        path += 1
        if match >> (left - 1) & 1:
            words.add(reference[i])
            left -= 1
            if not left:
                break
    return words, path


def classification(prediction: str, answer: str, all_classes: list[str]) -> float:
    """One over the number of classes named in the prediction, if the right one is among them, else 0; case counts.

    Named classes that are part of the right one's name do not count. LongBench's scorer takes them out of its list
    while it walks along it, and so passes over the one after each: so does this.
    """
    named = [name for name in all_classes if name in prediction]
    i = 0
    while i < len(named):
        if named[i] != answer and named[i] in answer:
            del named[i]  # the next one moves here and is passed over
        i += 1
    return 1.0 / len(named) if answer in named else 0.0


def count(prediction: str, answer: str, all_classes=None) -> float:
    """Share of the prediction's numbers that are the answer, digit for digit."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(str(answer)) / len(numbers) if numbers else 0.0


def retrieval(prediction: str, answer: str, all_classes=None) -> float:
    """Share of the prediction's numbers that are the answer's, which reads "Paragraph <number>"; else ValueError."""
    paragraph = re.search(r"Paragraph (\d+)", answer)
    if not paragraph:
        raise ValueError(f"the answer {answer!r} is not of the form 'Paragraph 12'")
    return count(prediction, paragraph[1])


def code_sim(prediction: str, answer: str, all_classes=None) -> float:
    """Similarity of the answer and the prediction's first line without a backtick, # or //; in steps of 0.01.

    It is 2 * LCS / (sum of lengths) over characters, in whole percent: what `fuzzywuzzy` 0.18.0 gives on top of
    python-Levenshtein 0.27, its fast back end (on top of difflib it gives other numbers). Leading spaces count.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not ("`" in line or "#" in line or "//" in line)), "")
    return round(fuzz.ratio(line, answer)) / 100


METRICS = {
    "qa_f1": qa_f1,
    "rouge": rouge_l,
    "classification": classification,
    "count": count,
    "retrieval": retrieval,
    "code_sim": code_sim,
}
