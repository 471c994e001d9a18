"""Times ruler/data/prepare.py beside lm-eval's copy of NVIDIA's generator.

    python benchmarks/ruler_prepare.py         (CPU: 13 tasks of 500 samples, 4,096 and 32,768 tokens)

"One start" is the command that makes all tasks with one process per core, start-up and writing included. The table has
the CPU milliseconds and the fill of a sample in one process, after set-up and imports; lm-eval's search for the size
counts. lm-eval runs the tasks that need no network. The tokenizer is a BPE trained on the standard library.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pandas
from tokenizers import ByteLevelBPETokenizer, processors
from transformers import PreTrainedTokenizerFast

STAGE = Path(__file__).resolve().parents[1] / "ruler"
sys.path[:0] = [str(STAGE), str(STAGE / "data")]
from prepare import list_jobs, set_up  # noqa: E402
from run import read_json  # noqa: E402
from tokens import Tokens, read_tokenizer  # noqa: E402

OFFLINE = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe")  # lm-eval's without downloads
TIMED = 50  # samples of a task


def train_tokenizer(folder: Path) -> None:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train([str(path) for path in files], vocab_size=32_000, special_tokens=["<s>"], show_progress=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend", "bos_token": "<s>"}')
    tokenizer.save(str(folder / "tokenizer.json"))


def one_start(folder: Path, length: int, samples: int) -> tuple[float, float]:
    """(seconds, mean fill) of the command that makes all tasks."""
    command = [sys.executable, STAGE / "data" / "prepare.py", "--save_dir", folder / str(length)]
    command += ["--tokenizer_path", folder, "--max_seq_length", str(length), "--num_samples", str(samples)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    fills = [read_json(path)["mean_fill"] for path in (folder / str(length)).glob("*/run.json")]
    return seconds, sum(fills) / len(fills)


def time_lm_eval(job, tokenizer) -> tuple[float, float]:
    """(CPU seconds, fill) of a sample."""
    import nltk

    nltk.data.find = lambda *_: True  # its sentence model is for the essays only
    from lm_eval.tasks.ruler import cwe_utils, fwe_utils, niah_utils, vt_utils

    start = time.process_time()
    if job.family == "niah":
        kind = "repeat" if job.args["type_haystack"] == "noise" else "needle"
        kinds = {key: job.args[key] for key in ("type_needle_k", "type_needle_v")}
        kinds |= {"type_haystack": kind, "template": niah_utils.TEMPLATE, "num_samples": TIMED}
        haystack = niah_utils.get_haystack(type_haystack=kind)
        rows = niah_utils.generate_samples(haystack, TOKENIZER=tokenizer, max_seq_length=job.length, **kinds)
    elif job.name == "vt":
        example = vt_utils.sys_vartrack_w_noise_random(tokenizer, 1, 500, incremental=5)[0]
        rows = vt_utils.sys_vartrack_w_noise_random(tokenizer, TIMED, job.length, icl_example=example)
    elif job.name == "cwe":
        rows = cwe_utils.sys_word_pair_random(TIMED, job.length, tokenizer)
    else:
        rows = fwe_utils.sys_kwext(tokenizer, job.length, TIMED)
    seconds = time.process_time() - start
    return seconds / TIMED, sum(row["length"] for row in rows) / TIMED / job.length


def compare(length: int, tokens: Tokens, lm_tokenizer) -> pandas.DataFrame:
    """CPU seconds and fill of a sample of every task, ours and lm-eval's."""
    args = argparse.Namespace(max_seq_length=[length], benchmark="synthetic", task=None, tokens_to_generate=None)
    vars(args).update(num_samples=500, random_seed=42, profile="upstream", essays=None, squad=None, hotpotqa=None)
    rows = []
    for job in list_jobs(args):
        task = set_up(job, tokens, args)
        start = time.process_time()
        fills = [task.row(index)["fill"] for index in range(TIMED)]
        row = [job.name, (time.process_time() - start) / TIMED, sum(fills) / TIMED]
        if job.name in OFFLINE:
            with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
                row += time_lm_eval(job, lm_tokenizer)
        rows.append(row)
    return pandas.DataFrame(rows, columns=["task", "ours", "fill", "lm_eval", "lm_fill"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 32768], help="tokens")
    parser.add_argument("--samples", type=int, default=500, help="per task, in one start [500]")
    args = parser.parse_args()
    print(f"{date.today()}, {os.cpu_count()} cores, tokenizers {version('tokenizers')}, lm_eval {version('lm_eval')}")
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(Path(folder))
        tokens = Tokens(read_tokenizer(folder, False))
        lm_tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", model_max_length=10**9)
        for length in args.lengths:
            seconds, fill = one_start(Path(folder), length, args.samples)
            load = os.getloadavg()[0]
            table = compare(length, tokens, lm_tokenizer)
            lm_eval = table["lm_eval"].mean()
            same = table["ours"][table["lm_eval"].notna()].mean()
            ratios = (lm_eval * 13 * args.samples / seconds, lm_eval / table["ours"].mean(), lm_eval / same)
            print(
                f"\n{length:,} tokens, 13 tasks of {args.samples}: {seconds:.1f} s (load {load:.1f}), fill {fill:.4f}"
            )
            print("times as fast as lm-eval in one start, in one process, in one process on the same tasks:", end=" ")
            print(*(f"{ratio:.1f}" for ratio in ratios), end="\n\n")
            table[["ours", "lm_eval"]] *= 1000
            print(table.to_string(index=False, na_rep="", float_format="%.4g"), flush=True)


if __name__ == "__main__":
    main()
