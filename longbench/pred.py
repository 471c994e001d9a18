r"""LongBench and many-shot TREC: greedy answers to the prompts of each set, one row a prediction.

    python pred.py --model_path CKPT --dataset_name hotpotqa trec trec_25shots       --trust_remote_code if it has code
    python pred.py --model_path CKPT_A CKPT_B --dataset_name longbench manyshots_trec    several checkpoints, all sets
    python pred.py --model llama2-7b-hf-slimpajama-pi-32k                            a name of config/, all 16 sets
    python pred.py --model_path CKPT --e                                             LongBench-E
    python pred.py --model_path CKPT --dataset_name lcc --limit 50 --max_length 8192
    torchrun --nproc_per_node=8 pred.py ...               (the rows are shared out, the result is the same)
    python eval.py; python eval_trec.py                   scores the predictions

The same command serves a CPU (float32) and a GPU (bfloat16). Rows are recorded as they are made: rerun the same command
to resume, also with more sets or a larger --limit; rows made with other settings are moved to old/. Data:
data/<set>.jsonl beside this file, else from the hub (Leooyii/longbench, THUDM/LongBench, Leooyii/manyshots_trec), else
stand-ins (make_standin.py), which have names of their own.

Protocol (arXiv 2308.14508 and 2409.12181): plain continuation of LongBench's prompts, no chat template; greedy; each
set has its own longest answer, and samsum's ends with its first line. A prompt longer than the window loses its middle.
Prompt and answer together stay inside the window; --protocol lceg gives it to the prompt alone, as the paper's code.
"""

import argparse
import functools
import hashlib
import json
import random
from pathlib import Path

from answers import add_engine_flags, answer_all, check_engine_flags, open_engine
from checkpoint import checkpoint_name, open_config
from data import Dataset, load
from prompts import prompt_ids, template
from run import RANK, WORLD_SIZE, barrier, broadcast, for_each_checkpoint, print_rank0, run_script, warn_rank0
from sets import FOLDERS, SETS, base_set, expand
from store import Store

