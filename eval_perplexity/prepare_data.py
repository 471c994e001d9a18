"""Makes a token file for eval_ppl.py from text: documents one after the other, each beginning with BOS.

    python prepare_data.py --dataset pg19 --tokenizer CKPT --output data/pg19/test.bin
    python prepare_data.py --dataset proof-pile --tokenizer CKPT --min_tokens 32768 --max_documents 128 \\
        --output data/proof_file/test_sampled_data.bin
    python prepare_data.py --dataset my_texts/ --tokenizer CKPT --output data/mine/test.bin

--dataset: `pg19`, `proof-pile`, any hub id, or local .txt (a document each), .jsonl / .json lines with a text field, or
folders of these. Runs on the CPU of any machine. Writes uint16, or uint32 if the vocabulary has more than 65,536
tokens, and OUTPUT.json, which says what the file is: `source` is "official" for the benchmark texts, "user" for others.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from transformers.utils import logging

from checkpoint import open_tokenizer
from run import first_line, progress_bar, run_script, write_json
from windows import file_sha256

# short name -> (hub id, its split with the benchmark's test texts); these load without running code from the hub
BENCHMARKS = {
    "pg19": ("emozilla/pg19-test", "test"),
    "proof-pile": ("emozilla/proofpile-test-tokenized-mistral", "train"),  # its `text` column is the whole test set
}
OFFICIAL = {*BENCHMARKS.values(), ("emozilla/pg19", "test")}


def local_documents(paths: list[Path], text_column: str) -> Iterator[str]:
    """The texts of .txt files and of .jsonl lines, folders searched in sorted order. Raises ValueError on bad input."""
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.suffix in (".jsonl", ".json"):
                for line in file.read_text(encoding="utf-8").splitlines():
                    yield text_of(json.loads(line), text_column, file)
            elif file.suffix == ".txt" or file == path:
                yield file.read_text(encoding="utf-8")


def hub_documents(name: str, split: str, text_column: str) -> Iterator[str]:
    """The texts of a hub dataset, streamed. Raises ValueError if it cannot be opened or has no such column."""
    from datasets import load_dataset

    try:
        for sample in load_dataset(name, split=split, streaming=True):
            yield text_of(sample, text_column, name)
    except (OSError, RuntimeError) as error:  # offline, unknown id, needs code
        raise ValueError(f"cannot read {name} from the hub: {first_line(error)}") from None


def text_of(sample: dict, text_column: str, source) -> str:
    if text_column not in sample:
        raise ValueError(f"{source} has no field '{text_column}', only {', '.join(sample)}; give --text_column")
    return sample[text_column]


def separator(tokenizer, token: str | None) -> int:
    """The id that begins each document: BOS, or the token that the user names. Raises ValueError if there is none."""
    token = token or tokenizer.bos_token
    if token not in tokenizer.get_vocab():
        raise ValueError(f"no token {token!r} to begin documents with; give one of this vocabulary: --separator_token")
    return tokenizer.convert_tokens_to_ids(token)


def write_tokens(texts, tokenizer, first: int, dtype: str, min_tokens: int, limit: int | None, path: Path):
    """Writes [first, *tokens] of each text until `limit` documents are written; returns (documents, tokens).

    Documents of fewer than `min_tokens` tokens, the first included, are left out. Text that spells the separator is
    tokenised as ordinary text, so that it begins no document. Raises ValueError if nothing is left.
    """
    documents = tokens = 0
    bar = progress_bar(None, "tokenising", "document")
    with path.open("wb") as file:
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            ids = [first, *(token for token in ids if token != first)]
            bar.update()
            if len(ids) < max(2, min_tokens):
                continue
            np.array(ids, dtype=dtype).tofile(file)
            documents += 1
            tokens += len(ids)
            if documents == limit:
                break
    bar.close()
    if documents == 0:
        raise ValueError(f"no document has {max(min_tokens, 2)} tokens or more")
    return documents, tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, nargs="+", help="pg19, proof-pile, a hub id, or local files")
    parser.add_argument("--split", help="of a hub dataset [test]")
    parser.add_argument("--text_column", default="text", help="column or JSON field of the text [text]")
    parser.add_argument("--tokenizer", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--separator_token", help="begins each document, for tokenizers without BOS [BOS]")
    parser.add_argument("--min_tokens", type=int, default=0, help="leave out shorter documents [0]")
    parser.add_argument("--max_documents", type=int, help="stop after so many documents [all]")
    parser.add_argument("--output", required=True, type=Path, help="the token file, .bin")
    args = parser.parse_args()
    logging.set_verbosity_error()  # no warning that a document is longer than the model's window

    name = args.dataset[0]
    paths = [Path(path) for path in args.dataset]
    if paths[0].exists() or len(paths) > 1 or name.startswith((".", "/", "~")):
        source, dataset, split = "user", " ".join(args.dataset), None
        texts = local_documents(paths, args.text_column)
    else:
        dataset, split = BENCHMARKS.get(name, (name, "test"))
        split = args.split or split
        source = "official" if (dataset, split) in OFFICIAL else "user"
        texts = hub_documents(dataset, split, args.text_column)
    tokenizer = open_tokenizer(args.tokenizer)
    first = separator(tokenizer, args.separator_token)
    dtype = "uint32" if len(tokenizer) > 65536 else "uint16"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_name(args.output.name + ".partial")
    documents, tokens = write_tokens(texts, tokenizer, first, dtype, args.min_tokens, args.max_documents, partial)
    partial.replace(args.output)
    description = {
        "source": source,
        "dataset": dataset,
        "split": split,
        "tokenizer": args.tokenizer,
        "dtype": dtype,
        "vocab_size": len(tokenizer),
        "documents": documents,
        "tokens": tokens,
        "min_tokens": args.min_tokens,
        "sha256": file_sha256(args.output),
    }
    write_json(args.output.with_name(args.output.name + ".json"), description)
    print(f"{args.output}: {documents} documents, {tokens:,} tokens, {dtype}, source {source}")


if __name__ == "__main__":
    run_script(main)
