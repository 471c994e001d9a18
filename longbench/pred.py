r"""LongBench and many-shot TREC: greedy answers to the prompts of each set.

    python pred.py --model_path CKPT --dataset_name hotpotqa trec_25shots --limit 50     --trust_remote_code for code
    python pred.py --model_path CKPT_A CKPT_B --dataset_name longbench manyshots_trec    several checkpoints, all sets
    python pred.py --model llama2-7b-hf-slimpajama-pi-32k                                a name in config/, all 16 sets
    python pred.py --model_path CKPT --e                                                 LongBench-E
    torchrun --nproc_per_node=8 pred.py ...                                              the ranks share the samples
    python eval.py; python eval_trec.py                                                  scores the predictions

Rerun the same command to resume, also with more sets or a larger --limit.

Protocol (arXiv 2308.14508 and 2409.12181): plain continuation of LongBench's prompts, no chat template; greedy; each
set has its own longest answer, and samsum's ends with its first line. A prompt longer than the window loses its middle.
Prompt and answer together fit in the window; --protocol lceg gives it to the prompt alone, as the paper's code does.
"""

import hashlib
import json
import random
from pathlib import Path

import run

import pandas as pd

from answers import add_engine_flags, answer_all, open_engine
from checkpoint import open_config
from data import Dataset, load
from prompts import prompt_ids, template
from sets import ALL_SETS, FOLDERS, SETS, expand
from store import Store

STAGE = Path(__file__).resolve().parent
COST_COLUMNS = "prompt_tokens generated_tokens truncated seconds peak_memory_bytes".split()
RESUME_KEYS = "checkpoint max_length max_new_tokens protocol engine dtype attention seed".split()


def parse_args():
    parser = run.Parser(__doc__)
    parser.add_argument("--model", nargs="+", help="names in config/model2path.json; with --model_path: result names")
    parser.add_argument("--model_path", nargs="+", help="checkpoint folders or hub ids")
    parser.add_argument("--output_dir", type=Path, default=STAGE, help="folder of pred/, pred_e/, pred_trec/ [here]")
    data = parser.add_argument_group("data")
    sets = "sets, trec_<N>shots, standin_<set>; longbench, manyshots_trec: all of their sets [longbench]"
    data.add_argument("--dataset_name", nargs="+", default=["longbench"], help=sets)
    data.add_argument("--e", action="store_true", help="LongBench-E")
    data.add_argument("--data_dir", type=Path, default=STAGE / "data", help="folder of <set>.jsonl [data]")
    data.add_argument("--limit", type=run.positive_int, help="random samples of each set [all]")
    data.add_argument("--seed", type=int, default=42, help="seed for these samples [42]")
    protocol = parser.add_argument_group("protocol")
    window = "window, tokens [config/model2maxlen.json, else the checkpoint's]"
    protocol.add_argument("--max_length", type=run.positive_int, help=window)
    longest = "limit for the answers of every set, tokens [512]"
    protocol.add_argument("--max_new_tokens", type=run.positive_int, default=512, help=longest)
    protocol.add_argument("--protocol", choices=["inside", "lceg"], default="inside", help="see above [inside]")
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers", help="[transformers]")
    add_engine_flags(parser)
    args = parser.parse_args()
    if not args.model and not args.model_path:
        raise ValueError("give --model_path (checkpoint folders, hub ids) or --model (names in config/model2path.json)")
    return args


def read_config(name: str) -> dict:
    """A file of config/."""
    path = STAGE / "config" / name
    with run.errors_of(f"{path} cannot be read"):
        return json.loads(path.read_text())


def choose_checkpoints(args) -> dict:
    """{name of the results: checkpoint folder or hub id}. Raises ValueError if a name is unknown or used twice."""
    paths = args.model_path
    if not paths:
        known = read_config("model2path.json")
        paths = []
        for name in args.model:
            if name not in known:
                raise ValueError(f"--model {name} is not in config/model2path.json, which has {' '.join(known)}")
            path = known[name]
            if path.startswith(".."):  # relative to this folder
                path = str((STAGE / path).resolve())
            paths.append(path)
    names = run.name_results(args.model, paths, "--model")
    return dict(zip(names, paths, strict=True))


def predict(name: str, path: str, sets: list[Dataset], args) -> None:
    """Answers the sets with one checkpoint. Raises ValueError if rows ran out of memory."""
    max_length = args.max_length or read_config("model2maxlen.json").get(name)
    if not max_length:
        max_length = getattr(open_config(path, args.trust_remote_code), "max_position_embeddings", None)
    if not max_length:
        raise ValueError(f"{path} declares no window; give --max_length")
    longest = max_length
    if args.protocol == "lceg":
        longest += max(entry.new_tokens for entry in SETS.values())
    engine = open_engine(args.engine, path, args, longest)
    record = {
        "name": name,
        **engine.describe("lm_eval"),
        "protocol": args.protocol,
        "seed": args.seed,
        "max_length": max_length,
        "limit": args.limit,
    }
    run.print_rank0(f"{path}: {record['method']}, {engine.name}, {engine.dtype}, window {max_length}")
    if engine.window and max_length > engine.window:
        run.print_rank0(f"WARNING: --max_length {max_length} exceeds the window of {path}, {engine.window} tokens")
    incomplete = [dataset.name for dataset in sets if not predict_set(dataset, engine, record, args)]
    if incomplete:
        advice = "rerun with a smaller --prefill_chunk or with --cache_on_cpu to retry them"
        raise ValueError(f"{name}: rows of {' '.join(incomplete)} ran out of memory; {advice}")


