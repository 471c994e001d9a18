"""Makes the data of the pocket study, for training and evaluation, from the standard library of this Python.

    python make_pocket_data.py --tokenizer pocket_base --length 1024 --rows 1000 --output_dir pocket/data

corpus.jsonl     documents for prepare_data.py, with `source`: task (the tasks of the base's training, at the new
                 length), python and prose (text that the base was trained on)
heldout.jsonl    files that the base was not trained on, for eval_perplexity/prepare_data.py
short/           three of the tasks inside the base's window, for eval_perplexity/eval_short.py --include_path
"""

import json
import sysconfig
from pathlib import Path
from random import Random

from run import Parser, int_between, positive_int, run_script, write_text

from pocket_corpus import CHARACTERS_PER_TOKEN, SHORTEST, TASK_SHARES, Corpus, Rows
from pocket_draw import Draw
from pocket_tasks import draw_document
from python_text import read_sources
from tokenizer import open_tokenizer

SECTION_TOKENS = 2000  # of text in a document, about
SHORT_TASKS, SHORT_ROWS, SHORT_CHARACTERS = ("lookup", "classify", "answer"), 200, 400
FILLER_TEXTS = 50  # what fills the ends of the rows is from so many texts


def task_texts(draw: Draw, rows: Rows, length: int) -> list:
    """Documents of tasks, and text at the end, of exactly `length` tokens: prepare_data.py makes one row of them."""
    texts, tokens = [], 0
    while length - tokens > 60:
        [task] = draw.choices(list(TASK_SHARES), weights=TASK_SHARES.values())
        room = length - tokens
        wanted = room if draw.chance(0.5) else draw.uniform(0.1 * room, room)
        size = max(SHORTEST, int(wanted * CHARACTERS_PER_TOKEN))
        text = draw_document(draw, task, size, level=draw.random()).text
        text_tokens = len(rows.tokenizer.encode(text).ids)
        if text_tokens < room - 1:  # at least one token of text follows
            texts.append(text)
            tokens += text_tokens
    while True:
        ids = rows.text(draw, length - tokens - 1).tolist()
        text = rows.tokenizer.decode(ids)
        if rows.tokenizer.encode(text).ids[1:] == ids:  # true if it begins and ends between two words, without BOS
            return [*texts, text]


def sections(corpus: Corpus, seed: int, tokens: int) -> list:
    """Sections of files and of docstrings, in random order, with about so many tokens of each."""
    rng = Random(f"sections {seed}")
    needed = 1 + int(tokens / SECTION_TOKENS * 2)
    documents = []
    for source, texts in (("python", corpus.sources), ("prose", corpus.prose)):
        parts = []
        for text in texts.values():
            part = ""
            for line in text.splitlines(keepends=True):
                part += line
                if len(part) > SECTION_TOKENS * CHARACTERS_PER_TOKEN:
                    parts.append(part)
                    part = ""
            parts.append(part)
        parts = list(filter(str.strip, parts))
        rng.shuffle(parts)
        documents += [{"text": part, "source": source} for part in parts[:needed]]
    return documents


def write_records(path: Path, records: list) -> None:
    lines = [json.dumps(record) + "\n" for record in records]
    write_text(path, "".join(lines))


def write_short_tasks(folder: Path, corpus: Corpus, seed: int) -> None:
    """Tasks of lm-eval: is the last answer of a document the likeliest continuation?"""
    for name in SHORT_TASKS:
        rows = []
        draw = corpus.draw(f"short {seed} {name}")
        while len(rows) < SHORT_ROWS:
            document = draw_document(draw, name, SHORT_CHARACTERS, level=0.5)
            if document.answers:
                start, end = document.answers[-1]
                rows.append({"prompt": document.text[:start], "answer": document.text[start:end]})
        data = folder / f"{name}.jsonl"
        write_records(data, rows)
        task = {
            "task": f"pocket_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data.resolve())}},
            "test_split": "test",
            "output_type": "loglikelihood",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{answer}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc"}],
        }
        write_text(folder / f"{name}.yaml", json.dumps(task, indent=2))  # JSON is YAML


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--tokenizer", required=True, help="checkpoint folder of the base")
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--corpus_dir", type=Path, default=sysconfig.get_path("stdlib"), help="folder of .py files")
    parser.add_argument("--length", type=int_between(256, 2**20), required=True, help="tokens of a row")
    parser.add_argument("--rows", type=positive_int, required=True, help="rows of tasks, and as many of text")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    corpus = Corpus(args.corpus_dir)
    n_fillers = min(FILLER_TEXTS, len(corpus.texts))
    fillers = Random(f"fillers {args.seed}").sample(corpus.texts, n_fillers)
    tokenizer = open_tokenizer(args.tokenizer).backend_tokenizer
    rows = Rows(tokenizer, fillers)
    documents = []
    for i in range(args.rows):
        draw = corpus.draw(f"extension {args.seed} {i}")
        for text in task_texts(draw, rows, args.length):
            documents.append({"text": text, "source": "task"})
    documents += sections(corpus, args.seed, args.rows * args.length)
    write_short_tasks(args.output_dir / "short", corpus, args.seed)
    heldout = [{"text": text} for text in read_sources(args.corpus_dir, held_out=True).values()]
    for name, records in (("corpus", documents), ("heldout", heldout)):
        path = args.output_dir / f"{name}.jsonl"
        write_records(path, records)
        print(f"{path}: {len(records)} documents")


if __name__ == "__main__":
    run_script(main)
