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
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from run import run_script
from sources import DEFAULT, FOLDER, OFFICIAL

URLS = {
    "squad": "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
    "hotpotqa": "https://huggingface.co/datasets/namlh2004/hotpotqa/resolve/"
    "7e54db4656209750ff487f6fdf8e39a66dba136b/hotpot_dev_distractor_v1.json",
}
ESSAYS = "baber/paul_graham_essays"


def fetch(kind: str) -> None:
    """Puts one text into its place, if it is not there. Raises OSError without a network, ValueError if the file there
    is not the official one."""
    path = FOLDER / DEFAULT[kind]
    if path.exists():
        return print(f"{path} is there")
    if kind == "essays":
        from datasets import load_dataset

        text = " ".join(load_dataset(ESSAYS, split="train")["text"])
        content = json.dumps({"text": text}).encode()
    else:
        with urllib.request.urlopen(URLS[kind], timeout=60) as response:
            content = response.read()
        digest = hashlib.sha256(content).hexdigest()
        if digest not in OFFICIAL:
            raise ValueError(f"{URLS[kind]} is not the official file any more (sha256 {digest}); give one by path")
    FOLDER.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
    print(f"{path}: {len(content):,} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(DEFAULT), help=f"some of {', '.join(DEFAULT)} [all]")
    for kind in parser.parse_args().kinds:
        if kind not in DEFAULT:
            raise ValueError(f"unknown {kind}; known: {', '.join(DEFAULT)}")
        fetch(kind)


if __name__ == "__main__":
    run_script(main)
