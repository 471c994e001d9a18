"""Downloads the texts that some of RULER's tasks need into data/json/, where prepare.py finds them.

    python data/download.py                     squad (4 MB), hotpotqa (46 MB), essays

SQuAD 2.0 and HotpotQA (a pinned copy on the hub) are CC BY-SA 4.0. The essays are Paul Graham's, without a licence,
from a dataset on the hub. Files that exist are kept.
"""

import json
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from run import Parser, run_script, write_bytes

from sources import FILE_NAMES, FOLDER, read_source

URLS = {
    "squad": "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
    "hotpotqa": "https://huggingface.co/datasets/namlh2004/hotpotqa/resolve/"
    "7e54db4656209750ff487f6fdf8e39a66dba136b/hotpot_dev_distractor_v1.json",
}
ESSAYS = "baber/paul_graham_essays"


def download(kind: str) -> bytes:
    if kind in URLS:
        return urllib.request.urlopen(URLS[kind], timeout=60).read()
    from datasets import load_dataset

    essays = load_dataset(ESSAYS, split="train")["text"]
    return json.dumps({"text": " ".join(essays)}).encode()


def main():
    Parser(__doc__).parse_args()
    for kind, name in FILE_NAMES.items():
        path = FOLDER / name
        if not path.exists():
            write_bytes(path, download(kind))
        _, data = read_source(kind)
        print(f"{path}: {data['source']}", flush=True)


if __name__ == "__main__":
    run_script(main)
