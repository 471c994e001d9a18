"""What the work cost, where it was recorded: training in a checkpoint's metrics.jsonl, evaluations in their results."""

import json
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd

from collect import INCOMPLETE, Results
from rows import Row
from run import read_text

COLUMNS = ["model", "step", "seconds", "peak_memory_bytes", "device"]


def read_training(root: Path, results: Results):
    """Returns (costs of each training, settings by model) from the checkpoint folders below `root`."""
    costs, recipes = [], {}
    for model in sorted(results.models):
        config = min(root.rglob(f"{model}/config.json"), default=None)
        if config is None:
            continue
        metrics = config.with_name("metrics.jsonl")
        try:
            record = json.loads(read_text(config)).get("context_extension") or {}
            recipes[model] = (record.get("recipe") or {}) | (record.get("options") or {})
            if metrics.exists():
                costs.append({"model": model, "step": "training", **sum_metrics(metrics)})
        except INCOMPLETE as error:
            results.warnings.append(f"no costs from {metrics} ({type(error).__name__}: {error})")
    return costs, recipes


def sum_metrics(path: Path) -> dict:
    """The sum over the lines of metrics.jsonl, without one that a kill cut off and the time between two runs."""
    entries = [json.loads(line) for line in read_text(path).splitlines() if line.endswith("}")]
    metrics = pd.DataFrame(entries)
    tokens = np.diff(metrics.tokens_seen, prepend=0)
    seconds = (tokens / metrics.tokens_per_second).sum()
    peak = 2**30 * metrics.peak_memory_gib.max()
    return {"seconds": seconds, "peak_memory_bytes": peak, "device": entries[-1].get("device")}


def sum_costs(rows: list[Row], results: Results, trainings: list[dict]) -> pd.DataFrame:
    """Of each row's first model: hours and peak memory of its training and of all its evaluations."""
    evaluations = sorted(results.runs, key=itemgetter("model"))
    table = pd.DataFrame([*trainings, *evaluations], columns=COLUMNS)
    table["method"] = table.model.map({row.models[0]: row.label for row in rows})
    table["hours"] = table.seconds.astype(float) / 3600
    table["peak_gib"] = table.peak_memory_bytes.astype(float) / 2**30
    table["device"] = table.device.fillna("–")
    groups = table.groupby(["method", "step"], sort=False, as_index=False)
    return groups.agg({"hours": "sum", "peak_gib": "max", "device": "first"})
