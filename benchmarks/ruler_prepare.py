"""Times ruler/data/prepare.py beside lm-eval's copy of NVIDIA's generator.

    python benchmarks/ruler_prepare.py         (CPU: 13 tasks of 500 samples, 4,096 and 32,768 tokens)

"One start" is the command that makes all tasks with one process per core, start-up and writing included. The table has
the CPU milliseconds and the fill of a sample in one process, after set-up and imports. lm-eval runs the tasks that need
no network. The tokenizer is a BPE trained on the standard library.
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

import nltk
import pandas
from tokenizers import ByteLevelBPETokenizer, processors
from transformers import PreTrainedTokenizerFast

STAGE = Path(__file__).resolve().parents[1] / "ruler"
sys.path[:0] = [str(STAGE), str(STAGE / "data")]
from prepare import list_jobs, set_up  # noqa: E402
from run import read_json  # noqa: E402
from tokens import Tokens, read_tokenizer  # noqa: E402

nltk.data.find = lambda *_: True  # lm-eval needs its sentence model for the essays only
from lm_eval.tasks.ruler import cwe_utils, fwe_utils, niah_utils, vt_utils  # noqa: E402

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


def lm_eval_rows(job, tokenizer) -> list[dict]:
    """TIMED samples of a task by lm-eval."""
    if job.family == "niah":
        kind = "repeat" if job.args["type_haystack"] == "noise" else "needle"
        kinds = {key: job.args[key] for key in ("type_needle_k", "type_needle_v")}
        kinds |= {"type_haystack": kind, "template": niah_utils.TEMPLATE, "num_samples": TIMED}
        haystack = niah_utils.get_haystack(type_haystack=kind)
        return niah_utils.generate_samples(haystack, TOKENIZER=tokenizer, max_seq_length=job.length, **kinds)
    if job.name == "vt":
        example = vt_utils.sys_vartrack_w_noise_random(tokenizer, 1, 500, incremental=5)[0]
        return vt_utils.sys_vartrack_w_noise_random(tokenizer, TIMED, job.length, icl_example=example)
    if job.name == "cwe":
        return cwe_utils.sys_word_pair_random(TIMED, job.length, tokenizer)
    return fwe_utils.sys_kwext(tokenizer, job.length, TIMED)


def compare(length: int, tokens: Tokens, lm_tokenizer) -> pandas.DataFrame:
    """CPU milliseconds and mean fill of a sample of every task, ours and lm-eval's."""
    args = argparse.Namespace(max_seq_length=[length], benchmark="synthetic", task=None, tokens_to_generate=None)
    vars(args).update(num_samples=TIMED, random_seed=42, profile="upstream")
    rows = []
    for job in list_jobs(args):
        task = set_up(job, tokens)
        start = time.process_time()
        fills = [task.row(index)["fill"] for index in range(TIMED)]
        row = {"task": job.name, "ours": time.process_time() - start, "fill": sum(fills) / TIMED}
        if job.name in OFFLINE:
            start = time.process_time()
            with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
                lm_rows = lm_eval_rows(job, lm_tokenizer)
            row["lm_eval"] = time.process_time() - start
            row["lm_fill"] = sum(lm_row["length"] for lm_row in lm_rows) / TIMED / length
        rows.append(row)
    table = pandas.DataFrame(rows)
    table[["ours", "lm_eval"]] *= 1000 / TIMED
    return table


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
            print(f"\n{length:,} tokens, one start: {seconds:.1f} s (load {os.getloadavg()[0]:.1f}), fill {fill:.4f}")
            table = compare(length, tokens, lm_tokenizer)
            means = table[["ours", "lm_eval"]].mean() / 1000
            print(f"{means['lm_eval'] * 13 * args.samples / seconds:.1f} times as fast as lm-eval's one process")
            print(f"{means['lm_eval'] / means['ours']:.1f} times as fast, one process against one\n")
            print(table.to_string(index=False, na_rep="", float_format="%.4g"), flush=True)


if __name__ == "__main__":
    main()
