"""Text, tokenizer, passkey and number documents of the pocket study, made from the interpreter's standard library.

Everything is a pure function of its arguments: the same Python gives the same tokens on every machine.
`make_base_model.py` is the script that uses it.
"""

import ast
import collections
import hashlib
import json
import random
import re
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from run import write_bytes, write_text

BOS, EOS = "<s>", "</s>"
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "encodings", "lib-dynload", "__pycache__", "ensurepip"}
SKIPPED_FOLDERS |= {"test", "tests", "idle_test", "__phello__"}
SMALLEST_FILE = 2000  # bytes; shorter files are mostly re-exports
HELD_OUT_EVERY = 12  # every 12th document is for evaluation only
TEST_DOCUMENTS = 16  # the longest held-out documents make up test.bin

SECTION = 8000  # characters, about 3,000 tokens: six rows of the extension data
TOPICS = "pydoc_data/topics/"  # begins the names of help pages
PIECES = (1, 1, 2, 4, 8)  # documents to a passkey row: long ones teach the distance, short ones the look-up

# What each token of a passkey document is.
FILLER, LINE, ANSWER = 0, 1, 2


# ----------------------------------------------------------------------------- text
def read_corpus(folder: Path) -> dict[str, str]:
    """The documents under `folder`, by relative path in sorted order: its .py files and the topics of `pydoc_data`.

    Leaves out tests, encodings, installed packages, files that record the machine they were built on, and files
    under 2 kB. Raises ValueError if fewer than 24 documents are left.
    """
    documents = {}
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder)
        machine_made = name.parts[0].startswith("config-") or name.name.startswith(("_sysconfigdata", "sitecustomize"))
        if machine_made or SKIPPED_FOLDERS.intersection(name.parts[:-1]) or path.stat().st_size < SMALLEST_FILE:
            continue
        text = path.read_bytes().decode("utf-8", errors="ignore").replace("\r\n", "\n")
        if name.as_posix() == "pydoc_data/topics.py":  # one dict of help pages: each is a document
            for topic, page in sorted(ast.literal_eval(text[text.index("{") :]).items()):
                if len(page) >= SMALLEST_FILE:
                    documents[TOPICS + topic] = page
        else:
            documents[name.as_posix()] = text
    if len(documents) < 2 * HELD_OUT_EVERY:
        raise ValueError(
            f"{folder} has {len(documents)} usable Python source files, {2 * HELD_OUT_EVERY} are needed; use a Python "
            "with its standard library's sources, or point --corpus_dir at a folder of .py files"
        )
    return documents


def corpus_sha256(documents: dict[str, str]) -> str:
    """SHA-256 over names and texts, in order."""
    digest = hashlib.sha256()
    for name, text in documents.items():
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()


