"""What the work cost, where it was recorded: training in a checkpoint's metrics.jsonl, evaluations in their results.

A training's seconds are summed from its lines, tokens since the last line over tokens/s, so waiting between two runs
of one training does not count. Hours of devices need the number of devices; where no line has it, it is not known.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from collect import Results, write_csv
from rows import Row, is_frozen

COLUMNS = ("model", "step", "task", "length", "seconds", "tokens_per_second", "peak_memory_bytes", "devices", "device")


@dataclass
class Training:
    """seconds: of the whole job.  devices: how many worked side by side, None if it was not recorded."""

    seconds: float = 0.0
    tokens: int = 0
    peak_memory_bytes: int | None = None
    devices: int | None = None
    device: str | None = None

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.seconds else None

    @property
    def device_hours(self) -> float | None:
        return 0.0 if not self.seconds else self.seconds * self.devices / 3600 if self.devices else None


def read_training(root: Path | None, found: Results) -> tuple[dict[str, Training], dict[str, dict]]:
    """(cost of training, settings of it) by model, from the checkpoint folders below `root`."""
    costs = {name: Training() for name, facts in found.models.items() if is_frozen(facts)}
    recipes: dict[str, dict] = {}
    for path in sorted(root.rglob("config.json")) if root else ():
        name, metrics = path.parent.name, path.with_name("metrics.jsonl")
        if name not in found.models:
            continue
        try:
            record = json.loads(path.read_text(encoding="utf-8")).get("context_extension") or {}
            recipes[name] = {**(record.get("recipe") or {}), **(record.get("options") or {})}
            if metrics.exists():
                costs[name] = training(metrics.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as reason:
            found.warnings.append(f"no costs from {metrics} ({type(reason).__name__}: {reason})")
    return costs, recipes


def training(text: str) -> Training:
    """The sum over the lines of metrics.jsonl."""
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    seconds, before = 0.0, 0
    for line in lines:
        seconds += (line["tokens_seen"] - before) / line["tokens_per_second"]
        before = line["tokens_seen"]
    peak = int(2**30 * max(line["peak_memory_gib"] for line in lines))
    return Training(seconds, before, peak, lines[-1].get("devices"), lines[-1].get("device"))


def of_row(row: Row, trainings: dict[str, Training]) -> Training | None:
    """The mean cost of one training of the row; None for the base, and where a model's was not recorded."""
    every = [trainings.get(name) for name in row.models]
    if row.base or None in every:
        return None
    return replace(every[0], seconds=sum(one.seconds for one in every) / len(every))


def write(found: Results, trainings: dict[str, Training], path: Path) -> None:
    """costs.csv: a row a training, and one a result file's set or task."""
    lines = []
    for name, one in sorted(trainings.items()):
        if one.seconds:
            speed = round(one.seconds, 1), round(one.tokens_per_second, 1), one.peak_memory_bytes
            lines.append((name, "training", "", "", *speed, one.devices, one.device))
    for run in sorted(found.runs, key=lambda run: (run.model, run.benchmark, run.task, run.length or 0, str(run.path))):
        rate = run.made["tokens_per_second"]
        cost = run.made["seconds"], rate and round(rate, 1), run.made["peak_memory_bytes"]
        lines.append((run.model, run.benchmark, run.task, run.length, *cost, "", ""))
    write_csv(path, COLUMNS, lines)
