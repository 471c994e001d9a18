"""The texts of the tasks, read from the installed lm-eval package without importing it.

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
SINGULAR = (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer"))


class Template(NamedTuple):
    """text: the task, with the fields {context}, {query} and those of its family.  prefix: how the answer begins, with
    the space that stands before it."""

    text: str
    prefix: str


class Texts(NamedTuple):
    templates: dict[str, Template]  # by the names of DIGESTS
    needle: str  # fields {type_needle_v}, {key}, {value}
    noise: str
    document: str  # fields {i}, {document}


def _tree(name: str) -> ast.Module:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None:
        raise ValueError("RULER's templates come from the lm-eval package: pip install lm_eval==0.4.13")
    path = Path(spec.submodule_search_locations[0]) / "tasks" / "ruler" / name
    if not path.is_file():
        raise ValueError(f"{path} is missing: this lm-eval has no RULER; pip install lm_eval==0.4.13")
    return ast.parse(path.read_text(encoding="utf-8"))


def _constants(tree: ast.Module) -> dict:
    """Values of the module's plain assignments; of the function-local ones the first string."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found.setdefault(node.targets[0].id, ast.literal_eval(node.value))
            except ValueError:
                pass  # not a plain value
    return found


def _prefixes(tree: ast.Module) -> list[str]:
    """The f-strings that begin like needle-in-a-haystack's answer, as format strings."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and getattr(node.values[0], "value", "") == "The special magic ":
            fields = {ast.FormattedValue: lambda part: "{" + ast.unparse(part.value).split("[")[0] + "}"}
            found.append("".join(fields.get(type(part), lambda part: part.value)(part) for part in node.values))
    return sorted(found, key=lambda text: text.endswith("are"))


@lru_cache(maxsize=1)
def read_texts() -> Texts:
    """All texts. Raises ValueError, one line, without lm-eval or if its texts are not those of RULER."""
    niah, prepare = _constants(_tree("niah_utils.py")), _tree("prepare_niah.py")
    single, multi = (" " + prefix for prefix in _prefixes(prepare))
    haystack, qa = _constants(prepare), _constants(_tree("qa_utils.py"))
    singular = niah["TEMPLATE"]
    for old, new in SINGULAR:
        singular = singular.replace(old, new)
    single, singular = (text.replace("_needle_v", "_needle_v_singular") for text in (single, singular))
    templates = {"niah_single": Template(singular, single), "niah_multi": Template(niah["TEMPLATE"], multi)}
    vt = _constants(_tree("vt_utils.py"))["CONFIG"]["variable_tracking"]
    templates["vt_lceg"] = Template(vt["template"], vt["answer_prefix"])
    templates["vt"] = Template(vt["template"], vt["answer_prefix"].replace("assgined", "assigned"))
    for name in ("cwe", "fwe"):
        config = _constants(_tree(f"{name}_utils.py"))["CONFIG"]
        templates[name] = Template(config["template"], config["answer_prefix"])
    templates["qa"] = Template(qa["CONFIG"]["template"], " " + qa["CONFIG"]["answer_prefix"])
    for name, template in templates.items():
        if hashlib.sha256("".join(template).encode()).hexdigest() != DIGESTS[name]:
            raise ValueError(
                f"the {name} template of the installed lm-eval is not RULER's: pip install lm_eval==0.4.13"
            )
    return Texts(templates, haystack["NEEDLE"], haystack["haystack"], qa["DOCUMENT_PROMPT"])
