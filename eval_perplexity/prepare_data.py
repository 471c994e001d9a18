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
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm
from transformers import AutoTokenizer
from transformers.utils import logging

from run import write_json
from windows import file_sha256

# short name -> (hub id, its split with the benchmark's test texts); these load without running code from the hub
BENCHMARKS = {
    "pg19": ("emozilla/pg19-test", "test"),
    "proof-pile": ("emozilla/proofpile-test-tokenized-mistral", "train"),  # its `text` column is the whole test set
}
OFFICIAL = {*BENCHMARKS.values(), ("emozilla/pg19", "test")}


def local_documents(paths: list[Path], text_column: str) -> Iterator[str]:
    """The texts of .txt files and of .jsonl lines, folders searched in sorted order. Raises ValueError on bad input."""
    files = []
    for path in paths:
        inside = (
            sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".jsonl", ".json")) if path.is_dir() else [path]
        )
        if not inside:
            raise ValueError(f"{path} holds no .txt or .jsonl files")
        files += inside
    for path in files:
        if path.suffix not in (".jsonl", ".json"):
            yield path.read_text(encoding="utf-8")
            continue
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield json.loads(line)[text_column]
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"{path}, line {number}: no JSON object with a '{text_column}' field") from None


def hub_documents(name: str, split: str, text_column: str) -> Iterator[str]:
    """The texts of a hub dataset, streamed. Raises ValueError if it cannot be opened or has no such column."""
    from datasets import load_dataset

    try:
        for row in load_dataset(name, split=split, streaming=True):
            if text_column not in row:
                raise ValueError(f"{name} has no column '{text_column}', only {', '.join(row)}; give --text_column")
            yield row[text_column]
    except (OSError, RuntimeError) as reason:  # offline, unknown id, needs code
        raise ValueError(f"cannot read {name} from the hub: {str(reason).strip().splitlines()[0]}") from None


def separator(tokenizer, token: str | None) -> int:
    """The id that begins each document: BOS, or the token that the user names. Raises ValueError if there is none."""
    if token is None:
        if tokenizer.bos_token_id is None:
            raise ValueError("this tokenizer has no BOS token; name the token to begin documents: --separator_token")
        return tokenizer.bos_token_id
    if token not in tokenizer.get_vocab():
        raise ValueError(f"--separator_token {token!r} is not one token of this vocabulary")
    return tokenizer.convert_tokens_to_ids(token)


def write_tokens(texts, tokenizer, first: int, dtype: str, min_tokens: int, limit: int | None, path: Path):
    """Appends [first, *tokens] of each text to `path` until `limit` documents are written; (documents, tokens).

    Documents of fewer than `min_tokens` tokens, the first included, are left out. Text that spells the separator is
    tokenised as ordinary text, so that it begins no document. Raises ValueError if nothing is left.
    """
    documents = tokens = 0
    with path.open("wb") as file:
        for text in tqdm(texts, unit="document", desc="tokenising", mininterval=0.1 if sys.stderr.isatty() else 15):
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            ids = [token for token in ids if token != first]
            if not ids or len(ids) + 1 < min_tokens:
                continue
            np.array([first, *ids], dtype="<u2" if dtype == "uint16" else "<u4").tofile(file)
            documents, tokens = documents + 1, tokens + len(ids) + 1
            if documents == limit:
                break
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
    logging.set_verbosity_error()  # that a document is longer than the model's window is no news here
    logging.disable_progress_bar()

    partial = args.output.with_name(args.output.name + ".tmp")
    try:
        source, split = "user", None
        if all(Path(name).exists() for name in args.dataset):
            dataset = " ".join(args.dataset)
            texts = local_documents([Path(name) for name in args.dataset], args.text_column)
        elif len(args.dataset) > 1 or args.dataset[0].startswith((".", "/", "~")):
            raise ValueError(f"no file {next(name for name in args.dataset if not Path(name).exists())}")
        else:
            dataset, split = BENCHMARKS.get(args.dataset[0], (args.dataset[0], "test"))
            split = args.split or split
            source = "official" if (dataset, split) in OFFICIAL else "user"
            texts = hub_documents(dataset, split, args.text_column)
        try:
            tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
        except (OSError, ValueError) as reason:
            raise ValueError(f"no tokenizer in {args.tokenizer}: {str(reason).strip().splitlines()[0]}") from None
        first = separator(tokenizer, args.separator_token)
        dtype = "uint32" if len(tokenizer) > 65536 else "uint16"
        args.output.parent.mkdir(parents=True, exist_ok=True)
        documents, tokens = write_tokens(texts, tokenizer, first, dtype, args.min_tokens, args.max_documents, partial)
    except ValueError as reason:
        partial.unlink(missing_ok=True)
        sys.exit(f"error: {reason}")
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
    main()
