"""The texts of the tasks, read from the installed lm-eval package without importing it, which would need nltk.

They are those of NVIDIA/RULER; digests of the filled base-model prompts say that they are, byte for byte. Two spellings
differ by profile: variable tracking says "assigned" today and "assgined" in the LCEG paper's copy.
"""

import ast
import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

DIGESTS = {  # SHA-256 of text + prefix, fields unfilled
    "niah_single": "345b7e058a0ecc615468e23c04deda427b4a9dcc6dd10561d124df4049f18aab",
    "niah_multi": "d285336585494ddc0ca2f8e54a1e90f1edd4681f5692f08924d545ef6cb499df",
    "vt": "2cb3a86e01be965089c5be499e300a840c68e3192b5ce177f83caee9e5cd1225",
    "vt_lceg": "d2f02a222818fb5f25de66b094af459a2fb7ab4bf73d60f3216d81b0b5501127",
    "cwe": "c2426f94a28fc3a2228bea1ef58731d02bdc5af948debf900c29e3fdb9a9e19f",
    "fwe": "0bfad42dcc7b1cffebe5d8771650746bd15101445e789fa1b0a7145c6fe60de5",
    "qa": "15017066bdc1a1671b611ab9abf216a3fc63957a987b7c59275ca5c958849180",
}
# with one answer the template speaks in the singular; in this order. Its field is {type_needle_v_singular}
SINGULAR = (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer"), ("_needle_v", "_needle_v_singular"))


class Template(NamedTuple):
    """text: the task, with the fields {context}, {query} and those of its family.  prefix: how the answer begins, with
    the space before it."""

    text: str
    prefix: str


class Texts(NamedTuple):
    templates: dict[str, Template]  # by the names of DIGESTS
    needle: str  # fields {type_needle_v}, {key}, {value}
    noise: str
    document: str  # fields {i}, {document}


def parse(name: str) -> ast.Module:
    """A module of lm-eval's RULER tasks. Raises ValueError if it is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    path = spec and Path(spec.submodule_search_locations[0]) / "tasks" / "ruler" / name
    if not path or not path.is_file():
        raise ValueError("RULER's templates come from the lm-eval package: pip install lm_eval==0.4.13")
    return ast.parse(path.read_text(encoding="utf-8"))


def constants(tree: ast.Module) -> dict:
    """The first plain value that is assigned to each name, inside of functions too."""
    values = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values.setdefault(node.targets[0].id, ast.literal_eval(node.value))
            except ValueError:
                pass  # not a plain value
    return values


def niah_prefixes(tree: ast.Module) -> list[str]:
    """How the answer begins, for one answer and for several: two f-strings, as format strings."""
    prefixes = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and getattr(node.values[0], "value", "") == "The special magic ":
            prefix = " "
            for part in node.values:
                field = isinstance(part, ast.FormattedValue)
                prefix += "{" + ast.unparse(part.value).split("[")[0] + "}" if field else part.value
            prefixes.append(prefix)
    return sorted(prefixes, key=lambda prefix: prefix.endswith("are"))


@lru_cache(maxsize=1)
def read_texts() -> Texts:
    """All texts. Raises ValueError without lm-eval or if its texts are not those of RULER."""
    prepare = parse("prepare_niah.py")
    single_prefix, multi_prefix = niah_prefixes(prepare)
    multi = single = constants(parse("niah_utils.py"))["TEMPLATE"]
    for old, new in SINGULAR:
        single = single.replace(old, new)
    single_prefix = single_prefix.replace(*SINGULAR[-1])
    templates = {"niah_single": Template(single, single_prefix), "niah_multi": Template(multi, multi_prefix)}
    qa = constants(parse("qa_utils.py"))
    configs = {"qa": qa["CONFIG"], "vt_lceg": constants(parse("vt_utils.py"))["CONFIG"]["variable_tracking"]}
    for name in ("cwe", "fwe"):
        configs[name] = constants(parse(f"{name}_utils.py"))["CONFIG"]
    for name, config in configs.items():
        prefix = config["answer_prefix"]
        templates[name] = Template(config["template"], prefix if prefix.startswith(" ") else f" {prefix}")
    text, prefix = templates["vt_lceg"]
    templates["vt"] = Template(text, prefix.replace("assgined", "assigned"))
    for name, template in templates.items():
        if hashlib.sha256("".join(template).encode()).hexdigest() != DIGESTS[name]:
            raise ValueError(f"lm-eval's {name} template is not RULER's: pip install lm_eval==0.4.13")
    haystack = constants(prepare)
    return Texts(templates, haystack["NEEDLE"], haystack["haystack"], qa["DOCUMENT_PROMPT"])
