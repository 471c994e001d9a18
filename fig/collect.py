"""Reads the result files of every stage into one list of scores: perplexity, needle, LongBench, many-shot, RULER.

A stage's files are known by what they hold; where they lie does not matter. A file that is cut off, or is not what its
name says, gets one line of warning and the rest goes on: the stage makes it anew when its command is run again.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from intervals import wilson

FACTS = (
    "method", "exact_attention", "base_model", "original_length", "trained_length", "trained_tokens", "training_seed",
)  # fmt: skip
MADE_BY = ("command", "versions", "engine", "dtype", "attention", "seconds", "tokens_per_second", "peak_memory_bytes")
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

    length: tokens (many-shot: shots; LongBench: none).  part: "" for all of it, else "last 64", "positions 64-127",
    "depth 25", "category".  value: perplexity, 0..1 (needle) or 0..100.  low, high: 95 % interval.  samples: what the
    value is the mean of (perplexity: losses in nats, the value is exp of their mean), by the sample's id.  block: of
    samples keyed by their position, those within such a stretch are drawn together.  seeds: the values of several
    training seeds, where they are merged.  settings: what decides whether the paper's number is comparable.
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
    """A result file's set or task, for the report and the costs. made: MADE_BY; seconds are of all processes."""

    model: str
    benchmark: str
    task: str
    length: int | None
    data: dict
    made: dict
    path: Path = Path()


@dataclass
class Results:
    models: dict[str, dict]  # FACTS by model name
    scores: list[Score]
    runs: list[Run]
    warnings: list[str]


def ends(interval: list | None) -> dict:
    low, high = interval or (None, None)
    return {"low": low, "high": high}


def made(result: dict) -> dict:
    return {key: result.get(key) for key in MADE_BY}


def read_perplexity(result: dict, name: str, file: str) -> tuple[list[Score], list[Run]]:
    data, length = result["data"], result["seq_len"]
    dataset = Path(data["path"]).parent.name
    place = {"model": name, "benchmark": "perplexity", "task": dataset, "length": length, "metric": "perplexity"}
    origin = {"source": data["source"], "protocol": result["protocol"], "seed": result["seed"], "file": file}
    common = place | origin | {"n": result["n_windows"]}
    # which windows there are does not depend on the model, so those of two models can be paired
    windows = result.get("window_losses")
    samples = dict(zip(windows["start"], windows["loss"], strict=True)) if windows else None
    if samples and None in samples.values():
        samples = None
    settings = {key: result.get(key) for key in ("sliding_window", "documents", "n_windows", "n_windows_total")}
    whole = {"samples": samples, "block": 2 * length, "settings": settings | {"dataset": data.get("dataset")}}
    scores = [Score(value=result["val_perplexity"], **ends(result["perplexity_interval_95"]), **whole, **common)]
    for n in (64, 256):
        if last := result.get(f"last_{n}"):
            interval = ends(last["perplexity_interval_95"])
            scores.append(Score(value=last["perplexity"], part=f"last {n}", **interval, **common))
    for bucket in result.get("loss_by_position", ()):
        part = f"positions {bucket['from']}-{bucket['to']}"
        scores.append(Score(value=bucket["perplexity"], part=part, **common))
    return scores, [Run(name, "perplexity", dataset, length, data, made(result))]


def read_needle(result: dict, name: str, file: str) -> tuple[list[Score], list[Run]]:
    length, depth, trials, data = (result[key] for key in ("context_length", "depth_percent", "trials", "data"))
    place = {"model": name, "benchmark": "needle", "task": result["template"], "length": length}
    origin = {"source": data["source"], "protocol": result["protocol"], "seed": result["seed"], "file": file}
    good = [trial for trial in trials if "error" not in trial]
    scores = []
    for metric in ("score", "rate", "lceg_overlap"):
        if metric in result:
            n = min(1, len(good)) if metric == "lceg_overlap" else len(good)  # that is of the first trial
            samples = {(depth, trial["trial"]): trial["score"] for trial in good} if metric == "score" else None
            what = {"value": result[metric], **ends(result.get(f"{metric}_interval_95")), "samples": samples}
            scores.append(Score(part=f"depth {depth:g}", metric=metric, n=n, **what, **place, **origin))
    seconds = sum(trial.get("seconds") or 0 for trial in trials)
    tokens = sum(trial.get("prompt_tokens") or 0 for trial in trials)
    cost = {"seconds": seconds, "tokens_per_second": tokens / seconds if seconds else None}
    return scores, [Run(name, "needle", result["template"], length, data, made(result | cost))]


