r"""Needle in a haystack: a fact is hidden in a long text, at every length and depth of a grid, and asked for.

    python needle_in_haystack.py --s_len 0 --e_len 65536 --model_path CKPT --test_name NAME
    python needle_in_haystack.py --model_path CKPT_A CKPT_B --lengths 8192 32768 --trials 16 --haystack_dir essays
    torchrun --nproc_per_node=8 needle_in_haystack.py ...         (the ranks share the prompts; same results)
    python needle_in_haystack.py --model_provider openai --base_url http://localhost:8000/v1 --model_name NAME \
        --model_path CKPT                                         (a server; CKPT has its tokenizer)

Answers are recorded in <output_dir>/<test name>/answers.jsonl: rerun the same command to resume. A larger grid or more
trials continue from the answers that are there.

Protocol (arXiv 2409.12181, after G. Kamradt and Fu et al.): 40 lengths evenly spaced from 1,000 to 128,000 tokens,
cut to [s_len, e_len], times 10 depths; one fixed needle; greedy answers of 50 tokens. Prompt and answer together take
exactly the cell's length. `score` is the share of the answer's distinct words that the response has; `rate` counts
exact matches. --protocol lceg adds the two scores of the paper's code. Trials after the first draw another fact and
where in the haystack their text begins.
"""

import math
import os
from datetime import datetime, timezone
from functools import partial
from itertools import groupby, product
from operator import itemgetter
from pathlib import Path

import run

import numpy as np

from answers import add_engine_flags, answer_all, open_engine
from endpoint import Endpoint
from facts import STYLES, Fact, Facts
from haystack import build_haystack, build_prompt, read_texts, rotate
from scoring import contained, score_answer, write_cell
from stats import mean_over_grid
from store import Store
from tokenizer import open_tokenizer

LENGTHS = np.linspace(1000, 128000, 40).round().astype(int).tolist()
DEPTHS = np.linspace(0, 100, 10).round().astype(int).tolist()
PROVIDERS = {"llama": "transformers", "transformers": "transformers", "vllm": "vllm", "openai": "openai"}


def parse_args():
    """The command line, completed by `check_args`."""
    parser = run.Parser(__doc__)
    model = parser.add_argument_group("model")
    model.add_argument("--model_path", nargs="+", required=True, help="checkpoint folders or hub ids")
    provider = "engine; llama: the same as transformers; openai: a server, --model_path has the tokenizer [llama]"
    model.add_argument("--model_provider", choices=PROVIDERS, default="llama", type=str.lower, help=provider)
    model.add_argument("--model_name", help="openai: the server's name of the model")
    model.add_argument("--base_url", help="openai: address of the server, up to and including /v1")
    model.add_argument("--api_key", default=os.environ.get("OPENAI_API_KEY"), help="openai; better set $OPENAI_API_KEY")
    grid = parser.add_argument_group("grid")
    grid.add_argument("-s", "--s_len", type=int, default=0, help="shortest of the 40 lengths, tokens [0]")
    grid.add_argument("-e", "--e_len", type=int, default=128000, help="longest of the 40 lengths, tokens [128000]")
    grid.add_argument("--lengths", type=run.int_between(1, 2**24), nargs="+", help="other lengths, tokens")
    grid.add_argument("--depths", type=float, nargs="+", default=DEPTHS, help=f"percent {DEPTHS}")
    grid.add_argument("--trials", type=run.int_between(1, 10_000), default=1, help="prompts per cell [1]")
    grid.add_argument("--allow_beyond", action="store_true", help="also lengths above the checkpoint's own")
    text = parser.add_argument_group("text")
    text.add_argument("--haystack_dir", type=Path, help="folder of .txt files [help pages of Python, a stand-in]")
    text.add_argument("--template", choices=STYLES, default="book", help="wording; passkey: for the pocket base [book]")
    text.add_argument("--needle", help="text to hide; with {key} or {number}, these are drawn [the paper's]")
    text.add_argument("--question", help="[the paper's]")
    text.add_argument("--answer", help="text to find, contained in the needle [the paper's]")
    text.add_argument("--max_new_tokens", type=run.positive_int, default=50, help="longest answer, tokens [50]")
    text.add_argument("--seed", type=int, default=0, help="seed for the drawn facts and texts [0]")
    result = parser.add_argument_group("result")
    result.add_argument("--test_name", help="name of the results [the checkpoint's name]")
    result.add_argument("--output_dir", type=Path, default=Path("results"), help="[results]")
    result.add_argument("--protocol", choices=["share", "lceg"], default="share", help="lceg: LCEG's scores as well")
    add_engine_flags(parser)
    args = parser.parse_args()
    check_args(args)
    return args


def check_args(args) -> None:
    """Sets `engine` ("transformers", "vllm" or "openai"), `models`, `test_names` ({model: name of its results}),
    `lengths`, `depths` and `fact` (the user's). Raises ValueError if flags do not fit together.
    """
    args.engine = PROVIDERS[args.model_provider]
    args.models = args.model_path
    if args.engine == "openai":
        if not args.base_url or not args.model_name or len(args.model_path) > 1:
            raise ValueError("--model_provider openai needs --base_url, --model_name and one --model_path (tokenizer)")
        args.models = [args.model_name]
    names = [args.test_name] if args.test_name else None
    names = run.name_results(names, args.models, "--test_name")
    args.test_names = dict(zip(args.models, names, strict=True))
    if not args.lengths:
        args.lengths = [length for length in LENGTHS if args.s_len <= length <= args.e_len]
    args.lengths = sorted(set(args.lengths))
    if not args.lengths:
        raise ValueError(f"none of the 40 lengths (1000 to 128000) is in [{args.s_len}, {args.e_len}]; use --lengths")
    if not all(0 <= depth <= 100 for depth in args.depths):
        raise ValueError("--depths are percent, 0 to 100")
    depths = sorted({round(depth, 2) for depth in args.depths})  # the digits in a cell's file name
    args.depths = [int(depth) if depth == int(depth) else depth for depth in depths]
    args.fact = None
    texts = (args.needle, args.question, args.answer)
    if any(texts):
        if not all(texts):
            raise ValueError("give --needle, --question and --answer together; they replace the paper's fact")
        if not contained(args.answer, args.needle):
            raise ValueError(f"--needle {args.needle!r} does not contain --answer {args.answer!r}")
        args.fact = Fact(*texts)


