r"""Makes the data of RULER's tasks: one JSON line per sample, in <save_dir>/<task>/validation.jsonl.

    python data/prepare.py --save_dir results/NAME/synthetic/4096/data --task niah_single_1 --tokenizer_path CKPT \
        --max_seq_length 4096
    python data/prepare.py --save_dir "results/{model}/synthetic/{length}/data" --task all \
        --tokenizer_path CKPT_A CKPT_B --max_seq_length 4096 8192 16384 32768 65536       (all in one process)
    python data/prepare.py ... --essays PaulGrahamEssays.json --squad dev-v2.0.json --hotpotqa hotpot.json

Needs a CPU and the tokenizer, not the model. data/download.py downloads the texts that some tasks need; without them
those tasks use stand-ins, and run.json beside the data says so. Models with the same tokenizer share the data. Sample i
depends on the seed, the task and i only. Rerun the same command to resume or to add samples.

A row: index, input (the whole prompt), outputs, length (tokens of prompt and answer, BOS included), length_w_model_temp
(the same), answer_prefix (the end of `input`), token_position_answer (niah), tokens_to_generate, fill (of the length).

--profile lceg makes the data as the LCEG paper's copy of RULER: sizes in steps, one for all samples, essays not
repeated, its spelling and layout. What made its prompts too long (BOS, and the answer in fwe) is counted here.
"""

import argparse
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from itertools import groupby, product
from multiprocessing import parent_process
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import run
from common_words_extraction import CommonWords
from freq_words_extraction import FrequentWords
from lock import lock
from niah import Niah
from qa import QuestionAnswering
from sources import read_source, source_kind
from task import Job, Task
from tasks import choose_tasks, fill_in, read_tasks
from tokens import Tokens, read_tokenizer
from variable_tracking import VariableTracking

FAMILIES = {
    "niah": Niah,
    "variable_tracking": VariableTracking,
    "common_words_extraction": CommonWords,
    "freq_words_extraction": FrequentWords,
    "qa": QuestionAnswering,
}
VERSION = 2  # of the generator; a new version makes other rows
BLOCK_TOKENS = 2**18  # made by one process at a time
# the keys of run.json that data must share to be used
SETTINGS = {*Job._fields, "tokenizer_sha256", "version", "data_sha256"} - {"num_samples"}


def parse_args() -> argparse.Namespace:
    parser = run.Parser(__doc__)
    parser.add_argument("--save_dir", required=True, help="folder; {model} and {length} in it are replaced")
    parser.add_argument("--benchmark", default="synthetic", help="<benchmark>.yaml defines the tasks [synthetic]")
    parser.add_argument("--task", nargs="+", help="names, separated by spaces or commas, or all [all]")
    count = run.int_between(1, 10**8)
    parser.add_argument("--max_seq_length", type=count, nargs="+", required=True, help="tokens of prompt and answer")
    parser.add_argument("--num_samples", type=run.int_between(1, 10**6), default=500, help="per task [500]")
    parser.add_argument("--tokenizer_path", nargs="+", required=True, help="checkpoint folders or hub ids")
    parser.add_argument("--model_name", nargs="+", help="names for {model} [the last part of --tokenizer_path]")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the tokenizer's own code")
    parser.add_argument("--tokens_to_generate", type=count, help="[128 for niah, 30 vt, 120 cwe, 50 fwe, 32 qa]")
    parser.add_argument("--profile", default="upstream", choices=["upstream", "lceg"])
    parser.add_argument("--random_seed", type=int, default=42)
    parser.add_argument("--essays", type=Path, help="folder of .txt files, or .json [data/json/, else a stand-in]")
    parser.add_argument("--squad", type=Path, help="dev-v2.0.json [data/json/squad.json, else a stand-in]")
    parser.add_argument("--hotpotqa", type=Path, help="dev file [data/json/hotpotqa.json, else a stand-in]")
    parser.add_argument("--workers", type=count, default=os.cpu_count(), help="processes [one per core]")
    args = parser.parse_args()
    args.model_name = run.name_results(args.model_name, args.tokenizer_path, "--model_name")
    for field, values in (("{length}", args.max_seq_length), ("{model}", args.model_name)):
        if len(values) > 1 and field not in args.save_dir:
            raise ValueError(f"several lengths or models need {field} in --save_dir")
    return args


def list_jobs(args: argparse.Namespace) -> list[Job]:
    """Every task at every length."""
    tasks = read_tasks(args.benchmark)
    jobs = []
    for length, name in product(args.max_seq_length, choose_tasks(args.task, tasks)):
        family, task_args = tasks[name]["task"], tasks[name]["args"]
        new_tokens = args.tokens_to_generate or tasks[name]["tokens_to_generate"]
        jobs.append(Job(name, family, task_args, length, new_tokens, args.num_samples, args.random_seed, args.profile))
    return jobs


def set_up(job: Job, tokens: Tokens, args: argparse.Namespace) -> Task:
    """The task of a job, ready to make rows."""
    kind = source_kind(job.family, job.args)
    text = read_source(kind, getattr(args, kind))[0] if kind else None
    try:
        task = FAMILIES[job.family](tokens, job, text)
        task.calibrate()
    except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{args.benchmark}.yaml: the args of {job.name} are wrong ({error!r})") from None
    return task


def job_folder(args: argparse.Namespace, model: str, job: Job) -> Path:
    return fill_in(args.save_dir, model, job.length) / job.name


# --- worker processes
worker_tasks = []


def start_worker(tasks: list[Task]) -> None:
    """Ends the worker when its parent has ended, since a parent that is killed cannot do it."""

    def exit_after_parent():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=exit_after_parent, daemon=True).start()
    worker_tasks[:] = tasks


