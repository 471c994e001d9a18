"""Makes stand-ins for LongBench's sets, for machines without the data: same fields, other contents, other names.

    python make_standin.py                                      6 sets, many-shot TREC; LongBench's lengths and rows
    python make_standin.py --sets trec lcc --words 120 --rows 50 --shots            two short sets
    python make_standin.py --sets --shots 1 5 25 --classes 5    only many-shot TREC, of 5 types of questions
    python pred.py --model_path CKPT --dataset_name standin_trec standin_trec_5shots

Writes data/standin_<set>.jsonl with LongBench's fields, and data/standin.json, which says how each file was made. The
text is this Python's own: passages of its help texts (passage_retrieval_en), one of several generated facts hidden in
them (qasper, multifieldqa_en), the next line of its standard library's sources (lcc, repobench-p); trec's questions are
made from templates. A row depends on its number and the seed alone, so the files are the same on every machine with the
same Python. Scores on them are not LongBench scores and are reported separately.
"""

import argparse
import hashlib
import json
import platform
import re
import sysconfig
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from random import Random

from run import read_json, run_script, write_json, write_text
from sets import SETS, STANDIN, TREC_SHOTS

STAGE = Path(__file__).resolve().parent
# 50 types of questions; each has two nouns that tell it, which are not in its name: it takes examples to know it
TYPES = json.loads((STAGE / "config" / "standin_types.json").read_text(encoding="utf-8"))
OPENINGS = (
    "Where did {0} see the {1} ?", "Who told {0} of the {1} ?", "Why does {0} like that {1} ?",
    "What did {0} call the {1} ?", "When was {0} shown a {1} ?", "How did {0} come by this {1} ?",
)  # fmt: skip
PEOPLE = (
    "Ada Ben Cora Dan Emma Finn Gina Hugo Ida Jack Kate Leo Mary Nick Olga Paul Rosa Sam Tina Uma Vera Will Yara Zoe"
).split()
SYLLABLES = (
    "ba bel cor dal den dor fa fen gal gor hal ka kel lan lor ma mir nar nel or pel qua ra ren sa sol ta tor ul "
    "va ven wil xan yor zan zel"
).split()
MEASURES = (
    "density hardness mass volume boiling-point conductivity viscosity elasticity porosity acidity frequency depth"
).split()
PLACES = "library theatre museum observatory bridge mill station garden harbour market brewery lighthouse".split()
FACTS = {  # (statement, question, subjects): {0} the subject, {1} an invented name, {2} the answer
    "qasper": ("For sample {1} the {0} is {2}.", "What is the {0} for sample {1}?", MEASURES),
    "multifieldqa_en": ("The {0} in {1} was opened in {2}.", "When was the {0} in {1} opened?", PLACES),
}
SKIPPED_FOLDERS = {
    "site-packages", "dist-packages", "encodings", "lib-dynload", "__pycache__", "ensurepip", "test", "tests",
    "idle_test", "pydoc_data", "__phello__",
}  # fmt: skip
SMALLEST_FILE = 2000  # bytes
LARGEST_SNIPPET = 400  # words of another file in a repobench-p context
IGNORED_BY_METRIC = ("`", "#", "//")  # code_sim ignores lines with one of these


def length(text: str) -> int:
    return len(text.split())


