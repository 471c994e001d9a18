"""Text, tokenizer and look-up documents of the pocket study, made from the standard library of this Python.

Everything is a function of its arguments: the same Python gives the same tokens on every machine.
`make_base_model.py` is the script that uses it.
"""

import collections
import hashlib
import json
import random
import re
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from python_text import read_help_pages, read_sources
from run import write_bytes, write_text

BOS, EOS = "<s>", "</s>"
TOPICS = "pydoc_data/topics/"  # the names of help pages begin with it
MIN_PAGE_CHARACTERS = 2000
SECTION_CHARACTERS = 8000  # about 3,000 tokens: six rows of the extension data
TEST_DOCUMENTS = 16  # the longest held-out documents make up test.bin
DOCUMENTS_PER_ROW = (1, 1, 2, 4, 8)  # long look-up documents teach the distance, short ones the look-up

# Loss weights of a look-up document: lines are random, so learning them is wasted; the few answers count more.
TEXT_WEIGHT, LINE_WEIGHT, ANSWER_WEIGHT = 1.0, 0.2, 6.0
# Statement and question of a number. {key} is what has the number, {a} and {b} are any words, {tail} is one of TAILS.
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


def read_corpus(folder: Path) -> dict[str, str]:
    """The Python sources and long help pages under `folder` by name. Raises ValueError if they are too few."""
    documents = read_sources(folder)
    for topic, page in read_help_pages(folder).items():
        if len(page) >= MIN_PAGE_CHARACTERS:
            documents[TOPICS + topic] = page
    if len(documents) < 24:
        raise ValueError(f"{folder} has {len(documents)} usable Python files, 24 are needed; set another --corpus_dir")
    return dict(sorted(documents.items()))


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer with one token per digit; it puts `<s>` before each text."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Token ids of each text, int32, with the BOS. Text that spells a special token is encoded as ordinary text."""
    tokenizer.encode_special_tokens = True
    return [np.array(encoding.ids, dtype=np.int32) for encoding in tokenizer.encode_batch_fast(texts)]