def predict_set(dataset: Dataset, engine, record: dict, args) -> bool:
    """Answers the missing rows of a set; returns whether all rows have an answer."""
    max_new_tokens = min(ALL_SETS[dataset.base].new_tokens, args.max_new_tokens)
    record = record | {
        "benchmark": dataset.benchmark,
        "dataset": dataset.name,
        "data": dataset.record,
        "of": len(dataset.rows),
        "max_new_tokens": max_new_tokens,
    }
    folder = args.output_dir / FOLDERS[dataset.benchmark] / record["name"]
    store = open_store(dataset, record, folder)
    answered = run.broadcast(set(store.open(record | {"n": None})) if run.RANK == 0 else None)
    missing = choose_rows(dataset, answered, args)
    prompts, truncated = build_prompts(missing, template(dataset.base), engine.tokenizer, record)
    stops = {}
    if dataset.base == "samsum":  # ends at a newline, which like EOS is never the first token (LongBench)
        newline = engine.tokenizer("\n", add_special_tokens=False).input_ids
        stops = {"stop_ids": newline[-1:], "min_new_tokens": 1}
    for i, answer in answer_all(engine, prompts, max_new_tokens, dataset.name, **stops):
        row = missing[i]
        if answer.error:
            store.append({"_id": row["_id"], "error": answer.error})
            continue
        entry = {
            "pred": answer.text,
            "answers": row["answers"],
            "all_classes": row["all_classes"],
            "length": row["length"],
            "_id": row["_id"],
            "dataset": dataset.name,
            "prompt_tokens": len(prompts[i]),
            "truncated": truncated[i],
        }
        store.append(entry | answer.costs)
    store.close()
    run.barrier()
    return run.broadcast(finish(store, record) if run.RANK == 0 else None)


def choose_rows(dataset: Dataset, answered: set, args) -> list:
    """The rows that --limit and --seed choose, without those that are answered."""
    order = list(range(len(dataset.rows)))
    random.Random(args.seed).shuffle(order)
    wanted = sorted(order[: args.limit])  # a larger limit includes the rows of a smaller one
    missing = [dataset.rows[index] for index in wanted if index not in answered]
    found = len(wanted) - len(missing)
    if found:
        run.print_rank0(f"{dataset.name}: {found} of {len(wanted)} rows are already answered")
    return missing


def build_prompts(rows: list, text: str, tokenizer, record: dict) -> tuple[list, list]:
    """(token ids of each row's prompt, whether its middle was cut). text: the template."""
    limits = (record["max_length"], record["max_new_tokens"], record["protocol"])
    prompts, truncated = [], []
    for row in rows:
        ids, is_cut = prompt_ids(tokenizer, text.format(**row), *limits)
        prompts.append(ids)
        truncated.append(is_cut)
    return prompts, truncated


def open_store(dataset: Dataset, record: dict, folder: Path) -> Store:
    """The answers to a set in a model's folder: <set>.jsonl, with the record runs/<set>.json."""
    settings = {key: record[key] for key in RESUME_KEYS}
    settings["data"] = dataset.record["sha256"]
    prompt = template(dataset.base).encode()
    settings["template"] = hashlib.sha256(prompt).hexdigest()
    index = {row["_id"]: i for i, row in enumerate(dataset.rows)}
    path = folder / f"{dataset.name}.jsonl"
    record_path = folder / "runs" / f"{dataset.name}.json"
    return Store(path, settings, key=lambda entry: index[entry["_id"]], record=record_path)


def finish(store: Store, record: dict) -> bool:
    """Merges the rows of all ranks and writes the record; returns whether every row was answered. For rank 0."""
    rows = pd.DataFrame(store.gather().values(), columns=COST_COLUMNS)
    seconds = float(rows.seconds.sum())
    tokens = float(rows.prompt_tokens.sum() + rows.generated_tokens.sum())
    peak = rows.peak_memory_bytes.max()
    results = {
        "n": len(rows),
        "errors": list(store.errors.values()),
        "truncated": int(rows.truncated.sum()),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
        "peak_memory_bytes": None if pd.isna(peak) else int(peak),
    }
    store.write_record(record | results)
    print(f"{store.path}: {len(rows)} of {record['of']} rows, {seconds:.1f} s", flush=True)
    return not store.errors


def main() -> None:
    args = parse_args()
    checkpoints = choose_checkpoints(args)
    sets = [load(name, args.data_dir, args.e) for name in expand(args.dataset_name, args.e)]
    run.for_each_checkpoint(list(checkpoints), lambda name: predict(name, checkpoints[name], sets, args))


if __name__ == "__main__":
    run.run_script(main)
