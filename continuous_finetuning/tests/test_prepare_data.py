"""prepare_data.py: the recipe against a plain loop, the same rows for any number of workers, bad input, and rows that
fine-tune.py reads."""

import gzip
import hashlib
import json
import random
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from transformers import AutoTokenizer

import documents
import mixing
import packing
import prepare_data
from scripts import fails, run_here
from tiny import python

LENGTH, LONG, TOTAL = 128, 600, 60_000
MIX = {"web": 0.5, "code": 0.3, "books": 0.2}
WORDS = ["alpha", "beta ", "gamma\n", "naïve", "δέλτα", "<s>", "</s>", " 12345", "\U0001f40d", "    "]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """900 documents of three sources and one that no mix asks for, in three files; a third are long."""
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl"):
        lines = []
        for i in range(300):
            source = rng.choices(["web", "code", "books", "spam"], [6, 2, 1, 1])[0]
            words = rng.randrange(5, 60) if rng.random() < 0.67 else rng.randrange(100, 300)
            text = "".join(rng.choices(WORDS, k=words))
            lines.append({"text": None if i == 7 else text, "meta": {"set": source, "n": i}, "count": i})
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return folder


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


def words(base, dataset, output, *more):
    return ["--dataset", dataset, "--tokenizer", base, "--length", LENGTH, "--output_dir", output, *more]


def mixed(base, corpus, output, *more):
    mix = ",".join(f"{name}={share}" for name, share in MIX.items())
    more = ["--total_tokens", TOTAL, "--min_length", LONG, "--rows_per_file", 50, "--source_column", "meta.set", *more]
    return words(base, corpus, output, "--mix", mix, *more)