class LookupDocuments:
    """Makes documents of text in which facts are stated and, later, asked for.

    All facts come before all questions, with text of random lengths between them, so that a single fact is anywhere
    (uniformly) before its question. A document ends with a question.
    """

    def __init__(self, tokenizer: Tokenizer, training_texts: list[str]):
        self.tokenizer = tokenizer
        self.stream_N = np.concatenate(encode(tokenizer, training_texts))
        self.filler_N = self.stream_N[self.stream_N != tokenizer.token_to_id(BOS)]
        vocabulary = sorted(tokenizer.get_vocab())
        self.names = [token[1:] for token in vocabulary if re.fullmatch("Ġ[a-z]{3,}", token)]  # words, Ġ for a space
        counts = collections.Counter()
        for text in training_texts:
            counts.update(re.findall(r"\b[a-z]{4,9}\b", text))
        by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
        self.words = sorted(by_frequency[:2000])

    def encode_line(self, line: str) -> list[int]:
        return self.tokenizer.encode(line, add_special_tokens=False).ids

    def passkeys(self, rng, length: int, facts: int, questions: int):
        """A document of `length` tokens with passkeys of 4 digits, each asked for once at most.

        Returns (ids_L int32, weights_L float32); the digits asked for have ANSWER_WEIGHT.
        """
        lines = {}
        for name in rng.sample(self.names, facts):
            value = rng.randrange(10**4)
            lines[name] = self.encode_line(f"\n# key {name} is {value:04d}\n")
        asked = [lines[name] for name in rng.sample(list(lines), questions)]
        return self.join(rng, length, list(lines.values()), asked, 4)

    def numbers(self, rng, length: int, facts: int, questions: int):
        """Like `passkeys`, in one of the wordings of NUMBERS, with 4 to 7 digits; facts may be asked for repeatedly.

        There are fewer facts and questions if they do not fit into `length` tokens, at least 64.
        """
        while True:
            statement, question = rng.choice(NUMBERS)
            digits = rng.randint(4, 7)
            a, b, *words = rng.sample(self.words, 2 + 2 * facts)
            hyphen = rng.random() < 0.5
            tail = rng.choice(TAILS)
            stated, asked = [], []
            for first, second in zip(words[::2], words[1::2], strict=True):
                key = f"{first}-{second}" if hyphen else first.capitalize()
                value = rng.randrange(10 ** (digits - 1), 10**digits)
                fields = {"a": a, "b": b, "key": key, "tail": tail}
                stated.append(self.encode_line(f"\n{statement} {value}.\n".format(**fields)))
                asked.append(self.encode_line(f"\n{question} {value}\n".format(**fields)))
            asked = rng.choices(asked, k=questions)
            if sum(map(len, stated + asked)) < length:
                return self.join(rng, length, stated, asked, digits)
            facts = max(1, facts - 1)
            questions = max(1, questions - 1)

    def join(self, rng, length: int, stated: list, asked: list, digits: int):
        """A document of the lines (lists of ids) with one stretch of text, cut at random places, between them."""
        lines = stated + asked
        text_tokens = length - 1 - sum(map(len, lines))
        assert text_tokens >= 0
        start = rng.randrange(len(self.filler_N) - text_tokens)
        cuts = sorted(rng.randrange(text_tokens + 1) for _ in lines[1:])
        cuts.append(text_tokens)
        ids = self.filler_N[start : start + text_tokens].tolist()
        weights = [TEXT_WEIGHT] * text_tokens
        for i in reversed(range(len(lines))):  # from the end: an insertion does not move the cuts before it
            cut, line = cuts[i], lines[i]
            ids[cut:cut] = line
            weights[cut:cut] = [LINE_WEIGHT] * len(line)
            if i >= len(stated):
                line_end = cut + len(line) - 1
                weights[line_end - digits : line_end] = [ANSWER_WEIGHT] * digits
        ids.insert(0, self.tokenizer.token_to_id(BOS))
        weights.insert(0, TEXT_WEIGHT)
        return np.array(ids, dtype=np.int32), np.array(weights, dtype=np.float32)

    def texts(self, rng: random.Random, length: int, rows: int) -> list[str]:
        """Texts that fill `rows` rows of `length` tokens, at least 64, with 1, 2, 4 or 8 documents each."""
        texts = []
        possible = [count for count in DOCUMENTS_PER_ROW if length >= 64 * count]
        for _ in range(rows):
            count = rng.choice(possible)
            for part in np.array_split(range(length), count):
                texts.append(self.exact_text(rng, len(part)))
        return texts

    def exact_text(self, rng: random.Random, tokens: int) -> str:
        """A text with up to six facts that tokenises to the ids it was made of; else it is drawn again."""
        max_facts = min(6, tokens // 40)
        facts = rng.randint(1, max(1, max_facts))
        while True:
            make_document = self.passkeys if rng.random() < 0.5 else self.numbers
            ids_L, _ = make_document(rng, tokens, facts, facts)
            text = self.tokenizer.decode(ids_L[1:].tolist(), skip_special_tokens=False)
            if np.array_equal(encode(self.tokenizer, [text])[0], ids_L):
                return text


def write_corpus(training: dict[str, str], lookups: list[str], seed: int, path: Path) -> None:
    """Writes documents for prepare_data.py as JSON lines with `text` and `source`: passkey, python or prose.

    The look-up documents come first: they fill whole rows, so none is cut when the rows are packed. The others are cut
    at line ends into sections and shuffled, so that a small budget includes many files.
    """
    documents = []
    for name, text in training.items():
        source = "prose" if name.startswith(TOPICS) else "python"
        section = ""
        for line in text.splitlines(keepends=True):
            if len(section) >= SECTION_CHARACTERS:
                documents.append({"text": section, "source": source})
                section = ""
            section += line
        documents.append({"text": section, "source": source})
    random.Random(f"corpus {seed}").shuffle(documents)
    documents = [{"text": text, "source": "passkey"} for text in lookups] + documents
    write_text(path, "".join(json.dumps(document) + "\n" for document in documents))


def write_heldout(texts: list[str], tokenizer: Tokenizer, path: Path) -> None:
    """Writes the longest held-out documents as one file of uint16 tokens, and `<file>.json` that describes it."""
    documents = sorted(encode(tokenizer, texts), key=len, reverse=True)
    longest = documents[:TEST_DOCUMENTS]
    random.Random("held out").shuffle(longest)
    tokens_N = np.concatenate(longest).astype("<u2")
    tokens = tokens_N.tobytes()
    tokenizer_sha256 = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    description = {
        "source": "standin",
        "dataset": "python stdlib held-out files",
        "tokenizer": f"byte-level BPE, tokenizer.json sha256 {tokenizer_sha256}",
        "dtype": "uint16",
        "vocab_size": tokenizer.get_vocab_size(),
        "documents": len(longest),
        "tokens": len(tokens_N),
        "sha256": hashlib.sha256(tokens).hexdigest(),
    }
    write_bytes(path, tokens)
    write_text(path.with_name(path.name + ".json"), json.dumps(description, indent=2))
