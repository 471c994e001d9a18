"""Times ruler/data/prepare.py beside lm-eval's copy of NVIDIA's generator: 500 samples of each task, in one run.

    python benchmarks/ruler_prepare.py --tokenizer_path CKPT         (CPU, about 10 minutes)

Ours is one command with a process per core, its start and the writing of the files included; lm-eval's generator is one
process without its start. Only tasks are made that lm-eval makes without downloads.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nltk
from harness import ROOT, describe_machine, print_head, print_row

from run import Parser, positive_int, read_json, run_script

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


def time_ours(tokenizer: str, length: int, folder: Path) -> float:
    """Seconds of the command that makes all TASKS in `folder`."""
    command = [sys.executable, ROOT / "ruler" / "data" / "prepare.py", "--save_dir", folder, "--task", *TASKS]
    command += ["--tokenizer_path", tokenizer, "--max_seq_length", str(length)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def time_lm_eval(tokenizer: str, length: int, task: str) -> tuple[float, float]:
    """(seconds, mean fill) of one task by lm-eval."""
    start = time.perf_counter()
    with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
        rows = TASKS[task](tokenizer=tokenizer, max_seq_lengths=[length])["test"]
    return time.perf_counter() - start, sum(rows["length"]) / len(rows) / length


def main():
    parser = Parser(__doc__)
    parser.add_argument("--tokenizer_path", required=True, help="checkpoint folder")
    parser.add_argument("--lengths", type=positive_int, nargs="+", default=[4096, 32768], help="tokens")
    args = parser.parse_args()
    print(f"{describe_machine()}\n")
    print_head("tokens", "task", "fill", "lm-eval's fill", "lm-eval, s")
    for length in args.lengths:
        with tempfile.TemporaryDirectory() as folder:
            ours = time_ours(args.tokenizer_path, length, Path(folder))
            fills = {task: read_json(Path(folder, task, "run.json"))["mean_fill"] for task in TASKS}
        total = 0
        for task, fill in fills.items():
            seconds, lm_eval_fill = time_lm_eval(args.tokenizer_path, length, task)
            print_row(length, task, f"{fill:.4f}", f"{lm_eval_fill:.4f}", seconds)
            total += seconds
        print_row(length, f"all: ours {ours:.1f} s, {total / ours:.1f} times as fast", "", "", total)


if __name__ == "__main__":
    run_script(main)