def split_corpus(documents: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(training, held out): every 12th document is held out, more often in a small corpus (at least 12)."""
    every = min(HELD_OUT_EVERY, len(documents) // HELD_OUT_EVERY)
    held_out = set(list(documents)[::every])
    return (
        {name: text for name, text in documents.items() if name not in held_out},
        {name: text for name, text in documents.items() if name in held_out},
    )


# ----------------------------------------------------------------------------- tokens
def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with every digit a token of its own, `<s>` put before each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def encode_documents(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """One uint16 array per text, `<s>` first and nowhere else (a literal "<s>" in the text stays text)."""
    tokenizer.encode_special_tokens = True
    encoded = []
    for i in range(0, len(texts), 32):  # in slices: an Encoding takes many times the memory of its ids
        encoded += [np.array(e.ids, dtype=np.uint16) for e in tokenizer.encode_batch_fast(texts[i : i + 32])]
    tokenizer.encode_special_tokens = False
    return encoded


# ----------------------------------------------------------------------------- passkeys
def passkey_line(key: str, value: str) -> str:
    """The line that states a passkey and, given up to `is`, asks for it."""
    return f"\n# key {key} is {value}\n"


def passkey_keys(tokenizer: Tokenizer) -> list[str]:
    """Words of three letters or more that are one token after a space, sorted: the names passkeys can have."""
    words = (re.fullmatch("Ġ([a-z]{3,})", token) for token in tokenizer.get_vocab())  # Ġ: a space in byte-level BPE
    return sorted(match[1] for match in words if match)


def line_ids(tokenizer: Tokenizer, key: str, value: str) -> list[int]:
    """Token ids of one passkey line, no BOS. The last token is the newline, the four before it are the digits."""
    return tokenizer.encode(passkey_line(key, value), add_special_tokens=False).ids


# How a number is stated and asked for: {key} has it, {a} and {b} are any words, {tail} one of TAILS. Several, so that
# the look-up does not hang on one wording: the benchmarks' needles and questions have their own.
NUMBERS = (
    ("The {a} of {key} is", "The {a} of {key} is"),
    ("{key} has the {a} number", "Which {a} number has {key}? It is"),
    ("One of the {a} numbers of {key} is:", "What is the {a} number of {key}? The {a} number of {key}{tail} is"),
    (
        "One of the {a} {b} numbers for {key} is:",
        "What is the {a} {b} number for {key}{tail}? The {a} {b} number for {key}{tail} is",
    ),
    ("The {a} number for {key} is:", "The {a} number for {key}{tail} is"),
    ("The {a} number for {key} is:", "Question: What is the {a} number for {key}{tail}?\nAnswer:"),
    ("The {a} in {key} was {b} in", "Question: When was the {a} in {key} {b}?\nAnswer:"),
)
TAILS = ("", " given in this text", " in the text above", " that this text tells")


def common_words(texts: list[str], most: int = 2000) -> list[str]:
    """The words of 4 to 9 small letters that stand most often in the texts, at most `most`, sorted."""
    counts = collections.Counter(word for text in texts for word in re.findall(r"\b[a-z]{4,9}\b", text))
    return sorted(sorted(counts, key=lambda word: (-counts[word], word))[:most])


def passkey_document(
    rng: random.Random, length: int, facts: int, questions: int, keys: list[str], filler_N: np.ndarray, tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """A document of exactly `length` tokens: text with `facts` passkey lines in it, then `questions` of them again.

    All facts come before all questions; the document ends with a question. Between the lines there is text of random
    lengths, so a single fact lies anywhere (uniformly) before its question. Keys differ, values are 4 random digits.

    filler_N: token ids without BOS to take one stretch of text from. Returns (ids_L, kinds_L), uint16 and uint8;
    kinds are FILLER, LINE, or ANSWER (the digits of a question). Raises ValueError if the lines do not fit.
    """
    names = rng.sample(keys, facts)
    lines = {name: line_ids(tokenizer, name, f"{rng.randrange(10**4):04d}") for name in names}
    stated = [(lines[name], [LINE] * len(lines[name])) for name in names]
    asked = [
        (lines[name], [LINE] * (len(lines[name]) - 5) + [ANSWER] * 4 + [LINE]) for name in rng.sample(names, questions)
    ]
    return scattered(rng, length, stated, asked, filler_N, tokenizer)


def number_document(
    rng: random.Random, length: int, facts: int, questions: int, words: list[str], filler_N: np.ndarray, tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """Like `passkey_document`, in the wording of one of NUMBERS, numbers of 4 to 7 digits; the same is asked again
    where there are fewer facts than questions. Has fewer of both where they do not fit into `length`, 64 or more."""
    while True:
        (statement, question), digits = rng.choice(NUMBERS), rng.randint(4, 7)
        a, b, *names = rng.sample(words, 2 + 2 * facts)
        joined, lines = rng.random() < 0.5, []
        tail = rng.choice(TAILS)
        for one, two in zip(names[::2], names[1::2], strict=True):
            fields = {"a": a, "b": b, "tail": tail, "key": f"{one}-{two}" if joined else one.capitalize()}
            value = f" {rng.randrange(10 ** (digits - 1), 10**digits)}"
            ends = [
                (f"\n{statement.format(**fields)}", f"{value}.\n"),
                (f"\n{question.format(**fields)}", f"{value}\n"),
            ]
            lines.append([[tokenizer.encode(part, add_special_tokens=False).ids for part in parts] for parts in ends])
        stated = [(head + tail, [LINE] * len(head + tail)) for (head, tail), _ in lines]
        asked = [
            (head + tail, [LINE] * (len(head) + 1) + [ANSWER] * (len(tail) - 2) + [LINE])
            for _, (head, tail) in rng.choices(lines, k=questions)
        ]
        try:
            return scattered(rng, length, stated, asked, filler_N, tokenizer)
        except ValueError:
            facts, questions = max(1, facts - 1), max(1, questions - 1)


def scattered(
    rng: random.Random, length: int, stated: list, asked: list, filler_N: np.ndarray, tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """The lines of a document, (ids, kinds) each, with text between them; all else as `passkey_document` says."""
    events = stated + asked
    spare = length - 1 - sum(len(line) for line, _ in events)
    if spare < 0:
        what = f"{len(stated)} facts and {len(asked)} questions"
        raise ValueError(f"{what} take {length - spare} tokens, more than {length}")
    start = rng.randrange(len(filler_N) - spare)
    cuts = sorted(rng.randrange(spare + 1) for _ in events[1:]) + [spare]

    ids, kinds, taken = [tokenizer.token_to_id(BOS)], [FILLER], 0
    for cut, (line, of_line) in zip(cuts, events, strict=True):
        ids += [*filler_N[start + taken : start + cut].tolist(), *line]
        kinds += [FILLER] * (cut - taken) + of_line
        taken = cut
    return np.array(ids, dtype=np.uint16), np.array(kinds, dtype=np.uint8)


# ----------------------------------------------------------------------------- files
def passkey_texts(
    rng: random.Random, length: int, rows: int, keys: list[str], words: list[str], filler_N: np.ndarray, tokenizer
) -> list[str]:
    """Texts that fill `rows` rows of `length` tokens one after the other, 1, 2, 4 or 8 to a row: passkey documents, and
    about as many number documents.

    The documents of a row are of equal length, 64 tokens or more, with up to six facts each and as many questions; of
    passkeys each is asked once. `length` must be at least 64. A text tokenises to exactly the tokens it was made of,
    BOS included: documents where the tokens at a seam would join otherwise are drawn anew.
    """
    texts = []
    for _ in range(rows):
        pieces = rng.choice([pieces for pieces in PIECES if length >= 64 * pieces])
        for i in range(pieces):
            piece = length * (i + 1) // pieces - length * i // pieces
            facts = rng.randint(1, max(1, min(6, piece // 40)))
            while True:
                if rng.random() < 0.5:
                    ids_L = passkey_document(rng, piece, facts, facts, keys, filler_N, tokenizer)[0]
                else:
                    ids_L = number_document(rng, piece, facts, facts, words, filler_N, tokenizer)[0]
                text = tokenizer.decode(ids_L[1:].tolist(), skip_special_tokens=False)
                if np.array_equal(encode_documents(tokenizer, [text])[0], ids_L):
                    break
            texts.append(text)
    return texts


def sections(text: str) -> list[str]:
    """A text cut at line ends into pieces of at least SECTION characters, the last one perhaps shorter."""
    pieces = [""]
    for line in text.splitlines(keepends=True):
        if len(pieces[-1]) >= SECTION:
            pieces.append("")
        pieces[-1] += line
    return pieces


def write_corpus(training: dict[str, str], passkeys: list[str], seed: int, path: Path) -> None:
    """Documents for prepare_data.py as JSON lines with `text` and `source`: passkey, then python and prose shuffled.

    Those of `passkey`, the number documents among them, come first because they fill whole rows: packed in this order,
    none is cut. The others are sections of the files, so that a small budget sees many of them.
    """
    documents = []
    for name, text in training.items():
        documents += [("prose" if name.startswith(TOPICS) else "python", section) for section in sections(text)]
    random.Random(f"corpus {seed}").shuffle(documents)
    documents = [("passkey", text) for text in passkeys] + documents
    lines = [json.dumps({"text": text, "source": source}) + "\n" for source, text in documents]
    write_text(path, "".join(lines))


def write_heldout(documents: list[np.ndarray], tokenizer: Tokenizer, path: Path) -> None:
    """The longest held-out documents as one raw uint16 token file, each with its BOS, and what it is beside it."""
    longest = sorted(documents, key=len, reverse=True)[:TEST_DOCUMENTS]
    random.Random("held out").shuffle(longest)
    tokens = np.concatenate(longest).astype("<u2").tobytes()
    note = {
        "source": "standin",
        "dataset": "python stdlib held-out files",
        "tokenizer": f"byte-level BPE, tokenizer.json sha256 {hashlib.sha256(tokenizer.to_str().encode()).hexdigest()}",
        "dtype": "uint16",
        "vocab_size": tokenizer.get_vocab_size(),
        "documents": len(longest),
        "tokens": len(tokens) // 2,
        "sha256": hashlib.sha256(tokens).hexdigest(),
    }
    write_bytes(path, tokens)
    write_text(path.with_name(path.name + ".json"), json.dumps(note, indent=2))
