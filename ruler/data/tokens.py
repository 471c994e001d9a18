"""How many tokens a text takes.

The one idea of this generator: a text is cut at its spaces into words (line breaks stay inside of them), each word is
tokenised once, behind a space, and cached, and a text takes as many tokens as its words together. So a prompt of 32,768
tokens is counted in a few milliseconds, and the size that fills the length is found by trying sizes. Finished prompts
are verified by tokenising them whole; should that differ, because a tokenizer has tokens that reach over spaces, every
text is counted whole.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are parallel already
from tokenizers import Tokenizer  # noqa: E402

# classes that use tokenizer.json as it stands; of others transformers changes parts, so it is asked for the result
PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
CACHED_WORDS = 2**16


class WordCache(dict):
    """{word: its tokens behind a space}, counted when first asked for."""

    def __init__(self, raw):
        super().__init__()
        self.raw, self.anchor = raw, raw("a")

    def __missing__(self, word: str) -> int:
        if len(self) >= CACHED_WORDS:
            self.clear()
        self[word] = self.raw(f"a {word}") - self.anchor
        return self[word]


class Tokens:
    """Counts with a tokenizer given as JSON.  around: the tokens it puts around a text, such as BOS; may be 0.

    cost(word): tokens of a word behind a space.
    """

    def __init__(self, source: str):
        self.tokenizer = Tokenizer.from_str(source)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.around = self.tokenizer.num_special_tokens_to_add(False)
        self.cost = WordCache(self.raw).__getitem__

    def raw(self, text: str) -> int:
        """Tokens of a text without special tokens."""
        return len(self.tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])

    def count(self, text: str) -> int:
        """Tokens of a prompt as the model gets it, special tokens included: the sum over its words."""
        end = text.find(" ", 1)  # a space at the beginning belongs to the first word
        if end < 0:
            return self.count_whole(text)
        words = text[end + 1 :].split(" ")
        return self.around + self.raw(text[:end]) + sum(map(self.cost, words))

    def count_whole(self, text: str) -> int:
        """The same by tokenising the text whole."""
        return self.around + self.raw(text)


def load(path: str, trust_remote_code: bool) -> str:
    """A tokenizer as JSON. Raises ValueError if there is none.

    A tokenizer.json of a plain class is read as it is, in a tenth of a second; other tokenizers are opened by
    transformers.
    """
    file = Path(path) / "tokenizer.json"
    config = file.with_name("tokenizer_config.json")
    if file.is_file():
        stated = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        if stated.get("tokenizer_class", PLAIN[0]) in PLAIN and not {"add_bos_token", "add_eos_token"} & set(stated):
            return file.read_text(encoding="utf-8")
    elif Path(path).is_dir() and not config.is_file():
        raise ValueError(f"no tokenizer in {path}: neither tokenizer.json nor tokenizer_config.json")
    from checkpoint import open_tokenizer

    tokenizer = open_tokenizer(path, trust_remote_code)
    if not tokenizer.is_fast:
        raise ValueError(f"{path} has a slow tokenizer; save it as a fast one (tokenizer.json)")
    return tokenizer.backend_tokenizer.to_str()
