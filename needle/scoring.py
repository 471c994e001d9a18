"""Scores of one answer, and the result file of one cell of the grid. Nothing here needs a model.

Result files have first the keys of the paper's code, which describe the first trial (but the score is the mean over all
trials), then ours.
"""

import re
from collections import Counter
from pathlib import Path

from run import write_json

from stats import wilson

PUNCTUATION = r"(?:[^\w\s]|_)"
# punctuation that separates a number from words ("4821.The", "is:4821"), unlike a mark inside it ("4,821")
NUMBER_EDGE = re.compile(rf"(?<=\d)(?![.,']\d){PUNCTUATION}+|(?<!\d){PUNCTUATION}+(?=\d)")
# Chinese and Japanese characters: kana and Han, also half-width and rare ones
CJK = re.compile("([\u3005-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff])")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation. Each Chinese or Japanese character is a word."""
    plain = re.sub(PUNCTUATION, "", text.lower())
    return CJK.sub(r" \1 ", plain).split()


def word_share(answer: str, response: str) -> float:
    """Share of the answer's distinct words that the response has, 0 to 1."""
    expected = set(words(answer))
    found = set(words(response))
    found.update(words(NUMBER_EDGE.sub(" ", response)))
    return len(expected & found) / len(expected)


def contained(answer: str, text: str) -> bool:
    """Whether the text contains the answer's words, one after the other."""
    expected = " ".join(words(answer))
    for reading in (text, NUMBER_EDGE.sub(" ", text)):
        found = " ".join(words(reading))
        if expected and f" {expected} " in f" {found} ":
            return True
    return False


def lceg_overlap(answer: str, response: str) -> float:
    """The heat-map score of the code of arXiv 2409.12181.

    Distinct words in common (split at white space, lower case, with punctuation) over the number of words of the
    answer, repeated ones counted. The paper's answer has "a" twice in 12 words, so it reaches 11/12.
    """
    expected = answer.lower().split()
    common = set(expected) & set(response.lower().split())
    return len(common) / len(expected)


def rouge1_f(reference: str, response: str) -> float:
    """ROUGE-1 F (Lin 2004), 0 to 1: harmonic mean of the clipped unigram recall and precision, without stemming."""
    expected = Counter(re.findall("[a-z0-9]+", reference.lower()))
    found = Counter(re.findall("[a-z0-9]+", response.lower()))
    common = expected & found
    n_words = expected.total() + found.total()
    return 2 * common.total() / n_words if common else 0.0


def score_answer(answer: str, response: str) -> dict:
    return {"response": response, "score": word_share(answer, response), "exact": contained(answer, response)}


def write_cell(folder: Path, entries, run) -> None:
    """Writes the result file of one cell. entries: its trials, answered or failed.  run: what all cells share.

    Several trials have texts of their own (`drawn_text`), the same in all cells (haystack.rotate); then they are the
    sampled units of a mean over cells.
    """
    answered = [entry for entry in entries if "error" not in entry]
    n = len(answered)
    score = sum(entry["score"] for entry in answered)
    exact = sum(entry["exact"] for entry in answered)
    first = entries[0]
    response = first.get("response")
    result = {
        "model": run["model"],
        "context_length": first["length"],
        "depth_percent": first["depth"],
        "version": 1,
        "needle": first["needle"],
        "model_response": response,
        "score": score / n if n else None,
        "test_duration_seconds": first["seconds"],
        "test_timestamp_utc": first["utc"],
        "n": n,
        "score_interval_95": wilson(score, n) if n else None,
        "exact": exact,
        "rate": exact / n if n else None,
        "rate_interval_95": wilson(exact, n) if n else None,
        "drawn_text": len(entries) > 1,
    }
    if run["protocol"] == "lceg":
        result |= {"lceg_overlap": None, "lceg_rouge1_f_x10": None}
        if response is not None:
            result["lceg_overlap"] = lceg_overlap(first["answer"], response)
            result["lceg_rouge1_f_x10"] = 10 * rouge1_f(first["needle"], response)
    result["trials"] = entries
    result["prompt_tokens"] = first["prompt_tokens"]
    peak = max(entry["peak_memory_bytes"] or 0 for entry in entries)
    result["peak_memory_bytes"] = peak or None
    depth = round(100 * first["depth"])
    write_json(folder / f"{folder.name}_len_{first['length']}_depth_{depth}_results.json", result | run)
