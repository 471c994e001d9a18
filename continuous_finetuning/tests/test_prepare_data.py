"""prepare_data.py: the same rows for any number of workers and after a kill, the recipe against a plain loop, one-line
errors, and rows that fine-tune.py's reader takes."""

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from transformers import AutoTokenizer

import data_folder
import documents
import mixing
import packing
import prepare_data
from conftest import STAGE, python

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


def call(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, args)])
    prepare_data.main()


def made(folder: Path) -> dict[str, bytes]:
    """Every file by name; of the manifest and the card what does not depend on the time and place of the build."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = json.loads(files["manifest.json"])
    for name in ("seconds", "tokens_per_second", "workers", "command"):
        del manifest[name]
    return {**files, "manifest.json": manifest, "README.md": files["README.md"].split(b"Made by")[0]}


def rows_of(folder: Path, column="input_ids") -> list[list[int]]:
    files = sorted(folder.glob("train-*.parquet"))
    return [row for file in files for row in pyarrow.parquet.read_table(file)[column].to_pylist()]


@pytest.fixture(scope="module")
def build(base, corpus, tmp_path_factory):
    """The mixture made by one worker, as a user would."""
    folder = tmp_path_factory.mktemp("build") / "data"
    python("prepare_data.py", *mixed(base, corpus, folder), "--workers", 1, "--document_boundaries")
    return folder


# ----------------------------------------------------------------------------- the recipe
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
    card = (build / "README.md").read_text()
    assert card.startswith("---\nconfigs:") and "prepare_data.py --dataset" in card
    assert f"| books | {manifest['sources']['books']['documents_seen']:,} |" in card


def test_any_number_of_workers_gives_the_same_files(build, base, corpus, tmp_path):
    python("prepare_data.py", *mixed(base, corpus, tmp_path), "--workers", 4, "--document_boundaries")
    assert made(tmp_path) == made(build)


def test_killed_builds_continue_to_the_same_files(base, tmp_path, monkeypatch, capsys):
    """Killed twice, with other numbers of workers; each time it goes on from what was noted."""
    rng, data, folder = random.Random(2), tmp_path / "in", tmp_path / "killed"
    data.mkdir()
    for number in range(12):
        texts = ["".join(rng.choices(WORDS, k=rng.randrange(10, 8000))) for _ in range(6)]
        (data / f"{number:02d}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    more = ["--rows_per_file", 500, "--document_boundaries", "--workers"]
    call(monkeypatch, *words(base, data, tmp_path / "whole", *more, 1))
    assert len(list((tmp_path / "whole").glob("train-*"))) > 15

    for workers, number in [(1, 2), (3, 8)]:
        command = ["prepare_data.py", *words(base, data, folder, *more, workers)]
        run = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=STAGE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        while run.poll() is None and not (folder / f"train-{number:05d}.parquet").exists():
            time.sleep(0.001)
        os.kill(run.pid, signal.SIGKILL)  # the parent alone: its workers must end by themselves
        assert run.wait() == -signal.SIGKILL and (folder / "progress.npz").exists()
        deadline = time.monotonic() + 30
        while alive(run.pid):
            assert time.monotonic() < deadline, "workers outlive their parent"
            time.sleep(0.05)
    assert "going on after" in python(*command)
    assert made(folder) == made(tmp_path / "whole")
    call(monkeypatch, *command[1:])
    assert "finished, nothing to do" in capsys.readouterr().out


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_stopped_between_any_two_files(build, base, corpus, tmp_path, monkeypatch):
    """Stops after each file is written but not yet noted: the worst moment. Twelve resumes later, the same files."""
    write = data_folder.Build.write

    def write_and_stop(self, rows):
        fresh = not self.path(self.files).exists()
        write(self, rows)
        if fresh:
            raise InterruptedError

    monkeypatch.setattr(data_folder.Build, "write", write_and_stop)
    monkeypatch.setattr(documents, "CHUNK_BYTES", 5000)  # other chunks, the same rows
    stops = 0
    while not (tmp_path / "manifest.json").exists():
        try:
            call(monkeypatch, *mixed(base, corpus, tmp_path), "--workers", 1, "--document_boundaries")
        except InterruptedError:
            stops += 1
    assert stops == len(list(tmp_path.glob("train-*.parquet"))) >= 9
    for path in build.glob("train-*"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_other_seeds_and_shares_are_other_data(build, base, corpus, tokenizer, tmp_path, monkeypatch):
    call(monkeypatch, *mixed(base, corpus, tmp_path), "--workers", 1, "--seed", 1)
    rows = rows_of(tmp_path)
    stream = [token for ids in expected(corpus, tokenizer, seed=1)[0] for token in ids]
    assert [token for row in rows for token in row] == stream[: len(rows) * LENGTH]
    assert rows != rows_of(build)
    assert pyarrow.parquet.read_table(tmp_path / "train-00000.parquet").column_names == ["input_ids"]


# ----------------------------------------------------------------------------- plain data
def test_without_a_mix_it_is_plain_packing(base, tokenizer, tmp_path, monkeypatch):
    rng = random.Random(1)
    texts = ["".join(rng.choices(WORDS[:4], k=rng.randrange(0, 90))) for _ in range(700)]
    table = pa.table({"body": texts, "text": [0] * 700})
    (tmp_path / "in" / "deep").mkdir(parents=True)
    pyarrow.parquet.write_table(table.slice(0, 400), tmp_path / "in" / "a.parquet")
    pyarrow.parquet.write_table(table.slice(400), tmp_path / "in" / "deep" / "b.parquet")
    call(monkeypatch, *words(base, tmp_path / "in", tmp_path / "out", "--text_column", "body", "--workers", 1))
    plain = list(packing.pack(datasets.Dataset.from_dict({"text": texts}), tokenizer, LENGTH))
    assert rows_of(tmp_path / "out") == [row["input_ids"] for row in plain]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["sources"]["all"]["documents_kept"] == 700 and manifest["sources"]["all"]["budget"] is None

    call(
        monkeypatch, *words(base, tmp_path / "in", tmp_path / "some", "--text_column", "body", "--total_tokens", "10k")
    )
    assert rows_of(tmp_path / "some") == [row["input_ids"] for row in plain][: len(rows_of(tmp_path / "some"))]
    assert 10_000 // LENGTH <= len(rows_of(tmp_path / "some")) <= 10_600 // LENGTH


def test_fine_tune_reads_the_folder(build, base, tokenizer, tmp_path):
    data = packing.rows(packing.read(str(build), str(tmp_path)), tokenizer, LENGTH, len(tokenizer))
    assert data[:]["input_ids"] == rows_of(build)


def test_data_that_end_early_are_said_so(base, corpus, tmp_path, monkeypatch, capsys):
    call(monkeypatch, *mixed(base, corpus, tmp_path), "--workers", 1, "--total_tokens", "2M")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for name, missing in manifest["missing_tokens"].items():
        assert missing == MIX[name] * 2_000_000 - manifest["sources"][name]["tokens"] > 0
    assert set(manifest["missing_tokens"]) == set(MIX)
    assert sum(source["documents_seen"] for source in manifest["sources"].values()) == 900
    lines = [line for line in capsys.readouterr().out.splitlines() if "the data ended early" in line]
    assert len(lines) == 1 and f"{manifest['missing_tokens']['books']:,} books" in lines[0]


def test_slimpajama_from_the_hub(base, tmp_path, monkeypatch):
    """The defaults for the study's dataset; a build goes on with the commit it was begun with. The hub is played."""
    rng, opened = random.Random(3), []
    names = ["RedPajamaCommonCrawl", *mixing.SLIMPAJAMA]
    rows = [
        {"text": "x" * rng.randrange(2000, 6000), "meta": {"redpajama_set_name": rng.choice(names)}} for _ in range(900)
    ]

    def load_dataset(name, subset, split, revision, streaming):
        opened.append((name, subset, split, revision, streaming))
        return datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=9)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(documents, "hub_revision", lambda name, revision: revision or f"commit{len(opened)}")
    monkeypatch.setattr(data_folder.Build, "finish", None)  # stops the first build at its end
    command = ["--dataset", "cerebras/SlimPajama-627B", "--tokenizer", base, "--length", 2048, "--total_tokens", "200k"]
    command += ["--rows_per_file", 9, "--workers", 1, "--output_dir", tmp_path]
    with pytest.raises(TypeError):
        call(monkeypatch, *command)
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(documents, "hub_revision", lambda name, revision: f"commit{len(opened)}")
    call(monkeypatch, *command)
    assert opened == [("cerebras/SlimPajama-627B", None, "train", "commit0", True)] * 2
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["settings"]["data"] == "cerebras/SlimPajama-627B@commit0"
    assert manifest["settings"]["keep_short"] == 0.1 and manifest["settings"]["min_length"] == 4096
    for name, share in mixing.SLIMPAJAMA.items():
        source = manifest["sources"][name]
        assert source["budget"] == round(share * 200_000) <= source["tokens"] < source["budget"] + 6001
    assert manifest["missing_tokens"] == {}


