"""Fetches the texts that some of RULER's tasks need into data/json/, where prepare.py finds them.

    python data/download.py                     all: squad (4 MB), hotpotqa (46 MB), essays
    python data/download.py squad hotpotqa

SQuAD 2.0 and HotpotQA are CC BY-SA 4.0; HotpotQA's own server is gone, a pinned copy on the hub has it. The essays are
Paul Graham's, without a licence, and not shipped with this kit: they come from a dataset on the hub. Files that are
there are kept. Nothing is fetched at any other time.
"""

import argparse
import hashlib
import json
import os
import shutil
import urllib.request

from sources import DEFAULT, FOLDER, OFFICIAL

URLS = {
    "squad": "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
    "hotpotqa": "https://huggingface.co/datasets/namlh2004/hotpotqa/resolve/"
    "7e54db4656209750ff487f6fdf8e39a66dba136b/hotpot_dev_distractor_v1.json",
}
ESSAYS = "baber/paul_graham_essays"


def fetch(kind: str) -> None:
    """Puts one text into its place, if it is not there. OSError without a network; ValueError for another file."""
    path = FOLDER / DEFAULT[kind]
    if path.exists():
        return print(f"{path} is there")
    FOLDER.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if kind == "essays":
        from datasets import load_dataset

        text = " ".join(load_dataset(ESSAYS, split="train")["text"])
        partial.write_text(json.dumps({"text": text}), encoding="utf-8")
    else:
        with urllib.request.urlopen(URLS[kind], timeout=60) as source, partial.open("wb") as file:
            shutil.copyfileobj(source, file)
        found = hashlib.sha256(partial.read_bytes()).hexdigest()
        if found not in OFFICIAL:
            partial.unlink()
            raise ValueError(f"{URLS[kind]} is not the official file any more (sha256 {found}); give one by path")
    os.replace(partial, path)
    print(f"{path}: {path.stat().st_size:,} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(DEFAULT), help=f"some of {', '.join(DEFAULT)} [all]")
    args = parser.parse_args()
    for kind in args.kinds:
        if kind not in DEFAULT:
            raise SystemExit(f"error: unknown {kind}; known: {', '.join(DEFAULT)}")
        try:
            fetch(kind)
        except (OSError, ValueError) as reason:
            raise SystemExit(f"error: {kind}: {reason}") from None


if __name__ == "__main__":
    main()
