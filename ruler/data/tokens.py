"""How many tokens a text takes: whole, or piece by piece.

A prompt is put together from pieces whose tokens do not reach into the next one: lines that begin behind a line break,
words that begin with a space. The cost of a piece is measured where it will stand, once; a prompt's cost is a sum. That
sums and whole prompts agree is checked while data are made, and where they do not every prompt is tokenised whole.
"""

import hashlib
import json
import os
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are parallel already
from tokenizers import Tokenizer  # noqa: E402

# classes that use tokenizer.json as it stands; of others transformers changes parts, so it is asked for the result
PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")
BEHIND = {"\n": "A", " ": " a"}  # what is put behind a piece that ends in white space


class Tokens:
    """Counts with a tokenizer given as JSON.  around: the tokens it puts around a text, such as BOS; may be 0."""

    def __init__(self, source: str):
        self.tokenizer = Tokenizer.from_str(source)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.around = self.tokenizer.num_special_tokens_to_add(False)
        word, line, spaced, letter = self.raw(["a", "\n", "a a", "\nA"])
        self.anchors, self.behind = {"a": word, "\n": line}, {" ": spaced - word, "\n": letter - line}

    def raw(self, texts: list[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return [len(encoding) for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def count(self, text: str) -> int:
        """Tokens of a whole prompt as the model gets it, special tokens included."""
        return self.raw([text])[0] + self.around

    def costs(self, pieces: list[str]) -> list[int]:
        """Tokens of each piece inside a text: behind a word if it begins with white space, else at a line's begin. One
        that ends in white space is measured with something behind it, on which the tokens of white space depend."""
        texts = [("a" if piece[:1].isspace() else "\n") + piece + BEHIND.get(piece[-1:], "") for piece in pieces]
        made = self.raw(texts)
        for i, piece in enumerate(pieces):
            made[i] -= self.anchors[texts[i][0]] + self.behind.get(piece[-1:], 0)
        return made

    def cost(self, piece: str) -> int:
        return self.costs([piece])[0]

    def beginning(self, text: str) -> int:
        """Tokens of the beginning of a prompt, special tokens included; a piece follows."""
        return self.count(text + BEHIND.get(text[-1:], "")) - self.behind.get(text[-1:], 0)

    def ending(self, text: str) -> int:
        """Tokens of the end of a prompt."""
        anchor = "a" if text[:1].isspace() else "\n"
        return self.raw([anchor + text])[0] - self.anchors[anchor]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def files_digest(path: str) -> str | None:
    """SHA-256 over what decides a local tokenizer; None for a hub id."""
    folder = Path(path)
    names = (
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
    )
    if not folder.is_dir():
        return None
    made = hashlib.sha256()
    for name in names:
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            if name == "tokenizer_config.json":  # without what the place of a file or its saving leave there
                config = {k: v for k, v in json.loads(content).items() if k not in ("is_local", "local_files_only")}
                content = json.dumps(config, sort_keys=True).encode()
            made.update(f"{name} {len(content)}\0".encode() + content)
    return made.hexdigest()


def load(path: str, trust_remote_code: bool) -> str:
    """A tokenizer as JSON. Raises ValueError if there is none.

    A tokenizer.json of a plain class is read as it is, in a tenth of a second; other tokenizers are opened by
    transformers, which changes parts of some.
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