def read_scores(result: dict, name: str, file: str) -> tuple[list[Score], list[Run]]:
    """A scores.json of LongBench, LongBench-E, many-shot or RULER."""
    benchmark, scores, runs = result["benchmark"], [], []
    common = {"model": name, "benchmark": benchmark, "protocol": result["protocol"], "seed": result["seed"]}
    common["file"] = file
    for task, entry in result["tasks" if benchmark == "ruler" else "sets"].items():
        run, source, length = entry.get("run") or {}, entry["source"] or "unverified", result.get("length")
        if benchmark == "trec":
            shots = re.fullmatch(r"(?:standin_)?trec_(\d+)shots", task)
            if not shots:
                raise ValueError(f"'{task}' is no trec_<N>shots")
            task, length = "standin_trec" if source == "standin" else "trec", int(shots[1])
        ids = entry["indices"] if benchmark == "ruler" else entry["ids"]
        if None in ids:  # predictions of other code; their order is the data's
            ids = range(len(ids))
        samples = {id_: 100 * score for id_, score in zip(ids, entry["row_scores"], strict=True)}
        if len(samples) < len(ids):
            raise ValueError(f"{task} has an id twice")
        settings = {"complete": entry.get("complete"), "max_length": run.get("max_length")}
        place = common | {"task": task, "length": length, "n": entry["n"], "source": source}
        whole = {"samples": samples, "settings": settings}
        scores.append(Score(value=entry["score"], **ends(entry["interval_95"]), **whole, **place))
        for metric, key in (("strict", "strict"), ("upstream", "score_upstream")):
            if entry.get(key) is not None:
                scores.append(Score(value=entry[key], metric=metric, **place))
        data = {"source": source, **(run.get("data") or {})}
        runs.append(Run(name, benchmark, task, length, data, made({**result, **run, **entry})))
    for source, categories in (result.get("categories") or {}).items():
        for category, entry in categories.items():
            n = sum(result["sets"][one]["n"] for one in entry["sets"])
            task = category if source == "official" else f"{source}_{category}"
            place = common | {"task": task, "length": None, "part": "category", "n": n, "source": source}
            scores.append(Score(value=entry["score"], **ends(entry["interval_95"]), **place))
    if not runs:
        raise ValueError("it holds no set")
    return scores, runs


def reader_of(path: Path, result: dict):
    """The function that reads this file; None if it is none of the results."""
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
    """All results below `roots`, in an order that depends on the results alone. Models are named by the last part of
    their path, which is the same in every stage."""
    found = Results({}, [], [], [])
    for file, path in files(roots):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            reader = reader_of(path, result)
            if reader is None:
                continue
            name = Path(result["model"] or "").name or result["name"]
            scores, runs = reader(result, name, file)
            facts = {"method": result["method"] or "base"} | {key: result.get(key) for key in FACTS[1:]}
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as reason:
            found.warnings.append(f"left out: {path} is no whole result ({type(reason).__name__}: {reason})")
            continue
        known = found.models.setdefault(name, facts)
        for key, value in facts.items():
            if known[key] is None:
                known[key] = value
            elif value is not None and value != known[key] and key != "base_model":
                found.warnings.append(f"{name}: {key} is {known[key]} in one result and {value} in {path}")
        for run in runs:
            run.path = path
        found.scores += scores
        found.runs += runs
    found.scores = unique(found)
    found.scores += needle_means(found.scores)
    found.scores.sort(key=order)
    return found


def order(score: Score) -> tuple:
    part = [int(word) if word.isdigit() else 0 for word in re.split(r"(\d+)", score.part)]
    return score.model, score.benchmark, score.task, score.length or 0, score.part.split(" ")[0], part, score.metric


def unique(found: Results) -> list[Score]:
    """The scores without a second one of the same model and thing; each file that repeats another is named once."""
    kept, repeats = {}, {}
    for score in found.scores:
        first = kept.setdefault((score.model, *score.key), score)
        if first is not score:
            repeats[score.file] = first.file
    found.warnings += [f"{file} repeats {first}, which is the one used" for file, first in repeats.items()]
    return list(kept.values())


def needle_means(scores: list[Score]) -> list[Score]:
    """The mean over depths at each length, as scores of their own."""
    groups: dict[tuple, list[Score]] = {}
    for score in scores:
        if score.benchmark == "needle" and score.value is not None:
            groups.setdefault((score.model, score.task, score.length, score.metric), []).append(score)
    means = []
    for (model, task, length, metric), cells in groups.items():
        first, n = cells[0], sum(cell.n for cell in cells)
        total = sum(cell.value * cell.n for cell in cells)
        samples = {id_: value for cell in cells for id_, value in cell.samples.items()} if first.samples else None
        place = {"model": model, "benchmark": "needle", "task": task, "length": length, "metric": metric, "n": n}
        origin = {"source": first.source, "protocol": first.protocol, "seed": first.seed}
        origin["file"] = first.file.rpartition("/")[0]
        what = {"value": total / n, **ends(wilson(total, n)), "samples": samples, "settings": {"depths": len(cells)}}
        means.append(Score(**what, **place, **origin))
    return means


def write_csv(path: Path, names: Iterable[str], rows: Iterable[Iterable]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)


def write_results(found: Results, path: Path) -> None:
    """results.csv: a row a score; the same results give the same bytes (no times, dates or folders of the machine)."""
    rows = ({**vars(score), **found.models[score.model]} for score in found.scores)
    write_csv(path, COLUMNS, ([row[name] for name in COLUMNS] for row in rows))
