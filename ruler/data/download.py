"""Downloads the texts that some of RULER's tasks need into data/json/, where prepare.py finds them.

    python data/download.py                     all: squad (4 MB), hotpotqa (46 MB), essays
    python data/download.py squad hotpotqa

SQuAD 2.0 and HotpotQA (a pinned copy on the hub) are CC BY-SA 4.0. The essays are Paul Graham's, without a licence,
from a dataset on the hub. Files that exist are kept.
"""

import json
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from run import Parser, run_script, write_bytes
from sources import FILE_NAMES, FOLDER, describe

URLS = {
    "squad": "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
    "hotpotqa": "https://huggingface.co/datasets/namlh2004/hotpotqa/resolve/"
    "7e54db4656209750ff487f6fdf8e39a66dba136b/hotpot_dev_distractor_v1.json",
}
ESSAYS = "baber/paul_graham_essays"


def download(kind: str) -> None:
    path = FOLDER / FILE_NAMES[kind]
    if path.exists():
        print(f"{path} exists")
        return
    if kind == "essays":
        from datasets import load_dataset

        text = " ".join(load_dataset(ESSAYS, split="train")["text"])
        content = json.dumps({"text": text}).encode()
    else:
        content = urllib.request.urlopen(URLS[kind], timeout=60).read()
    write_bytes(path, content)
    print(f"{path}: {len(content):,} bytes, {describe(path, content)['source']}")


def main():
    parser = Parser(__doc__)
    parser.add_argument("kinds", nargs="*", help=f"some of {', '.join(FILE_NAMES)} [all]")
    for kind in parser.parse_args().kinds or FILE_NAMES:
        if kind not in FILE_NAMES:
            parser.error(f"unknown text {kind}")
        download(kind)


if __name__ == "__main__":
    run_script(main)
