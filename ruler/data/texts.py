"""RULER's templates, from the installed lm-eval package, and random words, from wonderwords.

Both packages are read, not imported: lm-eval would need nltk and several seconds. A digest shows that the templates are
those of NVIDIA/RULER, byte for byte.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random
from run import errors_of
from uuid import UUID

DIGEST = "b2fc860f02a80cbefa1ec03e52c660212677b2c824e9f90142c09321e467db1a"  # SHA-256 of all texts
SINGULAR = (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer"))  # of the template, in this order
WORDS_DIGEST = "d5d824355ae7b50ad780bdcfb1655caf378ef6bab70acf24b2c7d78e2e22e5d3"  # of wonderwords 3.0.1
REMEDY = "pip install -r requirements.txt"


def read_package(name: str, *path: str) -> str:
    """The text of a file of an installed package. Raises ValueError if it cannot be read."""
    with errors_of(f"RULER's texts come from the package {name} ({REMEDY})"):
        folder = importlib.util.find_spec(name).submodule_search_locations[0]
        return Path(folder, *path).read_text(encoding="utf-8")


def check_digest(texts, digest: str, package: str) -> None:
    """Raises ValueError if a package has other texts than those that RULER's prompts are made of."""
    content = json.dumps(texts).encode()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"the texts in {package} are not those of RULER; install the pinned version: {REMEDY}")


def read_constants(name: str) -> dict:
    """The first constant that is assigned to each name in a module of lm-eval's RULER tasks, also inside functions."""
    module = ast.parse(read_package("lm_eval", "tasks", "ruler", f"{name}.py"))
    constants = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                constants.setdefault(node.targets[0].id, ast.literal_eval(node.value))
            except ValueError:
                pass  # not a constant
    return constants


def niah_template(text: str, question: str, verb: str) -> tuple[str, str]:
    """(template, prefix): "What are all the x?" is answered by "The x are"."""
    *_, last_line = text.splitlines()
    prefix = last_line.replace(question, " The")
    return text, prefix.replace("?", f" {verb}")


@lru_cache
def read_texts() -> dict:
    """{task: (template, prefix)}, and the strings "needle", "noise" and "document".

    The prefix is the beginning of the answer, with the space before it. Raises ValueError if lm-eval has other texts.
    """
    with errors_of(f"lm-eval's templates cannot be read ({REMEDY})"):
        plural = read_constants("niah_utils")["TEMPLATE"]
        singular = plural
        for old, new in SINGULAR:
            singular = singular.replace(old, new)
        texts = {"niah_single": niah_template(singular, "What is the", "is")}
        texts["niah_multi"] = niah_template(plural, "What are all the", "are")
        for name in ("vt", "cwe", "fwe", "qa"):
            config = read_constants(f"{name}_utils")["CONFIG"]
            config = config.get("variable_tracking", config)
            prefix = config["answer_prefix"].removeprefix(" ")
            texts[name] = (config["template"], f" {prefix}")
        haystack = read_constants("prepare_niah")
        texts["needle"] = haystack["NEEDLE"]
        texts["noise"] = haystack["haystack"]
        texts["document"] = read_constants("qa_utils")["DOCUMENT_PROMPT"]
    check_digest(texts, DIGEST, "lm-eval")
    return texts


@lru_cache
def read_words() -> tuple:
    """(nouns, adjectives, verbs) of wonderwords, each distinct and sorted."""
    lists = []
    for kind in ("noun", "adjective", "verb"):
        lines = read_package("wonderwords", "assets", f"{kind}list.txt").splitlines()
        words = {line.strip() for line in lines}
        lists.append(sorted(words - {""}))
    check_digest(lists, WORDS_DIGEST, "wonderwords")
    return tuple(lists)


def random_word(rng: Random) -> str:
    """adjective-noun, uniform over 6.17 million distinct pairs."""
    nouns, adjectives, _ = read_words()
    adjective = adjectives[int(rng.random() * len(adjectives))]  # random() is the same in every version of Python
    noun = nouns[int(rng.random() * len(nouns))]
    return f"{adjective}-{noun}"


def random_number(rng: Random) -> str:
    """Seven digits, the first not 0."""
    return str(1_000_000 + int(rng.random() * 9_000_000))


def random_uuid(rng: Random) -> str:
    """A version-4 UUID (RFC 9562)."""
    return str(UUID(int=rng.getrandbits(128), version=4))


def draw_new(draw: Callable, rng: Random, taken: set[str]) -> str:
    """draw(rng) until it is not in `taken`; adds it there."""
    drawn = draw(rng)
    while drawn in taken:
        drawn = draw(rng)
    taken.add(drawn)
    return drawn


def draw_letters(rng: Random, alphabet: str, length: int, n: int, taken: set[str]) -> list[str]:
    """n new words of `length` letters."""
    words = []
    while len(words) < n:
        letters = rng.choices(alphabet, k=length)
        word = "".join(letters)
        if word not in taken:
            taken.add(word)
            words.append(word)
    return words
