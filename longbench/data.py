"""The rows of a set, from data/<set>.jsonl; a file that is missing is fetched from the hub first.

A row has LongBench's fields: input, context (str), answers (list of str), length (words), all_classes (list of str or
None), dataset, language, _id.
"""

import functools
import hashlib
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from run import first_line, write_bytes
from sets import SETS, STANDIN, base_set, official_rows, shots_of
from store import read_rows

LONGBENCH_REPOS = ("Leooyii/longbench", "THUDM/LongBench")
MANY_SHOT_REPOS = ("Leooyii/manyshots_trec",)


@dataclass
class Dataset:
    """benchmark: a key of FOLDERS.  record: what results record about the data: source, sha256, rows, path."""

    name: str
    benchmark: str
    rows: list[dict]
    record: dict


def load(name: str, folder: Path, e: bool = False) -> Dataset:
    """Reads a set. e: LongBench-E's version of it.

    Raises ValueError if the set is unknown, or its file cannot be found or is not a valid file of that set.
    """
    base, shots = base_set(name), shots_of(name)
    if e and (shots or SETS[base].rows_e is None):
        raise ValueError(f"{name} is not in LongBench-E; leave out --e")
    stem = f"{name}_e" if e else name
    path = folder / f"{stem}.jsonl"
    if not path.is_file() and name.startswith(STANDIN):
        raise ValueError(f"no {path}; make it with python make_standin.py")
    if not path.is_file():
        fetch(stem, path, MANY_SHOT_REPOS if shots else LONGBENCH_REPOS)
    rows = read_rows(path, check_row)
    expected = official_rows(name, e)
    if expected and len(rows) != expected:
        raise ValueError(f"{path} has {len(rows)} rows, not {expected}; get the file again")
    add_ids(rows, stem)
    if expected is None:
        source = "standin"
    elif all(row.get("dataset") in (name, stem, base) for row in rows):
        source = "official"
    else:
        source = "user"  # data of the user's own under an official name
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record = {"source": source, "sha256": digest, "rows": len(rows), "path": str(path)}
    benchmark = "trec" if shots else "longbench_e" if e else "longbench"
    return Dataset(name, benchmark, rows, record)


def check_row(row: dict) -> None:
    """Raises KeyError, TypeError or ValueError unless a row has LongBench's fields with their types."""
    answers, classes = row["answers"], row["all_classes"]
    if not isinstance(answers, list) or not answers or not isinstance(classes, list | None):
        raise TypeError("answers and all_classes are lists")
    "".join([row["input"], row["context"], *(classes or [])])  # raises if one is not text
    if not 0 <= row["length"] < math.inf:
        raise ValueError("length is a number of words")
    hash(row.get("_id"))


def add_ids(rows: list[dict], stem: str) -> None:
    """Gives rows without an `_id`, or with that of an earlier row, one made from their index."""
    seen = set()
    for index, row in enumerate(rows):
        known = row.get("_id")
        if known is None or known in seen:
            row["_id"] = f"{known or stem}:{index}"
        seen.add(row["_id"])


def fetch(stem: str, path: Path, repos: tuple[str, ...]) -> None:
    """Writes `path` from a data.zip beside it, else from the first of the hub's datasets that has the set.

    Raises ValueError if none has it.
    """
    content = find_set(path.parent, stem)
    reasons = []
    for repo in repos:
        if content is None:
            print(f"no {path}: asking the hub for {repo}", flush=True)
            folder, reason = download(repo)
            reasons.append(f"{repo}: {reason}")
            content = find_set(folder, stem) if folder else None
    if content is None:
        advice = "put the file there, or LongBench's data.zip; or use stand-ins (python make_standin.py)"
        raise ValueError(f"no {path}, and not on the hub ({'; '.join(reasons)}); {advice}")
    write_bytes(path, content)


@functools.cache
def download(repo: str) -> tuple[Path | None, str]:
    """(folder with the sets of a dataset on the hub or None, why the set that was asked for is not there)."""
    from huggingface_hub import snapshot_download  # here: local data need no hub

    try:
        patterns = ["*.jsonl", "data.zip"]
        return Path(snapshot_download(repo, repo_type="dataset", allow_patterns=patterns)), "the set is not in it"
    except (OSError, ValueError) as error:
        return None, first_line(error)


def find_set(folder: Path, stem: str) -> bytes | None:
    """The content of <stem>.jsonl below a folder or in its data.zip; None if it is not there."""
    for path in folder.rglob(f"{stem}.jsonl"):
        return path.read_bytes()
    archive = folder / "data.zip"
    if not archive.is_file():
        return None
    try:
        with zipfile.ZipFile(archive) as files:
            for name in files.namelist():
                if Path(name).name == f"{stem}.jsonl":
                    return files.read(name)
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # RuntimeError: it is encrypted
        raise ValueError(f"{archive} cannot be unpacked ({error}); download it again") from None
    return None
