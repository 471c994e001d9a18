"""Rows from files, from the hub's datasets (a stub), and everything that can be wrong with them."""

import hashlib
import json
import zipfile

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

import data
from conftest import make_row, write_rows
from data import load
from sets import SETS

CLASSES = ["Food", "Date"]


def rows_of(name: str, count: int, **fields) -> list[dict]:
    return [make_row(i, **{"dataset": name, "all_classes": CLASSES, **fields}) for i in range(count)]


@pytest.mark.parametrize(
    ("name", "e", "stem", "count", "source"),
    [
        ("hotpotqa", False, "hotpotqa", 200, "official"),
        ("lcc", False, "lcc", 500, "official"),
        ("qasper", True, "qasper_e", 224, "official"),
        ("trec_5shots", False, "trec_5shots", 200, "official"),
        ("standin_lcc", False, "standin_lcc", 3, "standin"),
        ("standin_lcc", True, "standin_lcc_e", 3, "standin"),
        ("standin_trec_7shots", False, "standin_trec_7shots", 1, "standin"),
    ],
)
def test_local_files(tmp_path, name, e, stem, count, source):
    path = write_rows(tmp_path / f"{stem}.jsonl", rows_of(stem if source == "standin" else name, count))
    rows, about = load(name, tmp_path, e)
    assert len(rows) == count and rows[-1]["answers"] == [f"w{count - 1}"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert about == {"source": source, "sha256": digest, "rows": count, "path": str(path)}


def test_own_data_under_an_official_name_are_not_called_official(tmp_path):
    write_rows(tmp_path / "hotpotqa.jsonl", rows_of("mine", 200))
    assert load("hotpotqa", tmp_path)[1]["source"] == "user"
    write_rows(tmp_path / "trec_5shots.jsonl", rows_of("trec", 200))  # the set that the shots are for
    assert load("trec_5shots", tmp_path)[1]["source"] == "official"


def test_rows_without_an_id_of_their_own_get_one(tmp_path):
    rows = rows_of("standin_lcc", 5)
    rows[1]["_id"] = None
    del rows[2]["_id"]
    rows[4]["_id"] = rows[3]["_id"]
    write_rows(tmp_path / "standin_lcc.jsonl", rows)
    ids = [row["_id"] for row in load("standin_lcc", tmp_path)[0]]
    assert ids == ["id000", "standin_lcc:1", "standin_lcc:2", "id003", "id003:4"]


def good(**changes) -> str:
    return json.dumps(make_row(0, **changes))


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("standin_lcc", [good(), '{"input": "a"'], r"line 2: not JSON \(.*\)"),
        ("standin_lcc", [good(), good(), "[]"], "line 3: not a JSON object"),
        ("standin_lcc", [good(context=None)], "line 1: the field 'context' is null"),
        ("standin_lcc", [good(answers="x")], "line 1: the field 'answers' is \"x\""),
        ("standin_lcc", [good(answers=[])], "line 1: the field 'answers' is no list of texts"),
        ("standin_lcc", [good(answers=[1])], "line 1: the field 'answers' is no list of texts"),
        ("standin_lcc", [good(length="long")], "line 1: the field 'length' is \"long\""),
        ("standin_trec", [good()], "line 1: the field 'all_classes' is no list of texts"),
        ("standin_lcc", [], "has 0 rows, standin_lcc has some; get the file anew"),
        ("hotpotqa", [good()], "has 1 rows, hotpotqa has 200; get the file anew"),
        *[
            ("standin_lcc", [good(), json.dumps({k: v for k, v in make_row(1).items() if k != field})],
             f"line 2: no field '{field}'")
            for field in data.TYPES
        ],
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_gets_one_line(tmp_path, name, lines, message):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(ValueError, match=f"^{path}(, | ){message}$"):
        load(name, tmp_path)


def test_a_set_that_is_nowhere_gets_one_line(tmp_path):
    with pytest.raises(ValueError, match="^unknown set lsht; there are narrativeqa .* stand-ins standin_<set>$"):
        load("lsht", tmp_path)
    with pytest.raises(ValueError, match="^no .*standin_lcc.jsonl; python make_standin.py makes it"):
        load("standin_lcc", tmp_path)
    for name in ("narrativeqa", "trec_5shots", "standin_qmsum"):
        with pytest.raises(ValueError, match=f"^{name} is not in LongBench-E; leave out --e$"):
            load(name, tmp_path, e=True)


# --- the hub
@pytest.fixture
def hub(tmp_path, monkeypatch):
    """files[(repo, revision, file name)] = path, as the hub would give it; asked: what was asked for."""
    files, asked = {}, []

    def download(repo, filename, repo_type, revision=None, local_files_only=False):
        assert repo_type == "dataset"
        asked.append((repo, filename, local_files_only))
        if (repo, revision, filename) not in files:
            raise LocalEntryNotFoundError("offline") if hub.offline else EntryNotFoundError("404")
        return str(files[repo, revision, filename])

    hub = type("Hub", (), {"files": files, "asked": asked, "offline": False, "folder": tmp_path / "hub"})
    hub.folder.mkdir()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(data, "REACH", {"local_files_only": False})
    return hub


def test_json_lines_of_the_hub_are_fetched_once(hub, tmp_path):
    folder = tmp_path / "data"
    for name, repo in (("hotpotqa", "Leooyii/longbench"), ("trec_1shots", "Leooyii/manyshots_trec")):
        hub.files[repo, None, f"{name}.jsonl"] = write_rows(hub.folder / f"{name}.jsonl", rows_of(name, 200))
        rows, about = load(name, folder)
        assert len(rows) == 200 and about["source"] == "official" and about["path"] == str(folder / f"{name}.jsonl")
        count = len(hub.asked)
        assert load(name, folder) == (rows, about) and len(hub.asked) == count
    assert [path.name for path in folder.iterdir() if path.suffix != ".jsonl"] == []


def zipped(path, name: str, count: int):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"data/other_{name}.jsonl", "")
        archive.writestr(f"data/{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows_of(name, count)))
    return path


def test_longbenchs_zip(hub, tmp_path):
    hub.files["THUDM/LongBench", None, "data.zip"] = zipped(hub.folder / "data.zip", "2wikimqa_e", 300)
    assert load("2wikimqa", tmp_path / "data", e=True)[1]["source"] == "official"
    assert ("Leooyii/longbench", "2wikimqa_e.jsonl", False) in hub.asked
    hub.asked.clear()
    zipped(tmp_path / "data" / "data.zip", "qmsum", 200)  # the user's, beside the files
    assert len(load("qmsum", tmp_path / "data")[0]) == 200 and not hub.asked


def test_parquet(hub, tmp_path):
    rows = rows_of("passage_count", 200, all_classes=None)
    path = hub.folder / "0000.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    hub.files["THUDM/LongBench", "refs/convert/parquet", "passage_count/test/0000.parquet"] = path
    assert load("passage_count", tmp_path)[0] == rows


def test_an_unreachable_hub_is_waited_for_once(hub, tmp_path):
    hub.offline = True
    for name in ("gov_report", "trec_1shots"):
        with pytest.raises(ValueError, match=r"^no [^\n]*, and none on the hub \(Leooyii/[^\n]*: cannot be reached"):
            load(name, tmp_path)
    assert [local for _, _, local in hub.asked].count(False) == 1
    assert list(tmp_path.glob("*.jsonl")) == [] and len(SETS) == 16
