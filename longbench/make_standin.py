"""Makes stand-ins for LongBench's sets, for machines without the data: same fields, other contents, other names.

    python make_standin.py                                      6 sets, many-shot TREC; LongBench's lengths and rows
    python make_standin.py --sets trec lcc --words 120 --rows 50 --shots            two short sets
    python make_standin.py --sets --shots 1 5 25 --classes 5    only many-shot TREC, with 5 types of questions
    python make_standin.py --sets --shots --pairs 30 400 --icl_shots 25 100     key-value recall, in-context learning

Writes data/standin_<set>.jsonl, and data/standin.json, which records how each file was made. The text is this Python's
own: passages of its help texts (passage_retrieval_en), generated facts hidden in them (qasper, multifieldqa_en), the
next line of its standard library's sources (lcc, repobench-p). The files are the same on every machine with the same
Python. Scores on them are not LongBench scores and are reported separately.
"""

import hashlib
import json
import platform
import re
import sysconfig
import uuid
from functools import partial
from itertools import cycle
from pathlib import Path
from random import Random

from run import Parser, command_line, int_between, read_json, run_script, write_bytes, write_json

from lock import lock
from python_text import read_help_pages, read_sources
from sets import ALL_SETS, STANDIN, STANDIN_SETS, TREC_SHOTS, parse_name

STAGE = Path(__file__).resolve().parent
LIBRARY = Path(sysconfig.get_path("stdlib"))
# "types" are types of questions. Two nouns tell each type and are not in its name: it takes examples to know it
# "facts": {0} is the subject, {1} an invented name, {2} the answer
WORDS = read_json(STAGE / "config" / "standin_words.json")
TYPES = WORDS["types"]
TREC_WORDS = 11  # of an example of trec, on average
SNIPPET_WORDS = 401  # of another file in a repobench-p context, at most, before the last line
IMPORT = re.compile(r"^\s*(?:from|import)\s+([\w.]+)", re.MULTILINE)
IGNORED_BY_METRIC = re.compile("`|#|//")  # code_sim ignores lines with one of these


def length(text: str) -> int:
    """The number of words."""
    return len(text.split())


