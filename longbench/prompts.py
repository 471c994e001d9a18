"""LongBench's prompts: the templates, read from the installed lm-eval package, and the truncation in the middle.

lm-eval (EleutherAI, 0.4.13) has LongBench's templates but for white space, which `template` restores; tests/ holds the
SHA-256 of each original.
"""

import functools
import importlib.util
from pathlib import Path

import yaml

# white space that lm-eval took away (its task versions 5 and 6)
BLANK_LINE_BEFORE_INPUT = ("triviaqa", "samsum")
END = {"passage_count": " ", "passage_retrieval_en": " ", "lcc": "\n", "repobench-p": "\n"}


class Loader(yaml.SafeLoader):
    """A YAML loader to which lm-eval's `!function module.name` means nothing."""


Loader.add_multi_constructor("!", lambda loader, tag, node: None)


@functools.cache
def template(name: str) -> str:
    """The prompt of a LongBench set, with {context} and {input}. Raises ValueError, one line, without lm-eval."""
    package = importlib.util.find_spec("lm_eval")  # found, not imported: that takes seconds
    path = Path(package.submodule_search_locations[0], "tasks", "longbench", f"{name}.yaml") if package else None
    if not path or not path.is_file():
        raise ValueError("LongBench's prompts come from the package lm-eval; pip install lm-eval==0.4.13")
    text = yaml.load(path.read_text(encoding="utf-8"), Loader)["doc_to_text"]
    text = text.replace("{{context}}", "{context}").replace("{{question}}", "{input}")
    if name in BLANK_LINE_BEFORE_INPUT:
        text = text.replace("\n{input}", "\n\n{input}")
    return text + END.get(name, "")


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer(text, verbose=False).input_ids  # without a word on texts beyond the window


def middle(tokenizer, ids: list[int], limit: int) -> list[int]:
    """A longer prompt without its middle: the texts of its first and of its last limit // 2 tokens, joined and
    tokenised again, so that the number of tokens may differ by a few (LongBench's pred.py)."""
    half = limit // 2
    ends = (ids[:half], ids[len(ids) - half :])
    texts = [tokenizer.decode(end, skip_special_tokens=True, clean_up_tokenization_spaces=False) for end in ends]
    return encode(tokenizer, "".join(texts))


def prompt_ids(tokenizer, text: str, max_length: int, new_tokens: int, protocol: str) -> tuple[list[int], bool]:
    """(the ids of a prompt with its special tokens, whether its middle was cut).

    protocol "inside": prompt and answer together stay within max_length tokens.  "lceg": the prompt alone may fill
    max_length, before it is tokenised again, and the answer goes beyond. Raises ValueError where no prompt fits.
    """
    ids = encode(tokenizer, text)
    limit = max_length if protocol == "lceg" else max_length - new_tokens
    if len(ids) <= limit:
        return ids, False
    room, cut = limit, ids
    while room > 1:
        cut = middle(tokenizer, ids, room)
        if len(cut) <= limit or protocol == "lceg":
            return cut, True
        room -= len(cut) - limit
    raise ValueError(f"a window of {max_length} tokens has no room for a prompt beside {new_tokens} new tokens")
