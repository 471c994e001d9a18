"""Text, tokenizer and rows of the pocket study, made from the standard library of this Python.

Everything is a function of its arguments: the same Python gives the same tokens on every machine.
`make_base_model.py` trains the base on it, `make_pocket_data.py` writes what the base is extended and evaluated with.
"""

import collections
import re
from itertools import chain
from pathlib import Path
from random import Random

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pocket_draw import Document, Draw
from pocket_tasks import draw_document
from python_text import read_docstrings, read_sources

BOS, EOS = "<s>", "</s>"
WORDS = 6000  # the most frequent words of the text: tasks are made of them
PROSE_WEIGHT = 8  # of the docstrings when the tokenizer is trained: the benchmarks' prompts are English
NUMBER_WEIGHT = 3000  # of all numbers of two and three digits: each becomes a token
CHARACTERS_PER_TOKEN = 2.6  # of task documents
SHORTEST = 60  # characters of a task document
TASK_SHARES = {
    "copy": 0.05, "lookup": 0.24, "classify": 0.18, "answer": 0.11, "passage": 0.08, "frequent": 0.06, "chain": 0.07,
}  # fmt: skip
# Loss weights. What a task states is random: learning it is wasted, so few of its tokens count. Answers count more.
TEXT_WEIGHT, ANSWER_WEIGHT = 1.0, 6.0
TASK_SHARE = 0.1  # of the other tokens of task documents; the rest has weight 0


class Corpus:
    """The training text of the standard library in `folder`. Raises ValueError if it has too few files.

    sources, prose: {name: text} of its files and of their docstrings.  words: the words that tasks draw from.
    """

    def __init__(self, folder: Path):
        self.sources = read_sources(folder, held_out=False)
        if len(self.sources) < 20:
            raise ValueError(f"{folder} has {len(self.sources)} usable Python files, 20 are needed; set --corpus_dir")
        self.prose = {}
        for name, text in self.sources.items():
            docstrings = read_docstrings(text)
            if docstrings.count("\n") > 10:
                self.prose[name] = docstrings
        self.texts = [*self.sources.values(), *self.prose.values()]
        lines = "\n".join(self.prose.values()).splitlines()
        sentence = re.compile(r"[A-Z][\w ,'-]{20,90}[.]")
        self.sentences = list(filter(sentence.fullmatch, lines))
        counts = collections.Counter()
        for text in self.sources.values():
            counts.update(re.findall(r"\b[a-z]{3,9}\b", text))
        by_frequency = sorted(sorted(counts), key=counts.get, reverse=True)
        self.words = sorted(by_frequency[:WORDS])

    def draw(self, seed: str) -> Draw:
        """For task documents with half code and half prose between their statements."""
        draw = Draw(seed, self.words, list(self.prose.values()), self.sentences)
        if draw.chance(0.5):
            draw.texts = list(self.sources.values())
        return draw


def train_tokenizer(corpus: Corpus, vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer that cuts numbers after every third digit; it puts `<s>` before each text.

    A token of three digits rarely occurs twice in a document, so a number can be copied like a word.
    """
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), behavior="isolated")
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_of_words])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    numbers = [f"{number:03d}" for number in range(1000)]
    numbers += [f"{number:02d}" for number in range(100)]
    texts = list(corpus.sources.values())
    texts += list(corpus.prose.values()) * PROSE_WEIGHT
    texts += [" ".join(numbers)] * NUMBER_WEIGHT
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def encode_document(tokenizer: Tokenizer, document: Document) -> tuple:
    """(ids, answers), arrays of the tokens of a document, with BOS; answers: the number of a token's answer, or -1."""
    encoding = tokenizer.encode(document.text)
    starts_N, ends_N = np.array(encoding.offsets).T
    answers_N = np.full(len(starts_N), -1)
    for number, (start, end) in enumerate(document.answers):
        overlaps_N = (starts_N < end) & (ends_N > start) & (ends_N > starts_N)  # BOS has no characters
        answers_N[overlaps_N & (answers_N < 0)] = number
    return encoding.ids, answers_N


class Rows:
    """Makes rows of exactly `length` tokens for the training of the base. texts: what is not a task's is taken from."""

    def __init__(self, tokenizer: Tokenizer, texts: list):
        tokenizer.encode_special_tokens = True  # as ordinary text
        self.tokenizer = tokenizer
        encodings = tokenizer.encode_batch_fast(texts)
        ids = chain.from_iterable(encoding.ids for encoding in encodings)
        self.stream_N = np.fromiter(ids, np.int32)

    def text(self, rng: Random, length: int) -> np.ndarray:
        """[length] token ids from a random place of the text, int32."""
        start = rng.randrange(len(self.stream_N) - length)
        return self.stream_N[start : start + length]

    def text_row(self, rng: Random, length: int) -> tuple:
        """(ids_L int32, weights_L float32, answers_L int32) of text; a row without answers."""
        ids_L = self.text(rng, length).copy()
        weights_L = np.full(length, TEXT_WEIGHT, dtype=np.float32)
        answers_L = np.full(length, -1, dtype=np.int32)
        return ids_L, weights_L, answers_L

    def task_row(self, draw: Draw, task: str, length: int, level: float) -> tuple:
        """Like `text_row`, of one or several documents of a task and, in what is left, text.

        answers_L numbers the tokens of each answer of the row; -1 elsewhere.
        """
        ids, answers = [], []
        while len(ids) < length - 20:
            room = length - len(ids)
            tokens = room if draw.chance(0.4) else draw.uniform(0.2 * room, room)
            size = max(SHORTEST, int(tokens * CHARACTERS_PER_TOKEN))
            document = draw_document(draw, task, size, level)
            new_ids, new_answers_N = encode_document(self.tokenizer, document)
            if len(new_ids) <= room:
                new_answers_N[new_answers_N >= 0] += max(answers, default=-1) + 1
                ids += new_ids
                answers += new_answers_N.tolist()
            elif ids:
                break
        ids_L, weights_L, answers_L = self.text_row(draw, length)
        end = len(ids)
        ids_L[:end] = ids
        answers_L[:end] = answers
        weights_L[:end] *= [draw.chance(TASK_SHARE) for _ in ids]
        weights_L[answers_L >= 0] = ANSWER_WEIGHT
        return ids_L, weights_L, answers_L