def make_block(block: tuple[int, int, int]) -> tuple[bytes, float]:
    """block: (number of the task, first, end).  Returns the JSON lines of the samples and the sum of their fills."""
    number, first, end = block
    lines, fill = "", 0
    for index in range(first, end):
        row = worker_tasks[number].row(index)
        lines += json.dumps(row, ensure_ascii=False) + "\n"
        fill += row["fill"]
    return lines.encode(), fill


def map_blocks(tasks: list[Task], blocks: list[tuple], workers: int) -> Iterator[tuple[bytes, float]]:
    """The blocks in order, made by `workers` processes."""
    if workers == 1:
        worker_tasks[:] = tasks
        yield from map(make_block, blocks)
    else:
        with ProcessPoolExecutor(workers, initializer=start_worker, initargs=(tasks,)) as pool:
            yield from pool.map(make_block, blocks)


# --- files
def is_complete(folder: Path, record: dict) -> bool:
    """Whether a folder has as many samples as `record` says, or more, made with the same settings.

    Raises ValueError if it has data that this script did not make.
    """
    known = run.read_json(folder / "run.json")
    rows = folder / "validation.jsonl"
    if known is None and rows.exists():
        raise ValueError(f"{rows} was not made by this script (no run.json); give another --save_dir or move it")
    settings = {key: record[key] for key in SETTINGS} | {"complete": True}
    complete = rows.exists() and settings.items() <= known.items()
    return complete and known["num_samples"] >= record["num_samples"]


def find_data(args: argparse.Namespace, model: str, job: Job, record: dict) -> bool:
    """Whether the data of a task exist, for this model or for one with the same tokenizer, whose data are linked."""
    folder = job_folder(args, model, job)
    for other in [model, *args.model_name]:
        source = job_folder(args, other, job)
        if not is_complete(source, record):
            continue
        if source != folder:
            with lock(folder.parent / ".lock"):
                run.write_json(folder / "run.json", {"complete": False})
                (folder / "validation.jsonl").unlink(missing_ok=True)
                os.link(source / "validation.jsonl", folder / "validation.jsonl")
                run.write_json(folder / "run.json", run.read_json(source / "run.json"))
        return True
    return False


def write_data(folder: Path, record: dict, blocks: Iterable[tuple[bytes, float]]) -> float:
    """Writes validation.jsonl and run.json; returns the mean fill. A killed run leaves "complete": false."""
    run.write_json(folder / "run.json", {"complete": False})
    partial = folder / "validation.jsonl.partial"
    digest = hashlib.sha256()
    fill = 0
    with partial.open("wb") as file:
        for lines, fills in blocks:
            file.write(lines)
            digest.update(lines)
            fill += fills
    os.replace(partial, folder / "validation.jsonl")
    mean_fill = fill / record["num_samples"]
    record |= {"complete": True, "mean_fill": round(mean_fill, 5), "sha256": digest.hexdigest()}
    run.write_json(folder / "run.json", record)
    return mean_fill


# --- a model
def prepare(model: str, args: argparse.Namespace) -> None:
    """Makes the data of one model that are missing. Raises ValueError before anything is written if it cannot."""
    path = args.tokenizer_path[args.model_name.index(model)]
    tokenizer_json = read_tokenizer(path, args.trust_remote_code)
    try:
        tokens = Tokens(tokenizer_json)
    except Exception as error:  # tokenizers has no class of errors
        raise ValueError(f"{path}: tokenizer.json is not a tokenizer: {run.first_line(error)}") from None
    settings = {"tokenizer_sha256": hashlib.sha256(tokenizer_json.encode()).hexdigest(), "version": VERSION}
    packages = {name: version(name) for name in ("tokenizers", "lm_eval", "wonderwords")}
    about = {"tokenizer": path, "command": run.command_line(), "versions": packages}
    about["special_tokens"] = tokens.special_tokens
    tasks, folders, records = [], [], []
    for job in list_jobs(args):
        kind = source_kind(job.family, job.args)
        data = read_source(kind, getattr(args, kind))[1] if kind else None
        source = data["source"] if data else "official"
        record = job._asdict() | settings | {"data_sha256": data and data["sha256"], "source": source, "data": data}
        record |= about
        if find_data(args, model, job, record):
            continue
        if source == "standin":
            print(f"ruler data: no --{kind}: {job.name} uses a stand-in for RULER's text (see data/download.py)")
        tasks.append(set_up(job, tokens, args))
        folders.append(job_folder(args, model, job))
        records.append(record)
    with ExitStack() as locks:
        for folder in sorted({folder.parent for folder in folders}):
            locks.enter_context(lock(folder / ".lock"))
        make(tasks, folders, records, args.workers)
    print(f"ruler data: {model}: all files are there", flush=True)


def make(tasks: list[Task], folders: list[Path], records: list[dict], workers: int) -> None:
    """Makes the data of the tasks, unless another run has made them meanwhile. records: what run.json says."""
    blocks = []
    for number, task in enumerate(tasks):
        if is_complete(folders[number], records[number]):
            continue
        size = max(1, BLOCK_TOKENS // task.job.length)
        for first in range(0, task.job.num_samples, size):
            blocks.append((number, first, min(first + size, task.job.num_samples)))
    results = map_blocks(tasks, blocks, min(workers, len(blocks)))
    for number, own_blocks in groupby(blocks, key=lambda block: block[0]):
        own_results = (next(results) for _ in own_blocks)
        fill = write_data(folders[number], records[number], own_results)
        job = tasks[number].job
        print(f"ruler data: {job.name} at {job.length}: {job.num_samples} samples, mean fill {fill:.4f}", flush=True)


def main():
    args = parse_args()
    run.for_each_checkpoint(args.model_name, lambda model: prepare(model, args))


if __name__ == "__main__":
    run.run_script(main)
