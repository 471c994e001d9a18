"""Texts from outside: essays, SQuAD, HotpotQA, by path; without a file a stand-in that keeps the form.

Every source says what it is: "official" (a file known by its digest), "user" (another file), "standin" (none given).
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import standins

FOLDER = Path(__file__).resolve().parent / "json"  # where download.py and upstream's scripts put them
DEFAULT = {"essays": "PaulGrahamEssays.json", "squad": "squad.json", "hotpotqa": "hotpotqa.json"}
OFFICIAL = {
    "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8": "SQuAD 2.0, dev-v2.0.json",
    "4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea": "HotpotQA, hotpot_dev_distractor_v1.json",
    "e3da074df24e8369009918aa5cdbdd254dadcde4c63f7569d36afd6f2268caa8": "HotpotQA, its copy on the hub",
    "58e352531a80cef2d22c205dbebfbfd64a8afe55a32434de845f200718756c65": "RULER's PaulGrahamEssays.json",
}


class Questions(NamedTuple):
    """documents: distinct, sorted.  questions: dicts of query, answers, and by index in documents `needed` (they hold
    the answer), `given` (the data set's distractors); `shuffle`: are those drawn at random?"""

    documents: list[str]
    questions: list[dict]


def find(kind: str, path: Path | None) -> Path | None:
    """The file to read: the given one, else the one in data/json/, else None. Raises ValueError if it is missing."""
    if path is not None and not path.exists():
        raise ValueError(f"--{kind}: {path} does not exist")
    default = FOLDER / DEFAULT[kind]
    return path or (default if default.exists() else None)


def describe(path: Path | str, content: bytes, source: str | None = None) -> dict:
    """What a text is. source: if it is known without the file's digest."""
    digest = hashlib.sha256(content).hexdigest()
    about = {"source": source or ("official" if digest in OFFICIAL else "user"), "path": str(path), "sha256": digest}
    return about | ({"name": OFFICIAL[digest]} if digest in OFFICIAL else {})


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def read_json(path: Path) -> dict | list:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); was it downloaded whole?") from None


def read_essays(path: Path | None) -> tuple[list[str], dict]:
    """(the words of all essays, one after the other; what they are).

    path: a folder of .txt files (read in sorted order), a .txt file, or a JSON file with the key "text".
    """
    path = find("essays", path)
    if path is None:
        from pydoc_data.topics import topics

        text = " ".join(topics[name] for name in sorted(topics))
        about = describe("pydoc_data of this Python", text.encode(), "standin")
    elif path.is_dir():
        text = " ".join(read_text(file) for file in sorted(path.glob("*.txt")))
        about = describe(path, text.encode(), "user")
    else:
        text = read_json(path)["text"] if path.suffix == ".json" else read_text(path)
        about = describe(path, path.read_bytes())
    words = text.split()
    if not words:
        raise ValueError(f"--essays: there is no text in {path}")
    return words, about


def read_questions(kind: str, path: Path | None) -> tuple[Questions, dict]:
    """The questions of "squad" or "hotpotqa", in the order of the file, and what they are.

    Raises ValueError if the file does not have the form of the official one.
    """
    path = find(kind, path)
    if path is None:
        data = getattr(standins, kind)()
        about = describe("generated", json.dumps(data).encode(), "standin")
    else:
        data, about = read_json(path), describe(path, path.read_bytes())
    try:
        questions = (read_squad if kind == "squad" else read_hotpotqa)(data)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"--{kind}: {path} does not have the form of the official file: {error!r}") from None
    return questions, about | {"documents": len(questions.documents), "questions": len(questions.questions)}


def read_squad(data: dict) -> Questions:
    articles = [[paragraph["context"] for paragraph in article["paragraphs"]] for article in data["data"]]
    documents = sorted({text for article in articles for text in article})
    place, questions = {text: i for i, text in enumerate(documents)}, []
    for article, texts in zip(data["data"], articles, strict=True):
        mates = list(dict.fromkeys(place[text] for text in texts))
        for paragraph in article["paragraphs"]:
            own = place[paragraph["context"]]
            for question in paragraph["qas"]:
                if question["is_impossible"]:
                    continue
                answers = [answer["text"] for answer in question["answers"]]
                entry = {"query": question["question"], "answers": answers, "needed": [own]}
                questions.append(entry | {"given": [i for i in mates if i != own], "shuffle": True})
    return Questions(documents, questions)


def read_hotpotqa(data: list) -> Questions:
    rows = [[(title, f"{title}\n{''.join(sentences)}") for title, sentences in row["context"]] for row in data]
    documents = sorted({text for row in rows for _, text in row})
    place, questions = {text: i for i, text in enumerate(documents)}, []
    for row, titled in zip(data, rows, strict=True):
        supporting = {title for title, _ in row["supporting_facts"]}
        needed = [place[text] for title, text in titled if title in supporting]
        given = [place[text] for title, text in titled if title not in supporting]
        entry = {"query": row["question"], "answers": [row["answer"]], "needed": needed}
        questions.append(entry | {"given": given, "shuffle": False})
    return Questions(documents, questions)
