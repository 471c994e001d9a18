r"""Makes a token file for eval_ppl.py from text: documents one after the other, each beginning with BOS.

    python prepare_data.py --dataset pg19 --tokenizer CKPT --output data/pg19/test.bin
    python prepare_data.py --dataset proof-pile --tokenizer CKPT --min_tokens 32768 --max_documents 128 \
        --output data/proof_file/test_sampled_data.bin
    python prepare_data.py --dataset my_texts/ --tokenizer CKPT --output data/mine/test.bin

--dataset: `pg19`, `proof-pile`, any hub id, or local .txt (a document each), .jsonl / .json lines with a text field, or
folders of these. Runs on the CPU of any machine. Writes uint16, or uint32 if the vocabulary has more than 65,536
tokens, and OUTPUT.json, which says what the file is: `source` is "official" for the benchmark texts, "user" for others.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from run import Parser, errors_of, positive_int, read_text, run_script, write_bytes, write_json

import numpy as np
from tqdm import tqdm
from transformers.utils import logging

from lock import lock
from records import read_fields
from tokenizer import open_tokenizer

# short name: (hub id, its split with the benchmark's test texts); these load without running code from the hub
BENCHMARKS = {
    "pg19": ("emozilla/pg19-test", "test"),
    "proof-pile": ("emozilla/proofpile-test-tokenized-mistral", "train"),
}
OFFICIAL = {*BENCHMARKS.values(), ("emozilla/pg19", "test")}


def local_documents(paths: list, text_column: str) -> Iterator:
    """The texts of .txt files and of .jsonl records, folders searched in sorted order; None where a text is null."""
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(filter(Path.is_file, path.rglob("*")))
        for file in files:
            if file.suffix in (".jsonl", ".json"):
                for record in read_fields([file], [text_column]):
                    yield record[text_column]
            elif file.suffix == ".txt" or file == path:
                yield read_text(file)


def hub_documents(name: str, split: str, text_column: str) -> Iterator:
    """The texts of a hub dataset, streamed. Raises ValueError if it cannot be opened."""
    from datasets import load_dataset

    with errors_of(f"cannot read {name} from the hub"):
        for sample in load_dataset(name, split=split, streaming=True):
            yield sample[text_column]


def tokenize(texts: Iterator, tokenizer, min_tokens: int, limit: int | None) -> list:
    """[BOS, *tokens] of each text (EOS where the tokenizer has no BOS), until there are `limit` documents.

    Documents of fewer than `min_tokens` tokens are left out. Text that spells BOS is tokenised as ordinary text, so
    that it begins no document. Raises ValueError if a document is not text, none is left, or the tokenizer has neither.
    """
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if first is None:
        raise ValueError(f"{tokenizer.name_or_path} names no BOS and no EOS; add one to its tokenizer_config.json")
    documents = []
    for text in tqdm(texts, unit="document", desc="tokenising"):
        if text is None:
            continue
        if not isinstance(text, str):
            raise ValueError(f"a document is {type(text).__name__}, not text; give --text_column")
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = [first, *(token for token in ids if token != first)]
        if len(ids) >= max(2, min_tokens):
            documents.append(ids)
        if len(documents) == limit:
            break
    if not documents:
        raise ValueError(f"no document has {max(min_tokens, 2)} tokens or more")
    return documents


def main():
    parser = Parser(__doc__)
    parser.add_argument("--dataset", required=True, nargs="+", help="pg19, proof-pile, a hub id, or local files")
    parser.add_argument("--split", help="of a hub dataset [test]")
    parser.add_argument("--text_column", default="text", help="column or JSON field of the text [text]")
    parser.add_argument("--tokenizer", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--min_tokens", type=int, default=0, help="leave out shorter documents [0]")
    parser.add_argument("--max_documents", type=positive_int, help="stop after so many documents [all]")
    parser.add_argument("--output", required=True, type=Path, help="the token file, .bin")
    parser.add_argument("--standin", action="store_true", help="the text stands in for a benchmark's; results say so")
    args = parser.parse_args()
    logging.set_verbosity_error()  # no warning that a document is longer than the model's window

    name = args.dataset[0]
    paths = [Path(path) for path in args.dataset]
    if paths[0].exists() or len(paths) > 1 or name.startswith((".", "/", "~")):
        source = "standin" if args.standin else "user"
        dataset, split = " ".join(args.dataset), None
        texts = local_documents(paths, args.text_column)
    else:
        dataset, split = BENCHMARKS.get(name, (name, "test"))
        split = args.split or split
        source = "official" if (dataset, split) in OFFICIAL else "user"
        texts = hub_documents(dataset, split, args.text_column)
    locked = lock(args.output.with_name(f".{args.output.name}.lock"))  # a second run waits
    tokenizer = open_tokenizer(args.tokenizer)
    documents = tokenize(texts, tokenizer, args.min_tokens, args.max_documents)
    n_tokens = sum(map(len, documents))
    dtype = "uint32" if len(tokenizer) > 65536 else "uint16"
    content = np.concatenate(documents).astype(dtype).tobytes()
    description = {
        "source": source,
        "dataset": dataset,
        "split": split,
        "tokenizer": args.tokenizer,
        "dtype": dtype,
        "vocab_size": len(tokenizer),
        "documents": len(documents),
        "tokens": n_tokens,
        "min_tokens": args.min_tokens,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_bytes(args.output, content)
    write_json(args.output.with_name(args.output.name + ".json"), description)
    locked.close()
    print(f"{args.output}: {len(documents)} documents, {n_tokens:,} tokens, {dtype}, source {source}")


if __name__ == "__main__":
    run_script(main)
