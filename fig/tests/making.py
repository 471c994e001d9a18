"""Result files as the stages write them, of a small invented study, and what fig/ reads from them."""

import json
import math
import random
from pathlib import Path

import tables
from collect import collect
from rows import make_frame, make_rows, target_length

SETS = ("qasper", "hotpotqa", "lcc")
TASKS = ("niah_single_1", "vt", "qa_1")


def build(root, benchmarks=tables.PAPER_COLUMNS):
    """(rows, scores, columns) of the results in a folder."""
    results = collect([root])
    rows = make_rows(results)
    scores = make_frame(rows, results).query("metric in ('perplexity', 'score')")
    return rows, scores, tables.make_columns(scores, target_length(rows), benchmarks)


def info(name: str, method: str, tokens: int | None, **changes) -> dict:
    """What every result says about its model and run."""
    return {
        "name": name,
        "model": f"../run/ckpts/{name}",
        "method": method,
        "exact_attention": method not in ("longlora", "landmark", "lm_infinite", "self_extend"),
        "base_model": "../run/base",
        "original_length": 128,
        "trained_length": 128 if method == "base" else 512,
        "trained_tokens": tokens,
        "training_seed": 42 if tokens else None,
        "engine": "transformers",
        "dtype": "float32",
        "attention": "sdpa",
        "seed": 42,
        "versions": {"python": "3.11.7", "vllm": None},
        "command": f"python some.py --model_path ../run/ckpts/{name}",
        "seconds": 1.5,
        "peak_memory_bytes": 1 << 29,
        **changes,
    }


# name, method, trained tokens, its quality (0 to 1)
MODELS = [
    ("base", "base", None, 0.3),
    ("m_ntk_512", "ntk", 1000, 0.8),
    ("m_pi_512", "pi", 1000, 0.45),
    ("m_yarn_512", "yarn", 1000, 0.75),
    ("m_landmark_512", "landmark", 1000, 0.1),
    ("m_ntk_frozen", "ntk_frozen", 0, 0.6),
    ("m_self_extend", "self_extend", 0, 0.9),
]


def write(path: Path, result: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")


def perplexity(root: Path, who: dict, length: int, value: float, n=40, losses=None, **changes) -> None:
    """losses: mean losses of the documents."""
    interval = [value * 0.95, value * 1.05]
    losses = losses or [math.log(value)] * 10
    targets = [n * length // 10] * len(losses)
    sums = [loss * targets[0] for loss in losses]
    result = {
        "val_perplexity": value,
        "perplexity_interval_95": interval,
        "last_64": {"perplexity": 1.1 * value, "perplexity_interval_95": [1.1 * bound for bound in interval]},
        "document_losses": {"sum": [*sums, 0.0], "targets": [*targets, 0]},  # the last document has none
        "n_windows": n,
        "n_windows_total": n,
        "seq_len": length,
        "sliding_window": 256,
        "documents": 10,
        "data": {"path": "../run/base/data/heldout/test.bin", "sha256": "ab" * 32, "source": "standin"},
        "protocol": "lceg-windows",
    }
    write(root / "results" / f"{who['name']}_{length}_heldout.json", {**result, **who, **changes})


def needle(root: Path, who: dict, length: int, depth: int, scores: list[float], **changes) -> None:
    mean = sum(scores) / len(scores)
    interval = [max(0, mean - 0.1), min(1, mean + 0.1)]
    result = {
        "context_length": length,
        "depth_percent": depth,
        "score": mean,
        "score_interval_95": interval,
        "rate": mean,
        "rate_interval_95": interval,
        "trials": [{"trial": i, "score": x, "exact": x == 1, "seconds": 0.1} for i, x in enumerate(scores)],
        "drawn_text": False,
        "template": "passkey",
        "protocol": "share",
        "data": {"source": "standin", "path": "pydoc_data", "sha256": "cd" * 32},
    }
    name = f"{who['name']}_len_{length}_depth_{depth * 100}_results.json"
    write(root / "needle" / who["name"] / name, {**who, **result, **changes})


def entry(scores: list[float], ids: str, source="standin", **changes) -> dict:
    """A set or task of a scores.json."""
    mean = 100 * sum(scores) / len(scores)
    return {
        "source": source,
        "n": len(scores),
        "complete": True,
        "score": mean,
        "interval_95": [max(0, mean - 8), min(100, mean + 8)],
        ids: [f"id{i}" for i in range(len(scores))],
        "row_scores": scores,
        "run": {"data": {"source": source, "sha256": "ef" * 32, "path": "x.jsonl"}, "max_length": 512},
        **changes,
    }


def sets(root: Path, who: dict, benchmark: str, entries: dict, **changes) -> None:
    result = {"benchmark": benchmark, "protocol": "inside", **who, "sets": entries, **changes}
    write(root / benchmark / who["name"] / "scores.json", result)


def ruler(root: Path, who: dict, length: int, entries: dict) -> None:
    result = {"benchmark": "ruler", "protocol": "ours", **who, "length": length, "tasks": entries}
    write(root / "ruler" / who["name"] / "synthetic" / str(length) / "pred" / "scores.json", result)


def study(root: Path, models=MODELS, lengths=(128, 512, 1024), n=20) -> Path:
    """Every benchmark of every model; what is good finds more and has a lower perplexity."""
    for name, method, tokens, quality in models:
        rng, who = random.Random(name), info(name, method, tokens)

        def draw(share, rng=rng):
            return [float(rng.random() < share) for _ in range(n)]

        for length in lengths:
            hard = 1 if length <= 128 else quality
            perplexity(root, who, length, 40 - 15 * hard)
            ruler(root, who, length, {task: entry(draw(hard), "indices") for task in TASKS})
            for depth in (0, 50, 100):
                needle(root, who, length, depth, draw(hard))
        shots = {f"standin_trec_{k}shots": entry(draw(quality * (1 - 1 / (k + 1))), "ids") for k in (1, 5, 10)}
        sets(root, who, "trec", shots)
        sets(root, who, "longbench", {f"standin_{task}": entry(draw(quality), "ids") for task in SETS})
        if tokens:
            folder = root / "ckpts" / name
            record = {"method": method, "recipe": {"learning_rate": 1e-3, "seed": 42}, "options": {"x": 2}}
            write(folder / "config.json", {"context_extension": record})
            line = '{"tokens_seen": %d, "tokens_per_second": 250.0, "peak_memory_gib": 0.5}\n'
            (folder / "metrics.jsonl").write_text(line % 400 + line % 1000 + '{"tokens_s')
    return root
