"""RULER's templates, from the installed lm-eval package, and random words, from wonderwords.

Both packages are read, not imported: lm-eval would need nltk and several seconds. The templates are those of
NVIDIA/RULER; a digest shows that they are, byte for byte. One spelling differs by profile: variable tracking says
"assigned" today and "assgined" in the LCEG paper's copy.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import NamedTuple
from uuid import UUID

DIGEST = "58424df569dcef8b8218a89b1a6eb8051c069f23453c08e25c4a7bf0d3aee87a"  # SHA-256 of all texts
# with one answer the template is in the singular: replaced in this order; its field is {type_needle_v_singular}
SINGULAR = (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer"), ("_needle_v", "_needle_v_singular"))
MAX_DRAWS = 100  # to find something not drawn before


def package_folder(name: str) -> Path:
    """The folder of an installed package. Raises ValueError if it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ValueError(f"RULER's texts come from the package {name}: pip install -r requirements.txt")
    return Path(spec.submodule_search_locations[0])


# --- templates
class Template(NamedTuple):
    """text: the task, with the fields {context}, {query} and those of its family.  prefix: how the answer begins, with
    the space before it."""

    text: str
    prefix: str


class Texts(NamedTuple):
    """needle: fields {type_needle_v}, {key}, {value}.  noise: a line.  document: fields {i}, {document}."""

    templates: dict[str, Template]
    needle: str
    noise: str
    document: str


def parse(name: str) -> ast.Module:
    """A module of lm-eval's RULER tasks."""
    path = package_folder("lm_eval") / "tasks" / "ruler" / name
    return ast.parse(path.read_text(encoding="utf-8"))


def constants(tree: ast.Module) -> dict:
    """The first constant that is assigned to each name, also inside functions."""
    values = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        try:
            values.setdefault(node.targets[0].id, ast.literal_eval(node.value))
        except ValueError:
            pass  # not a constant
    return values


def niah_template(text: str, article: str, verb: str) -> Template:
    """Derives how the answer begins from the question: "What are all the x?" is answered by "The x are"."""
    question = text.splitlines()[-1]
    return Template(text, question.replace(f"What {article}", " The").replace("?", f" {verb}"))


@lru_cache(maxsize=1)
def read_texts() -> Texts:
    """All texts. Raises ValueError if lm-eval is not installed or its texts are not those of RULER."""
    plural = constants(parse("niah_utils.py"))["TEMPLATE"]
    singular = plural
    for old, new in SINGULAR:
        singular = singular.replace(old, new)
    templates = {
        "niah_single": niah_template(singular, "is the", "is"),
        "niah_multi": niah_template(plural, "are all the", "are"),
    }
    qa = constants(parse("qa_utils.py"))
    configs = {
        "qa": qa["CONFIG"],
        "vt_lceg": constants(parse("vt_utils.py"))["CONFIG"]["variable_tracking"],
        "cwe": constants(parse("cwe_utils.py"))["CONFIG"],
        "fwe": constants(parse("fwe_utils.py"))["CONFIG"],
    }
    for name, config in configs.items():
        prefix = config["answer_prefix"].removeprefix(" ")
        templates[name] = Template(config["template"], f" {prefix}")
    text, prefix = templates["vt_lceg"]
    templates["vt"] = Template(text, prefix.replace("assgined", "assigned"))
    haystack = constants(parse("prepare_niah.py"))
    texts = Texts(templates, haystack["NEEDLE"], haystack["haystack"], qa["DOCUMENT_PROMPT"])
    if hashlib.sha256(json.dumps(texts).encode()).hexdigest() != DIGEST:
        raise ValueError("lm-eval's templates are not those of RULER: pip install lm_eval==0.4.13")
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
    return tuple(lists)


def random_word(rng: Random) -> str:
    """adjective-noun, uniform over the 6.17 million distinct pairs: no pair can be split in two ways (a test checks
    it), so they need not be listed."""
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
    """Draws something that is not in `taken` and adds it there. (RULER allows repeats, which make a question
    ambiguous.)"""
    for _ in range(MAX_DRAWS):
        drawn = draw(rng)
        if drawn not in taken:
            taken.add(drawn)
            return drawn
    raise ValueError(f"no new value in {MAX_DRAWS} draws")
