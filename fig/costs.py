"""What the work cost, where it was recorded: training in a checkpoint's metrics.jsonl, evaluations in their results."""

import json
from operator import itemgetter
from pathlib import Path

from run import errors_of, read_text

import numpy as np
import pandas as pd

from collect import check_types

COLUMNS = ["model", "step", "seconds", "peak_memory_bytes", "device"]


def read_training(root: Path, results):
    """Returns (costs of each training, settings by model) from the checkpoint folders below `root`."""
    costs, recipes = [], {}
    for model in sorted(results.models):
        config = min(root.rglob(f"{model}/config.json"), default=None)
        if config is None:
            continue
        metrics = config.with_name("metrics.jsonl")
        try:
            with errors_of(f"costs in {metrics}"):
                record = json.loads(read_text(config)).get("context_extension") or {}
                recipes[model] = (record.get("recipe") or {}) | (record.get("options") or {})
                if metrics.exists():
                    costs.append({"model": model, "step": "training", **read_metrics(metrics)})
        except ValueError as error:
            results.warnings.append(f"left out: {error}")
    return costs, recipes


def read_metrics(path: Path) -> dict:
    """The cost of a training, without the time between two runs. Raises an exception if the file is odd."""
    lines = read_text(path).splitlines()
    entries = [json.loads(line) for line in lines if line.endswith("}")]  # a kill cuts off the last one
    frame = pd.DataFrame(entries).astype({"tokens_seen": float, "tokens_per_second": float, "peak_memory_gib": float})
    tokens = np.diff(frame.tokens_seen, prepend=0)
    cost = {
        "seconds": (tokens / frame.tokens_per_second).sum(),
        "peak_memory_bytes": 2**30 * frame.peak_memory_gib.max(),
        "device": entries[-1].get("device"),
    }
    check_types(cost)
    return cost


def collect_costs(rows, results, checkpoints):
    """(hours and peak memory of each row's first model in training and all evaluations, settings by model)."""
    trainings, recipes = read_training(checkpoints, results) if checkpoints else ([], {})
    evaluations = sorted(results.runs, key=itemgetter("model"))
    table = pd.DataFrame([*trainings, *evaluations], columns=COLUMNS)
    labels = {row.models[0]: row.label for row in rows}
    table["method"] = table.model.map(labels)
    table["hours"] = table.seconds.astype(float) / 3600
    table["peak_gib"] = table.peak_memory_bytes.astype(float) / 2**30
    table["device"] = table.device.fillna("–")
    groups = table.groupby(["method", "step"], sort=False, as_index=False)
    return groups.agg({"hours": "sum", "peak_gib": "max", "device": "first"}), recipes
