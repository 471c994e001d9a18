"""Sets, their rows from files and from the hub's datasets (a stub), their prompts and the truncation of these."""

import hashlib
import importlib.util
import json
import zipfile

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import AutoTokenizer

import data
import prompts
from conftest import make_row, write_rows
from data import load
from sets import FIRST_LINE, LONGBENCH_E, SETS, TREC_SHOTS, base_set, benchmark_of, expand, official_rows

SHA256 = {  # of the strings in THUDM/LongBench's config/dataset2prompt.json
    "narrativeqa": "aada7ed24b06abace5b0045ac3bcfe06fc831a6cf434f0ecfd99fb7b3d299e1c",
    "qasper": "0fbdd123fe7f83d6d6a9c583ca28cb29d68e523bf8fec01a0cf2dcd11037775d",
    "multifieldqa_en": "20b4666a2de8a1f701bdb6c4e015fa9f8758d64b361d841f7766df6c9ceba770",
    "hotpotqa": "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb",
    "2wikimqa": "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb",
    "musique": "9ec4ae308865bd0c62af20b3dc7b12b31f2b447f55684bd88c1aa40f2f636deb",
    "gov_report": "91c25d585b189ced91c9280efcb4ecb5dcff9548cd4e3bfae66c68025b569e95",
    "qmsum": "dca23b678fe0183bbd9555b57947022aed1b85739da5ad7e1b4708dd0c71c409",
    "multi_news": "2af3f28c40b902e6535d4910510d51653613c49de9b2fc287c5958395061101d",
    "trec": "0eff8bebdba99d91e9d7d91b6ab39455ac74648bea92c9255c9f68c62175b2db",
    "triviaqa": "00a802e6377e72fca39b169cf6c28893bedf23ba7286b03ecd15867c3e27a7c4",
    "samsum": "a68d884234907eefcaa0eacf7b2997f60fa46603988dceae6a44f9b49f045b3f",
    "passage_count": "986550b6c61009c629a4535766d94b7b51e2b2b9e1ed169e4ecb54417466e964",
    "passage_retrieval_en": "39b96b7fa52bdd2aa2bde34ea199158505201b9a0a2c3ce94e80249293f60431",
    "lcc": "6a1f24cf0bb83cd90f1fca8f0dd24801626c2aaea29db834ddc83b950e71190e",
    "repobench-p": "ee9ec182ea5ffeb70a7140d55baea97264a8612d88226d323afa90859c36240c",
}


def rows_of(name: str, count: int, **fields) -> list[dict]:
    return [make_row(i, **{"dataset": name, "all_classes": ["Food", "Date"], **fields}) for i in range(count)]


def test_the_facts_of_the_sets():
    assert len(SETS) == 16 and len(LONGBENCH_E) == 13 and len(TREC_SHOTS) == 15
    assert set(SETS) - set(LONGBENCH_E) == {"narrativeqa", "musique", "qmsum"}
    new_tokens = [facts.new_tokens for facts in SETS.values()]
    assert new_tokens == [128, 128, 64, 32, 32, 32, 512, 512, 512, 64, 32, 128, 32, 32, 64, 64]
    assert sum(facts.rows for facts in SETS.values()) == 3750
    names = ("trec_1shots", "multifieldqa_en", "lcc", "standin_lcc")
    assert [official_rows(name) for name in names] == [200, 150, 500, None]
    assert [official_rows(name, e=True) for name in ("qasper", "lcc", "musique")] == [224, 300, None]
    assert len(FIRST_LINE["lceg"]) == 11 and FIRST_LINE["upstream"] < FIRST_LINE["lceg"]
    names = ["standin_trec_7shots", "trec_1000shots", "standin_lcc", "trec"]
    assert [base_set(name) for name in names] == ["trec", "trec", "lcc", "trec"]
    assert [benchmark_of(name, False) for name in names] == ["trec", "trec", "longbench", "longbench"]
    assert benchmark_of("lcc", True) == "longbench_e"
    assert expand(["trec", "longbench", "lcc"], False) == ["trec", *[name for name in SETS if name != "trec"]]
    assert expand(["longbench"], True) == list(LONGBENCH_E) and len(expand(["manyshots_trec"], False)) == 15
    for name in ("trec_7shots", "qmsum_e", "standin_", "lcc_5shots", "lsht"):
        with pytest.raises(ValueError, match="unknown set"):
            base_set(name)