# --- text
@dataclass(frozen=True)
class Source:
    """What rows are made from. sentences: of prose, in order, without repeats.  code: {name: text of a source file}."""

    sentences: list[str]
    code: dict[str, str]

    @cached_property
    def files(self) -> dict[str, list[str]]:
        return {name: text.split("\n") for name, text in self.code.items()}

    @cached_property
    def vocabulary(self) -> set[str]:
        return set(re.findall(r"\w+", " ".join(self.sentences)))

    def prose(self, rng: Random, words: int) -> list[str]:
        """Consecutive sentences from a random place, as close to `words` words as possible."""
        place, sentences, total = rng.randrange(len(self.sentences)), [], 0
        while True:
            sentence = self.sentences[place % len(self.sentences)]
            if total + length(sentence) / 2 > words:
                return sentences
            sentences.append(sentence)
            total += length(sentence)
            place += 1

    def passages(self, rng: Random, count: int, words: int) -> list[list[str]]:
        """`count` passages of about `words` words without a common sentence. Raises ValueError if there are fewer."""
        passages, total = [[]], 0
        for sentence in self.sentences[rng.randrange(50) :]:
            if total and total + length(sentence) / 2 > words:
                passages.append([])
                total = 0
            passages[-1].append(sentence)
            total += length(sentence)
        if len(passages) <= count:
            raise ValueError(f"the prose has {len(passages) - 1} passages of {words} words, not {count}; lower --words")
        return rng.sample(passages[:-1], count)


def read_source(exclude: Path | None) -> tuple[Source, dict]:
    """This Python's help texts and the sources of its standard library, and what standin.json says about them.

    exclude: a corpus of JSON lines with `text`; files that begin like one of its texts are left out.
    """
    sentences = help_sentences()
    try:
        lines = exclude.read_text(encoding="utf-8").splitlines() if exclude else []
        excluded = {json.loads(line)["text"][:500] for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--exclude {exclude} is not a file of JSON lines with `text`: {error!r}") from None
    folder, code = Path(sysconfig.get_path("stdlib")), {}
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder)
        machine_made = name.parts[0].startswith("config-") or name.name.startswith(("_sysconfigdata", "sitecustomize"))
        if machine_made or SKIPPED_FOLDERS.intersection(name.parts[:-1]) or path.stat().st_size < SMALLEST_FILE:
            continue
        text = path.read_bytes().decode("utf-8", errors="ignore").replace("\r\n", "\n")
        if text[:500] not in excluded:
            code[name.as_posix()] = text
    if len(sentences) < 500 or len(code) < 10:
        raise ValueError(
            f"this Python has {len(sentences)} usable sentences of help and {len(code)} usable source files; "
            "use one that is installed with the sources of its standard library, or no --exclude"
        )
    digest = hashlib.sha256()
    for name, text in [*zip(sentences, sentences, strict=True), *code.items()]:
        digest.update(f"{name}\0{text}\0".encode())
    about = {"python": platform.python_version(), "files": len(code), "text_sha256": digest.hexdigest()}
    return Source(sentences, code), about


def help_sentences() -> list[str]:
    """The sentences of Python's help pages, without repeats."""
    from pydoc_data.topics import topics

    sentences = {}  # a dict keeps the order
    for _, page in sorted(topics.items()):
        for paragraph in re.split(r"\n[ \t]*\n", page):
            for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", " ".join(paragraph.split())):
                if re.fullmatch(r"[A-Z][\w\s,;:()'\"/=*.-]+\.", sentence) and 6 <= length(sentence) <= 60:
                    sentences[sentence] = None
    return list(sentences)


