r"""Makes the data of RULER's tasks: one JSON line per sample, in <save_dir>/<task>/validation.jsonl.

    python data/prepare.py --save_dir results/NAME/synthetic/4096/data --task niah_single_1 --tokenizer_path CKPT \
        --max_seq_length 4096
    python data/prepare.py --save_dir "results/{model}/synthetic/{length}/data" --task all \
        --tokenizer_path CKPT_A CKPT_B --max_seq_length 4096 8192 16384 32768 65536       (all in one process)
    python data/prepare.py ... --essays PaulGrahamEssays.json --squad dev-v2.0.json --hotpotqa hotpot.json

Runs on the CPU of any machine; needs the tokenizer, not the model. data/download.py fetches the texts that some tasks
need; without them those tasks use stand-ins, and run.json beside the data says so. Models with the same tokenizer share
the data, by hard links. Sample i depends on the seed, the task and i only: rerun the same command to resume; a larger
--num_samples adds samples to the same ones.

A row: index, input, outputs, length, length_w_model_temp (the same), answer_prefix, token_position_answer (niah),
tokens_to_generate, fill. `input` is the whole prompt and ends with the answer's prefix. `length` counts all of its
tokens, the tokenizer's own BOS included, and those to generate; it is never above --max_seq_length, and `fill` is their
share of it.

--profile upstream (default) fills the length with each sample. --profile lceg is the LCEG paper's copy of RULER: sizes
in steps, one for all samples, essays not repeated, its spelling and its layout of variable tracking and common words.
What made its prompts too long (BOS, and in fwe the answer, were not counted) is mended here too.
"""

import argparse
import hashlib
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import files  # noqa: E402
import maker  # noqa: E402
import tokens  # noqa: E402
from run import command_line, for_each_checkpoint, run_script  # noqa: E402
from sampling import Job, TooShort  # noqa: E402
from tasks import choose_tasks, read_tasks  # noqa: E402

VERSION = 2  # of the generator: another number, other rows
BLOCK_TOKENS = 2**18  # made by one process at a time


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save_dir", required=True, help="folder; {model} and {length} in it are replaced")
    parser.add_argument("--benchmark", default="synthetic", help="<benchmark>.yaml names the tasks [synthetic]")
    parser.add_argument("--task", nargs="+", help="names, separated by spaces or commas, or all [all]")
    parser.add_argument("--max_seq_length", type=int, nargs="+", required=True, help="tokens of prompt and answer")
    parser.add_argument("--num_samples", type=int, default=500, help="of a task [500]")
    parser.add_argument("--tokenizer_path", nargs="+", required=True, help="checkpoint folders or hub ids")
    parser.add_argument("--model_name", nargs="+", help="names for {model} [the last part of --tokenizer_path]")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the tokenizer's own code")
    parser.add_argument("--tokens_to_generate", type=int, help="[128 for niah, 30 vt, 120 cwe, 50 fwe, 32 qa]")
    parser.add_argument("--profile", default="upstream", choices=["upstream", "lceg"])
    parser.add_argument("--random_seed", type=int, default=42)
    parser.add_argument("--essays", type=Path, help="folder of .txt files, .txt or .json [data/json/, else a stand-in]")
    parser.add_argument("--squad", type=Path, help="dev-v2.0.json [data/json/squad.json, else a stand-in]")
    parser.add_argument("--hotpotqa", type=Path, help="dev file [data/json/hotpotqa.json, else a stand-in]")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes [one a core]")
    args = parser.parse_args()
    args.model_name = args.model_name or [Path(path).resolve().name for path in args.tokenizer_path]
    if len(set(args.model_name)) != len(args.tokenizer_path):
        raise ValueError("as many different --model_name as --tokenizer_path are needed")
    for field, values in (("{length}", args.max_seq_length), ("{model}", args.model_name)):
        if len(values) > 1 and field not in args.save_dir:
            raise ValueError(f"several lengths or models need {field} in --save_dir")
    if min(args.num_samples, args.workers, args.tokens_to_generate or 1) < 1:
        raise ValueError("--num_samples, --workers and --tokens_to_generate must be at least 1")
    return args


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """Every task at every length."""
    tasks, jobs = read_tasks(args.benchmark), []
    for length in args.max_seq_length:
        for name in choose_tasks(args.task, tasks):
            task = tasks[name]
            new_tokens = args.tokens_to_generate or task["tokens_to_generate"]
            sizes = (length, new_tokens, args.num_samples)
            jobs.append(Job(name, task["task"], task["args"], *sizes, args.random_seed, args.profile))
    return jobs