def made(folder: Path) -> dict[str, bytes]:
    """Every file by name; of the manifest what does not depend on the time and place of the build."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = json.loads(files["manifest.json"])
    for name in ("seconds", "tokens_per_second", "workers", "command"):
        del manifest[name]
    return {**files, "manifest.json": manifest}


def rows_of(folder: Path, column="input_ids") -> list[list[int]]:
    files = sorted(folder.glob("train-*.parquet"))
    return [row for file in files for row in pyarrow.parquet.read_table(file)[column].to_pylist()]


@pytest.fixture(scope="module")
def build(base, corpus, tmp_path_factory):
    """The mixture made by one worker."""
    folder = tmp_path_factory.mktemp("build") / "data"
    run_here("prepare_data.py", *mixed(base, corpus, folder), "--workers", 1, "--document_boundaries")
    return folder


def expected(corpus, tokenizer, seed=0):
    """The recipe written down plainly: (ids of the kept documents in order, counts by source)."""
    files = sorted(corpus.iterdir())
    kept, counts = [], {name: [0, 0] for name in MIX}
    for shard in documents.shard_order(len(files), seed):
        raw = files[shard].read_bytes()
        lines = (gzip.decompress(raw) if files[shard].suffix == ".gz" else raw).decode().splitlines()
        draws = np.random.Philox(key=np.array([seed, shard], np.uint64)).random_raw(len(lines))
        for line, draw in zip(lines, draws.tolist(), strict=True):
            document = json.loads(line)
            source, text = document["meta"]["set"], document["text"]
            if source not in MIX or text is None or counts[source][1] >= MIX[source] * TOTAL:
                continue
            ids = [0] + tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            if len(ids) >= LONG or (draw >> 11) / 2**53 < 0.1:
                kept.append(ids)
                counts[source][0] += 1
                counts[source][1] += len(ids)
    return kept, counts


def test_rows_are_those_of_the_plain_recipe(build, corpus, tokenizer):
    kept, counts = expected(corpus, tokenizer)
    assert all(tokens >= MIX[name] * TOTAL for name, (_, tokens) in counts.items())  # the data suffice: a real test
    assert any(len(ids) < LONG for ids in kept) and len(kept) > 60
    stream = [token for ids in kept for token in ids]
    rows = rows_of(build)
    assert len(rows) == len(stream) // LENGTH and {len(row) for row in rows} == {LENGTH}
    assert [token for row in rows for token in row] == stream[: len(rows) * LENGTH]

    manifest = json.loads((build / "manifest.json").read_text())
    sources = manifest["sources"]
    for name, (documents_kept, tokens) in counts.items():
        assert (sources[name]["documents_kept"], sources[name]["tokens"]) == (documents_kept, tokens)
        assert sources[name]["budget"] == MIX[name] * TOTAL
        assert sources[name]["share"] == pytest.approx(tokens / len(stream))
    assert sources["spam"]["documents_kept"] == sources["spam"]["tokens"] == 0 < sources["spam"]["documents_seen"]

    starts, at = set(), 0
    for ids in kept:
        starts.add(at)
        at += len(ids)
    wanted = [
        sorted({0} | {s - i for s in starts if i <= s < i + LENGTH}) for i in range(0, len(rows) * LENGTH, LENGTH)
    ]
    assert rows_of(build, "document_starts") == wanted


def test_accounts_add_up_and_hashes_are_those_of_the_files(build):
    manifest = json.loads((build / "manifest.json").read_text())
    rows = rows_of(build)
    assert manifest["rows"] == len(rows) == sum(file["rows"] for file in manifest["files"])
    assert manifest["tokens"] == len(rows) * LENGTH and 0 <= manifest["tokens_dropped"] < LENGTH
    kept = sum(source["tokens"] for source in manifest["sources"].values())
    assert kept == manifest["tokens"] + manifest["tokens_dropped"]
    assert sum(source["share"] for source in manifest["sources"].values()) == pytest.approx(1)
    assert (
        manifest["missing_tokens"] == {} and kept < TOTAL + 3 * 3000
    )  # each source overshoots by one document at most
    assert manifest["input_ids_sha256"] == hashlib.sha256(np.array(rows, "<i4").tobytes()).hexdigest()
    assert len(manifest["files"]) >= 9 and {file["rows"] for file in manifest["files"][:-1]} == {50}
    for file in manifest["files"]:
        assert file["sha256"] == hashlib.sha256((build / file["file"]).read_bytes()).hexdigest()


def test_any_number_of_workers_gives_the_same_files(build, base, corpus, tmp_path):
    python("prepare_data.py", *mixed(base, corpus, tmp_path), "--workers", 3, "--document_boundaries")
    assert made(tmp_path) == made(build)
    log = run_here("prepare_data.py", *mixed(base, corpus, tmp_path), "--document_boundaries")
    assert "is already finished" in log


def test_other_seeds_and_shares_are_other_data(build, base, corpus, tokenizer, tmp_path):
    run_here("prepare_data.py", *mixed(base, corpus, tmp_path), "--workers", 1, "--seed", 1)
    rows = rows_of(tmp_path)
    stream = [token for ids in expected(corpus, tokenizer, seed=1)[0] for token in ids]
    assert [token for row in rows for token in row] == stream[: len(rows) * LENGTH]
    assert rows != rows_of(build)
    assert pyarrow.parquet.read_table(tmp_path / "train-00000.parquet").column_names == ["input_ids"]


def test_without_a_mix_it_is_plain_packing(base, tokenizer, tmp_path):
    rng = random.Random(1)
    texts = ["".join(rng.choices(WORDS[:4], k=rng.randrange(0, 90))) for _ in range(700)]
    table = pa.table({"body": texts, "text": [0] * 700})
    (tmp_path / "in" / "deep").mkdir(parents=True)
    pyarrow.parquet.write_table(table.slice(0, 400), tmp_path / "in" / "a.parquet")
    pyarrow.parquet.write_table(table.slice(400), tmp_path / "in" / "deep" / "b.parquet")
    run_here(
        "prepare_data.py", *words(base, tmp_path / "in", tmp_path / "out", "--text_column", "body", "--workers", 1)
    )
    plain = list(packing.pack(datasets.Dataset.from_dict({"text": texts}), tokenizer, LENGTH))
    assert rows_of(tmp_path / "out") == [row["input_ids"] for row in plain]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["sources"]["all"]["documents_kept"] == 700 and manifest["sources"]["all"]["budget"] is None

    some = words(
        base, tmp_path / "in", tmp_path / "some", "--text_column", "body", "--total_tokens", "10k", "--workers", 1
    )
    run_here("prepare_data.py", *some)
    assert rows_of(tmp_path / "some") == [row["input_ids"] for row in plain][: len(rows_of(tmp_path / "some"))]
    assert 10_000 // LENGTH <= len(rows_of(tmp_path / "some")) <= 10_600 // LENGTH


def test_fine_tune_reads_the_folder(build, tokenizer):
    data = packing.rows(packing.read(str(build)), tokenizer, LENGTH, len(tokenizer))
    assert data[:]["input_ids"] == rows_of(build)


def test_data_that_end_early(base, corpus, tmp_path):
    log = run_here("prepare_data.py", *mixed(base, corpus, tmp_path), "--workers", 1, "--total_tokens", "2M")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for name, missing in manifest["missing_tokens"].items():
        assert missing == MIX[name] * 2_000_000 - manifest["sources"][name]["tokens"] > 0
        assert f"the data ended early, {missing:,} {name} are missing" in log
    assert set(manifest["missing_tokens"]) == set(MIX)
    assert sum(source["documents_seen"] for source in manifest["sources"].values()) == 900


def test_slimpajama_from_the_hub(base, tmp_path, monkeypatch):
    """The defaults for the study's dataset, with a hub of our own."""
    rng, opened = random.Random(3), []
    names = ["RedPajamaCommonCrawl", *mixing.SLIMPAJAMA]
    rows = []
    for _ in range(900):
        meta = {"redpajama_set_name": rng.choice(names)}
        rows.append({"text": "x" * rng.randrange(2000, 6000), "meta": meta})

    def load_dataset(name, subset, split, revision, streaming):
        opened.append((name, subset, split, revision, streaming))
        return datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=9)

    class Info:
        sha = "commit0"

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda self, name, revision: Info)
    command = ["--dataset", "cerebras/SlimPajama-627B", "--tokenizer", base, "--length", 2048, "--total_tokens", "200k"]
    run_here("prepare_data.py", *command, "--rows_per_file", 9, "--workers", 1, "--output_dir", tmp_path)
    assert opened == [("cerebras/SlimPajama-627B", None, "train", "commit0", True)]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["settings"]["data"] == "cerebras/SlimPajama-627B@commit0"
    assert manifest["settings"]["keep_short"] == 0.1 and manifest["settings"]["min_length"] == 4096
    for name, share in mixing.SLIMPAJAMA.items():
        source = manifest["sources"][name]
        assert source["budget"] == round(share * 200_000) <= source["tokens"] < source["budget"] + 6001
    assert manifest["missing_tokens"] == {}


