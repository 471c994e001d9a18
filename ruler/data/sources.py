"""Texts from outside: essays, SQuAD, HotpotQA, by path; without a file a stand-in of the same form."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import standins
from run import first_line, read_text

FOLDER = Path(__file__).resolve().parent / "json"  # where download.py and upstream's scripts put the files
FILE_NAMES = {"essays": "PaulGrahamEssays.json", "squad": "squad.json", "hotpotqa": "hotpotqa.json"}
OFFICIAL = {
    "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8": "SQuAD 2.0, dev-v2.0.json",
    "4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea": "HotpotQA, hotpot_dev_distractor_v1.json",
    "e3da074df24e8369009918aa5cdbdd254dadcde4c63f7569d36afd6f2268caa8": "HotpotQA, its copy on the hub",
    "58e352531a80cef2d22c205dbebfbfd64a8afe55a32434de845f200718756c65": "RULER's PaulGrahamEssays.json",
}


class Question(NamedTuple):
    """needed: indices of the documents with the answer.  given: of the distractors; in random order if `shuffle`."""

    query: str
    answers: list[str]
    needed: list[int]
    given: list[int]
    shuffle: bool


class Questions(NamedTuple):
    """documents: distinct, sorted."""

    documents: list[str]
    questions: list[Question]


def source_kind(family: str, args: dict) -> str | None:
    """The text that a task needs: squad, hotpotqa, essays, or None."""
    if family == "qa":
        return args["dataset"]
    if args.get("type_haystack") == "essay":
        return "essays"
    return None


@lru_cache(maxsize=3)
def read_source(kind: str, path: Path | None) -> tuple:
    """(the words of the essays or the `Questions` of a data set, their description).

    path: a file or, for essays, a folder. Without it the file in data/json/ is read, if it is there. Raises OSError or
    ValueError if it is missing or does not have the form of the official file.
    """
    default = FOLDER / FILE_NAMES[kind]
    if path is None and default.exists():
        path = default
    try:
        if kind == "essays":
            return read_essays(path)
        if path is None:
            data = standins.squad() if kind == "squad" else standins.hotpotqa()
            description = describe("generated", json.dumps(data).encode(), "standin")
        else:
            content = path.read_bytes()
            data = json.loads(content)
            description = describe(path, content)
        questions = read_squad(data) if kind == "squad" else read_hotpotqa(data)
        if not questions.questions:
            raise ValueError("no questions")
        texts = [*questions.documents]
        for question in questions.questions:
            texts += [question.query, *question.answers]
        " ".join(texts).encode()  # raises if one is not text, or has half of a surrogate pair
        return questions, description
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"--{kind}: {path} does not have the form of the official file ({reason})") from None


def describe(path: Path | str, content: bytes, source: str = "user") -> dict:
    """source: "standin", "user" (a file), or "official" (a file known by its digest)."""
    digest = hashlib.sha256(content).hexdigest()
    description = {"source": source, "path": str(path), "sha256": digest}
    if digest in OFFICIAL:
        description |= {"source": "official", "name": OFFICIAL[digest]}
    return description


def read_essays(path: Path | None) -> tuple[list[str], dict]:
    """path: a folder of .txt files or a JSON file with the key "text", as RULER's."""
    if path is None:
        from pydoc_data.topics import topics

        text = " ".join(topics[name] for name in sorted(topics))
        return text.split(), describe("pydoc_data of this Python", text.encode(), "standin")
    if path.is_dir():
        text = " ".join(read_text(file) for file in sorted(path.glob("*.txt")))
        content = text.encode()
    else:
        content = path.read_bytes()
        text = json.loads(content)["text"]
    if not text.encode().split():  # raises on half of a surrogate pair
        raise ValueError("no words")
    return text.split(), describe(path, content)


def read_squad(data: dict) -> Questions:
    documents = sorted({paragraph["context"] for article in data["data"] for paragraph in article["paragraphs"]})
    index = {text: i for i, text in enumerate(documents)}
    questions = []
    for article in data["data"]:
        siblings = dict.fromkeys(index[paragraph["context"]] for paragraph in article["paragraphs"])
        for paragraph in article["paragraphs"]:
            own = index[paragraph["context"]]
            given = [i for i in siblings if i != own]
            for question in paragraph["qas"]:
                if question["is_impossible"] or not question["answers"]:
                    continue
                answers = [answer["text"] for answer in question["answers"]]
                questions.append(Question(question["question"], answers, [own], given, shuffle=True))
    return Questions(documents, questions)


def read_hotpotqa(data: list) -> Questions:
    documents = sorted({hotpot_text(paragraph) for row in data for paragraph in row["context"]})
    index = {text: i for i, text in enumerate(documents)}
    questions = []
    for row in data:
        supporting = [title for title, _ in row["supporting_facts"]]
        needed, given = [], []
        for paragraph in row["context"]:
            group = needed if paragraph[0] in supporting else given
            group.append(index[hotpot_text(paragraph)])
        questions.append(Question(row["question"], [row["answer"]], needed, given, shuffle=False))
    return Questions(documents, questions)


def hotpot_text(paragraph: list) -> str:
    title, sentences = paragraph
    return title + "\n" + "".join(sentences)