def settings_of(job: Job, tokenizer_sha256: str, about: dict | None) -> dict:
    """What decides the rows, apart from their number. about: what the texts from outside are."""
    settings = job._asdict()
    for name in ("rows", "whole"):
        del settings[name]
    source = about["source"] if about else "official"
    return settings | {"source": source, "data": about, "tokenizer_sha256": tokenizer_sha256, "version": VERSION}


def folder_of(args: argparse.Namespace, model: str, job: Job) -> Path:
    return Path(args.save_dir.replace("{model}", model).replace("{length}", str(job.length))) / job.name


def is_there(args: argparse.Namespace, model: str, job: Job, settings: dict) -> bool:
    """Whether a task's data are there, for this model or for one with the same tokenizer, whose data are linked."""
    folder = folder_of(args, model, job)
    if files.samples_in(folder, settings) >= job.rows:
        return True
    for other in args.model_name:
        source = folder_of(args, other, job)
        if (source / "run.json").exists() and files.samples_in(source, settings) >= job.rows:
            files.link(source, folder)
            return True
    return False


def prepare(model: str, tokenizer: str, args: argparse.Namespace, outside: maker.Outside) -> None:
    """Makes what is missing of one model's data. Raises ValueError before anything is written if it cannot."""
    source = tokens.load(tokenizer, args.trust_remote_code)
    digest = hashlib.sha256(source.encode()).hexdigest()
    todo = []
    for job in jobs_of(args):
        settings = settings_of(job, digest, outside.read(job)[1])
        if not is_there(args, model, job, settings):
            todo.append((job, folder_of(args, model, job), settings))
    if not todo:
        print(f"ruler data: {model}: all files are there", flush=True)
        return
    setup = maker.Maker(source, outside)
    check_lengths(setup, [job for job, *_ in todo])
    standins = {job.name: outside.kind(job) for job, _, settings in todo if settings["source"] == "standin"}
    for name, kind in standins.items():
        print(f"ruler data: no --{kind}: {name} uses a stand-in for RULER's text (see data/download.py)", flush=True)
    about = {
        "tokenizer": tokenizer,
        "special_tokens": setup.tokens.around,
        "versions": {name: version(name) for name in ("tokenizers", "lm_eval", "wonderwords")},
        "command": command_line(),
    }
    while todo:
        todo = work(setup, todo, args.workers, about)


def check_lengths(setup: maker.Maker, jobs: list[Job]) -> None:
    """Raises ValueError if tasks do not fit their lengths."""
    errors = {}
    for job in jobs:
        try:
            setup.check(job)
        except TooShort as error:
            errors[f"{job.name} at {job.length}"] = str(error)
    if errors:
        reasons = ", ".join(dict.fromkeys(errors.values()))
        raise ValueError(f"too short with this tokenizer: {', '.join(errors)}; {reasons}; leave these tasks out")


def work(setup: maker.Maker, todo: list[tuple], workers: int, about: dict) -> list[tuple]:
    """Makes the rows of all tasks, block by block, and writes them in order.

    Returns what has to be made again with every prompt tokenised whole.
    """
    blocks = []
    for job, folder, settings in todo:
        writer = files.Writer(folder, settings)
        rows = max(1, BLOCK_TOKENS // job.length)
        for first in range(0, job.rows, rows):
            blocks.append((job, writer, first, min(first + rows, job.rows)))
    started, done, again = time.monotonic(), 0, []
    made = maker.map_blocks(setup, [(job, first, end) for job, _, first, end in blocks], min(workers, len(blocks)))
    for (job, writer, first, end), rows in zip(blocks, made, strict=True):
        if writer.file.closed:
            continue
        if rows is None:
            print(f"ruler data: {job.name} at {job.length}: every prompt is tokenised whole", flush=True)
            writer.file.close()
            again.append((job._replace(whole=True), writer.folder, writer.settings))
            continue
        writer.append(rows)
        done += end - first
        if end == job.rows:
            writer.finish(about | {"whole": job.whole})
            rate = done / (time.monotonic() - started)
            counts = f"{job.rows} samples, mean fill {writer.mean_fill():.4f} ({rate:.0f}/s in all)"
            print(f"ruler data: {job.name} at {job.length}: {counts}", flush=True)
    return again


def main():
    args = parse_args()
    outside = maker.Outside({"essays": args.essays, "squad": args.squad, "hotpotqa": args.hotpotqa})
    tokenizers = dict(zip(args.model_name, args.tokenizer_path, strict=True))
    for_each_checkpoint(args.model_name, lambda model: prepare(model, tokenizers[model], args, outside))


if __name__ == "__main__":
    run_script(main)
