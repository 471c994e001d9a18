"""The rows of a set, from data/<set>.jsonl; a file that is missing is fetched from the hub first.

A row has LongBench's fields: input, context (str), answers (list of str), length (words), all_classes (list of str or
None), dataset, language, _id.
"""

import functools
import hashlib
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

from run import errors_of, first_line, write_bytes
from sets import ALL_SETS, STANDIN, base_set, official_rows, shots_of
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
    if e and (shots or ALL_SETS[base].rows_e is None):
        raise ValueError(f"{name} is not in LongBench-E; leave out --e")
    benchmark = base if shots else "longbench_e" if e else "longbench"
    stem = f"{name}_e" if e else name
    path = folder / f"{stem}.jsonl"
    if not path.is_file():
        if name.startswith(STANDIN):
            raise ValueError(f"no {path}; make it with python make_standin.py")
        fetch(stem, path, MANY_SHOT_REPOS if shots else LONGBENCH_REPOS)
    rows = read_rows(path, check_row)
    expected = official_rows(name, e)
    if expected and len(rows) != expected:
        raise ValueError(f"{path} has {len(rows)} rows, not {expected}; get the file again")
    add_ids(rows, stem)
    source = "standin"
    if expected:
        datasets = {row.get("dataset") for row in rows}
        source = "official" if datasets <= {name, stem, base} else "user"  # the user's own data under an official name
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Dataset(name, benchmark, rows, {"source": source, "sha256": digest, "rows": len(rows), "path": str(path)})


def check_answers(row: dict) -> None:
    """Raises KeyError, TypeError or ValueError unless a row has answers, all_classes and length of the right types."""
    answers, classes = row["answers"], row["all_classes"]
    if not isinstance(answers, list) or not answers or not isinstance(classes, list | None):
        raise TypeError("answers and all_classes are lists")
    if not 0 <= row["length"] < math.inf:
        raise ValueError("length is a number of words")


def check_row(row: dict) -> None:
    """Raises KeyError, TypeError or ValueError unless a row has LongBench's fields with their types."""
    check_answers(row)
    if not isinstance(row["input"], str) or not isinstance(row["context"], str):
        raise TypeError("input and context are text")


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
    for repo in repos:
        content = content or find_set(download(repo), stem)
    if content is None:
        advice = "put the file there, or LongBench's data.zip; or use stand-ins (python make_standin.py)"
        raise ValueError(f"no {path}, and not found on the hub in {' or '.join(repos)}; {advice}")
    write_bytes(path, content)


@functools.cache
def download(repo: str) -> Path:
    """The folder of a dataset from the hub; an absent one, with a message, if it cannot be downloaded."""
    from huggingface_hub import snapshot_download  # here: local data need no hub

    print(f"downloading {repo} from the hub", flush=True)
    try:
        return Path(snapshot_download(repo, repo_type="dataset", allow_patterns=["*.jsonl", "data.zip"]))
    except (OSError, ValueError) as error:
        print(f"{repo}: {first_line(error)}", flush=True)
        return Path("not downloaded")


def find_set(folder: Path, stem: str) -> bytes | None:
    """The content of <stem>.jsonl below a folder or in its data.zip; None if it is not there."""
    for path in folder.rglob(f"{stem}.jsonl"):
        return path.read_bytes()
    archive = folder / "data.zip"
    if archive.is_file():
        with errors_of(f"{archive} cannot be unpacked; download it again"), zipfile.ZipFile(archive) as files:
            for name in files.namelist():
                if Path(name).name == f"{stem}.jsonl":
                    return files.read(name)
    return None
