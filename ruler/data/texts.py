"""RULER's templates, from the installed lm-eval package, and random words, from wonderwords.

Both packages are read, not imported: lm-eval would need nltk and several seconds. A digest shows that the templates are
those of NVIDIA/RULER, byte for byte. Variable tracking says "assigned" today and "assgined" in the LCEG paper's copy.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random
from uuid import UUID

from run import errors_of

DIGEST = "6e59e6758e8df539178ab10c70fed743931da48e916ceabd04d902ace1fd02fb"  # SHA-256 of all texts
# with one answer the template is in the singular: replaced in this order; its field is {type_needle_v_singular}
SINGULAR = (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer"), ("_needle_v", "_needle_v_singular"))
WORDS_DIGEST = "d5d824355ae7b50ad780bdcfb1655caf378ef6bab70acf24b2c7d78e2e22e5d3"  # of wonderwords 3.0.1
REMEDY = "pip install -r requirements.txt"
MAX_DRAWS = 100  # to find something not drawn before


def package_folder(name: str) -> Path:
    """The folder of an installed package. Raises ValueError if it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ValueError(f"RULER's texts come from the package {name}: {REMEDY}")
    return Path(spec.submodule_search_locations[0])


# --- templates
def constants(name: str) -> dict:
    """The first constant that is assigned to each name in a module of lm-eval's RULER tasks, also inside functions."""
    path = package_folder("lm_eval") / "tasks" / "ruler" / f"{name}.py"
    values = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        try:
            values.setdefault(node.targets[0].id, ast.literal_eval(node.value))
        except ValueError:
            pass  # not a constant
    return values


def niah_template(text: str, article: str, verb: str) -> tuple[str, str]:
    """Derives how the answer begins from the question: "What are all the x?" is answered by "The x are"."""
    question = text.splitlines()[-1]
    return text, question.replace(f"What {article}", " The").replace("?", f" {verb}")


@lru_cache(maxsize=1)
def read_texts() -> dict:
    """{task: (template, prefix)}, and the strings "needle", "noise" and "document".

    The prefix is the beginning of the answer, with the space before it. Raises ValueError if lm-eval is not installed
    or its texts are not those of RULER.
    """
    with errors_of(f"lm-eval's templates cannot be read ({REMEDY})"):
        plural = constants("niah_utils")["TEMPLATE"]
        singular = plural
        for old, new in SINGULAR:
            singular = singular.replace(old, new)
        texts = {"niah_single": niah_template(singular, "is the", "is")}
        texts["niah_multi"] = niah_template(plural, "are all the", "are")
        configs = {name: constants(f"{name}_utils")["CONFIG"] for name in ("vt", "cwe", "fwe", "qa")}
        configs["vt"] = configs["vt"]["variable_tracking"]
        for name, config in configs.items():
            prefix = config["answer_prefix"].removeprefix(" ")
            texts[name] = (config["template"], f" {prefix}")
        texts["vt_lceg"] = texts["vt"]
        texts["vt"] = (texts["vt"][0], texts["vt"][1].replace("assgined", "assigned"))
        haystack = constants("prepare_niah")
        texts |= {"needle": haystack["NEEDLE"], "noise": haystack["haystack"]}
        texts["document"] = constants("qa_utils")["DOCUMENT_PROMPT"]
    if hashlib.sha256(json.dumps(texts).encode()).hexdigest() != DIGEST:
        raise ValueError(f"lm-eval's templates are not those of RULER: {REMEDY}")
    return texts


# --- random keys and values
@lru_cache(maxsize=1)
def read_words() -> tuple[list[str], list[str], list[str]]:
    """(nouns, adjectives, verbs) of wonderwords, each distinct and sorted."""
    lists = []
    for kind in ("noun", "adjective", "verb"):
        path = package_folder("wonderwords") / "assets" / f"{kind}list.txt"
        words = {line.strip() for line in path.read_text(encoding="utf-8").splitlines()}
        lists.append(sorted(words - {""}))
    if hashlib.sha256(json.dumps(lists).encode()).hexdigest() != WORDS_DIGEST:
        raise ValueError(f"the words of wonderwords are not those of version 3.0.1: {REMEDY}")
    return tuple(lists)


def random_word(rng: Random) -> str:
    """adjective-noun, uniform over 6.17 million distinct pairs (a test checks that none can be split in two ways)."""
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


def random_letters(alphabet: str, length: int) -> Callable[[Random], str]:
    """A function that draws words of `length` letters."""
    return lambda rng: "".join(rng.choices(alphabet, k=length))


def draw_new(draw: Callable[[Random], str], rng: Random, taken: set[str]) -> str:
    """Draws something that is not in `taken` and adds it there."""
    for _ in range(MAX_DRAWS):
        drawn = draw(rng)
        if drawn not in taken:
            taken.add(drawn)
            return drawn
    raise ValueError(f"no new value in {MAX_DRAWS} draws")
