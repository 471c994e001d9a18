"""Text that every machine with Python has: the sources of a standard library and its help pages.

The pocket study trains its base model on this text, and LongBench's stand-in sets are made from it.
"""

import ast
from pathlib import Path

SKIPPED_FOLDERS = {
    "site-packages", "dist-packages", "encodings", "lib-dynload", "__pycache__", "ensurepip", "test", "tests",
    "idle_test", "pydoc_data", "__phello__",
}  # fmt: skip
BUILD_RECORDS = ("_sysconfigdata", "sitecustomize")  # files that depend on the machine on which Python was built
MIN_FILE_BYTES = 2000  # shorter files are mostly re-exports


def read_sources(folder: Path) -> dict[str, str]:
    """The .py files under `folder` by relative path, sorted, without tests, encodings and installed packages."""
    sources = {}
    for path in filter(Path.is_file, folder.rglob("*.py")):
        name = path.relative_to(folder)
        if name.parts[0].startswith("config-") or name.name.startswith(BUILD_RECORDS):
            continue
        if SKIPPED_FOLDERS.intersection(name.parts[:-1]) or path.stat().st_size < MIN_FILE_BYTES:
            continue
        sources[name.as_posix()] = read_text(path)
    return dict(sorted(sources.items()))


def read_help_pages(folder: Path) -> dict[str, str]:
    """The help pages of the standard library in `folder` by topic, sorted; empty if it has none."""
    path = folder / "pydoc_data" / "topics.py"
    if not path.exists():
        return {}
    _, brace, rest = read_text(path).partition("{")
    try:
        pages = ast.literal_eval(brace + rest)  # the file assigns one dict
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{path} does not assign a dict of help pages: {error}") from None
    return dict(sorted(pages.items()))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file with Unix line ends."""
    return path.read_bytes().decode("utf-8", errors="ignore").replace("\r\n", "\n")
