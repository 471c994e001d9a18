"""Makes stand-ins for LongBench's sets, for machines without the data: same fields, other contents, other names.

    python make_standin.py                                      6 sets, many-shot TREC; LongBench's lengths and rows
    python make_standin.py --sets trec lcc --words 120 --rows 50 --shots            two short sets
    python make_standin.py --sets --shots 1 5 25 --classes 5    only many-shot TREC, with 5 types of questions
    python make_standin.py --sets --shots --pairs 30 400 --icl_shots 25 100     key-value recall, in-context learning

Writes data/standin_<set>.jsonl, and data/standin.json, which records how each file was made. The text is this Python's
own: passages of its help texts (passage_retrieval_en), generated facts hidden in them (qasper, multifieldqa_en), the
next line of its standard library's sources (lcc, repobench-p). trec's questions are made from templates. The files are
the same on every machine with the same Python. Scores on them are not LongBench scores and are reported separately.
"""

import argparse
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

from lock import lock
from python_text import read_help_pages, read_sources
from run import Parser, command_line, int_between, read_json, run_script, write_bytes, write_json
from sets import ALL_SETS, STANDIN, TREC_SHOTS, base_set, shots_of

STAGE = Path(__file__).resolve().parent
LIBRARY = Path(sysconfig.get_path("stdlib"))
# "types" are types of questions. Two nouns tell each type and are not in its name: it takes examples to know it
WORDS = json.loads((STAGE / "config" / "standin_words.json").read_text(encoding="utf-8"))
TYPES = WORDS["types"]
FACTS = {  # (statement, question, subjects): {0} the subject, {1} an invented name, {2} the answer
    "qasper": ("For sample {1} the {0} is {2}.", "What is the {0} for sample {1}?", WORDS["measures"]),
    "multifieldqa_en": ("The {0} in {1} was opened in {2}.", "When was the {0} in {1} opened?", WORDS["places"]),
}
TREC_WORDS = 11  # of an example of trec, on average
LARGEST_SNIPPET = 400  # words of another file in a repobench-p context
IGNORED_BY_METRIC = re.compile("`|#|//")  # code_sim ignores lines with one of these


def length(text: str) -> int:
    """The number of words."""
    return len(text.split())


class Source:
    """What rows are made from. sentences: of prose, in order, without repeats.  code: {name: text of a source file}."""

    def __init__(self, sentences: list[str], code: dict[str, str]):
        self.sentences = sentences
        self.files = {name: text.split("\n") for name, text in code.items()}
        self.vocabulary = set(re.findall(r"\w+", " ".join(sentences)))

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


def read_source() -> Source:
    """This Python's help texts, and the sources of its standard library that no pocket model was trained on."""
    return Source(help_sentences(), read_sources(LIBRARY, held_out=True))


def help_sentences() -> list[str]:
    """The sentences of Python's help pages, without repeats."""
    sentences = {}  # a dict keeps the order
    for page in read_help_pages().values():
        for paragraph in re.split(r"\n[ \t]*\n", page):
            for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", " ".join(paragraph.split())):
                if re.fullmatch(r"[A-Z][\w\s,;:()'\"/=*.-]+\.", sentence) and 6 <= length(sentence) <= 60:
                    sentences[sentence] = None
    return list(sentences)


