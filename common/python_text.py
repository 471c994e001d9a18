"""Text that every machine with Python has: the sources of a standard library, their docstrings, and its help pages.

The pocket study trains its base model on the sources and docstrings; the help pages and one of HELD_OUT files are for
evaluation only.
"""

import ast
import hashlib
from pathlib import Path
from pydoc_data.topics import topics

SKIPPED_FOLDERS = {
    "site-packages", "dist-packages", "encodings", "lib-dynload", "__pycache__", "ensurepip", "test", "tests",
    "idle_test", "pydoc_data", "__phello__",
}  # fmt: skip
BUILD_RECORDS = ("_sysconfigdata", "sitecustomize")  # files that depend on the machine on which Python was built
MIN_FILE_BYTES = 2000  # shorter files are mostly re-exports
HELD_OUT = 12  # one of so many files is for evaluation
PASSAGE = 300  # characters


def passages(text: str) -> set[int]:
    """Hashes of the PASSAGE characters from the beginning of each line on."""
    hashes = set()
    start = 0
    for line in text.splitlines(keepends=True):
        if start + PASSAGE > len(text):
            break
        hashes.add(hash(text[start : start + PASSAGE]))
        start += len(line)
    return hashes


def read_sources(folder: Path, held_out: bool) -> dict[str, str]:
    """The .py files under `folder` by relative path, sorted, without tests, encodings and installed packages.

    held_out: those for evaluation that share no passage with a file for training; else those for training.
    """
    training, evaluation = {}, {}
    for path in filter(Path.is_file, folder.rglob("*.py")):
        name = path.relative_to(folder)
        if name.parts[0].startswith("config-") or name.name.startswith(BUILD_RECORDS):
            continue
        if SKIPPED_FOLDERS.intersection(name.parts[:-1]) or path.stat().st_size < MIN_FILE_BYTES:
            continue
        digest = hashlib.sha256(name.as_posix().encode()).hexdigest()  # the same files in every version of Python
        files = training if int(digest, 16) % HELD_OUT else evaluation
        files[name.as_posix()] = path.read_text(encoding="utf-8", errors="ignore")
    if not held_out:
        return dict(sorted(training.items()))
    known = set().union(*map(passages, training.values()))
    return {name: text for name, text in sorted(evaluation.items()) if known.isdisjoint(passages(text))}


def read_docstrings(source: str) -> str:
    """The docstrings of a source, a sentence or a line of a list on each line; empty if it is not valid Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                text = " ".join(paragraph.split())
                lines += text.replace(". ", ".\n").splitlines()
    return "\n".join(lines)


def read_help_pages() -> dict[str, str]:
    """The help pages of this Python by topic, sorted, without the one that the pocket study's base was trained on."""
    return {topic: topics[topic] for topic in sorted(topics) if topic != "debugger"}  # pdb's docstring