# --- rows
@pytest.mark.parametrize(
    ("name", "e", "dataset", "count", "source"),
    [
        ("hotpotqa", False, "hotpotqa", 200, "official"),
        ("hotpotqa", False, "mine", 200, "user"),  # own data under an official name
        ("qasper", True, "qasper", 224, "official"),
        ("trec_5shots", False, "trec", 200, "official"),
        ("standin_lcc", True, "standin_lcc", 3, "standin"),
        ("standin_trec_7shots", False, "standin_trec", 1, "standin"),
    ],
)
def test_local_files(tmp_path, name, e, dataset, count, source):
    path = write_rows(tmp_path / f"{name}{'_e' * e}.jsonl", rows_of(dataset, count))
    read = load(name, tmp_path, e)
    assert len(read.rows) == count and read.rows[-1]["answers"] == [f"w{count - 1}"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read.about == {"source": source, "sha256": digest, "rows": count, "path": str(path)}


def test_rows_without_an_id_of_their_own_get_one(tmp_path):
    rows = rows_of("standin_lcc", 5)
    rows[1]["_id"] = None
    del rows[2]["_id"]
    rows[4]["_id"] = rows[3]["_id"]
    write_rows(tmp_path / "standin_lcc.jsonl", rows)
    ids = [row["_id"] for row in load("standin_lcc", tmp_path).rows]
    assert ids == ["id000", "standin_lcc:1", "standin_lcc:2", "id003", "id003:4"]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("standin_lcc", [make_row(0), '{"input": "a"'], "line 2 is not a row"),
        ("standin_lcc", ["[]"], "line 1 is not a row"),
        ("standin_lcc", [make_row(0, context=None)], "the field 'context'"),
        ("standin_lcc", [{"input": ""}], "the field 'context'"),
        ("standin_lcc", [make_row(0, answers=[])], "the field 'answers'"),
        ("standin_trec", [make_row(0)], "the field 'all_classes'"),
        ("standin_lcc", [], "has 0 rows"),
        ("hotpotqa", [make_row(0)], "has 1 rows, not 200"),
        ("standin_qasper", None, "make it with python make_standin.py"),
        ("lsht", None, "unknown set lsht"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path, name, rows, message):
    if rows is not None:
        write_rows(tmp_path / f"{name}.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        load(name, tmp_path)


def test_sets_that_longbench_e_lacks_are_refused(tmp_path):
    for name in ("narrativeqa", "trec_5shots", "standin_qmsum"):
        with pytest.raises(ValueError, match=f"{name} is not in LongBench-E"):
            load(name, tmp_path, e=True)


# --- the hub
@pytest.fixture
def hub(tmp_path, monkeypatch):
    """files[(repo, file name)] = path; asked: (repo, file name, whether only local files were asked for)."""
    files, asked = {}, []

    def download(repo, filename, repo_type, local_files_only=False):
        asked.append((repo, filename, local_files_only))
        if (repo, filename) not in files:
            raise LocalEntryNotFoundError("offline") if hub.offline else EntryNotFoundError("404")
        return str(files[repo, filename])

    hub = type("Hub", (), {"files": files, "asked": asked, "offline": False})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(data, "HUB", {"local_files_only": False})
    return hub


def test_files_of_the_hub_are_fetched_once(hub, tmp_path):
    for name, repo in (("hotpotqa", "Leooyii/longbench"), ("trec_1shots", "Leooyii/manyshots_trec")):
        hub.files[repo, f"{name}.jsonl"] = write_rows(tmp_path / "hub" / f"{name}.jsonl", rows_of(name, 200))
        assert load(name, tmp_path / "data").about["source"] == "official"
        count = len(hub.asked)
        assert len(load(name, tmp_path / "data").rows) == 200 and len(hub.asked) == count


def test_longbenchs_zip_from_the_hub_or_beside_the_files(hub, tmp_path):
    for name in ("2wikimqa_e", "qmsum"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(f"data/other_{name}.jsonl", "")
            rows = rows_of(name, 300 if name.endswith("_e") else 200)
            archive.writestr(f"data/{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    hub.files["THUDM/LongBench", "data.zip"] = tmp_path / "2wikimqa_e.zip"
    assert load("2wikimqa", tmp_path / "data", e=True).about["source"] == "official"
    assert ("Leooyii/longbench", "2wikimqa_e.jsonl", False) in hub.asked
    hub.asked.clear()
    (tmp_path / "qmsum.zip").rename(tmp_path / "data" / "data.zip")
    assert len(load("qmsum", tmp_path / "data").rows) == 200 and not hub.asked


def test_an_unreachable_hub_is_waited_for_once(hub, tmp_path):
    hub.offline = True
    for name in ("gov_report", "trec_1shots"):
        with pytest.raises(ValueError, match=r"^no [^\n]*, and not on the hub \(Leooyii/[^\n]*: cannot be reached"):
            load(name, tmp_path)
    assert [local for _, _, local in hub.asked].count(False) == 1 and not list(tmp_path.iterdir())


# --- prompts
def test_all_templates_are_byte_equal_to_longbenchs():
    assert list(SHA256) == list(SETS)
    for name, digest in SHA256.items():
        assert hashlib.sha256(prompts.template(name).encode()).hexdigest() == digest, name


def test_without_lm_eval_there_is_a_message(monkeypatch):
    prompts.template.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install lm-eval"):
        prompts.template("trec")


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


@pytest.mark.parametrize("limit", [100, 101])
def test_the_middle_is_cut_as_in_longbench(tokenizer, limit):
    text = "".join(chr(97 + i % 26) for i in range(300))
    ids = tokenizer(text).input_ids  # <s> and a token a byte
    half = limit // 2
    cut, truncated = prompts.prompt_ids(tokenizer, text, limit, 32, "lceg")
    assert truncated and tokenizer.decode(cut, skip_special_tokens=True) == text[: half - 1] + text[-half:]
    assert len(cut) == 2 * half and cut[0] == ids[0] == 0  # an odd limit loses one token
    for length in (limit - 1, limit):  # of tokens, the first <s>
        assert prompts.prompt_ids(tokenizer, text[: length - 1], limit, 32, "lceg") == (ids[:length], False)
    assert prompts.prompt_ids(tokenizer, text[:limit], limit, 32, "lceg")[1]


@pytest.mark.parametrize("limit", [100, 101])
def test_prompt_and_answer_stay_inside_the_window(tokenizer, limit):
    text = "".join(chr(97 + i % 26) for i in range(300))
    cut, truncated = prompts.prompt_ids(tokenizer, text, limit, 32, "inside")
    assert truncated and len(cut) + 32 == limit - limit % 2
    assert prompts.prompt_ids(tokenizer, text[: limit - 33], limit, 32, "inside")[1] is False
    assert prompts.prompt_ids(tokenizer, text[: limit - 32], limit, 32, "inside")[1] is True
    letters = "é" * 300  # two tokens each: half a letter becomes U+FFFD, which is three
    assert len(prompts.prompt_ids(tokenizer, letters, 102, 32, "lceg")[0]) > 102  # as the paper's code
    assert 102 - 8 <= len(prompts.prompt_ids(tokenizer, letters, 102, 32, "inside")[0]) + 32 <= 102


def test_a_window_without_room_for_a_prompt(tokenizer):
    for limit in (1, 32, 33):
        with pytest.raises(ValueError, match=f"a window of {limit} tokens has no room"):
            prompts.prompt_ids(tokenizer, "a" * 300, limit, 32, "inside")
