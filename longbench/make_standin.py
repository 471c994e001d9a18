"""Writes stand-ins for LongBench's sets, for machines without the data: same files, other contents, other names.

    python make_standin.py                                      12 sets, many-shot TREC; LongBench's lengths and rows
    python make_standin.py --sets trec lcc --words 120 --rows 50 --shots            two short sets
    python make_standin.py --sets --shots 1 5 25 --classes 5    many-shot TREC alone, of 5 types of questions
    python pred.py --model_path CKPT --dataset_name standin_trec standin_trec_5shots

data/standin_<set>.jsonl has LongBench's fields; data/standin.json says of each file how it was made. What is in them:
passages of this Python's help texts (passage_count, passage_retrieval_en), the next line of its standard library's
sources (lcc, repobench-p), generated facts in help texts (narrativeqa qasper multifieldqa_en triviaqa: one fact is the
answer; hotpotqa 2wikimqa: two facts in a row; musique: three), questions made of templates (trec). gov_report, qmsum,
multi_news and samsum have no stand-in: their answers are summaries that somebody has to write.

The files are the same on every machine with the same Python. Scores on them are no LongBench scores, and are reported
apart from those.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import sysconfig
from functools import partial
from pathlib import Path
from random import Random

import standins
from sets import SETS, STANDIN, TREC_SHOTS

MAKERS = {
    **{name: partial(standins.single_document, kind=name) for name in ("narrativeqa", "qasper", "multifieldqa_en")},
    **{name: partial(standins.several_documents, kind=name) for name in ("hotpotqa", "2wikimqa", "musique")},
    "trec": standins.trec,
    "triviaqa": standins.trivia,
    "passage_count": standins.passage_count,
    "passage_retrieval_en": standins.passage_retrieval,
    "lcc": standins.lcc,
    "repobench-p": standins.repobench,
}
SKIPPED = {"site-packages", "dist-packages", "encodings", "lib-dynload", "__pycache__", "ensurepip", "test", "tests"}
SKIPPED |= {"idle_test", "pydoc_data", "__phello__"}
SMALLEST_FILE = 2000  # bytes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).resolve().parent / "data", help="[data]")
    parser.add_argument("--sets", nargs="*", default=list(MAKERS), help="of LongBench [the 12 that can be made]")
    parser.add_argument("--shots", nargs="*", type=int, default=list(TREC_SHOTS), help="of trec_<N>shots [the paper's]")
    parser.add_argument("--rows", type=int, help="of each set [LongBench's: 150, 200, 500; many-shot 200]")
    parser.add_argument("--words", type=int, help="of each context, about [LongBench's average for each set]")
    parser.add_argument("--classes", type=int, default=50, help="types of questions in trec, 2 to 50 [50]")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--exclude",
        type=Path,
        help="JSON lines with a `text` that a model was trained on: no code from the files of it",
    )
    args = parser.parse_args()
    args.sets = [name.removeprefix(STANDIN) for name in args.sets]
    for name in args.sets:
        if name not in MAKERS:
            why = "is a summary, which has no stand-in" if name in SETS else "is no set of LongBench"
            parser.exit(2, f"error: --sets {name} {why}; there are {' '.join(MAKERS)}\n")
    for flag, low, high in (("rows", 1, 10**6), ("words", 40, 10**5), ("classes", 2, len(standins.TYPES))):
        value = getattr(args, flag)
        if value is not None and not low <= value <= high:
            parser.exit(2, f"error: --{flag} {value} is not from {low} to {high}\n")
    if any(shots < 1 for shots in args.shots):
        parser.exit(2, "error: --shots takes numbers from 1 on\n")
    return args


# ----------------------------------------------------------------------------- text
def read_source(exclude: Path | None) -> tuple[standins.Source, dict]:
    """This Python's help texts and the sources of its standard library, and what they were, with SHA-256.

    exclude: a corpus; files whose text, or the beginning of it, is in there are left out. Exits with one line if that
    is no JSON-lines file with `text`, or if this Python came without sources.
    """
    from pydoc_data.topics import topics

    sentences = {}  # a dict keeps the order
    for _, page in sorted(topics.items()):
        for paragraph in re.split(r"\n[ \t]*\n", page):
            for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", " ".join(paragraph.split())):
                if re.fullmatch(r"[A-Z][\w\s,;:()'\"/=*.-]+\.", sentence) and 6 <= len(sentence.split()) <= 60:
                    sentences[sentence] = None
    folder, code = Path(sysconfig.get_path("stdlib")), {}
    seen = beginnings(exclude) if exclude else set()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder)
        machine_made = name.parts[0].startswith("config-") or name.name.startswith(("_sysconfigdata", "sitecustomize"))
        if machine_made or SKIPPED.intersection(name.parts[:-1]) or path.stat().st_size < SMALLEST_FILE:
            continue
        text = path.read_bytes().decode("utf-8", errors="ignore").replace("\r\n", "\n")
        if text[:500] not in seen:
            code[name.as_posix()] = text
    if len(sentences) < 500 or len(code) < 10:
        raise SystemExit(
            f"error: this Python has {len(sentences)} usable sentences of help and {len(code)} usable source files; "
            "take one that is installed with its standard library's sources" + " or no --exclude" * bool(exclude)
        )
    digest = hashlib.sha256()
    for name, text in [*zip(sentences, sentences, strict=True), *code.items()]:
        digest.update(f"{name}\0{text}\0".encode())
    about = {"python": platform.python_version(), "files": len(code), "text_sha256": digest.hexdigest()}
    return standins.Source(list(sentences), code), about


def beginnings(corpus: Path) -> set[str]:
    try:
        with corpus.open(encoding="utf-8") as file:
            return {json.loads(line)["text"][:500] for line in file}
    except (OSError, ValueError, TypeError, KeyError) as reason:
        raise SystemExit(f"error: --exclude {corpus} is not a file of JSON lines with `text`: {reason!r}") from None


# ----------------------------------------------------------------------------- files
def make_row(name: str, i: int, make, source: standins.Source, seed: int, classes: list[str] | None) -> dict:
    context, question, answers = make(Random(f"{name} {seed} {i}"), source)
    return {
        "input": question,
        "context": context,
        "answers": answers,
        "length": sum(map(standins.length, (context, question, *answers))),
        "dataset": STANDIN + name,
        "language": "python" if SETS[name].category == "code" else "en",
        "all_classes": classes,
        "_id": f"{STANDIN}{name}-{seed}-{i}",
    }


def write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def main():
    args = parse_args()
    source, about = read_source(args.exclude)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    manifest_path = args.output_dir / f"{STANDIN.rstrip('_')}.json"
    manifest = json.loads(manifest_path.read_text(encoding="utf-8")) if manifest_path.exists() else {}
    many = {f"trec_{shots}shots": shots for shots in args.shots}
    for stem in [*args.sets, *many]:
        name = "trec" if stem in many else stem  # many-shot sets of all sizes ask the same questions
        rows, words = args.rows or SETS[name].rows, args.words or SETS[name].words
        make = partial(MAKERS[name], words=words)
        kinds = None
        if name == "trec":
            kinds = standins.kinds(args.classes)
            make = partial(make, shots=many.get(stem), kinds=kinds)
        try:
            made = [make_row(name, i, make, source, args.seed, kinds) for i in range(rows)]
        except ValueError as reason:
            raise SystemExit(f"error: {stem}: {reason}") from None
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
        path = args.output_dir / f"{STANDIN}{stem}.jsonl"
        write(path, text)
        average = sum(row["length"] for row in made) / rows
        entry = {"rows": rows, "words": round(average, 1), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        entry |= {"seed": args.seed, "classes": kinds and len(kinds), "exclude": args.exclude and str(args.exclude)}
        manifest[STANDIN + stem] = entry | about
        write(manifest_path, json.dumps(manifest, indent=2) + "\n")
        print(f"{path}: {rows} rows of {average:.0f} words", flush=True)


if __name__ == "__main__":
    main()
