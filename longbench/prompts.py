"""LongBench's prompts: the templates, from the installed lm-eval package, and truncation in the middle."""

import functools
import hashlib
import importlib.util
import json
import re
from pathlib import Path

from run import errors_of

import yaml

DIGESTS = json.loads((Path(__file__).parent / "config" / "prompt_sha256.json").read_text())  # of LongBench's prompts
REMEDY = "pip install lm-eval==0.4.13"
# white space that lm-eval removed from LongBench's templates (its task versions 5 and 6)
BLANK_LINE_BEFORE_INPUT = ("triviaqa", "samsum")
OWN = {  # of the sets that LongBench does not have
    "kv": "Find the value of the last key in this JSON object.\n{context}\n\n{input}",
    "icl": "Each question has a label, which is a number. Find the last one.\n{context}\n{input}",
}
END = {"passage_count": " ", "passage_retrieval_en": " ", "lcc": "\n", "repobench-p": "\n"}


@functools.cache
def template(name: str) -> str:
    """The prompt of a set, with {context} and {input}. Raises ValueError without lm-eval 0.4.13."""
    if name in OWN:
        return OWN[name]
    with errors_of(f"LongBench's prompts come from the package lm-eval ({REMEDY})"):
        folder = importlib.util.find_spec("lm_eval").submodule_search_locations[0]  # importing it would take seconds
        path = Path(folder, "tasks", "longbench", f"{name}.yaml")
        task = re.sub(r".*!function.*\n", "", path.read_text(encoding="utf-8"))  # unknown to YAML
        text = yaml.safe_load(task)["doc_to_text"]
    text = text.replace("{{context}}", "{context}").replace("{{question}}", "{input}")
    if name in BLANK_LINE_BEFORE_INPUT:
        text = text.replace("\n{input}", "\n\n{input}")
    text += END.get(name, "")
    if hashlib.sha256(text.encode()).hexdigest() != DIGESTS[name]:
        raise ValueError(f"the installed lm-eval has another prompt than LongBench for {name}; {REMEDY}")
    return text


def cut_middle(tokenizer, ids: list[int], limit: int) -> list[int]:
    """The texts of the first and of the last limit // 2 tokens, tokenised again, as in LongBench's pred.py."""
    half = limit // 2
    flags = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    first = tokenizer.decode(ids[:half], **flags)
    last = tokenizer.decode(ids[len(ids) - half :], **flags)
    return tokenizer(first + last, verbose=False).input_ids


def prompt_ids(tokenizer, text: str, max_length: int, new_tokens: int, protocol: str) -> tuple[list[int], bool]:
    """(the ids of a prompt with its special tokens, whether its middle was cut).

    protocol "inside": prompt and answer together stay within max_length tokens.  "lceg": the prompt alone may fill
    max_length, before it is tokenised again, and the answer exceeds it. Raises ValueError if no prompt fits.
    """
    ids = tokenizer(text, verbose=False).input_ids  # no warning about texts longer than the window
    limit = max_length if protocol == "lceg" else max_length - new_tokens
    if len(ids) <= limit:
        return ids, False
    budget = limit
    while budget > 1:
        cut = cut_middle(tokenizer, ids, budget)
        if len(cut) <= limit or protocol == "lceg":
            return cut, True
        budget -= len(cut) - limit
    raise ValueError(f"a window of {max_length} tokens has no room for a prompt besides {new_tokens} new tokens")
