"""The rows of a set: from data/<set>.jsonl, or fetched from the hub into that file.

A row is LongBench's: input, context (str), answers (list of str), length (words), all_classes (list of str or None),
dataset, language, _id.
"""

import contextlib
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

from sets import SETS, STANDIN, base_set, many_shot, official_rows

TYPES = {"input": str, "context": str, "answers": list, "length": (int, float), "all_classes": (list, type(None))}
LONGBENCH, MANY_SHOT = ("Leooyii/longbench", "THUDM/LongBench"), ("Leooyii/manyshots_trec",)
REACH = {"local_files_only": False}  # True once the hub could not be reached


def load(name: str, folder: Path, e: bool = False) -> tuple[list[dict], dict]:
    """(rows, what the result says of them: source, sha256, rows, path). e: LongBench-E's version of the set.

    Raises ValueError, one line, on an unknown set, on a file that is nowhere, and on one that is not what it should be.
    """
    base = base_set(name)
    if e and (many_shot(name) or not official_rows(base, e)):
        raise ValueError(f"{name} is not in LongBench-E; leave out --e")
    stem = name + "_e" * e
    path = folder / f"{stem}.jsonl"
    if not path.is_file():
        if name.startswith(STANDIN):
            raise ValueError(f"no {path}; python make_standin.py makes it (-h: how)")
        fetch(stem, path, MANY_SHOT if many_shot(name) else LONGBENCH)
    content = path.read_bytes()
    rows = [check(path, number, line, base) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    expected = official_rows(name, e)
    if not rows or expected and len(rows) != expected:
        raise ValueError(f"{path} has {len(rows)} rows, {name} has {expected or 'some'}; get the file anew")
    official = {row.get("dataset") for row in rows} <= {name, stem, base}
    source = "standin" if not expected else "official" if official else "user"
    identify(rows, stem)
    return rows, {
        "source": source,
        "sha256": hashlib.sha256(content).hexdigest(),
        "rows": len(rows),
        "path": str(path),
    }


def check(path: Path, number: int, line: bytes, base: str) -> dict:
    """The row of one line. Raises ValueError, one line that names it."""
    try:
        row = json.loads(line)
    except ValueError as reason:
        raise ValueError(f"{path}, line {number}: not JSON ({str(reason).splitlines()[0]})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number}: not a JSON object")
    for field, types in TYPES.items():
        if field not in row:
            raise ValueError(f"{path}, line {number}: no field '{field}'")
        if not isinstance(row[field], types):
            raise ValueError(f"{path}, line {number}: the field '{field}' is {json.dumps(row[field])[:40]}")
    for field in ("answers", "all_classes"):
        needed = field == "answers" or SETS[base].metric == "classification"
        if not all(isinstance(one, str) for one in row[field] or []) or needed and not row[field]:
            raise ValueError(f"{path}, line {number}: the field '{field}' is no list of texts")
    return row


def identify(rows: list[dict], stem: str):
    """Gives every row an `_id` of its own: where it has none, or another row's, one by its index."""
    seen = set()
    for index, row in enumerate(rows):
        known = row.get("_id")
        if known is None or known in seen:
            row["_id"] = f"{known or stem}:{index}"
        seen.add(row["_id"])


def fetch(stem: str, path: Path, repos: tuple[str, ...]):
    """Writes `path` from the first of the hub's datasets that has the set: as JSON lines, in data.zip, or as Parquet.

    A data.zip that lies beside `path` goes before the hub. Raises ValueError, one line, if none has it.
    """
    archive = path.parent / "data.zip"
    found = unzip(archive, stem) if archive.is_file() else None
    if found is None:
        print(f"no {path}: asking the hub", flush=True)
    reasons = []
    for repo in repos if found is None else ():
        found, reason = from_hub(repo, stem)
        if found is not None:
            break
        reasons.append(f"{repo}: {reason}")
    if found is None:
        raise ValueError(
            f"no {path}, and none on the hub ({'; '.join(reasons)}). Put the file there, or the data.zip of "
            "huggingface.co/datasets/THUDM/LongBench; or take a stand-in, made by python make_standin.py"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(found)
    os.replace(partial, path)


def from_hub(repo: str, stem: str) -> tuple[bytes | None, str]:
    """(the set as JSON lines or None, why none)."""
    from huggingface_hub import hf_hub_download, logging  # here, since what is local needs no hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    logging.set_verbosity_error()  # it would write of every attempt
    parquet = {"filename": f"{stem}/test/0000.parquet", "revision": "refs/convert/parquet"}  # the hub's own conversion
    places = [{"filename": f"{stem}.jsonl"}, {"filename": f"data/{stem}.jsonl"}, {"filename": "data.zip"}, parquet]
    reason = "not in it"
    for place in places:
        try:
            file = Path(hf_hub_download(repo, repo_type="dataset", **place, **REACH))
        except LocalEntryNotFoundError:
            reason, REACH["local_files_only"] = "cannot be reached", True  # waited for once; what is cached will do
            continue
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            reason = str(error).strip().splitlines()[0][:120]
            continue
        if file.suffix == ".parquet":
            return from_parquet(file), ""
        content = unzip(file, stem) if file.suffix == ".zip" else file.read_bytes()
        if content is not None:
            return content, ""
    return None, reason


def unzip(archive: Path, stem: str) -> bytes | None:
    """<stem>.jsonl in a zip file, in whatever folder of it; None if it has none."""
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            if Path(name).name == f"{stem}.jsonl":
                return files.read(name)
    return None


def from_parquet(path: Path) -> bytes:
    """The rows of a Parquet file as JSON lines."""
    import pyarrow.parquet

    lines = io.StringIO()
    for row in pyarrow.parquet.read_table(path).to_pylist():
        lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    return lines.getvalue().encode()