def test_a_broken_file_costs_no_work(base, tokenizer, tmp_path, monkeypatch):
    """What was read before it is kept and continued from; what lies behind the tokens asked for does not matter."""
    texts = ["alpha " * 40] * 50
    good = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.jsonl").write_text(good)
    (folder / "2.jsonl").write_text(good.replace("alpha", '"', 1))
    for workers in (1, 2):
        some = words(base, folder, tmp_path / f"some{workers}", "--workers", workers, "--total_tokens", 40 * 241)
        call(monkeypatch, *some)
        assert len(rows_of(tmp_path / f"some{workers}")) == 40 * 241 // LENGTH
    with pytest.raises(SystemExit, match="file number 1, after 0 documents"):
        call(monkeypatch, *words(base, folder, tmp_path / "all", "--workers", 1))
    with np.load(tmp_path / "all" / "progress.npz") as held:
        assert len(held["ids_N"]) == 50 * 241 and json.loads(str(held["state"]))["place"] == [0, 50]


# ----------------------------------------------------------------------------- parts
def test_slimpajama_shares_and_words_of_a_mix():
    shares = mixing.parse_mix("slimpajama")
    assert len(shares) == 7 and sum(shares.values()) == pytest.approx(1) and shares["RedPajamaBook"] > 0.04
    assert mixing.parse_mix("none") is None
    assert mixing.parse_mix("a=b=1,c=3") == {"a=b": 0.25, "c": 0.75}
    assert [mixing.parse_tokens(text) for text in ("1B", "2.5M", "64k", "7")] == [10**9, 2_500_000, 64_000, 7]


