"""prepare_data.py: the recipe against a plain loop, equal files for any number of workers, and bad input."""

import gzip
import hashlib
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from transformers import AutoTokenizer

import prepare_data
import training_rows
from documents import SLIMPAJAMA, parse_mix
from scripts import fails, run_here

LENGTH, LONG, TOTAL, SEED = 128, 600, 60_000, 1
MIX = {"web": 0.5, "code": 0.3, "books": 0.2}
WORDS = ["alpha", "beta ", "gamma\n", "naïve", "δέλτα", "<s>", "</s>", " 12345", "\U0001f40d", "    "]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """900 documents of the sources of MIX and "spam", in three files; a third of the documents are long."""
    folder, rng = tmp_path_factory.mktemp("corpus") / "[a-z]*", random.Random(0)
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl"):
        lines = []
        for i in range(300):
            source = rng.choices(["web", "code", "books", "spam"], [6, 2, 1, 1])[0]
            words = rng.randrange(5, 60) if rng.random() < 0.67 else rng.randrange(100, 300)
            text = None if i == 7 else "".join(rng.choices(WORDS, k=words))
            lines.append(json.dumps({"text": text, "meta": {"set": source, "n": i}, "count": i}))
            lines[-1] = lines[-1] if i < 250 else lines[-1].replace('"n": ', '"n": "late", "m": ')  # of another type
        content = ("\ufeff" + "\r\n\r\n".join(lines)).encode()  # as Windows tools write it
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return folder


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


def flags(base, dataset, output, *more) -> list:
    return ["--dataset", dataset, "--tokenizer", base, "--length", LENGTH, "--output_dir", output, *more]


def mix_flags(base, corpus, output, *more) -> list:
    recipe = f"--total_tokens {TOTAL} --min_length {LONG} --source_column meta.set --seed {SEED} --document_boundaries"
    mix = ",".join(f"{name}={share}" for name, share in MIX.items())
    return flags(base, corpus, output, *recipe.split(), "--mix", mix, *more)


def read_manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def read_rows(folder: Path) -> dict[str, list]:
    return datasets.Dataset.from_parquet(sorted(map(str, folder.glob("train-*.parquet"))))[:]