def test_slimpajama_shares_and_words_of_a_mix():
    shares = mixing.parse_mix("slimpajama")
    assert len(shares) == 7 and sum(shares.values()) == pytest.approx(1) and shares["RedPajamaBook"] > 0.04
    assert mixing.parse_mix("none") is None
    assert mixing.parse_mix("a=b=1,c=3") == {"a=b": 0.25, "c": 0.75}
    assert [prepare_data.token_count(text) for text in ("1B", "2.5M", "64k", "7")] == [10**9, 2_500_000, 64_000, 7]


def test_shard_order_and_draws_are_fixed():
    """Numbers written down once: the data of a seed must not change with versions of NumPy or of this kit."""
    assert documents.shard_order(8, 0) == [7, 5, 0, 2, 4, 3, 6, 1]
    assert documents.shard_order(5, None) == [0, 1, 2, 3, 4]
    draws = (documents.random_words(0, 3).random_raw(3) >> 11) * 2.0**-53
    assert draws.tolist() == [0.47515916035519756, 0.48792174538598776, 0.5552485663862539]


def test_bad_input(build, base, corpus, tmp_path):
    new = tmp_path / "new"
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "short.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "x.txt").write_text("text")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "manifest.json").touch()
    for args, message in [
        (words(base, "./nothing.jsonl", new), "no file or folder ./nothing.jsonl"),
        (words(base, "no/such-dataset", new), ""),  # offline, or not on the hub
        (words(base, tmp_path / "empty", new), "expected files of one kind"),
        (words(base, tmp_path / "x.txt", new), "expected files of one kind"),
        (words(base, tmp_path / "broken.jsonl", new), "JSON"),
        (words(base, tmp_path / "short.jsonl", new), "have 2 tokens, not one row of 128"),
        (words(tmp_path / "empty", corpus, new), "no tokenizer in"),
        (words(base, corpus, new, "--total_tokens", 100), "less than one row"),
        (words(base, corpus, new, "--text_column", "meta.body"), "no column meta.body, only set, n"),
        (words(base, corpus, new, "--text_column", "count"), "has int64, not text"),
        (mixed(base, corpus, new, "--mix", "web=1,cod=1"), "have no source cod, only books, code, spam, web"),
        (mixed(base, corpus, new, "--mix", "web=1,code=0"), "'code=0' is not name=share"),
        (words(base, corpus, new, "--mix", "web=1", "--total_tokens", "1M"), "--mix needs --source_column"),
        (words(base, corpus, tmp_path / "foreign"), "which this script did not write"),
        (mixed(base, corpus, build, "--document_boundaries", "--seed", 3), "seed was 0, now it is 3"),
        (mixed(base, corpus, build), "document_boundaries was True, now it is False"),
    ]:
        assert message in fails("prepare_data.py", *args, "--workers", 1)
        assert not list(new.glob("*.parquet"))
        shutil.rmtree(new, ignore_errors=True)
