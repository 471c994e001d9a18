"""The rows of a set, from data/<set>.jsonl; a file that is missing is fetched from the hub first.

A row has LongBench's fields: input, context (str), answers (list of str), length (words), all_classes (list of str or
None), dataset, language, _id.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from run import errors_of, write_bytes

from metrics import METRICS
from records import read_rows
from sets import ALL_SETS, STANDIN, official_rows, parse_name

LONGBENCH_REPO = "Leooyii/longbench"  # LongBench's own repository has a zip file only
MANY_SHOT_REPO = "Leooyii/manyshots_trec"


@dataclass
class Dataset:
    name: str
    base: str  # the set whose prompt and metric it has
    benchmark: str  # a key of FOLDERS
    rows: list[dict]
    record: dict  # what results record about the data: source, sha256, rows, path


def load(name: str, folder: Path, e: bool = False) -> Dataset:
    """Reads a set. e: LongBench-E's version. Raises ValueError if it is unknown or its file is missing or invalid."""
    base, shots = parse_name(name)
    if e and (shots or ALL_SETS[base].rows_e is None):
        raise ValueError(f"{name} is not in LongBench-E; leave out --e")
    benchmark = base if shots else "longbench_e" if e else "longbench"
    stem = f"{name}_e" if e else name
    path = folder / f"{stem}.jsonl"
    if not path.is_file():
        if name.startswith(STANDIN):
            raise ValueError(f"no {path}; make it with python make_standin.py")
        fetch(stem, path, MANY_SHOT_REPO if shots else LONGBENCH_REPO)
    metric = METRICS[ALL_SETS[base].metric]
    rows = read_rows(path, lambda row: check_row(row, metric))
    expected = official_rows(name, e)
    if expected and len(rows) != expected:
        raise ValueError(f"{path} has {len(rows)} rows, not {expected}; get the file again")
    add_ids(rows, stem)
    source = "standin"
    if expected:
        datasets = {row.get("dataset") for row in rows}
        source = "official" if datasets <= {name, stem, base} else "user"  # the user's own data under an official name
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record = {"source": source, "sha256": digest, "rows": len(rows), "path": str(path)}
    return Dataset(name, base, benchmark, rows, record)


def check_answers(row: dict) -> None:
    """Raises KeyError, TypeError or ValueError unless a row has answers, all_classes and length of the right types."""
    answers, classes = row["answers"], row["all_classes"]
    if not isinstance(answers, list) or not answers or not isinstance(classes, list | None):
        raise TypeError("answers and all_classes are lists")
    if not 0 <= row["length"] < math.inf:
        raise ValueError("length is a number of words")


def check_row(row: dict, metric: Callable) -> None:
    """Raises an exception unless a row has LongBench's fields with their types, and answers that `metric` can score."""
    check_answers(row)
    if not isinstance(row["input"], str) or not isinstance(row["context"], str):
        raise TypeError("input and context are text")
    hash(row.get("_id"))  # raises if it is no text or number
    for answer in row["answers"]:
        metric("a", answer, row["all_classes"])


def add_ids(rows: list[dict], stem: str) -> None:
    """Gives rows without an `_id`, or with that of an earlier row, one made from their index."""
    seen = set()
    for index, row in enumerate(rows):
        known = row.get("_id")
        if known is None or known in seen:
            row["_id"] = f"{known or stem}:{index}"
        seen.add(row["_id"])


def fetch(stem: str, path: Path, repo: str) -> None:
    """Writes `path` from a dataset on the hub. Raises ValueError if it does not have the set or cannot be reached."""
    from huggingface_hub import snapshot_download  # here: local data need no hub

    print(f"downloading {stem}.jsonl from {repo} on the hub", flush=True)
    advice = "put the file there, from LongBench's data.zip; or use stand-ins (python make_standin.py)"
    with errors_of(f"no {path}; {advice}; {repo}"):
        folder = snapshot_download(repo, repo_type="dataset", allow_patterns=[f"*{stem}.jsonl"])
        found = next(Path(folder).rglob(f"{stem}.jsonl"))
    write_bytes(path, found.read_bytes())
