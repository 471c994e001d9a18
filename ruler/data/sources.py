"""Texts from outside: essays, SQuAD and HotpotQA in data/json/. In place of a missing file a stand-in is used."""

import hashlib
import json
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from run import errors_of

import standins

FOLDER = Path(__file__).resolve().parent / "json"  # where download.py and upstream's scripts put the files
FILE_NAMES = {"essays": "PaulGrahamEssays.json", "squad": "squad.json", "hotpotqa": "hotpotqa.json"}
OFFICIAL = {  # SHA-256
    "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",  # SQuAD 2.0, dev-v2.0.json
    "4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea",  # HotpotQA, hotpot_dev_distractor_v1.json
    "e3da074df24e8369009918aa5cdbdd254dadcde4c63f7569d36afd6f2268caa8",  # HotpotQA, its copy on the hub
    "58e352531a80cef2d22c205dbebfbfd64a8afe55a32434de845f200718756c65",  # RULER's PaulGrahamEssays.json
}


class Question(NamedTuple):
    """needed: indices of the documents with the answer.  given: of the distractors; in random order if `shuffle`."""

    query: str
    answers: list[str]
    needed: list[int]
    given: list[int]
    shuffle: bool


def source_kind(args: dict) -> str | None:
    """The text that a task with these arguments needs: squad, hotpotqa, essays, or None."""
    return "essays" if args.get("type_haystack") == "essay" else args.get("dataset")


@lru_cache
def read_source(kind: str | None) -> tuple:
    """(the words of the essays or (documents, questions) of a data set, where they are from).

    "source" is "standin", "official" (a file known by its digest) or "user" (another file). Raises ValueError if a file
    does not have the form of the official one.
    """
    if kind is None:
        return None, {"source": "official", "path": None, "sha256": None}
    path = FOLDER / FILE_NAMES[kind]
    if path.exists():
        content = path.read_bytes()
        source = "user"
    else:
        content = json.dumps(STANDINS[kind]()).encode()
        source = "standin"
    digest = hashlib.sha256(content).hexdigest()
    if digest in OFFICIAL:
        source = "official"
    with errors_of(f"{path} does not have the form of the official file"):
        text = PARSERS[kind](json.loads(content))
    return text, {"source": source, "path": str(path), "sha256": digest}


def parse_essays(data: dict) -> list[str]:
    words = data["text"].split()
    if not words:
        raise ValueError("no words")
    return words


def parse_squad(data: dict) -> tuple:
    """(distinct paragraphs, sorted; questions)."""
    articles = [article["paragraphs"] for article in data["data"]]
    documents = sorted({paragraph["context"] for paragraph in chain(*articles)})
    index = {text: i for i, text in enumerate(documents)}
    questions = []
    for article in articles:
        siblings = dict.fromkeys(index[paragraph["context"]] for paragraph in article)
        for paragraph in article:
            own = index[paragraph["context"]]
            given = [i for i in siblings if i != own]
            for question in paragraph["qas"]:
                answers = [answer["text"] for answer in question["answers"]]
                if answers and not question["is_impossible"]:
                    questions.append(Question(question["question"], answers, [own], given, shuffle=True))
    return documents, questions


def parse_hotpotqa(data: list) -> tuple:
    """(distinct paragraphs, sorted; questions)."""
    documents = set()
    for row in data:
        for title, sentences in row["context"]:
            documents.add("".join([f"{title}\n", *sentences]))
    documents = sorted(documents)
    index = {text: i for i, text in enumerate(documents)}
    questions = []
    for row in data:
        supporting = {title for title, _ in row["supporting_facts"]}
        needed, given = [], []
        for title, sentences in row["context"]:
            group = needed if title in supporting else given
            text = "".join([f"{title}\n", *sentences])
            group.append(index[text])
        questions.append(Question(row["question"], [row["answer"]], needed, given, shuffle=False))
    return documents, questions


PARSERS = {"essays": parse_essays, "squad": parse_squad, "hotpotqa": parse_hotpotqa}
STANDINS = {"essays": standins.essays, "squad": standins.squad, "hotpotqa": standins.hotpotqa}
