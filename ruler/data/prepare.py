r"""Makes the data of RULER's tasks: one JSON line per sample, in <save_dir>/<task>/validation.jsonl.

    python data/prepare.py --save_dir results/NAME/synthetic/4096/data --task niah_single_1 --tokenizer_path CKPT \
        --max_seq_length 4096
    python data/prepare.py --save_dir "results/{model}/synthetic/{length}/data" --task all \
        --tokenizer_path CKPT_A CKPT_B --max_seq_length 4096 8192 16384 32768 65536       (all in one process)

Needs a CPU and the tokenizer, not the model. data/download.py downloads the texts that some tasks need; without them
those tasks use stand-ins, and run.json beside the data says so. Models with the same tokenizer share the data. Sample i
depends on the seed, the task and i only. Rerun the same command to resume or to add samples.

A row: index, input (the whole prompt), outputs, length (tokens of prompt and answer, BOS included), length_w_model_temp
(the same), answer_prefix (the end of `input`), token_position_answer (niah), tokens_to_generate, fill (of the length).

--profile lceg makes the data as the LCEG paper's copy of RULER: sizes in steps, one for all samples, essays not
repeated, its spelling and layout. What made its prompts too long (BOS, and the answer in fwe) is counted here.
"""

import hashlib
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import run

from common_words_extraction import CommonWords
from freq_words_extraction import FrequentWords
from lock import exit_with_parent, lock
from niah import Niah
from qa import QuestionAnswering
from sources import read_source, source_kind
from task import Job, Task
from tasks import check_fields, choose_tasks, fill_in, read_tasks
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
# the keys of run.json that data must share to be used
SETTINGS = {*Job._fields, "tokenizer_sha256", "version", "data_sha256"} - {"num_samples"}


def parse_args():
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
    parser.add_argument("--profile", default="upstream", choices=["upstream", "lceg"], help="[upstream]")
    parser.add_argument("--random_seed", type=int, default=42)
    parser.add_argument("--workers", type=count, default=os.cpu_count(), help="processes [one per core]")
    args = parser.parse_args()
    args.model_name = run.name_results(args.model_name, args.tokenizer_path, "--model_name")
    check_fields(args.save_dir, "--save_dir", length=args.max_seq_length, model=args.model_name)
    return args


def list_jobs(args) -> list[Job]:
    """Every task at every length."""
    tasks = read_tasks(args.benchmark)
    names = choose_tasks(args.task, tasks)
    sampling = (args.num_samples, args.random_seed, args.profile)
    jobs = []
    for length, name in product(args.max_seq_length, names):
        task = tasks[name]
        new_tokens = args.tokens_to_generate or task["tokens_to_generate"]
        job = Job(name, task["task"], task["args"], length, new_tokens, *sampling)
        jobs.append(job)
    return jobs


def set_up(job: Job, tokens: Tokens) -> Task:
    """The task of a job, ready to make rows of about the size of the first. Raises ValueError if no sample fits."""
    source, _ = read_source(source_kind(job.args))
    try:
        task = FAMILIES[job.family](tokens, job, source)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the args of the task {job.name} are wrong ({error!r})") from None
    task.guess = task.common_size = task.build(0).size
    return task


def is_complete(folder: Path, record: dict) -> bool:
    """Whether a folder has the samples of `record`, or more. Raises ValueError if it has data of other code."""
    rows = folder / "validation.jsonl"
    if not rows.exists():
        return False
    known = run.read_json(folder / "run.json")
    if known is None:
        raise ValueError(f"{rows} was not made by this script (no run.json); give another --save_dir or move it")
    same = all(known.get(key) == record[key] for key in SETTINGS)
    return same and known["num_samples"] >= record["num_samples"]


def put_in_place(folder: Path, record: dict) -> None:
    """Renames validation.jsonl.partial and writes its run.json. A kill leaves no data, or data with their record."""
    rows = folder / "validation.jsonl"
    rows.unlink(missing_ok=True)
    run.write_json(folder / "run.json", record)
    os.replace(folder / "validation.jsonl.partial", rows)


data_files = []  # (task, folder, record) of each file to be made; worker processes, which are forks, have a copy


def make_file(number: int) -> None:
    """Writes validation.jsonl and run.json."""
    task, folder, record = data_files[number]
    name, length, n = task.job.name, task.job.length, task.job.num_samples
    task.tokens.cost.cache_clear()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "validation.jsonl.partial"
    fill = 0
    with partial.open("w", encoding="utf-8") as file:
        for index in range(n):
            row = task.row(index)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            fill += row["fill"] / n
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    record |= {"mean_fill": round(fill, 5), "sha256": digest}
    put_in_place(folder, record)
    print(f"ruler data: {name} at {length}: {n} samples, mean fill {fill:.4f}", flush=True)


def make_files(workers: int) -> None:
    """Makes the data files, each in one of so many processes."""
    numbers = range(len(data_files))
    workers = min(workers, len(numbers))
    if workers < 2:
        list(map(make_file, numbers))
        return
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, fork, exit_with_parent) as pool:
        list(pool.map(make_file, numbers))


def prepare(model: str, args) -> None:
    """Makes the data of one model that are missing. Raises ValueError before any of them is made if it cannot."""
    path = args.tokenizer_path[args.model_name.index(model)]
    tokenizer_json = read_tokenizer(path, args.trust_remote_code)
    tokens = Tokens(tokenizer_json)
    settings = {"tokenizer_sha256": hashlib.sha256(tokenizer_json.encode()).hexdigest(), "version": VERSION}
    settings |= {"tokenizer": path, "command": run.command_line()}
    data_files.clear()
    for job in list_jobs(args):
        _, data = read_source(source_kind(job.args))
        record = job._asdict() | settings
        record |= {"source": data["source"], "data_sha256": data["sha256"], "data": data}
        folders = {name: fill_in(args.save_dir, name, job.length) / job.name for name in args.model_name}
        folder = folders[model]
        if is_complete(folder, record):
            continue
        same = [other for other in folders.values() if is_complete(other, record)]
        if same:  # of a model with the same tokenizer
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / "validation.jsonl.partial"
            partial.unlink(missing_ok=True)
            os.link(same[0] / "validation.jsonl", partial)
            put_in_place(folder, run.read_json(same[0] / "run.json"))
            continue
        if data["source"] == "standin":
            print(f"ruler data: {job.name} uses a stand-in for {data['path']} (see data/download.py)")
        data_files.append((set_up(job, tokens), folder, record))
    make_files(args.workers)
    print(f"ruler data: {model}: all files are there", flush=True)


def main():
    args = parse_args()
    with lock(Path(args.save_dir.partition("{")[0], ".prepare.lock")):  # one run at a time
        run.for_each_checkpoint(args.model_name, lambda model: prepare(model, args))


if __name__ == "__main__":
    run.run_script(main)