# --- rows: each function returns (context, input, answers)
def passage_retrieval(rng: Random, source: Source, words: int):
    """30 passages, fewer if they would be too short, and some sentences of one of them: which one is it?"""
    total = max(3, min(30, words // 20))
    passages = source.passages(rng, total, words // (total + 1) - 2)  # the question takes words as well
    asked = rng.randrange(total)
    kept = sorted(rng.sample(range(len(passages[asked])), max(1, len(passages[asked]) // 3)))
    context = "\n\n".join(f"Paragraph {i}: {' '.join(passage)}" for i, passage in enumerate(passages, 1))
    return context, " ".join(passages[asked][i] for i in kept), [f"Paragraph {asked + 1}"]


def invented_names(rng: Random, source: Source, count: int) -> list[str]:
    """Names that are not in the prose and not part of one another."""
    names = []
    while len(names) < count:
        name = "".join(rng.choices(SYLLABLES, k=3)).capitalize()
        if name not in source.vocabulary and not any(name in other or other in name for other in names):
            names.append(name)
    return names


def hidden_fact(rng: Random, source: Source, words: int, kind: str):
    """Prose with several facts in it, and a question about one. No two facts have the same answer."""
    statement, question, subjects = FACTS[kind]
    count = max(2, min(12, words // 25))
    names = invented_names(rng, source, 2 * count)[:count]  # twice: the rows stay those of earlier versions
    numbers = rng.sample(range(1001, 2000), count)
    facts = [(rng.choice(subjects), name, number) for name, number in zip(names, numbers, strict=True)]
    sentences = source.prose(rng, words - sum(length(statement.format(*fact)) for fact in facts))
    for fact in facts:
        sentences.insert(rng.randint(0, len(sentences)), statement.format(*fact))
    subject, name, number = rng.choice(facts)
    return " ".join(sentences), question.format(subject, name), [str(number)]


def question_of(rng: Random, kind: str) -> str:
    return rng.choice(OPENINGS).format(rng.choice(PEOPLE), rng.choice(TYPES[kind]))


def trec(rng: Random, source: Source, words: int, shots: int | None, kinds: list[str]):
    """`shots` questions with their types, or as many as fill `words`; then one without.

    Each type is asked for equally often, up to one, and more shots begin with fewer; so with fewer shots than types
    some rows have no example of the right one. The question asked is not among the examples.
    """
    gold = rng.choice(kinds)
    asked = question_of(rng, gold)
    blocks, total = [], 0
    while len(blocks) < shots if shots else total < words:
        for kind in rng.sample(kinds, len(kinds)):
            example = asked
            while example == asked:
                example = question_of(rng, kind)
            blocks.append(f"Question: {example}\nType: {kind}")
            total += length(blocks[-1])
            if len(blocks) == shots if shots else total >= words:
                break
    return "\n".join(blocks), f"Question: {asked}\nType:", [gold]


def code_before(rng: Random, source: Source, words: int) -> tuple[str, list[str], str]:
    """(a file, the lines before a random line of it with at most `words` words, that line).

    The line can be scored: it has 8 characters or more and nothing that the metric ignores.
    """
    for _ in range(10_000):
        name = rng.choice(list(source.files))
        lines = source.files[name]
        place = rng.randrange(len(lines))
        line = lines[place]
        if len(line.strip()) < 8 or any(mark in line for mark in IGNORED_BY_METRIC) or not line.isprintable():
            continue
        start, total = place, 0
        while start and total + length(lines[start - 1]) <= words:
            start -= 1
            total += length(lines[start])
        if total >= words / 2:
            return name, lines[start:place], line
    raise ValueError(f"no source file is long enough for {words} words of code; lower --words")


def lcc(rng: Random, source: Source, words: int):
    _, lines, line = code_before(rng, source, words)
    return "\n".join(lines) + "\n", "", [line]


def repobench(rng: Random, source: Source, words: int):
    """The beginnings of other files, first of those that the file imports, and then the file's own code."""
    name, lines, line = code_before(rng, source, max(1, words // 3))
    imported = re.findall(r"^\s*(?:from|import)\s+([\w.]+)", source.code[name], re.MULTILINE)
    wanted = [f"{module.replace('.', '/')}{end}" for module in imported for end in (".py", "/__init__.py")]
    others = [other for other in dict.fromkeys(wanted) if other in source.files and other != name]
    rest = [other for other in source.files if other not in others and other != name]
    others += rng.sample(rest, min(len(rest), 60))
    snippets, left = [], words - words // 3
    for other in others:
        taken = []
        for text in source.files[other]:
            if left <= 0 or sum(map(length, taken)) > LARGEST_SNIPPET:
                break
            taken.append(text)
            left -= length(text)
        if taken:
            snippets.append("\n".join([f"# {other}", *taken]) + "\n")
    return "\n".join(snippets) + "\n", "\n".join([f"# {name}", *lines]) + "\n", [line]


MAKERS = {
    "qasper": partial(hidden_fact, kind="qasper"),
    "multifieldqa_en": partial(hidden_fact, kind="multifieldqa_en"),
    "trec": trec,
    "passage_retrieval_en": passage_retrieval,
    "lcc": lcc,
    "repobench-p": repobench,
}


# --- files
def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=STAGE / "data", help="[data]")
    parser.add_argument("--sets", nargs="*", default=list(MAKERS), help="of LongBench [the 6 that can be made]")
    parser.add_argument("--shots", nargs="*", type=int, default=list(TREC_SHOTS), help="of trec_<N>shots [the paper's]")
    parser.add_argument("--rows", type=int, help="of each set [LongBench's: 150, 200, 500; many-shot 200]")
    parser.add_argument("--words", type=int, help="of each context, about [LongBench's average for each set]")
    parser.add_argument("--classes", type=int, default=50, help="types of questions in trec, 2 to 50 [50]")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--exclude", type=Path, help="JSON lines with a `text` that a model was trained on: no code from their files"
    )
    args = parser.parse_args()
    args.sets = [name.removeprefix(STANDIN) for name in args.sets]
    unknown = [name for name in args.sets if name not in MAKERS]
    if unknown:
        raise ValueError(f"--sets {unknown[0]} has no stand-in; there are {' '.join(MAKERS)}")
    for flag, low, high in (("rows", 1, 10**6), ("words", 40, 10**5), ("classes", 2, len(TYPES))):
        value = getattr(args, flag)
        if value is not None and not low <= value <= high:
            raise ValueError(f"--{flag} {value} is not from {low} to {high}")
    if any(shots < 1 for shots in args.shots):
        raise ValueError("--shots takes numbers above 0")
    return args


def make_row(name: str, i: int, make, source: Source, seed: int, kinds: list[str] | None) -> dict:
    """Row number i of a set, with LongBench's fields."""
    context, question, answers = make(Random(f"{name} {seed} {i}"), source)
    return {
        "input": question,
        "context": context,
        "answers": answers,
        "length": sum(map(length, (context, question, *answers))),
        "dataset": STANDIN + name,
        "language": "python" if SETS[name].category == "code" else "en",
        "all_classes": kinds,
        "_id": f"{STANDIN}{name}-{seed}-{i}",
    }


def make_set(stem: str, name: str, shots: int | None, source: Source, args: argparse.Namespace) -> dict:
    """Writes standin_<stem>.jsonl, rows of the set `name`; returns what standin.json says about it."""
    n = args.rows or SETS[name].rows
    make, kinds = partial(MAKERS[name], words=args.words or SETS[name].words), None
    if name == "trec":
        kinds = list(TYPES)[:: len(TYPES) // args.classes][: args.classes]
        make = partial(make, shots=shots, kinds=kinds)
    rows = [make_row(name, i, make, source, args.seed, kinds) for i in range(n)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path = args.output_dir / f"{STANDIN}{stem}.jsonl"
    write_text(path, text)
    average = sum(row["length"] for row in rows) / n
    print(f"{path}: {n} rows of {average:.0f} words", flush=True)
    return {
        "rows": n,
        "words": round(average, 1),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "seed": args.seed,
        "classes": kinds and len(kinds),
        "exclude": args.exclude and str(args.exclude),
    }


def main():
    args = parse_args()
    source, about = read_source(args.exclude)
    manifest_path = args.output_dir / f"{STANDIN.rstrip('_')}.json"
    manifest = read_json(manifest_path) or {}
    wanted = {name: (name, None) for name in args.sets}
    for shots in args.shots:  # sets of all sizes ask the same questions
        wanted[f"trec_{shots}shots"] = ("trec", shots)
    for stem, (name, shots) in wanted.items():
        manifest[STANDIN + stem] = make_set(stem, name, shots, source, args) | about
        write_json(manifest_path, manifest)


if __name__ == "__main__":
    run_script(main)
