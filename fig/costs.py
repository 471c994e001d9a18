"""What the work cost, where it was recorded: training in a checkpoint's metrics.jsonl, evaluations in their results."""

import json
from pathlib import Path

import pandas as pd

from collect import Results
from rows import Row

COLUMNS = {
    "model": "string", "step": "string", "task": "string", "length": "Int64", "seconds": float,
    "tokens_per_second": float, "peak_memory_bytes": "Int64", "devices": "Int64", "device": "string",
}  # fmt: skip


def read_training(root: Path | None, results: Results) -> tuple[list[dict], dict[str, dict]]:
    """(costs of each training, settings by model) from the checkpoint folders below `root`."""
    costs, recipes = [], {}
    for path in sorted(root.rglob("config.json")) if root else ():
        name, metrics = path.parent.name, path.with_name("metrics.jsonl")
        if name not in results.models:
            continue
        try:
            record = json.loads(path.read_text(encoding="utf-8")).get("context_extension") or {}
            recipes[name] = {**(record.get("recipe") or {}), **(record.get("options") or {})}
            if metrics.exists():
                costs.append({"model": name, "step": "training", **sum_metrics(metrics.read_text(encoding="utf-8"))})
        except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as reason:
            results.warnings.append(f"no costs from {metrics} ({type(reason).__name__}: {reason})")
    return costs, recipes


def sum_metrics(text: str) -> dict:
    """The sum over the lines of metrics.jsonl. The seconds of a line are its tokens over its tokens/s, so that the time
    between two runs of one training does not count."""
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    seconds, tokens = 0.0, 0
    for line in lines:
        seconds += (line["tokens_seen"] - tokens) / line["tokens_per_second"]
        tokens = line["tokens_seen"]
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_memory_bytes": int(2**30 * max(line["peak_memory_gib"] for line in lines)),
        "devices": lines[-1].get("devices"),
        "device": lines[-1].get("device"),
    }


def cost_frame(results: Results, trainings: list[dict]) -> pd.DataFrame:
    """A line for each training, and for each set, task, cell or length that was evaluated."""
    lines = []
    for run in sorted(results.runs, key=lambda run: (run.model, run.benchmark, run.task, run.length or 0)):
        lines.append({"model": run.model, "step": run.benchmark, "task": run.task, "length": run.length, **run.record})
    frame = pd.DataFrame(trainings + lines, columns=list(COLUMNS)).astype(COLUMNS)
    return frame.round({"seconds": 3, "tokens_per_second": 1})


def row_costs(rows: list[Row], costs: pd.DataFrame) -> pd.DataFrame:
    """Of each row's first model: hours, devices, tokens/s and peak GiB of its training, hours and peak GiB of all its
    evaluations."""
    lines = []
    for row in rows:
        own = costs[costs.model == row.models[0]]
        training, runs = own[own.step == "training"], own[own.step != "training"]
        line = [row.label, 0.0 if row.frozen else None, None, None, None]
        for one in training.itertuples():
            devices = None if pd.isna(one.devices) else f"{one.devices} × {one.device}"
            line[1:] = [one.seconds / 3600, devices, one.tokens_per_second, one.peak_memory_bytes / 2**30]
        lines.append([*line, runs.seconds.sum() / 3600, runs.peak_memory_bytes.max() / 2**30])
    names = ["method", "training, hours", "devices", "tokens/s", "peak GiB of one", "evaluations, hours", "peak GiB"]
    return pd.DataFrame(lines, columns=names)