def open_model(model, args):
    """The engine of --model_provider; reads no weights yet. Raises ValueError for lengths beyond the model's window."""
    if args.engine == "openai":
        tokenizer = open_tokenizer(args.model_path[0], args.trust_remote_code is True)
        return Endpoint(args.base_url, model, args.api_key, tokenizer)
    longest = args.lengths[-1]
    engine = open_engine(args.engine, model, args, longest)
    if engine.window and longest > engine.window:
        message = f"length {longest} exceeds the window of {model}, {engine.window} tokens"
        if not args.allow_beyond:
            raise ValueError(f"{message}; add --allow_beyond to measure it, or leave it out with --e_len")
        run.print_rank0(f"WARNING: {message}")
    return engine


def answer_cells(engine, facts, texts, unanswered, args, store) -> None:
    """Answers this rank's share of the prompts, one trial of all cells after the other: a trial's cells share its text.

    unanswered: (length in tokens, depth in percent, trial) of each prompt.
    """
    tokenizer, longest = engine.tokenizer, args.lengths[-1]
    template = STYLES[args.template]["template"]
    by_trial = itemgetter(2)
    for trial, cells in groupby(sorted(unanswered, key=by_trial), key=by_trial):
        haystack = build_haystack(tokenizer, rotate(texts, args.seed, trial), longest)
        entries, prompts = [], []
        for length, depth, _ in cells:
            fact = facts.draw(length, depth, trial)
            ids = build_prompt(tokenizer, haystack, template, fact, length, depth, args.max_new_tokens)
            cell = {"length": length, "depth": depth, "trial": trial}
            entries.append(cell | vars(fact) | {"prompt_tokens": len(ids)})
            prompts.append(ids)
        label = f"trial {trial + 1} of {args.trials}"
        for i, answer in answer_all(engine, prompts, args.max_new_tokens, label):
            entry = entries[i] | answer.costs
            entry["utc"] = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S%z")
            if answer.error:
                entry["error"] = answer.error
            else:
                entry |= score_answer(entry["answer"], answer.text)
            store.append(entry)


def evaluate(model, args, texts, data) -> None:
    """Answers the grid for one checkpoint and writes its cell files."""
    engine = open_model(model, args)
    facts = Facts(args.template, args.fact, args.seed, engine.tokenizer)
    record = {
        "protocol": args.protocol,
        "seed": args.seed,
        "data": data,
        **engine.describe(),
        "max_new_tokens": args.max_new_tokens,
        "template": args.template,
    }
    settings = {
        **engine.settings(),
        "max_new_tokens": args.max_new_tokens,
        "haystack_sha256": data["sha256"],
        "haystack_start": "drawn after the first trial",
        "template": STYLES[args.template]["template"],
        "facts": facts.settings(),
        "seed": args.seed,
    }
    folder = args.output_dir / args.test_names[model]
    key = itemgetter("length", "depth", "trial")
    cell_files = partial(folder.glob, "*_results.json")
    store = Store(folder / "answers.jsonl", settings, key, folder / "run.json", cell_files)
    answered = set(store.open(record)) if run.RANK == 0 else None
    answered = run.broadcast(answered)
    trials = range(args.trials)
    requested = list(product(args.lengths, args.depths, trials))
    unanswered = [key for key in requested if key not in answered]
    found = len(requested) - len(unanswered)
    run.print_rank0(f"{folder}: {found} of {len(requested)} answers are there")
    answer_cells(engine, facts, texts, unanswered, args, store)
    store.close()
    run.barrier()
    if run.RANK == 0:
        entries = store.gather() | store.errors
        report(folder, [entries[key] for key in requested], record)


def report(folder, entries, record) -> None:
    """Writes the cell files and prints the mean score. Raises ValueError if answers are missing for lack of memory."""
    score_CT = []
    for _, cell in groupby(entries, key=itemgetter("length", "depth")):
        trials = list(cell)
        write_cell(folder, trials, record)
        score_CT.append([trial.get("score", math.nan) for trial in trials])
    n = np.isfinite(score_CT).sum()
    failed = len(entries) - n
    if n:
        estimate = mean_over_grid(score_CT, drawn_text=True)
        low, high = estimate.interval()
        exact = sum(entry.get("exact", False) for entry in entries)
        score = f"score {estimate.mean_M[0]:.3f} [{low:.3f}, {high:.3f}]"
        print(f"{folder}: {score}, exact {exact}/{n}", flush=True)
    if failed:
        advice = "Rerun with a smaller --prefill_chunk or with --cache_on_cpu to retry them"
        raise ValueError(f"{failed} of {len(entries)} prompts ran out of memory; the others are recorded. {advice}")


def main() -> None:
    args = parse_args()
    texts, data = read_texts(args.haystack_dir)
    if data["source"] == "standin":
        run.print_rank0("no --haystack_dir: the haystack is stand-in data, the help pages of this Python")
    run.for_each_checkpoint(args.models, lambda model: evaluate(model, args, texts, data))


if __name__ == "__main__":
    run.run_script(main)
