"""Documents for prepare_data.py: read from a hub dataset or local files in a fixed order, encoded, and selected.

"Per-source length upsampling" of Fu et al. (arXiv 2402.10171), as LCEG (arXiv 2409.12181) uses it: documents of
`min_length` tokens or more are kept, shorter ones with probability `keep_short`, until each source has its share of the
tokens. Fu et al. estimate the tokens of a document as characters / 3.68; here they are counted.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from glob import escape
from itertools import islice
from pathlib import Path
from random import Random

import datasets
import numpy as np
import pyarrow as pa
from huggingface_hub import HfApi
from tokenizers import Tokenizer

from records import read_fields
from run import errors_of

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
READ_DOCUMENTS = 500  # at a time
FIRST_DOCUMENTS = 20_000  # after these, a source of the mixture that did not occur is reported
ALL = "all"  # the source of every document without a mixture
ENCODED_DOCUMENTS = 64  # at a time: while a text is encoded, it takes many times the memory of its ids
# SlimPajama's own shares of tokens by `meta.redpajama_set_name`, as in Fu et al.'s code.
SLIMPAJAMA = {
    "RedPajamaCommonCrawl": 0.53374772,
    "RedPajamaC4": 0.26609933,
    "RedPajamaGithub": 0.05004782,
    "RedPajamaArXiv": 0.04290379,
    "RedPajamaBook": 0.0414836,
    "RedPajamaWikipedia": 0.03402128,
    "RedPajamaStackExchange": 0.03169647,
}


def file_format(path: Path) -> str | None:
    """ "json" or "parquet" by a file's name, with or without .gz or .zst; None for other files."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    return FORMATS.get(Path(name).suffix)


def hash_files(files: list[Path]) -> str:
    """SHA-256 over the names and the content of files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def open_dataset(name: str, subset: str | None, split: str, revision: str | None):
    """Opens local files or a hub dataset; returns (dataset for `read_batches`, string that identifies the data).

    Runs no code of the hub. Raises OSError or ValueError if the data cannot be opened.
    """
    path = Path(name).expanduser()
    if path.exists():
        found = filter(Path.is_file, path.rglob("*"))
        files = sorted(filter(file_format, found)) if path.is_dir() else [path]
        formats = set(map(file_format, files))
        if len(formats) != 1 or None in formats:
            raise ValueError(f"--dataset {path}: expected *.parquet or *.jsonl / *.json files (.gz, .zst), not both")
        stream = files
        if formats == {"parquet"}:
            paths = [escape(str(file)) for file in files]
            with errors_of(f"--dataset {path} cannot be read"):
                stream = datasets.load_dataset("parquet", data_files=paths, split="train", streaming=True)
        return stream, f"sha256:{hash_files(files)}"
    if name.startswith((".", "/", "~")) or file_format(path):
        raise ValueError(f"--dataset: no file or folder {name}")
    commit = HfApi().dataset_info(name, revision=revision).sha
    stream = datasets.load_dataset(name, subset, split=split, revision=commit, streaming=True)
    return stream, f"{name}@{commit}"


def read_batches(dataset, text_column: str, source_column: str | None, seed: int | None) -> Iterator[list]:
    """Yields lists of documents, (text or None, source). With a seed, the dataset's files are shuffled.

    dataset: a list of JSON files, or an IterableDataset. Without `source_column`, the source is ALL. Raises ValueError
    on a missing column.
    """
    columns = [text_column, source_column] if source_column else [text_column]
    if isinstance(dataset, list):
        shards = [read_tables(path, columns) for path in dataset]
    else:
        shards = [dataset.shard(dataset.num_shards, index) for index in range(dataset.num_shards)]
        shards = [shard.with_format("arrow").iter(batch_size=READ_DOCUMENTS) for shard in shards]
    if seed is not None:
        Random(seed).shuffle(shards)
    for shard in shards:
        for table in shard:
            texts = read_column(table, text_column, "--text_column")
            if str(texts.type) not in ("string", "large_string", "null"):
                raise ValueError(f"the column {text_column} has {texts.type}, not text; set --text_column")
            sources = [ALL] * len(table)
            if source_column is not None:
                sources = map(str, read_column(table, source_column, "--source_column").to_pylist())
            yield list(zip(texts.to_pylist(), sources, strict=True))


def read_tables(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    records = read_fields([path], columns)
    while batch := list(islice(records, READ_DOCUMENTS)):
        yield pa.Table.from_pylist(batch)


def read_column(table: pa.Table, name: str, flag: str) -> pa.ChunkedArray:
    """A column of a table; `a.b` is column b of the objects in column a."""
    columns = table.flatten()
    if name not in columns.column_names:
        raise ValueError(f"the dataset has no column {name}, only {', '.join(columns.column_names)}; set {flag}")
    return columns[name]


def encode(tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Token ids of each text, int32, with the BOS. Text that spells a special token is encoded as ordinary text."""
    tokenizer.encode_special_tokens = True
    documents = []
    for i in range(0, len(texts), ENCODED_DOCUMENTS):
        for encoding in tokenizer.encode_batch_fast(texts[i : i + ENCODED_DOCUMENTS]):
            documents.append(np.array(encoding.ids, dtype=np.int32))
    return documents