STAGE = Path(__file__).resolve().parent
KEPT = ("answers", "all_classes", "length", "_id")  # fields of a row that its prediction repeats


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", nargs="+", help="names of config/model2path.json; with --model_path: names of the results"
    )
    parser.add_argument("--model_path", nargs="+", help="checkpoint folders or hub ids")
    parser.add_argument("--output_dir", type=Path, default=STAGE, help="folder of pred/, pred_e/, pred_trec/ [here]")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset_name",
        nargs="+",
        default=["longbench"],
        help="sets, trec_<N>shots, standin_<set>; longbench and manyshots_trec: all of their sets [longbench]",
    )
    data.add_argument("--e", action="store_true", help="LongBench-E")
    data.add_argument("--data_dir", type=Path, default=STAGE / "data", help="folder of <set>.jsonl [data]")
    data.add_argument(
        "--limit", type=int, help="random rows of each set; a larger limit includes a smaller one's [all]"
    )
    data.add_argument("--seed", type=int, default=42, help="seed for these rows [42]")
    protocol = parser.add_argument_group("protocol")
    protocol.add_argument(
        "--max_length", type=int, help="window, tokens [config/model2maxlen.json, else the checkpoint's]"
    )
    protocol.add_argument("--max_new_tokens", type=int, help="upper limit for the sets' own longest answers")
    protocol.add_argument(
        "--protocol",
        choices=["inside", "lceg"],
        default="inside",
        help="inside: prompt and answer within --max_length; lceg: the prompt alone, as in the paper's code [inside]",
    )
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers", help="[transformers]")
    add_engine_flags(parser)
    args = parser.parse_args()
    check_engine_flags(args, args.engine)
    for flag in ("limit", "max_length", "max_new_tokens"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise ValueError(f"--{flag} {getattr(args, flag)}: must be at least 1")
    return args


def read_config(name: str) -> dict:
    """A file of config/."""
    return json.loads((STAGE / "config" / name).read_text(encoding="utf-8"))


def named_checkpoints(args: argparse.Namespace) -> dict[str, str]:
    """{name of the results: checkpoint folder or hub id}. Raises ValueError if a name is unknown or used twice."""
    if not args.model and not args.model_path:
        raise ValueError(
            "give --model_path (checkpoint folders or hub ids) or --model (names of config/model2path.json)"
        )
    if args.model_path:
        names = args.model or [checkpoint_name(path) for path in args.model_path]
        paths = args.model_path
    else:
        known = read_config("model2path.json")
        unknown = [name for name in args.model if name not in known]
        if unknown:
            raise ValueError(f"--model {unknown[0]} is not in config/model2path.json, which has {' '.join(known)}")
        names = args.model
        # relative paths of the file are relative to this stage
        paths = [str((STAGE / known[n]).resolve()) if known[n].startswith("..") else known[n] for n in names]
    if len(names) != len(paths) or len(set(names)) < len(names):
        raise ValueError(f"{len(paths)} checkpoints need as many different names, not {' '.join(names)}; give --model")
    return dict(zip(names, paths, strict=True))


def open_sets(names: list[str], args: argparse.Namespace) -> list[Dataset]:
    """The sets, on every rank; rank 0 fetches those that are missing. A set that cannot be used is reported."""
    sets = []
    for name in names if RANK == 0 else ():
        try:
            template(base_set(name))  # raises without lm-eval
            sets.append(load(name, args.data_dir, args.e))
        except (ValueError, OSError) as error:
            warn_rank0(f"error: {name}: {error}")
    usable = broadcast([dataset.name for dataset in sets])
    if RANK > 0:
        sets = [load(name, args.data_dir, args.e) for name in usable]
    return sets


def stop_rule(base: str, tokenizer) -> dict:
    """How answers end besides EOS: samsum's at a newline token, which like EOS is never the first (LongBench)."""
    if base != "samsum":
        return {}
    return {"stop_ids": tokenizer("\n", add_special_tokens=False).input_ids[-1:], "min_new_tokens": 1}


def predict(name: str, path: str, sets: list[Dataset], args: argparse.Namespace) -> list[str]:
    """Answers the sets with one checkpoint; returns the names of the sets that are not complete afterwards."""
    max_length = args.max_length or read_config("model2maxlen.json").get(name)
    if max_length is None:
        max_length = getattr(open_config(path, args.trust_remote_code), "max_position_embeddings", None)
    if max_length is None:
        raise ValueError(f"{path} does not declare a window; give --max_length")
    answer_outside = max(facts.new_tokens for facts in SETS.values()) if args.protocol == "lceg" else 0
    engine = open_engine(args.engine, path, args, max_length + answer_outside)
    about = {
        "name": name,
        **engine.describe("lm_eval"),
        "protocol": args.protocol,
        "seed": args.seed,
        "max_length": max_length,
        "limit": args.limit,
    }
    if engine.window and max_length > engine.window:
        print_rank0(f"WARNING: {max_length} tokens are more than the window of {engine.window} that {path} declares")
    print_rank0(
        f"{path}: {about['method']}, {engine.name}, {engine.dtype}, window {max_length}, {WORLD_SIZE} process(es)"
    )
    incomplete = []
    for number, dataset in enumerate(sets, 1):
        try:
            complete = predict_set(dataset, engine, about, args, f"{dataset.name} [{number}/{len(sets)}]")
        except ValueError as error:
            warn_rank0(f"error: {dataset.name}: {error}")
            complete = False
        if not complete:
            incomplete.append(f"{name}/{dataset.name}")
    return incomplete


def predict_set(dataset: Dataset, engine, about: dict, args: argparse.Namespace, label: str) -> bool:
    """Answers the rows of a set that are missing and records them; returns whether all of them could be answered.

    Raises ValueError if the window has no room for a prompt.
    """
    base = base_set(dataset.name)
    max_new_tokens = min(SETS[base].new_tokens, args.max_new_tokens or SETS[base].new_tokens)
    prompt_of = functools.partial(
        prompt_ids, engine.tokenizer, max_length=about["max_length"], new_tokens=max_new_tokens, protocol=args.protocol
    )
    prompt_of(template(base))  # raises if there is no room
    run = about | {
        "benchmark": dataset.benchmark,
        "dataset": dataset.name,
        "data": dataset.about,
        "of": len(dataset.rows),
        "max_new_tokens": max_new_tokens,
    }
    store = open_store(dataset, run, args.output_dir)
    answered = broadcast(set(store.open(run | {"n": None})) if RANK == 0 else None)
    wanted = drawn_rows(len(dataset.rows), args.limit, args.seed)
    missing = [dataset.rows[i] for i in wanted if i not in answered]
    if answered:
        print_rank0(f"{dataset.name}: {len(wanted) - len(missing)} of {len(wanted)} rows are already answered")

    prompts = [prompt_of(template(base).format(context=row["context"], input=row["input"])) for row in missing]
    retries = len(engine.oom_retries)
    stops = stop_rule(base, engine.tokenizer)
    for i, answer in answer_all(engine, [ids for ids, _ in prompts], max_new_tokens, label, **stops):
        row, (ids, truncated) = missing[i], prompts[i]
        if answer.error:
            store.append({"_id": row["_id"], "error": answer.error})
            continue
        kept = {key: row.get(key) for key in KEPT}
        ours = {"dataset": dataset.name, "prompt_tokens": len(ids), "truncated": truncated, **answer.costs()}
        store.append({"pred": answer.text, **kept, **ours})
    store.close()
    barrier()
    run["oom_retries"] = engine.oom_retries[retries:]
    return broadcast(finish(store, run) if RANK == 0 else None)


def open_store(dataset: Dataset, run: dict, output_dir: Path) -> Store:
    """The predictions of a set: pred/<model>/<set>.jsonl, with the record runs/<set>.json."""
    same = ("checkpoint", "max_length", "max_new_tokens", "protocol", "engine", "dtype", "attention", "seed")
    settings = {key: run[key] for key in same}
    settings["data"] = dataset.about["sha256"]
    settings["template"] = hashlib.sha256(template(base_set(dataset.name)).encode()).hexdigest()
    folder = output_dir / FOLDERS[dataset.benchmark] / run["name"]
    index = {row["_id"]: i for i, row in enumerate(dataset.rows)}
    return Store(
        folder / f"{dataset.name}.jsonl",
        settings,
        key=lambda entry: index[entry["_id"]],
        record=folder / "runs" / f"{dataset.name}.json",
    )


def drawn_rows(n: int, limit: int | None, seed: int) -> list[int]:
    """Indices of `limit` of n rows, in order. A larger limit includes the rows of a smaller one."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return sorted(order[:limit])


def finish(store: Store, run: dict) -> bool:
    """Merges the rows of all ranks and writes the record; returns whether no row failed. For rank 0."""
    rows = list(store.gather().values())
    seconds = sum(row["seconds"] for row in rows)
    lengths = [row["prompt_tokens"] for row in rows]
    generated = sum(row["generated_tokens"] for row in rows)
    truncated = sum(row["truncated"] for row in rows)
    results = {
        "n": len(rows),
        "errors": list(store.errors.values()),
        "truncated": truncated,
        "prompt_tokens": {"mean": sum(lengths) / len(rows), "max": max(lengths)} if rows else None,
        "seconds": seconds,
        "tokens_per_second": (sum(lengths) + generated) / seconds if rows else None,
        "peak_memory_bytes": max((row["peak_memory_bytes"] or 0 for row in rows), default=0) or None,
    }
    store.write_record(run | results)
    cut = f", {truncated} cut in the middle" if truncated else ""
    print(f"{store.path}: {len(rows)} of {run['of']} rows{cut}, {seconds:.1f} s", flush=True)
    if store.errors:
        advice = "rerun the same command to try them again, with a smaller --prefill_chunk or --cache_on_cpu"
        warn_rank0(f"error: {run['dataset']}: {len(store.errors)} rows ran out of memory; {advice}")
    return not store.errors


def main():
    args = parse_args()
    checkpoints = named_checkpoints(args)
    names = expand(args.dataset_name, args.e)
    sets = open_sets(names, args)
    if not sets:
        raise ValueError("none of the sets can be used")
    opened = [dataset.name for dataset in sets]
    incomplete = [name for name in names if name not in opened]

    def evaluate(name: str):
        incomplete.extend(predict(name, checkpoints[name], sets, args))

    for_each_checkpoint(list(checkpoints), evaluate)
    if incomplete:
        raise ValueError(f"missing or incomplete: {' '.join(incomplete)}")


if __name__ == "__main__":
    run_script(main)