def test_shard_order_and_draws_are_fixed():
    """Numbers written down once: the data of a seed must not change with versions of NumPy or of this kit."""
    assert documents.shard_order(8, 0) == [7, 5, 0, 2, 4, 3, 6, 1]
    assert documents.shard_order(5, None) == [0, 1, 2, 3, 4]
    draws = (documents._philox(0, 3).random_raw(3) >> 11) * 2.0**-53
    assert draws.tolist() == [0.47515916035519756, 0.48792174538598776, 0.5552485663862539]


def test_rows_know_where_documents_begin():
    rows = mixing.Rows(4)
    for ids in ([1, 2], [3, 4, 5], [6], [7, 8, 9, 10]):
        rows.add(np.array(ids, np.int32))
    ids_RL, starts = rows.take(2)
    assert ids_RL.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]] and starts == [[0, 2], [0, 1, 2]]
    again = mixing.Rows(4, *rows.held())
    again.add(np.array([11, 12, 13], np.int32))
    ids_RL, starts = again.take(1)
    assert ids_RL.tolist() == [[9, 10, 11, 12]] and starts == [[0, 2]] and again.size == 1
    with pytest.raises(ValueError):
        again.take(1)


# ----------------------------------------------------------------------------- bad input
def test_bad_input_is_one_line(build, base, corpus, tmp_path, monkeypatch):
    new = tmp_path / "new"
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "short.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "x.txt").write_text("text")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "rows.parquet").touch()
    for args, message in [
        (words(base, tmp_path / "nothing", new), "no file or folder"),
        (words(base, "./nothing.jsonl", new), "no file or folder ./nothing.jsonl"),
        (words(base, "no/such-dataset", new), "cannot find --dataset no/such-dataset here or on the hub"),
        (words(base, tmp_path / "empty", new), "no *.jsonl, *.json or *.parquet"),
        (words(base, tmp_path / "none.jsonl", new), "is empty"),
        (words(base, tmp_path / "x.txt", new), "expected one kind of file"),
        (words(base, tmp_path / "broken.jsonl", new), "cannot"),
        (words(base, tmp_path / "short.jsonl", new), "have 2 tokens, not one row of 128"),
        (words(tmp_path / "empty", corpus, new), "no tokenizer in"),
        (words(base, corpus, new, "--length", 1), "--length must be at least 2"),
        (words(base, corpus, new, "--total_tokens", 100), "less than one row"),
        (words(base, corpus, new, "--keep_short", 1.5), "--keep_short"),
        (words(base, corpus, new, "--workers", 0), "--workers"),
        (words(base, corpus, new, "--text_column", "body"), "no column body, only text, meta, count"),
        (words(base, corpus, new, "--text_column", "meta.body"), "no column meta.body, only set, n"),
        (words(base, corpus, new, "--text_column", "count"), "holds int64, not text"),
        (mixed(base, corpus, new, "--source_column", "text.set"), "no column text.set, only plain values"),
        (mixed(base, corpus, new, "--mix", "web=1,cod=1"), "has no source cod, only books, code, spam, web"),
        (mixed(base, corpus, new, "--mix", "web=1,code=0"), "'code=0' is no name=share"),
        (mixed(base, corpus, new, "--mix", "web=1,web=2"), "each name once"),
        (mixed(base, corpus, new, "--mix", "web"), "'web' is no name=share"),
        (mixed(base, corpus, new, "--mix", "web=1,code=1e-9"), "less than one token"),
        (words(base, corpus, new, "--mix", "web=1", "--total_tokens", "1M"), "--mix needs --source_column"),
        (words(base, corpus, new, "--mix", "web=1", "--source_column", "meta.set"), "and --total_tokens"),
        (words(base, corpus, tmp_path / "foreign"), "did not write"),
        (mixed(base, corpus, build, "--document_boundaries", "--seed", 3), "seed was 0, now it is 3"),
        (mixed(base, corpus, build), "document_boundaries was True, now it is False"),
        (mixed(base, tmp_path / "short.jsonl", build, "--document_boundaries"), "data was sha256:"),
    ]:
        with pytest.raises(SystemExit) as stop:
            call(monkeypatch, *args)
        error = str(stop.value.code)
        assert error.startswith("error: ") and message in error and "\n" not in error, error
        assert not list(new.glob("*.parquet"))
        shutil.rmtree(new, ignore_errors=True)
