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
exact matches. --protocol lceg adds the two scores of the paper's code.
"""

from argparse import Namespace
from datetime import datetime, timezone
from itertools import product
from pathlib import Path

from answers import Answer, answer_all, open_engine
from arguments import parse_args
from checkpoint import KEYS, describe, fingerprint, open_tokenizer
from endpoint import Endpoint
from facts import STYLES, Fact, Facts
from haystack import Prompts, build_haystack, read_texts
from run import (
    RANK,
    WORLD_SIZE,
    barrier,
    broadcast,
    command_line,
    for_each_checkpoint,
    print_rank0,
    run_script,
    start_ranks,
    stop_ranks,
    versions,
)  # fmt: skip
from scoring import contained, word_share, write_cell
from stats import wilson
from store import Store

Key = tuple[int, float, int]  # length (tokens), depth (percent), trial


def open_model(model: str, args: Namespace):
    """The engine that --model_provider asks for; reads no weights yet. Raises ValueError if it cannot run the model."""
    if args.engine == "openai":
        tokenizer = open_tokenizer(args.model_path[0], args.trust_remote_code)
        engine = Endpoint(args.base_url, model, args.api_key, tokenizer)
    else:
        engine = open_engine(args.engine, model, args, max(args.lengths))
    if not engine.tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {model} has no offsets; save it as a fast one (tokenizer.json)")
    return engine


def check_window(model: str, window: int | None, args: Namespace) -> None:
    """Reports lengths beyond what the checkpoint declares. Raises ValueError unless --allow_beyond is given."""
    beyond = [length for length in args.lengths if window and length > window]
    if beyond:
        message = f"{len(beyond)} of {len(args.lengths)} lengths are beyond the {window} tokens that {model} declares"
        if not args.allow_beyond:
            raise ValueError(f"{message}; add --allow_beyond to measure them, or --e_len {window} to leave them out")
        print_rank0(f"WARNING: {message}")


def describe_run(model: str, engine, facts: Facts, data: dict, args: Namespace) -> tuple[dict, dict]:
    """(the settings that must be equal to resume, what every cell file records about its run)."""
    if engine.config is None:  # a server
        checkpoint = f"{model}@{args.base_url}"
        method = dict.fromkeys(KEYS) | {"method": "hosted"}
    else:
        checkpoint = fingerprint(model, engine.config)
        method = describe(model, engine.config)
    common = {"engine": engine.name, "dtype": engine.dtype, "attention": engine.attention}
    common["max_new_tokens"] = args.max_new_tokens
    settings = {
        "checkpoint": checkpoint,
        **common,
        "haystack_sha256": data["sha256"],
        "template": STYLES[args.template].template,
        "facts": facts.settings(),
        "seed": args.seed,
    }
    run = {
        "protocol": args.protocol,
        "seed": args.seed,
        "data": data,
        "model": model,
        **method,
        **common,
        "template": args.template,
        "versions": versions(),
        "command": command_line(args.api_key),
        "processes": WORLD_SIZE,
    }
    return settings, run


def make_entry(key: Key, fact: Fact, prompt_tokens: int, answer: Answer) -> dict:
    """The record of one answer, scored."""
    length, depth, trial = key
    entry = {"length": length, "depth": depth, "trial": trial, **vars(fact), "prompt_tokens": prompt_tokens}
    if answer.error:
        entry["error"] = answer.error
    else:
        entry["response"] = answer.text
        entry["score"] = word_share(fact.answer, answer.text)
        entry["exact"] = contained(fact.answer, answer.text)
    entry |= answer.costs()
    entry["utc"] = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S%z")
    return entry


def answer_cells(engine, facts: Facts, texts: dict[str, str], todo: list[Key], args: Namespace, store: Store) -> None:
    """Answers this rank's share of the prompts, one trial of all cells after the other.

    The prompts of one trial fit in memory, and they share nearly all that prompts have in common.
    """
    haystack = build_haystack(engine.tokenizer, texts, max(args.lengths))
    if max(args.lengths) > haystack.unit:
        print_rank0(f"the haystack has {haystack.unit} tokens; it is repeated for longer prompts")
    builder = Prompts(engine.tokenizer, haystack, STYLES[args.template].template, args.max_new_tokens)
    for trial in range(args.trials):
        keys = [key for key in todo if key[2] == trial]
        drawn, prompts = [], []
        for length, depth, _ in keys:
            fact = facts.draw(length, depth, trial)
            drawn.append(fact)
            prompts.append(builder.build(length, depth, fact.needle, fact.question))
        for i, answer in answer_all(engine, prompts, args.max_new_tokens, f"trial {trial + 1} of {args.trials}"):
            store.append(make_entry(keys[i], drawn[i], len(prompts[i]), answer))


def evaluate(model: str, args: Namespace, texts: dict[str, str], data: dict) -> None:
    """Answers the grid for one checkpoint and writes its cell files."""
    engine = open_model(model, args)
    check_window(model, engine.window, args)
    facts = Facts(args.template, args.needle, args.question, args.answer, args.seed, engine.tokenizer)
    settings, run = describe_run(model, engine, facts, data, args)
    folder = args.output_dir / args.test_names[model]
    store = Store(
        folder / "answers.jsonl",
        settings,
        key=lambda entry: (entry["length"], entry["depth"], entry["trial"]),
        record=folder / "run.json",
        results=lambda: sorted(folder.glob("*_results.json")),
    )
    answered = broadcast(set(store.open(run)) if RANK == 0 else None)
    requested = list(product(args.lengths, args.depths, range(args.trials)))
    todo = [key for key in requested if key not in answered]
    if len(todo) < len(requested):
        print_rank0(f"{folder}: {len(requested) - len(todo)} of {len(requested)} answers are there")
    if todo:
        print_rank0(f"{model}: {run['method']}, {engine.name}, {engine.dtype}, {WORLD_SIZE} process(es)")
        answer_cells(engine, facts, texts, todo, args, store)
    store.close()
    barrier()
    if RANK == 0:
        entries = store.gather() | store.errors
        report(folder, [entries[key] for key in requested], run)


def report(folder: Path, entries: list[dict], run: dict) -> None:
    """Writes the cell files and prints the mean score. Raises ValueError if answers are missing for lack of memory."""
    cells, failed_lengths = {}, []
    n = score = exact = seconds = computed = tokens = 0
    for entry in entries:
        cells.setdefault((entry["length"], entry["depth"]), []).append(entry)
        if "error" in entry:
            failed_lengths.append(entry["length"])
            continue
        n += 1
        score += entry["score"]
        exact += entry["exact"]
        seconds += entry["seconds"]
        computed += entry["prefilled_tokens"]
        tokens += entry["prompt_tokens"]
    for trials in cells.values():
        write_cell(folder, trials, run)
    if n:
        low, high = wilson(score, n)
        print_rank0(
            f"{folder}: score {score / n:.3f} [{low:.3f}, {high:.3f}], exact {exact}/{n}, {seconds:.0f} s; "
            f"computed {computed:,.0f} of {tokens:,} prompt tokens"
        )
    if failed_lengths:
        raise ValueError(
            f"{len(failed_lengths)} of {len(entries)} prompts ran out of memory, at lengths "
            f"{sorted(set(failed_lengths))}; the others are recorded. Rerun the command with a smaller --prefill_chunk "
            "or with --cache_on_cpu to retry them"
        )


def main() -> None:
    args = parse_args(__doc__)
    texts, data = read_texts(args.haystack_dir)
    if data["source"] == "standin":
        print_rank0(
            "no --haystack_dir: the haystack is the help pages of this Python (stand-in data, English prose). The "
            "essays of the paper are not shipped; give a folder with their .txt files"
        )
    start_ranks()
    for_each_checkpoint(args.models, lambda model: evaluate(model, args, texts, data))
    stop_ranks()


if __name__ == "__main__":
    run_script(main)
