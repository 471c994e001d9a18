"""Documents for prepare_data.py: read from a hub dataset or local files in a fixed order, then selected by a recipe.

The recipe is "per-source length upsampling" of Fu et al. (arXiv 2402.10171), as LCEG (arXiv 2409.12181) uses it. They
estimate the tokens of a document as characters / 3.68; here they are counted.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from glob import escape
from itertools import chain, islice
from pathlib import Path
from random import Random

from run import errors_of, run_key

import datasets
import numpy as np
from huggingface_hub import HfApi
from tokenizers import Tokenizer

from records import read_fields, select_fields

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
ENCODED_DOCUMENTS = 64  # at a time: while a text is encoded, it takes many times the memory of its ids
ALL = "all"  # the source of every document without a mixture
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


def hash_beginning(file: Path) -> str:
    """SHA-256 of the first MiB: copying or rewriting a file does not change it, as it would its time."""
    with file.open("rb") as opened:
        return hashlib.sha256(opened.read(1 << 20)).hexdigest()


def open_dataset(name: str, subset: str | None, split: str, revision: str | None):
    """Opens local files or a hub dataset; returns (dataset for `read_documents`, string that identifies the data).

    Runs no code of the hub. Raises OSError or ValueError if the data cannot be opened.
    """
    path = Path(name).expanduser()
    if not path.exists():
        if name.startswith((".", "/", "~")) or file_format(path):
            raise ValueError(f"--dataset: no file or folder {name}")
        commit = HfApi().dataset_info(name, revision=revision).sha
        stream = datasets.load_dataset(name, subset, split=split, revision=commit, streaming=True)
        return stream, f"{name}@{commit}"

    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and file_format(file))
    formats = {file_format(file) for file in files}
    if formats not in ({"json"}, {"parquet"}):
        raise ValueError(f"--dataset {path}: expected *.parquet or *.jsonl / *.json files (.gz, .zst), not both")
    sizes = [file.stat().st_size for file in files]
    identity = run_key({"sizes": sizes, "begin": list(map(hash_beginning, files))})
    if formats == {"json"}:
        return files, identity
    names = [escape(str(file)) for file in files]
    with errors_of(f"--dataset {path} cannot be read"):
        return datasets.load_dataset("parquet", data_files=names, split="train", streaming=True), identity


def read_documents(dataset, text_column: str, source_column: str | None, seed: int | None) -> Iterator[tuple]:
    """Yields the documents, (text or None, source). With a seed, the dataset's files are shuffled.

    dataset: a list of JSON files, or an IterableDataset.  columns: `a.b` is b of the objects in a. Without
    `source_column`, the source is ALL. Raises ValueError on a missing column, or a text that is none.
    """
    columns = [text_column, source_column] if source_column else [text_column]
    if isinstance(dataset, list):
        shards = [read_fields([path], columns) for path in dataset]
    else:
        parts = [dataset.shard(dataset.num_shards, i) for i in range(dataset.num_shards)]
        shards = [select_fields(iter(part), columns, "the dataset") for part in parts]
    if seed is not None:
        Random(seed).shuffle(shards)
    for record in chain.from_iterable(shards):
        text = record[text_column]
        if not isinstance(text, str | None):
            raise ValueError(f"the column {text_column} has {str(text)[:50]}, not text; set --text_column")
        source = str(record[source_column]) if source_column else ALL
        yield text, source


def parse_mix(text: str) -> dict[str, float] | None:
    """The share of each source, with the sum 1, from `slimpajama` or name=share,...; None for `none`."""
    if text == "none":
        return None
    shares = SLIMPAJAMA
    if text != "slimpajama":
        with errors_of("--mix: give slimpajama, none or name=share,..."):
            pairs = [item.rpartition("=") for item in text.split(",")]
            shares = {name: float(share) for name, _, share in pairs}
    if not min(shares.values()) > 0:
        raise ValueError(f"--mix {text}: shares must be above 0")
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


class Mixture:
    """Decides which documents are kept, in the order of reading, and counts them by source.

    budgets: tokens by source. A source takes complete documents until it has its budget; other sources take none.
    """

    def __init__(self, budgets: dict[str, float], min_length: int, keep_short: float):
        self.budgets = budgets
        self.min_length = min_length
        self.keep_short = keep_short
        self.sources_seen = set()
        self.documents_kept = Counter()
        self.tokens = Counter()

    def needs(self, source: str) -> bool:
        return self.tokens[source] < self.budgets.get(source, 0)

    def missing_tokens(self) -> Counter:
        """The tokens that a source still needs, by source."""
        return Counter(self.budgets) - self.tokens

    def select(self, documents: Iterable[tuple], tokenizer: Tokenizer, rng: Random) -> Iterator[np.ndarray]:
        """Yields the token ids, int32 and with the BOS, of the documents that are kept. documents: (text, source).

        Raises ValueError if a source of the mixture has no documents at all.
        """
        special_tokens = tokenizer.num_special_tokens_to_add(False) + 1  # SentencePiece begins a text with "▁"
        min_bytes = self.min_length - special_tokens  # of a long document, at least: a token has one or more
        candidates = self.find_candidates(documents, min_bytes, rng)
        while batch := list(islice(candidates, ENCODED_DOCUMENTS)):
            encodings = tokenizer.encode_batch_fast([text for text, _, _ in batch])
            for encoding, (_, source, drawn) in zip(encodings, batch, strict=True):
                long_enough = drawn or len(encoding) >= self.min_length
                if long_enough and self.needs(source):
                    self.documents_kept[source] += 1
                    self.tokens[source] += len(encoding)
                    yield np.array(encoding.ids, dtype=np.int32)
            if not self.missing_tokens():
                return
        unknown = self.missing_tokens().keys() - self.sources_seen
        if unknown and self.sources_seen:
            there = ", ".join(sorted(self.sources_seen))
            raise ValueError(f"--mix: no document has the source {', '.join(unknown)}; there are {there}")

    def find_candidates(self, documents: Iterable[tuple], min_bytes: int, rng: Random) -> Iterator[tuple]:
        """Yields the documents that may be kept, (text, source, drawn): only these need to be encoded."""
        for text, source in documents:
            self.sources_seen.add(source)
            drawn = rng.random() < self.keep_short
            if text is None or not self.needs(source):
                continue
            if drawn or len(text.encode()) >= min_bytes:
                yield text, source, drawn
