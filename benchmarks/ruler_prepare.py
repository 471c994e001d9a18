"""Times ruler/data/prepare.py beside lm-eval's copy of NVIDIA's generator: 500 samples of each of six tasks.

    python benchmarks/ruler_prepare.py --tokenizer_path CKPT         (CPU, about 10 minutes)

Ours runs one process per core, and its time includes the start; lm-eval's generator runs in one process, without the
start. The tasks are those that lm-eval can make without downloads. `fill` is the mean share of the length that prompt
and answer take.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from machine import ROOT, describe_machine, print_head, print_row
from run import Parser, positive_int, read_json, run_script

import nltk
import numpy as np

nltk.data.find = lambda *_: True  # lm-eval needs its sentence model for the essays only
from lm_eval.tasks.ruler import cwe_utils, fwe_utils, niah_utils, vt_utils  # noqa: E402

TASKS = {
    "niah_single_1": niah_utils.niah_single_1,
    "niah_multikey_2": niah_utils.niah_multikey_2,
    "niah_multikey_3": niah_utils.niah_multikey_3,
    "vt": vt_utils.get_vt_dataset,
    "cwe": cwe_utils.get_cw_dataset,
    "fwe": fwe_utils.fwe_download,
}


def main():
    parser = Parser(__doc__)
    parser.add_argument("--tokenizer_path", required=True, help="checkpoint folder")
    parser.add_argument("--length", type=positive_int, default=32768, help="tokens [32768]")
    args = parser.parse_args()
    folder = tempfile.mkdtemp()
    command = [sys.executable, ROOT / "ruler/data/prepare.py", "--save_dir", folder, "--task", *TASKS]
    command += ["--tokenizer_path", args.tokenizer_path, "--max_seq_length", str(args.length)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ours = time.perf_counter() - start

    print(f"{describe_machine()}\n")
    print_head("task", "fill", "lm-eval's fill", "lm-eval, s")
    total = 0
    for task, generate in TASKS.items():
        start = time.perf_counter()
        with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
            rows = generate(tokenizer=args.tokenizer_path, max_seq_lengths=[args.length])["test"]
        seconds = time.perf_counter() - start
        fill = read_json(Path(folder, task, "run.json"))["mean_fill"]
        lm_eval_fill = np.mean(rows["length"]) / args.length
        print_row(task, f"{fill:.4f}", f"{lm_eval_fill:.4f}", seconds)
        total += seconds
    print_row(f"all: ours {ours:.1f} s, {total / ours:.1f} times as fast", "", "", total)


if __name__ == "__main__":
    run_script(main)