def parse_mix(text: str) -> dict[str, float] | None:
    """The share of each source, with the sum 1, from `slimpajama` or name=share,...; None for `none`."""
    if text == "none":
        return None
    shares = dict(SLIMPAJAMA) if text == "slimpajama" else {}
    for item in text.split(",") if not shares else []:
        name, _, share = item.rpartition("=")
        try:
            shares[name] = float(share)
            if not shares[name] > 0:
                raise ValueError
        except ValueError:
            raise ValueError(f"--mix: '{item}' is not name=share; set slimpajama, none or name=share,...") from None
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


class Mixture:
    """Decides which documents are kept, in the order of reading, and counts them by source.

    budgets: tokens by source. A source takes complete documents until it has its budget; other sources take none.
    """

    def __init__(self, budgets: dict[str, float], min_length: int, keep_short: float):
        self.budgets, self.min_length, self.keep_short = budgets, min_length, keep_short
        self.documents_seen, self.documents_kept, self.tokens = Counter(), Counter(), Counter()

    def wants(self, source: str) -> bool:
        """Whether a source takes another document."""
        return self.tokens[source] < self.budgets.get(source, 0)

    def missing_tokens(self) -> dict[str, float]:
        """What the sources still lack of their budgets; empty if the mixture is complete."""
        return {source: self.budgets[source] - self.tokens[source] for source in self.budgets if self.wants(source)}

    def unknown_sources(self) -> list[str]:
        """The sources of the mixture without any document so far."""
        return sorted(set(self.budgets) - set(self.documents_seen))

    def select(self, batches: Iterable[list], tokenizer: Tokenizer, rng: Random) -> Iterator[np.ndarray]:
        """Yields the token ids of the documents that are kept. batches: lists of documents, (text, source).

        Raises ValueError if a source of the mixture has no documents at all.
        """
        warned = False
        for batch in batches:
            candidates = self.find_candidates(batch, tokenizer, rng)
            encoded = encode(tokenizer, [text for text, _, _ in candidates])
            for ids_N, (_, source, drawn) in zip(encoded, candidates, strict=True):
                long_enough = drawn or len(ids_N) >= self.min_length
                if long_enough and self.wants(source):
                    self.documents_kept[source] += 1
                    self.tokens[source] += len(ids_N)
                    yield ids_N
            if not self.missing_tokens():
                return
            if not warned and self.documents_seen.total() >= FIRST_DOCUMENTS:
                warned = True
                for source in self.unknown_sources():
                    print(f"--mix: no document so far has the source {source}, only {sorted(self.documents_seen)}")
        unknown = self.unknown_sources()
        if unknown:
            raise ValueError(f"--mix: no document has the source {unknown[0]}; there are {sorted(self.documents_seen)}")

    def find_candidates(self, batch: list, tokenizer: Tokenizer, rng: Random) -> list[tuple]:
        """The documents that may be kept, (text, source, drawn): only these need to be encoded."""
        special_tokens = tokenizer.num_special_tokens_to_add(False) + 1  # SentencePiece begins a text with "▁"
        min_bytes = self.min_length - special_tokens  # a token has at least one byte
        candidates = []
        for text, source in batch:
            self.documents_seen[source] += 1
            drawn = rng.random() < self.keep_short
            if text is None or not self.wants(source):
                continue
            if drawn or len(text.encode()) >= min_bytes:
                candidates.append((text, source, drawn))
        return candidates

    def describe(self) -> dict[str, dict]:
        """Documents, tokens and share of the tokens of each source."""
        sources = {}
        for source, documents_seen in self.documents_seen.items():
            sources[source] = {
                "documents_seen": documents_seen,
                "documents_kept": self.documents_kept[source],
                "tokens": self.tokens[source],
                "share": self.tokens[source] / self.tokens.total(),
            }
        return sources