@pytest.fixture(scope="module")
def build(base, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    run_here("prepare_data.py", *mix_flags(base, corpus, folder), "--workers", 1)
    return folder


def plain_recipe(corpus, tokenizer) -> tuple[list[list[int]], Counter, Counter]:
    """(ids of the documents kept, documents and tokens kept by source) of a plain loop over all documents."""
    files, rng = sorted(corpus.iterdir()), random.Random(SEED)
    random.Random(SEED).shuffle(files)
    kept, kept_documents, kept_tokens = [], Counter(), Counter()
    for file in files:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for document in map(json.loads, content.decode("utf-8-sig").split("\r\n\r\n")):
            drawn, source, text = rng.random() < 0.1, document["meta"]["set"], document["text"]
            if source not in MIX or text is None or kept_tokens[source] >= MIX[source] * TOTAL:
                continue
            ids = [0, *tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
            if drawn or len(ids) >= LONG:
                kept.append(ids)
                kept_documents[source] += 1
                kept_tokens[source] += len(ids)
    return kept, kept_documents, kept_tokens


def test_rows_and_counts_equal_the_plain_recipe(build, corpus, tokenizer):
    documents, kept_documents, kept_tokens = plain_recipe(corpus, tokenizer)
    ids = [token for document in documents for token in document]
    data = read_rows(build)
    rows = data["input_ids"]
    assert rows == [ids[i : i + LENGTH] for i in range(0, len(ids) - LENGTH + 1, LENGTH)]

    starts = np.cumsum([0, *map(len, documents)])
    for i, row_starts in enumerate(data["document_starts"]):
        inside = starts[starts // LENGTH == i] % LENGTH
        assert row_starts == sorted({0, *inside.tolist()})

    manifest = read_manifest(build)
    assert manifest["documents_kept"] == kept_documents and manifest["tokens_kept"] == kept_tokens
    for source, share in MIX.items():
        assert share * TOTAL <= kept_tokens[source] < share * TOTAL + 3000
    assert manifest["rows"] == len(rows) and manifest["tokens"] == len(rows) * LENGTH
    assert manifest["missing_tokens"] == {}
    assert manifest["input_ids_sha256"] == hashlib.sha256(np.array(rows, "<i4").tobytes()).hexdigest()


def test_any_number_of_workers_gives_the_same_files(build, base, corpus, tmp_path):
    run_here("prepare_data.py", *mix_flags(base, corpus, tmp_path), "--workers", 3)
    for path in build.glob("*.parquet"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    for file in corpus.iterdir():
        file.write_bytes(file.read_bytes())  # the same data at another time
    assert "is already finished" in run_here("prepare_data.py", *mix_flags(base, corpus, tmp_path))


def test_data_that_end_early(base, corpus, tmp_path):
    run_here("prepare_data.py", *mix_flags(base, corpus, tmp_path), "--total_tokens", "2M")
    manifest = read_manifest(tmp_path)
    for name, share in MIX.items():
        assert manifest["missing_tokens"][name] == share * 2_000_000 - manifest["tokens_kept"][name] > 0


def test_without_a_mix_documents_are_packed_in_order(base, tokenizer, tmp_path):
    rng = random.Random(1)
    texts = ["".join(rng.choices(WORDS[:4], k=rng.randrange(0, 90))) for _ in range(700)]
    table = pa.table({"body": texts, "text": [0] * 700})
    (tmp_path / "in" / "deep").mkdir(parents=True)
    pyarrow.parquet.write_table(table.slice(0, 400), tmp_path / "in" / "a.parquet")
    pyarrow.parquet.write_table(table.slice(400), tmp_path / "in" / "deep" / "b.parquet")
    command = flags(base, tmp_path / "in", tmp_path / "out", "--text_column", "body")
    run_here("prepare_data.py", *command)
    stream = [token for text in texts for token in tokenizer(text)["input_ids"]]
    expected = [stream[i : i + LENGTH] for i in range(0, len(stream) - LENGTH + 1, LENGTH)]
    data = training_rows.read(str(tmp_path / "out"))  # as fine-tune.py reads it
    rows = training_rows.select(data, LENGTH, len(tokenizer))
    assert rows[:]["input_ids"] == expected
    assert training_rows.rows_sha256(rows) == read_manifest(tmp_path / "out")["input_ids_sha256"]
    assert read_manifest(tmp_path / "out")["documents_kept"] == {"all": 700}

    own = shutil.copytree(base, tmp_path / "tokenizer")  # as Qwen's, it puts nothing before a text and has no BOS
    file = json.loads((own / "tokenizer.json").read_text())
    (own / "tokenizer.json").write_text(json.dumps(file | {"post_processor": None}))
    fields = json.loads((own / "tokenizer_config.json").read_text())
    (own / "tokenizer_config.json").write_text(json.dumps(fields | {"bos_token": None}))
    run_here("prepare_data.py", *command, "--tokenizer", own, "--output_dir", tmp_path / "eos")
    assert read_rows(tmp_path / "eos")["input_ids"] == [[token or 1 for token in row] for row in expected]

    run_here("prepare_data.py", *command, "--total_tokens", "10k", "--output_dir", tmp_path / "first")
    rows = read_rows(tmp_path / "first")["input_ids"]
    assert rows == expected[: len(rows)] and 10_000 // LENGTH <= len(rows) <= 10_600 // LENGTH


def test_slimpajama_from_the_hub(base, tmp_path, monkeypatch):
    """The defaults for the study's dataset, with a stand-in for the hub."""
    rng, documents = random.Random(3), []
    for _ in range(900):
        source = rng.choice(["RedPajamaCommonCrawl", *SLIMPAJAMA])
        documents.append({"text": "x" * rng.randrange(2000, 6000), "meta": {"redpajama_set_name": source}})

    def load_dataset(name, subset, split, revision, streaming):
        assert (name, subset, split, revision) == ("cerebras/SlimPajama-627B", None, "train", "commit0") and streaming
        return datasets.Dataset.from_list(documents).to_iterable_dataset(num_shards=9)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="commit0"))
    command = ["--dataset", "cerebras/SlimPajama-627B", "--tokenizer", base, "--length", 2048, "--total_tokens", "200k"]
    run_here("prepare_data.py", *command, "--output_dir", tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest["settings"]["data"] == "cerebras/SlimPajama-627B@commit0"
    assert manifest["settings"]["keep_short"] == 0.1 and manifest["settings"]["min_length"] == 4096
    for name, share in SLIMPAJAMA.items():
        assert round(share * 200_000) <= manifest["tokens_kept"][name] < share * 200_000 + 6001


def test_shares_and_numbers_of_tokens_are_parsed():
    assert sum(parse_mix("slimpajama").values()) == pytest.approx(1)
    assert parse_mix("a=b=1,c=3") == {"a=b": 0.25, "c": 0.75}
    assert [prepare_data.token_count(text) for text in ("1B", "2.5M", "64k", "7")] == [10**9, 2_500_000, 64_000, 7]


BAD_FILES = {
    "broken.jsonl": b'{"text": "a"}\n{"text": \n',
    "short.jsonl": b'{"text": "a"}\n',
    "latin.jsonl": b'{"text": "a"}\n\n{"text": "\xe4"}\n',
    "cut.jsonl.gz": gzip.compress(b'{"text": "a"}\n' * 1000)[:-9],
    "broken.parquet": b"PAR1",
}


def test_bad_input_exits_1_without_a_traceback(build, base, corpus, tmp_path):
    new = tmp_path / "new"
    cases = [
        (flags(base, "./nothing.jsonl", new), "nothing.jsonl"),
        (flags(base, "no/such-dataset", new), ""),
        (flags(base, corpus, new, "--total_tokens", "infB"), "--total_tokens"),
        (flags(base, corpus, new, "--keep_short", "nan"), "--keep_short"),
        (mix_flags(base, corpus, new, "--mix", "web=0"), "--mix"),
        (flags(tmp_path, corpus, new), "tokenizer"),
        (flags(base, corpus, new, "--text_column", "meta.body"), "meta.body"),
        (flags(base, corpus, new, "--text_column", "count"), "the column count has 0, not text"),
        (mix_flags(base, corpus, new, "--mix", "web=1,cod=1"), "cod"),
        (flags(base, corpus, new, "--mix", "web=1", "--total_tokens", "1M"), "--source_column"),
        (mix_flags(base, corpus, build, "--seed", 3), "seed was 1"),
    ]
    for name, content in BAD_FILES.items():
        (tmp_path / name).write_bytes(content)
        cases.append((flags(base, tmp_path / name, new), "2 tokens" if name == "short.jsonl" else name))
    for command, message in cases:
        assert message in fails("prepare_data.py", *command, "--workers", 1)
        assert not list(new.glob("*.parquet"))
        (new / "run.json").unlink(missing_ok=True)
