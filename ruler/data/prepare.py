r"""Makes the data of RULER's tasks: one JSON line a sample, in <save_dir>/<task>/validation.jsonl.

    python data/prepare.py --save_dir results/NAME/synthetic/4096/data --task niah_single_1 --tokenizer_path CKPT \
        --max_seq_length 4096
    python data/prepare.py --save_dir "results/NAME/synthetic/{length}/data" --task all --tokenizer_path CKPT \
        --max_seq_length 4096 8192 16384 32768 65536                         (several tasks and lengths in one start)
    python data/prepare.py ... --essays PaulGrahamEssays.json --squad dev-v2.0.json --hotpotqa hotpot.json

Runs on the CPU of any machine; needs the tokenizer, not the model. data/download.py fetches the texts that some tasks
need; without them those tasks are made of stand-ins, and run.json beside the data says so.

A row: index, input, outputs, length, length_w_model_temp (the same), answer_prefix, token_position_answer (niah),
tokens_to_generate, fill. `input` is the whole prompt, with the answer's prefix at its end (which upstream for a time
left out, and scores fell). `length` counts all of its tokens, the tokenizer's own BOS too, and those to generate: never
above --max_seq_length; `fill` is their share of it. A tokenizer without BOS adds none, and none is counted.

--profile upstream (default) sizes each sample to its room. --profile lceg is the LCEG paper's copy of RULER: sizes in
steps, one for all samples, essays not repeated, its spelling and its layout of variable tracking and common words; what
made its prompts too long (BOS, and in fwe the answer, not counted) is mended here too.

Sample i depends on the seed, the task and i, whatever --workers, --chunk_amount or interruptions: killed, the same
command goes on, and a larger --num_samples adds to what is there.
"""

import argparse
import fcntl
import os
import platform
import shlex
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import files  # noqa: E402
import maker  # noqa: E402
import tokens  # noqa: E402
from sampling import TooShort  # noqa: E402
from tasks import choose, read_tasks  # noqa: E402

VERSION = 1  # of the generator: another number, other rows
BLOCK_TOKENS = 2**18  # made by one process at a time


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_argument_group("what and where")
    where.add_argument("--save_dir", required=True, help="folder; {length} in it stands for the length")
    where.add_argument("--benchmark", default="synthetic", help="<benchmark>.yaml names the tasks [synthetic]")
    where.add_argument("--task", nargs="+", default=["all"], help="names, or all [all]")
    where.add_argument("--subset", default="validation", help="name of the files [validation]")
    where.add_argument("--max_seq_length", type=int, nargs="+", required=True, help="tokens of prompt and answer")
    where.add_argument("--num_samples", type=int, default=500, help="of a task [500]")
    where.add_argument("--chunk_idx", type=int, default=0, help="make only this part of the samples, from 0")
    where.add_argument("--chunk_amount", type=int, default=1, help="of so many parts [1]")
    where.add_argument(
        "--shared_dir", type=Path, help="make data here once for all models with one tokenizer, and link"
    )
    model = parser.add_argument_group("model")
    model.add_argument("--tokenizer_path", required=True, help="checkpoint folder or hub id")
    model.add_argument("--tokenizer_type", default="hf", help="hf, the only one")
    model.add_argument("--trust_remote_code", action="store_true", help="run the tokenizer's own code")
    model.add_argument(
        "--model_template_type", default="base", help="base, or chat: the tokenizer's own template [base]"
    )
    model.add_argument("--tokens_to_generate", type=int, help="[128 for niah, 30 vt, 120 cwe, 50 fwe, 32 qa]")
    making = parser.add_argument_group("making")
    making.add_argument("--profile", default="upstream", choices=["upstream", "lceg"])
    making.add_argument("--random_seed", type=int, default=42)
    making.add_argument("--remove_newline_tab", action="store_true", help="make all white space single spaces")
    making.add_argument(
        "--prepare_for_ns", action="store_true", help="for NeMo-Skills: input without template and prefix"
    )
    making.add_argument("--essays", type=Path, help="folder of .txt files, .txt or .json [data/json/, else a stand-in]")
    making.add_argument("--squad", type=Path, help="dev-v2.0.json [data/json/squad.json, else a stand-in]")
    making.add_argument("--hotpotqa", type=Path, help="dev file [data/json/hotpotqa.json, else a stand-in]")
    making.add_argument("--workers", type=int, default=os.cpu_count(), help="processes [one a core]")
    args = parser.parse_args()

    if args.tokenizer_type != "hf":
        fail(
            f"--tokenizer_type {args.tokenizer_type}: only hf; a tokenizer.model is read through its checkpoint folder"
        )
    if args.model_template_type not in ("base", "chat"):
        fail(f"--model_template_type {args.model_template_type}: base or chat, the tokenizer's own chat template")
    if len(args.max_seq_length) > 1 and "{length}" not in args.save_dir:
        fail("several lengths need {length} in --save_dir")
    if min(args.num_samples, args.workers, args.chunk_amount, args.tokens_to_generate or 1) < 1:
        fail("--num_samples, --workers, --chunk_amount and --tokens_to_generate must be at least 1")
    if not 0 <= args.chunk_idx < args.chunk_amount:
        fail(f"--chunk_idx must be from 0 to {args.chunk_amount - 1}")
    return args