# --- rows: each function returns (context, input, answers)
def passage_retrieval(rng: Random, source: Source, words: int):
    """30 passages, fewer if they would be too short, and some sentences of one of them: which one is it?"""
    count = max(3, min(30, words // 20))
    passages = source.passages(rng, count, words // (count + 1) - 2)  # the question takes words as well
    number = rng.randrange(count)
    passage = passages[number]
    quoted = sorted(rng.sample(range(len(passage)), max(1, len(passage) // 3)))
    paragraphs = [f"Paragraph {i}: {' '.join(sentences)}" for i, sentences in enumerate(passages, 1)]
    question = " ".join(passage[i] for i in quoted)
    return "\n\n".join(paragraphs), question, [f"Paragraph {number + 1}"]


def invent_names(rng: Random, source: Source, count: int) -> list[str]:
    """Names that are not in the prose and not part of one another."""
    names = []
    while len(names) < count:
        name = "".join(rng.choices(WORDS["syllables"], k=3)).capitalize()
        if name not in source.vocabulary and not any(name in other or other in name for other in names):
            names.append(name)
    return names


def hidden_fact(rng: Random, source: Source, words: int, kind: str):
    """Prose with several facts in it, and a question about one. No two facts have the same answer."""
    statement, question, subjects = FACTS[kind]
    count = max(2, min(12, words // 25))
    names = invent_names(rng, source, 2 * count)  # twice as many: the rows stay those of earlier versions
    numbers = rng.sample(range(1001, 2000), count)
    facts, statements = [], []
    for i in range(count):
        fact = (rng.choice(subjects), names[i], numbers[i])
        facts.append(fact)
        statements.append(statement.format(*fact))
    sentences = source.prose(rng, words - length(" ".join(statements)))
    for text in statements:
        sentences.insert(rng.randint(0, len(sentences)), text)
    subject, name, number = rng.choice(facts)
    return " ".join(sentences), question.format(subject, name), [str(number)]


def make_question(rng: Random, kind: str) -> str:
    opening = rng.choice(WORDS["openings"])
    person = rng.choice(WORDS["people"])
    return opening.format(person, rng.choice(TYPES[kind]))


def trec(rng: Random, source: Source, words: int, shots: int, kinds: list[str]):
    """`shots` questions with their types, then one without, which is not among them.

    All types have equally many examples, up to one. Contexts with more shots begin with those of fewer.
    """
    answer = rng.choice(kinds)
    question = make_question(rng, answer)
    examples, round_of_kinds = [], []
    while len(examples) < shots:
        if not round_of_kinds:
            round_of_kinds = rng.sample(kinds, len(kinds))
        kind = round_of_kinds.pop(0)
        example = make_question(rng, kind)
        while example == question:
            example = make_question(rng, kind)
        examples.append(f"Question: {example}\nType: {kind}")
    return "\n".join(examples), f"Question: {question}\nType:", [answer]


def in_context_learning(rng: Random, source: Source, words: int, shots: int, kinds: list[str]):
    """Many-shot TREC in which a row has its own numbers for the types, so that it takes the examples to know them."""
    labels = [str(i) for i in range(len(kinds))]
    rng.shuffle(labels)
    label_of = dict(zip(kinds, labels, strict=True))
    context, question, [answer] = trec(rng, source, words, shots, kinds)
    lines = []
    for line in context.split("\n"):
        name, _, text = line.partition(": ")
        lines.append(f"Label: {label_of[text]}" if name == "Type" else line)
    return "\n".join(lines), question.removesuffix("Type:") + "Label:", [label_of[answer]]


def key_value_recall(rng: Random, source: Source, words: int, pairs: int):
    """A JSON object of UUIDs, two of its keys with their values as demonstrations, and a key without."""
    identifiers = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(2 * pairs)]
    values = dict(zip(identifiers[:pairs], identifiers[pairs:], strict=True))
    *demonstrations, key = rng.sample(list(values), min(3, pairs))
    shown = [f'Key: "{name}"\nValue: "{values[name]}"\n\n' for name in demonstrations]
    return json.dumps(values, indent=0), f'{"".join(shown)}Key: "{key}"\nValue:', [values[key]]


def code_before(rng: Random, source: Source, words: int) -> tuple[str, list[str], str]:
    """(name of a file, at most `words` words of lines before a random line of it, that line, which can be scored)."""
    while True:
        name = rng.choice(list(source.files))
        lines = source.files[name]
        place = rng.randrange(len(lines))
        line = lines[place]
        if len(line.strip()) < 8 or IGNORED_BY_METRIC.search(line) or not line.isprintable():
            continue
        start, total = place, 0
        while start and total + length(lines[start - 1]) <= words:
            start -= 1
            total += length(lines[start])
        if total >= words / 2:
            return name, lines[start:place], line


def lcc(rng: Random, source: Source, words: int):
    _, lines, line = code_before(rng, source, words)
    return "\n".join(lines) + "\n", "", [line]


def repobench(rng: Random, source: Source, words: int):
    """The beginnings of other files, first of those that the file imports, and then the file's own code."""
    name, lines, line = code_before(rng, source, max(1, words // 3))
    others = []
    for module in re.findall(r"^\s*(?:from|import)\s+([\w.]+)", "\n".join(source.files[name]), re.MULTILINE):
        path = module.replace(".", "/")
        for other in (f"{path}.py", f"{path}/__init__.py"):
            if other in source.files and other not in [*others, name]:
                others.append(other)
    taken = {*others, name}
    rest = [other for other in source.files if other not in taken]
    others += rng.sample(rest, min(len(rest), 60))
    context, budget = "", words - words // 3
    for other in others:
        if budget <= 0:
            break
        largest = min(budget, LARGEST_SNIPPET + 1)
        context += f"# {other}\n"
        snippet_words = 0
        for text in source.files[other]:
            if snippet_words >= largest:
                break
            context += text + "\n"
            snippet_words += length(text)
        context += "\n"
        budget -= snippet_words
    return context, "\n".join([f"# {name}", *lines]) + "\n", [line]


MAKERS = {
    "qasper": partial(hidden_fact, kind="qasper"),
    "multifieldqa_en": partial(hidden_fact, kind="multifieldqa_en"),
    "trec": trec,
    "passage_retrieval_en": passage_retrieval,
    "lcc": lcc,
    "repobench-p": repobench,
}


def make_set(stem: str, source: Source, args: argparse.Namespace) -> dict:
    """Writes standin_<stem>.jsonl; returns its entry in standin.json. Sets with more shots ask the same questions."""
    name = base_set(STANDIN + stem)
    words = args.words or ALL_SETS[name].words
    n = args.rows or ALL_SETS[name].rows
    make, kinds = MAKERS.get(name), None
    count = shots_of(stem)
    if name == "kv":
        make = partial(key_value_recall, pairs=count)
    elif name in ("trec", "icl"):
        kinds = list(TYPES)[:: len(TYPES) // args.classes][: args.classes]
        make = partial(trec if name == "trec" else in_context_learning, shots=count or words // TREC_WORDS, kinds=kinds)
    lines, total = [], 0
    for i in range(n):
        rng = Random(f"{name} {args.seed} {i}")
        context, question, answers = make(rng, source, words)
        row = {
            "input": question,
            "context": context,
            "answers": answers,
            "length": length(" ".join([context, question, *answers])),
            "dataset": STANDIN + name,
            "language": "python" if ALL_SETS[name].category == "code" else "en",
            "all_classes": kinds,
            "_id": f"{STANDIN}{name}-{args.seed}-{i}",
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        total += row["length"]
    path = args.output_dir / f"{STANDIN}{stem}.jsonl"
    content = "".join(lines).encode()
    write_bytes(path, content)
    print(f"{path}: {n} rows of {total / n:.0f} words", flush=True)
    return {"rows": n, "words": round(total / n, 1), "sha256": hashlib.sha256(content).hexdigest()}


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--output_dir", type=Path, default=STAGE / "data", help="[data]")
    parser.add_argument("--sets", nargs="*", choices=MAKERS, default=list(MAKERS), help="sets of LongBench [all 6]")
    shots = "of trec_<N>shots [the paper's]"
    parser.add_argument("--shots", nargs="*", type=int_between(1, 10**4), default=list(TREC_SHOTS), help=shots)
    pairs = "of kv_<N>pairs: a key's value in a JSON object of N pairs [none]"
    parser.add_argument("--pairs", nargs="*", type=int_between(1, 10**6), default=[], help=pairs)
    shots = "of icl_<N>shots: trec with numbers as labels, shuffled for each row [none]"
    parser.add_argument("--icl_shots", nargs="*", type=int_between(1, 10**5), default=[], help=shots)
    rows = "rows of each set [LongBench's: 150, 200, 500; many-shot 200, icl 500, kv 100]"
    parser.add_argument("--rows", type=int_between(1, 10**6), help=rows)
    words = "approximate words of a context [LongBench's average for each set]"
    parser.add_argument("--words", type=int_between(40, 10**4), help=words)
    classes = int_between(2, len(TYPES))
    parser.add_argument("--classes", type=classes, default=50, help="types of questions in trec, 2 to 50 [50]")
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    source = read_source()
    manifest_path = args.output_dir / "standin.json"
    origin = {"python": platform.python_version(), "command": command_line()}
    with lock(args.output_dir / ".standin.lock"):
        manifest = read_json(manifest_path) or {}
        names = [*args.sets, *(f"trec_{shots}shots" for shots in args.shots)]
        names += [f"icl_{shots}shots" for shots in args.icl_shots]
        names += [f"kv_{pairs}pairs" for pairs in args.pairs]
        for name in names:
            manifest[STANDIN + name] = make_set(name, source, args) | origin
            write_json(manifest_path, manifest)


if __name__ == "__main__":
    run_script(main)
