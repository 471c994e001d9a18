"""Reads the result files of every stage into one list of scores: perplexity, needle, LongBench, many-shot, RULER.

A stage's files are recognised by their content, wherever they are. A file that is cut off or is not a result gets one
line of warning and is left out; rerun its stage's command to make it again.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from stats import wilson

MODEL_KEYS = (
    "method", "exact_attention", "base_model", "original_length", "trained_length", "trained_tokens", "training_seed",
)  # fmt: skip
RUN_KEYS = ("command", "versions", "engine", "dtype", "attention", "seconds", "tokens_per_second", "peak_memory_bytes")
# the stages' other files, which need not be opened
OTHER = {"run.json", "result.json", "result_by_length.json", "result_by_details.json", "manifest.json"}
KINDS = {"longbench": "LongBench", "longbench_e": "LongBench-E", "trec": "many-shot TREC", "ruler": "RULER"}
COLUMNS = (
    "model", "training_seed", "method", "trained_length", "trained_tokens", "benchmark", "task", "length", "part",
    "metric", "value", "low", "high", "n", "source", "protocol", "seed", "file",
)  # fmt: skip


@dataclass
class Score:
    """One number of one model.

    length: tokens (many-shot: examples; LongBench: None).  part: "" for all of it, else "last 64", "positions 64-127",
    "depth 25", "category".  value: perplexity, 0 to 1 (needle) or 0 to 100.  low, high: 95 % interval.  samples: what
    the value is the mean of, by the sample's id (perplexity: losses in nats; the value is exp of their mean).  block:
    samples whose ids, positions, lie in one stretch of this many tokens are resampled together.  seeds: the values of
    several training seeds, where they are merged.  settings: they decide whether the paper's number is comparable.
    """

    model: str
    benchmark: str
    task: str
    length: int | None
    n: int
    source: str
    protocol: str | None
    seed: int | None
    file: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    part: str = ""
    metric: str = "score"
    samples: dict | None = None
    block: int | None = None
    seeds: list[float] = field(default_factory=list)
    settings: dict = field(default_factory=dict)

    @property
    def key(self) -> tuple:
        return self.benchmark, self.task, self.length, self.part, self.metric


@dataclass
class Run:
    """One set, task, grid cell or window length that was evaluated. record: RUN_KEYS; seconds are of all processes."""

    model: str
    benchmark: str
    task: str
    length: int | None
    data: dict
    record: dict


@dataclass
class Results:
    models: dict[str, dict]  # MODEL_KEYS by model name
    scores: list[Score]
    runs: list[Run]
    warnings: list[str]


def with_value(score: Score, value: float | None, interval: list | None = None, **changes) -> Score:
    low, high = interval or (None, None)
    return replace(score, value=value, low=low, high=high, **changes)


def run_record(result: dict) -> dict:
    return {key: result.get(key) for key in RUN_KEYS}


def read_perplexity(result: dict, name: str, file: str) -> tuple[list[Score], list[Run]]:
    data, length = result["data"], result["seq_len"]
    dataset = Path(data["path"]).parent.name
    n, protocol, seed = result["n_windows"], result["protocol"], result["seed"]
    score = Score(name, "perplexity", dataset, length, n, data["source"], protocol, seed, file, metric="perplexity")
    # the windows do not depend on the model, so those of two models can be paired
    windows = result.get("window_losses")
    samples = dict(zip(windows["start"], windows["loss"], strict=True)) if windows else None
    if samples and None in samples.values():
        samples = None
    settings = {key: result.get(key) for key in ("sliding_window", "documents", "n_windows", "n_windows_total")}
    settings["dataset"] = data.get("dataset")
    interval = result["perplexity_interval_95"]
    whole = with_value(score, result["val_perplexity"], interval, samples=samples, block=2 * length, settings=settings)
    scores = [whole]
    for last in (64, 256):
        entry = result.get(f"last_{last}")
        if entry:
            interval = entry["perplexity_interval_95"]
            scores.append(with_value(score, entry["perplexity"], interval, part=f"last {last}"))
    for bucket in result.get("loss_by_position", ()):
        part = f"positions {bucket['from']}-{bucket['to']}"
        scores.append(with_value(score, bucket["perplexity"], part=part))
    return scores, [Run(name, "perplexity", dataset, length, data, run_record(result))]


def read_needle(result: dict, name: str, file: str) -> tuple[list[Score], list[Run]]:
    length, depth, trials, data = (result[key] for key in ("context_length", "depth_percent", "trials", "data"))
    task, protocol, seed = result["template"], result["protocol"], result["seed"]
    answered = [trial for trial in trials if "error" not in trial]
    score = Score(name, "needle", task, length, len(answered), data["source"], protocol, seed, file)
    score.part = f"depth {depth:g}"
    scores = []
    for metric in ("score", "rate", "lceg_overlap"):
        if metric not in result:
            continue
        interval = result.get(f"{metric}_interval_95")
        scores.append(with_value(score, result[metric], interval, metric=metric))
        if metric == "score":
            scores[-1].samples = {(depth, trial["trial"]): trial["score"] for trial in answered}
        if metric == "lceg_overlap":  # of the first trial
            scores[-1].n = min(1, len(answered))
    seconds = sum(trial.get("seconds") or 0 for trial in trials)
    tokens = sum(trial.get("prompt_tokens") or 0 for trial in trials)
    record = run_record(result) | {"seconds": seconds, "tokens_per_second": tokens / seconds if seconds else None}
    return scores, [Run(name, "needle", task, length, data, record)]


def read_scores(result: dict, name: str, file: str) -> tuple[list[Score], list[Run]]:
    """A scores.json of LongBench, LongBench-E, many-shot or RULER."""
    benchmark, scores, runs = result["benchmark"], [], []
    protocol, seed = result["protocol"], result["seed"]
    for task, entry in result["tasks" if benchmark == "ruler" else "sets"].items():
        run, source, length = entry.get("run") or {}, entry["source"] or "unverified", result.get("length")
        if benchmark == "trec":
            shots = re.fullmatch(r"(?:standin_)?trec_(\d+)shots", task)
            if not shots:
                raise ValueError(f"'{task}' is not trec_<N>shots")
            task, length = "standin_trec" if source == "standin" else "trec", int(shots[1])
        ids = entry["indices"] if benchmark == "ruler" else entry["ids"]
        if None in ids:  # predictions of other code, in the order of the data
            ids = range(len(ids))
        samples = {id_: 100 * value for id_, value in zip(ids, entry["row_scores"], strict=True)}
        if len(samples) < len(ids):
            raise ValueError(f"{task} has an id twice")
        score = Score(name, benchmark, task, length, entry["n"], source, protocol, seed, file)
        settings = {"complete": entry.get("complete"), "max_length": run.get("max_length")}
        scores.append(with_value(score, entry["score"], entry["interval_95"], samples=samples, settings=settings))
        for metric, key in (("strict", "strict"), ("upstream", "score_upstream")):
            if entry.get(key) is not None:
                scores.append(with_value(score, entry[key], metric=metric))
        data = {"source": source, **(run.get("data") or {})}
        runs.append(Run(name, benchmark, task, length, data, run_record({**result, **run, **entry})))
    for source, categories in (result.get("categories") or {}).items():
        for category, entry in categories.items():
            n = sum(result["sets"][task]["n"] for task in entry["sets"])
            task = category if source == "official" else f"{source}_{category}"
            score = Score(name, benchmark, task, None, n, source, protocol, seed, file, part="category")
            scores.append(with_value(score, entry["score"], entry["interval_95"]))
    if not runs:
        raise ValueError("it has no set")
    return scores, runs


def reader_of(path: Path, result: dict):
    """The function that reads this file; None if it is not a result."""
    if path.name == "scores.json":
        if result["benchmark"] not in KINDS:
            raise ValueError(f"unknown benchmark '{result['benchmark']}'")
        return read_scores
    if path.name.endswith("_results.json"):
        return read_needle
    return read_perplexity if "val_perplexity" in result else None


def files(roots: list[Path]) -> Iterator[tuple[str, Path]]:
    """(name that is the same on every machine, path) of all JSON files that may be results, each once. Of several roots
    the name has the last part."""
    seen = set()
    for root in roots:
        for path in sorted(root.rglob("*.json")):
            inside = path.relative_to(root)
            set_aside = any(re.fullmatch(r"old\d*", part) for part in inside.parts)
            if path.name in OTHER or path.parent.name == "runs" or set_aside:
                continue
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield inside.as_posix() if len(roots) == 1 else f"{root.resolve().name}/{inside.as_posix()}", path


def collect(roots: list[Path]) -> Results:
    """All results below `roots`, in an order that depends on the results alone. A model is named by the last part of
    its path, which is the same in every stage."""
    results = Results({}, [], [], [])
    for file, path in files(roots):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            reader = reader_of(path, result)
            if reader is None:
                continue
            name = Path(result["model"] or "").name or result["name"]
            scores, runs = reader(result, name, file)
            info = {"method": result["method"] or "base"} | {key: result.get(key) for key in MODEL_KEYS[1:]}
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as reason:
            results.warnings.append(f"left out: {path} is not a complete result ({type(reason).__name__}: {reason})")
            continue
        known = results.models.setdefault(name, info)
        for key, value in info.items():
            if known[key] is None:
                known[key] = value
            elif value is not None and value != known[key] and key != "base_model":
                results.warnings.append(f"{name}: {key} is {known[key]} in one result and {value} in {path}")
        results.scores += scores
        results.runs += runs
    results.scores = drop_repeats(results)
    results.scores += needle_means(results.scores)
    results.scores.sort(key=sort_key)
    return results


def sort_key(score: Score) -> tuple:
    part = [int(word) if word.isdigit() else 0 for word in re.split(r"(\d+)", score.part)]
    return score.model, score.benchmark, score.task, score.length or 0, score.part.split(" ")[0], part, score.metric


def drop_repeats(results: Results) -> list[Score]:
    """The scores without a second one of the same model and key. Each file that repeats another is named once."""
    first_scores, repeats = {}, {}
    for score in results.scores:
        first = first_scores.setdefault((score.model, *score.key), score)
        if first is not score:
            repeats[score.file] = first.file
    results.warnings += [f"{file} repeats {first}, which is the one used" for file, first in repeats.items()]
    return list(first_scores.values())


def needle_means(scores: list[Score]) -> list[Score]:
    """The mean over depths at each length, as further scores."""
    groups: dict[tuple, list[Score]] = {}
    for score in scores:
        if score.benchmark == "needle" and score.value is not None:
            groups.setdefault((score.model, score.task, score.length, score.metric), []).append(score)
    means = []
    for cells in groups.values():
        first, n = cells[0], sum(cell.n for cell in cells)
        total = sum(cell.value * cell.n for cell in cells)
        samples = {id_: value for cell in cells for id_, value in cell.samples.items()} if first.samples else None
        folder, settings = first.file.rpartition("/")[0], {"depths": len(cells)}
        mean = replace(first, part="", n=n, file=folder, samples=samples, settings=settings)
        means.append(with_value(mean, total / n, wilson(total, n)))
    return means


def write_results(results: Results, path: Path) -> None:
    """results.csv: a line for each score; the same results give the same bytes (no times, no dates)."""
    lines = [{**vars(score), **results.models[score.model]} for score in results.scores]
    pd.DataFrame(lines, columns=COLUMNS, dtype=object).to_csv(path, index=False, lineterminator="\n")