def fail(reason: str):
    raise SystemExit(f"error: {reason}")


def jobs_of(args: argparse.Namespace, tasks: dict, names: list[str]) -> list[maker.Job]:
    shared = {"seed": args.random_seed, "profile": args.profile, "for_ns": args.prepare_for_ns}
    jobs = []
    for length in args.max_seq_length:
        for name in names:
            family = tasks[name]["task"]
            new = args.tokens_to_generate or tasks[name]["tokens_to_generate"]
            more = {"rows": args.num_samples, "single_spaces": args.remove_newline_tab, **shared}
            jobs.append(maker.Job(name, family, tasks[name].get("args") or {}, length, new, **more))
    return jobs


def settings_of(args: argparse.Namespace, job: maker.Job, digest: str, about: dict | None) -> dict:
    """What decides the rows, their number aside: as run.json has it."""
    return {
        "task": job.name,
        "family": job.family,
        "args": job.args,
        "length": job.length,
        "tokens_to_generate": job.new,
        "profile": job.profile,
        "seed": job.seed,
        "source": about["source"] if about else "official",
        "data": about,
        "model_template_type": args.model_template_type,
        "remove_newline_tab": job.single_spaces,
        "prepare_for_ns": job.for_ns,
        "chunk": [args.chunk_idx, args.chunk_amount],
        "tokenizer_sha256": digest,
        "version": VERSION,
    }


def main():
    args = parse_args()
    try:
        tasks = read_tasks(args.benchmark)
        names = list(tasks) if args.task == ["all"] else choose(args.task, tasks)
        run(args, jobs_of(args, tasks, names))
    except (ValueError, OSError) as reason:
        fail(str(reason))


