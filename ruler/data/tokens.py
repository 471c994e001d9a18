"""Counts the tokens of a prompt from those of its words.

The idea of this generator: a prompt is cut at its spaces into words (line breaks stay inside the words), every word is
tokenised once, after a space, and cached, and a prompt has as many tokens as its words together. So a prompt of 32,768
tokens is counted in a few milliseconds. Finished prompts are verified by tokenising them as a whole.
"""

import functools
import os
from pathlib import Path

from run import errors_of, read_text

from tokenizers import Tokenizer

from tokenizer import open_tokenizer, use_text_only

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # prepare.py runs one process per core


class Tokens:
    """Counts tokens with a tokenizer given as JSON.  cost(word): tokens of a word after a space, cached."""

    def __init__(self, tokenizer_json: str):
        self.tokenizer = Tokenizer.from_str(tokenizer_json)
        use_text_only(self.tokenizer)
        self.special_tokens = self.tokenizer.num_special_tokens_to_add(False)  # such as BOS
        anchor_tokens = self.count_plain("a")
        self.cost = functools.cache(lambda word: self.count_plain(f"a {word}") - anchor_tokens)

    def count_plain(self, text: str) -> int:
        """Tokens of a text without special tokens."""
        [encoding] = self.tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return len(encoding)

    def count_whole(self, text: str) -> int:
        """Tokens of a prompt as the model gets it, special tokens included."""
        return self.special_tokens + self.count_plain(text)

    def count_words(self, text: str) -> int:
        """Tokens of the words of a text that follows a space."""
        return sum(map(self.cost, text.split(" ")))

    def count(self, text: str) -> int:
        """Tokens of a prompt as `count_whole` counts them, from those of its words."""
        end = text.find(" ", 1)  # of the first word, which a space at the beginning belongs to
        if end < 0:
            return self.count_whole(text)
        return self.count_whole(text[:end]) + self.count_words(text[end + 1 :])


def read_tokenizer(name_or_path: str, trust_remote_code: bool) -> str:
    """The tokenizer of a checkpoint folder or hub id as JSON. Raises ValueError if there is none or it is a slow one.

    The tokenizer.json of a folder is read directly, which saves the seconds that importing Transformers takes.
    """
    path = Path(name_or_path) / "tokenizer.json"
    with errors_of(f"no fast tokenizer in {name_or_path}"):
        if not path.is_file():
            return open_tokenizer(name_or_path, trust_remote_code).backend_tokenizer.to_str()
        Tokens(read_text(path))  # raises if it is not one
    return read_text(path)