class Source:
    """What rows are made from: this Python's help texts, and sources that no pocket model was trained on."""

    def __init__(self, classes: int):
        self.kinds = list(TYPES)[:: len(TYPES) // classes][:classes]  # types of questions, evenly spread
        self.sentences = help_sentences()
        self.vocabulary = set(re.findall(r"\w+", " ".join(self.sentences)))
        self.files = {}  # {name: lines}
        for name, text in read_sources(LIBRARY, held_out=True).items():
            self.files[name] = text.split("\n")

    def prose(self, rng: Random, words: int) -> list[str]:
        """Consecutive sentences from a random place, as close to `words` words as possible."""
        start = rng.randrange(len(self.sentences))
        sentences, total = [], 0
        for sentence in cycle(self.sentences[start:] + self.sentences[:start]):
            if total + length(sentence) / 2 > words:
                return sentences
            sentences.append(sentence)
            total += length(sentence)

    def passages(self, rng: Random, count: int, words: int) -> list[list[str]]:
        """`count` passages of about `words` words without a common sentence."""
        passages, total = [[]], 0
        for sentence in self.sentences[rng.randrange(50) :]:
            if total and total + length(sentence) / 2 > words:
                passages.append([])
                total = 0
            passages[-1].append(sentence)
            total += length(sentence)
        return rng.sample(passages[:-1], count)


def help_sentences() -> list[str]:
    """The sentences of Python's help pages, without repeats."""
    sentences = {}  # a dict keeps the order
    for page in read_help_pages().values():
        for paragraph in re.split(r"\n[ \t]*\n", page):
            text = " ".join(paragraph.split())
            for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", text):
                if re.fullmatch(r"[A-Z][\w\s,;:()'\"/=*.-]+\.", sentence) and 6 <= length(sentence) <= 60:
                    sentences[sentence] = None
    return list(sentences)


# --- rows: functions of a Random, the Source and a size (words, shots or pairs), which return (context, input, answers)
def passage_retrieval(rng, source, words):
    """30 passages, fewer if they would be too short, and some sentences of one of them: which one is it?"""
    count = max(3, min(30, words // 20))
    passages = source.passages(rng, count, words // (count + 1) - 2)  # the question takes words as well
    number = rng.randrange(count)
    passage = passages[number]
    quoted = rng.sample(passage, max(1, len(passage) // 3))
    quoted.sort(key=passage.index)
    paragraphs = []
    for i, sentences in enumerate(passages, 1):
        paragraphs.append(" ".join([f"Paragraph {i}:", *sentences]))
    return "\n\n".join(paragraphs), " ".join(quoted), [f"Paragraph {number + 1}"]


def invent_names(rng: Random, source: Source, count: int) -> list[str]:
    """Names that are not in the prose and not part of one another."""
    names = []
    while len(names) < count:
        syllables = rng.choices(WORDS["syllables"], k=3)
        name = "".join(syllables).capitalize()
        overlaps = any(name in other or other in name for other in names)
        if name not in source.vocabulary and not overlaps:
            names.append(name)
    return names


def hidden_fact(rng, source, words, texts):
    """Prose with several facts in it, and a question about one. No two facts have the same answer."""
    count = max(2, min(12, words // 25))
    names = invent_names(rng, source, 2 * count)  # twice as many: the rows stay those of earlier versions
    numbers = rng.sample(range(1001, 2000), count)
    facts, statements = [], []
    for name, number in zip(names[:count], numbers, strict=True):
        subject = rng.choice(texts["subjects"])
        fact = (subject, name, number)
        facts.append(fact)
        statements.append(texts["statement"].format(*fact))
    fact_words = length(" ".join(statements))
    sentences = source.prose(rng, words - fact_words)
    for statement in statements:
        place = rng.randint(0, len(sentences))
        sentences.insert(place, statement)
    subject, name, number = rng.choice(facts)
    return " ".join(sentences), texts["question"].format(subject, name), [str(number)]


def make_question(rng: Random, kind: str) -> str:
    opening = rng.choice(WORDS["openings"])
    person = rng.choice(WORDS["people"])
    noun = rng.choice(TYPES[kind])
    return opening.format(person, noun)


def many_shots(rng, source, shots, title):
    """`shots` questions with the labels of their types, then one without, which is not among them.

    All types have equally many examples, up to one. Contexts with more shots begin with those of fewer. title: "Type",
    whose labels are the names, or "Label": numbers of each row's own, so that it takes the examples to know them.
    """
    kinds = source.kinds
    labels = kinds
    if title == "Label":
        labels = [str(number) for number in range(len(kinds))]
        rng.shuffle(labels)
    label_of = dict(zip(kinds, labels, strict=True))
    asked_kind = rng.choice(kinds)
    question = make_question(rng, asked_kind)
    examples, order = [], []
    for _ in range(shots):
        order = order or rng.sample(kinds, len(kinds))
        kind = order.pop(0)
        example = question
        while example == question:
            example = make_question(rng, kind)
        examples.append(f"Question: {example}\n{title}: {label_of[kind]}")
    return "\n".join(examples), f"Question: {question}\n{title}:", [label_of[asked_kind]]


def key_value_recall(rng, source, pairs):
    """A JSON object of UUIDs, two of its keys with their values as demonstrations, and a key without."""
    identifiers = []
    for _ in range(2 * pairs):
        identifier = uuid.UUID(int=rng.getrandbits(128), version=4)
        identifiers.append(str(identifier))
    keys = identifiers[:pairs]
    values = dict(zip(keys, identifiers[pairs:], strict=True))
    *demonstrations, key = rng.sample(keys, min(3, pairs))
    question = ""
    for name in demonstrations:
        question += f'Key: "{name}"\nValue: "{values[name]}"\n\n'
    question += f'Key: "{key}"\nValue:'
    return json.dumps(values, indent=0), question, [values[key]]


def code_before(rng: Random, source: Source, words: int) -> tuple[str, str, str]:
    """(name of a file, at most `words` words of lines before a random line of it, that line, which can be scored)."""
    while True:
        name = rng.choice(list(source.files))
        lines = source.files[name]
        place = rng.randrange(len(lines))
        line = lines[place]
        if len(line.strip()) < 8 or IGNORED_BY_METRIC.search(line) or not line.isprintable():
            continue
        code, total = "", 0
        for before in reversed(lines[:place]):
            total += length(before)
            if total > words:
                break
            code = f"{before}\n{code}"
        if length(code) >= words / 2:
            return name, code, line


def lcc(rng, source, words):
    _, code, line = code_before(rng, source, words)
    return code, "", [line]


def repobench(rng, source, words):
    """The beginnings of other files, first of those that the file imports, and then the file's own code."""
    name, code, line = code_before(rng, source, max(1, words // 3))
    files = dict(source.files)
    text = "\n".join(files.pop(name))
    others = {}
    for module in IMPORT.findall(text):
        path = module.replace(".", "/")
        for other in (f"{path}.py", f"{path}/__init__.py"):
            if other in files:
                others[other] = files.pop(other)
    for other in rng.sample(list(files), min(len(files), 60)):
        others[other] = files[other]
    context = ""
    budget = words - words // 3
    for other, lines in others.items():
        if budget <= 0:
            break
        context += f"# {other}\n"
        room = min(budget, SNIPPET_WORDS)
        for text in lines:
            if room <= 0:
                break
            context += f"{text}\n"
            room -= length(text)
            budget -= length(text)
        context += "\n"
    return context, f"# {name}\n{code}", [line]


MAKERS = {
    "qasper": partial(hidden_fact, texts=WORDS["facts"]["qasper"]),
    "multifieldqa_en": partial(hidden_fact, texts=WORDS["facts"]["multifieldqa_en"]),
    "trec": partial(many_shots, title="Type"),
    "passage_retrieval_en": passage_retrieval,
    "lcc": lcc,
    "repobench-p": repobench,
    "kv": key_value_recall,
    "icl": partial(many_shots, title="Label"),
}


def make_set(stem: str, source: Source, args) -> dict:
    """Writes standin_<stem>.jsonl; returns its entry in standin.json. Sets with more shots ask the same questions."""
    name, count = parse_name(STANDIN + stem)
    dataset = STANDIN + name
    official = ALL_SETS[name]
    n = args.rows or official.rows
    size = count or args.words or official.words
    if name == "trec" and not count:
        size //= TREC_WORDS
    text, total = "", 0
    for i in range(n):
        rng = Random(f"{name} {args.seed} {i}")
        context, question, answers = MAKERS[name](rng, source, size)
        words = length(" ".join([context, question, *answers]))
        row = {
            "input": question,
            "context": context,
            "answers": answers,
            "length": words,
            "dataset": dataset,
            "language": "python" if official.category == "code" else "en",
            "all_classes": source.kinds if official.category == "few-shot" else None,
            "_id": f"{dataset}-{args.seed}-{i}",
        }
        text += json.dumps(row, ensure_ascii=False) + "\n"
        total += words
    path = args.output_dir / f"{STANDIN}{stem}.jsonl"
    content = text.encode()
    write_bytes(path, content)
    print(f"{path}: {n} rows of {total / n:.0f} words", flush=True)
    return {"rows": n, "words": round(total / n, 1), "sha256": hashlib.sha256(content).hexdigest()}


def parse_args():
    parser = Parser(__doc__)
    parser.add_argument("--output_dir", type=Path, default=STAGE / "data", help="[data]")
    parser.add_argument("--sets", nargs="*", choices=STANDIN_SETS, default=STANDIN_SETS, help="LongBench sets [all 6]")
    shots = "numbers of examples N for many-shot TREC, trec_<N>shots [the paper's 15]"
    parser.add_argument("--shots", nargs="*", type=int_between(1, 10**4), default=TREC_SHOTS, help=shots)
    pairs = "numbers of pairs N for key-value recall, kv_<N>pairs [none]"
    parser.add_argument("--pairs", nargs="*", type=int_between(1, 10**6), default=[], help=pairs)
    icl_shots = "numbers of examples N for in-context learning, icl_<N>shots [none]"
    parser.add_argument("--icl_shots", nargs="*", type=int_between(1, 10**5), default=[], help=icl_shots)
    rows = "samples of each set [as in LongBench; icl 500, kv 100]"
    parser.add_argument("--rows", type=int_between(1, 10**6), help=rows)
    words = "approximate number of words in a context [LongBench's average]"
    parser.add_argument("--words", type=int_between(40, 10**4), help=words)
    classes = int_between(2, len(TYPES))
    parser.add_argument("--classes", type=classes, default=50, help="types of questions in trec, 2 to 50 [50]")
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    source = Source(args.classes)
    manifest_path = args.output_dir / "standin.json"
    origin = {"python": platform.python_version(), "command": command_line()}
    with lock(args.output_dir / ".standin.lock"):
        manifest = read_json(manifest_path) or {}
        names = list(args.sets)
        names += [f"trec_{shots}shots" for shots in args.shots]
        names += [f"icl_{shots}shots" for shots in args.icl_shots]
        names += [f"kv_{pairs}pairs" for pairs in args.pairs]
        for name in names:
            manifest[STANDIN + name] = make_set(name, source, args) | origin
            write_json(manifest_path, manifest)


if __name__ == "__main__":
    run_script(main)