def run(args: argparse.Namespace, jobs: list[maker.Job]) -> None:
    # --- what is wanted, and what of it is there
    chat = args.model_template_type == "chat"
    digest, source, wrap = tokens.files_digest(args.tokenizer_path), None, None
    if digest is None:  # a hub id
        source, wrap = tokens.load(args.tokenizer_path, chat, args.trust_remote_code)
        digest = tokens.digest(source + "".join(wrap))
    outside = maker.Outside({"essays": args.essays, "squad": args.squad, "hotpotqa": args.hotpotqa})
    todo = missing(args, jobs, digest, outside)
    if not todo:
        return say("all files are there")

    # --- everything that can be wrong, before anything is written
    if source is None:
        source, wrap = tokens.load(args.tokenizer_path, chat, args.trust_remote_code)
    setup = maker.Maker(source, wrap, outside)
    check_lengths(setup, [job for job, _ in todo])
    for kind in sorted({job.outside for job, _ in todo if job.outside and outside.about(job)["source"] == "standin"}):
        names = ", ".join(dict.fromkeys(job.name for job, _ in todo if job.outside == kind))
        say(f"no --{kind}: {names} made of a stand-in, not RULER's text (data/download.py fetches the real one)")
    if args.shared_dir:  # one process at a time; what another has made meanwhile is there
        args.shared_dir.mkdir(parents=True, exist_ok=True)
        lock = (args.shared_dir / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        todo = missing(args, jobs, digest, outside)
    for _, target in todo:
        target.open()
    more = {"tokenizer": args.tokenizer_path, "special_tokens": setup.tokens.around}
    more["versions"] = {"python": platform.python_version(), **files.versions()}
    more["command"] = shlex.join(["python", "data/prepare.py", *sys.argv[1:]])
    while todo:
        todo = work(setup, todo, args.workers, more)


def missing(args: argparse.Namespace, jobs: list[maker.Job], digest: str, outside: maker.Outside) -> list[tuple]:
    """[(job, its file)] of those that are not there."""
    start, end = (k * args.num_samples // args.chunk_amount for k in (args.chunk_idx, args.chunk_idx + 1))
    name = f"{args.subset}-{args.chunk_idx}" if args.chunk_amount > 1 else args.subset
    todo = []
    for job in jobs:
        settings = settings_of(args, job, digest, outside.about(job))
        folder = Path(args.save_dir.replace("{length}", str(job.length))) / job.name
        target = files.Target(folder, name, settings, start, end, args.shared_dir)
        if not target.ready():
            todo.append((job, target))
    return todo


def check_lengths(setup: maker.Maker, jobs: list[maker.Job]) -> None:
    """Stops with one line if a task does not fit a length, and says which do."""
    refused = {}
    for job in jobs:
        try:
            setup.check(job)
        except TooShort as reason:
            refused[job.name, job.length] = f"{reason}, and generate {job.new}"
    if refused:
        (name, length), reason = next(iter(refused.items()))
        fits = [job.name for job in jobs if job.length == length and (job.name, length) not in refused]
        what = ", ".join(f"{name} at {length}" for name, length in refused)
        fail(
            f"too short with this tokenizer: {what}; {reason}. What fits {length}: {' '.join(fits) or 'none of these'}"
        )


def work(setup: maker.Maker, todo: list[tuple], workers: int, more: dict) -> list[tuple]:
    """Makes the rows that are missing, block by block over all tasks, and writes them in order. Returns what has to be
    made once more, every prompt tokenised whole: with some tokenizers the costs of pieces do not add up."""
    blocks, last = [], {}
    for job, target in todo:
        rows = max(1, BLOCK_TOKENS // job.length)
        for first in range(target.start + target.rows, target.end, rows):
            last[job.name, job.length] = len(blocks)
            job = job._replace(whole=target.whole)
            blocks.append((job, target, first, min(first + rows, target.end)))
        if (job.name, job.length) not in last:
            target.finish(more)  # killed between its last row and its end
    began, done, again = time.monotonic(), 0, {}
    with maker.Pool(setup, min(workers, len(blocks))) as pool:
        for number, made in enumerate(pool.map([(job, first, end) for job, _, first, end in blocks])):
            job, target, first, end = blocks[number]
            key = job.name, job.length
            if made is None and key not in again:
                say(
                    f"{job.name} at {job.length}: this tokenizer's costs do not add up; every prompt is tokenised whole"
                )
                target.restart()
                again[key] = (job, target)
            if key in again:
                continue
            target.append(made)
            done += end - first
            if number == last[key]:
                target.finish(more)
                rate = done / (time.monotonic() - began)
                fill = f"mean fill {target.mean_fill():.4f}"
                say(f"{job.name} at {job.length}: {target.rows} samples, {fill} ({rate:.0f}/s in all)")
    return list(again.values())


def say(text: str) -> None:
    print(f"ruler data: {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
