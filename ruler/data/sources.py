"""Texts from outside: essays, SQuAD, HotpotQA, by path; without a file a stand-in that keeps the form.

Every source says what it is: "official" (a file known by its digest), "user" (another file), "standin" (none given).
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import standins

FOLDER = Path(__file__).resolve().parent / "json"  # where download.py puts them, and upstream's scripts do
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
    """The file to read: what was given, else what lies in data/json/, else None."""
    if path is not None:
        if not path.exists():
            raise ValueError(f"--{kind}: {path} does not exist")
        return path
    default = FOLDER / DEFAULT[kind]
    return default if default.exists() else None


def _about(source: str, path: str, content: bytes, **more) -> dict:
    return {"source": source, "path": path, "sha256": hashlib.sha256(content).hexdigest(), **more}


def _known(path: Path, content: bytes, **more) -> dict:
    name = OFFICIAL.get(hashlib.sha256(content).hexdigest())
    return _about("official" if name else "user", str(path), content, **({"name": name} if name else {}), **more)


def read_essays(path: Path | None) -> tuple[list[str], dict]:
    """(the words of all essays, one after the other; what they are). A folder of .txt files in sorted order, a .txt
    file, or a JSON file with the key "text"."""
    path = find("essays", path)
    if path is None:
        from pydoc_data.topics import topics

        text = " ".join(topics[name] for name in sorted(topics))
        about = _about("standin", "pydoc_data of this Python", text.encode())
    elif path.is_dir():
        files = sorted(path.glob("*.txt"))
        text = " ".join(_text(file) for file in files)
        about = _about("user", str(path), text.encode(), files=len(files))
    else:
        text = _text(path)
        about = _known(path, path.read_bytes())
        if path.suffix == ".json":
            text = _json(path).get("text")
            if not isinstance(text, str):
                raise ValueError(f'--essays: {path} has no key "text" with the essays')
    words = text.split()
    if not words:
        raise ValueError(f"--essays: there is no text in {path}")
    return words, about


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def _json(path: Path) -> dict | list:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as reason:
        raise ValueError(f"{path} is not JSON ({reason}); was it downloaded whole?") from None


def read_questions(kind: str, path: Path | None) -> tuple[Questions, dict]:
    """The questions of "squad" or "hotpotqa", in the order of the file, and what they are. ValueError, one line, for
    another form than the official file's."""
    path = find(kind, path)
    if path is None:
        data = getattr(standins, kind)()
        about = _about("standin", "generated", json.dumps(data).encode())
    else:
        data, about = _json(path), _known(path, path.read_bytes())
    try:
        questions = (_squad if kind == "squad" else _hotpotqa)(data)
    except (KeyError, TypeError, IndexError) as reason:
        raise ValueError(f"--{kind}: {path} has not the form of the official file: {reason!r}") from None
    return questions, about | {"documents": len(questions.documents), "questions": len(questions.questions)}


def _squad(data: dict) -> Questions:
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
                given = [i for i in mates if i != own]
                questions.append(_question(question["question"], answers, [own], given, True))
    return Questions(documents, questions)


def _hotpotqa(data: list) -> Questions:
    def text(title: str, sentences: list[str]) -> str:
        return f"{title}\n{''.join(sentences)}"

    documents = sorted({text(*paragraph) for row in data for paragraph in row["context"]})
    place, questions = {text: i for i, text in enumerate(documents)}, []
    for row in data:
        supporting = {title for title, _ in row["supporting_facts"]}
        needed = [place[text(*paragraph)] for paragraph in row["context"] if paragraph[0] in supporting]
        given = [place[text(*paragraph)] for paragraph in row["context"] if paragraph[0] not in supporting]
        questions.append(_question(row["question"], [row["answer"]], needed, given, False))
    return Questions(documents, questions)


def _question(query, answers, needed, given, shuffle) -> dict:
    return {"query": query, "answers": answers, "needed": needed, "given": given, "shuffle": shuffle}
