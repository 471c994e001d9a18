"""Times ruler/data/prepare.py: samples a second by task and length, and all tasks in one start; lm-eval beside it.

    python benchmarks/ruler_prepare.py                  (CPU: 13 tasks of 500 samples, 4,096 and 32,768 tokens)
    python benchmarks/ruler_prepare.py --lengths 4096 --samples 100 --lm_eval_samples 20

The tokenizer is a byte-level BPE of 32,000 entries with BOS, trained on the standard library of this interpreter and
kept in the temporary folder for the next time. `one start` is the wall-clock time of the command that makes all tasks,
start-up and writing included, and the peak memory of its largest process. The table's samples a second are of one
process that has the task ready. lm-eval's generator runs for the tasks that it can make without a network, in one
process, import not counted, the search for the size counted, which weighs the more the fewer samples there are.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

STAGE = Path(__file__).resolve().parents[1] / "ruler"
sys.path[:0] = [str(STAGE), str(STAGE / "data")]
import maker  # noqa: E402
import tokens  # noqa: E402
from sampling import Job  # noqa: E402
from tasks import read_tasks  # noqa: E402

VOCABULARY = 32_000
OFFLINE = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe")  # of lm-eval's
TIMED = 20  # samples for a task's rate


def make_tokenizer(folder: Path) -> None:
    if (folder / "tokenizer.json").exists():
        return
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    print("training the tokenizer", flush=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    files = sorted(
        path for path in Path(sysconfig.get_path("stdlib")).rglob("*.py") if "site-packages" not in path.parts
    )
    texts = (path.read_text(encoding="utf-8", errors="ignore") for path in files)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend", "bos_token": "<s>"}')
    tokenizer.save(str(folder / "tokenizer.json"))


def one_start(folder: Path, length: int, samples: int) -> dict:
    """All tasks by the script, as a user runs it: seconds, CPU seconds, bytes of the largest process, fills."""
    output = folder / "data"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "data/prepare.py", "--save_dir", output, "--task", "all", "--tokenizer_path", folder]
    command += ["--max_seq_length", length, "--num_samples", samples]
    began = time.perf_counter()
    with (folder / "log").open("w+") as log:
        started = subprocess.Popen([str(word) for word in command], cwd=STAGE, stdout=log, stderr=log)
        _, status, used = os.wait4(started.pid, 0)  # of this command and its processes, not of others before it
        log.seek(0)
        if status:
            sys.exit(f"error: prepare.py failed:\n{log.read()}")
    return {
        "seconds": time.perf_counter() - began,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "fills": {path.parent.name: json.loads(path.read_text())["mean_fill"] for path in output.glob("*/run.json")},
    }


def rate(setup: maker.Maker, name: str, spec: dict, length: int) -> float:
    """Samples a second of one process."""
    job = Job(name, spec["task"], spec["args"], length, spec["tokens_to_generate"], 500, 42, "upstream")
    setup.task(job)
    began = time.perf_counter()
    setup.rows(job, 1, 1 + TIMED)
    return TIMED / (time.perf_counter() - began)


def lm_eval_rate(folder: Path, name: str, length: int, samples: int) -> dict | None:
    """Samples a second and mean fill of lm-eval's generator, in a process of its own; None if it fails."""
    command = [sys.executable, __file__, "--child", str(folder), name, str(length), str(samples)]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def child(folder: str, name: str, length: str, samples: str) -> None:
    import nltk

    nltk.data.find = lambda *_: True  # its sentence model is for the essays only
    from lm_eval.tasks.ruler import cwe_utils, fwe_utils, niah_utils, vt_utils
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"))
    tokenizer.model_max_length = 10**9
    n, length, began = int(samples), int(length), time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        if name.startswith("niah"):
            args = read_tasks("synthetic")[name]["args"]
            kind = "repeat" if args["type_haystack"] == "noise" else "needle"
            kinds = {key: args[key] for key in ("type_needle_k", "type_needle_v")}
            made = niah_utils.generate_samples(
                niah_utils.get_haystack(type_haystack=kind),
                TOKENIZER=tokenizer,
                max_seq_length=length,
                type_haystack=kind,
                template=niah_utils.TEMPLATE,
                num_samples=n,
                **kinds,
            )
        elif name == "vt":
            example = vt_utils.sys_vartrack_w_noise_random(tokenizer, 1, 500, incremental=5)[0]
            made = vt_utils.sys_vartrack_w_noise_random(tokenizer, n, length, icl_example=example)
        elif name == "cwe":
            made = cwe_utils.sys_word_pair_random(n, length, tokenizer)
        else:
            made = fwe_utils.sys_kwext(tokenizer, length, n)
    seconds = time.perf_counter() - began
    print(json.dumps({"rate": len(made) / seconds, "fill": sum(row["length"] for row in made) / len(made) / length}))


def main():
    if sys.argv[1:2] == ["--child"]:
        return child(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 32768], help="tokens")
    parser.add_argument("--samples", type=int, default=500, help="of a task, in one start [500]")
    parser.add_argument("--lm_eval_samples", type=int, default=50, help="of a task; 0 leaves lm-eval out [50]")
    args = parser.parse_args()
    folder = Path(tempfile.gettempdir()) / "ruler_prepare_benchmark"
    folder.mkdir(exist_ok=True)
    make_tokenizer(folder)
    versions = ", ".join(f"{name} {version(name)}" for name in ("tokenizers", "lm_eval", "wonderwords"))
    print(f"{date.today()}, CPU, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), {versions}, ", end="")
    print(f"Python {platform.python_version()}, BPE of {VOCABULARY:,}:")
    outside = maker.Outside({"essays": None, "squad": None, "hotpotqa": None})
    setup = maker.Maker(tokens.load(str(folder), False), outside)
    for length in args.lengths:
        whole = one_start(folder, length, args.samples)
        shutil.rmtree(folder / "data")
        fill = sum(whole["fills"].values()) / len(whole["fills"])
        load, peak = os.getloadavg()[0], whole["peak"] / 2**20
        print(f"\n{length:,} tokens, 13 tasks of {args.samples}, one start: {whole['seconds']:.1f} s ", end="")
        print(f"({whole['cpu']:.1f} CPU s, load then {load:.1f}), peak {peak:.0f} MiB a process, ", end="")
        print(f"mean fill {fill:.4f}\n")
        seconds_a_sample = []
        print("| task | samples/s | fill | lm-eval samples/s | fill |")
        print(5 * "|---" + "|")
        for name, spec in read_tasks("synthetic").items():
            cells = [name, f"{rate(setup, name, spec, length):,.0f}", f"{whole['fills'][name]:.4f}", "", ""]
            if name in OFFLINE and args.lm_eval_samples:
                theirs = lm_eval_rate(folder, name, length, args.lm_eval_samples)
                seconds_a_sample += [1 / theirs["rate"]] if theirs else []
                cells[3:] = [f"{theirs['rate']:.1f}", f"{theirs['fill']:.4f}"] if theirs else ["failed", ""]
            print("|", " | ".join(cells), "|", flush=True)
        if seconds_a_sample:
            ours, theirs = 13 * args.samples / whole["seconds"], len(seconds_a_sample) / sum(seconds_a_sample)
            print(f"\n{ours:.0f} samples/s in one start, {theirs:.1f} by lm-eval (mean of its tasks): ", end="")
            print(f"{ours / theirs:.1f} times")


if __name__ == "__main__":
    main()
