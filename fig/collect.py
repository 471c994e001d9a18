"""Reads the result files of every stage into one list of scores.

Files are recognised by their content, wherever they are. One that is incomplete, or in which a field has another type
or is out of range, is reported and left out.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from run import read_text
from scores import Score, set_interval, with_value

BENCHMARKS = {
    "perplexity": "Perplexity",
    "long_ppl": "LongPPL",
    "needle": "Needle",
    "trec": "Many-shot",
    "longbench": "LongBench",
    "longbench_e": "LongBench-E",
    "ruler": "RULER",
    "kv": "Key-value recall",
    "icl": "In-context labels",
    "short": "Short tasks",
}
MODEL_KEYS = (
    "method", "exact_attention", "base_model", "original_length", "trained_length", "trained_tokens", "training_seed",
)  # fmt: skip
RUN_KEYS = ("command", "versions", "engine", "dtype", "attention", "seconds", "peak_memory_bytes")
COUNTS = (
    "original_length", "trained_length", "trained_tokens", "training_seed", "seed", "length", "n", "sliding_window",
    "documents", "max_length", "peak_memory_bytes",
)  # fmt: skip
MEASURES = ("value", "low", "high", "depth", "seconds")
TYPES = {  # of fields; the others are text
    **dict.fromkeys(COUNTS, int),
    **dict.fromkeys(MEASURES, (int, float)),
    **dict.fromkeys(("exact_attention", "all_windows", "complete", "drawn_text"), bool),
    **dict.fromkeys(("versions", "samples", "targets", "settings"), dict),
    "seeds": list,
}
RANGES = {  # of values [0 to 100]; a perplexity is at least 1, rounded
    "perplexity": (0.99, 1e300),
    "long_ppl": (0.99, 1e300),
    "needle": (0, 1),
}
ODD_FILE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, OSError)


@dataclass
class Results:
    """models: MODEL_KEYS by model name.  runs: what was run on which data, a dict for each evaluation."""

    models: dict[str, dict]
    scores: list[Score]
    runs: list[dict]
    warnings: list[str]


def printable(text: str) -> str:
    """The text on one line: a space for each line break, control character and lone surrogate."""
    return "".join(character if character.isprintable() else " " for character in text)


def check_fields(record: dict) -> dict:
    """A copy of the record, its texts printable. Raises ValueError if a field is not of its type, or out of range."""
    checked = {}
    for name, value in record.items():
        limit = {int: 2**60, float: 1e300}.get(type(value))
        is_in_range = limit is None or 0 <= value <= limit
        if value is not None and not (is_in_range and isinstance(value, TYPES.get(name, str))):
            raise ValueError(f"{name} is {value!r:.60}")
        checked[name] = printable(value) if isinstance(value, str) else value
    return checked


def check_score(score: Score) -> Score:
    """A copy of the score, its texts printable. Raises ValueError if a number is missing or out of range."""
    fields = check_fields(vars(score)) | {"settings": check_fields(score.settings)}
    length = score.length or score.benchmark.startswith("longbench")
    if not (score.model and score.task is not None and score.source and length and (score.n or score.value is None)):
        raise ValueError("no model, task, source, length or sample")
    numbers = [value for value in (score.value, score.high) if value is not None]  # low may be any: few documents
    for id_, sample in (score.samples or {}).items():
        numbers.append(math.exp(sample / max(1, score.targets[id_])) if score.targets else sample)
    least, most = RANGES.get(score.benchmark, (0, 100))
    for number in numbers:
        if not least <= number <= most:
            raise ValueError(f"{number:g} is not a {score.metric} of {score.benchmark}")
    return Score(**fields)


def run_entry(score: Score, data: dict, record: dict) -> dict:
    """The entry of Results.runs for the evaluation that gave this score. record: has RUN_KEYS."""
    entry = {name: getattr(score, name) for name in ("benchmark", "task", "length")}
    entry["source"] = data.get("source", "unknown")
    entry["data"] = data.get("dataset") or Path(data.get("path") or "").name
    entry["sha256"] = data.get("sha256") or ""
    entry |= {key: record.get(key) for key in RUN_KEYS}
    return check_fields(entry)


def read_perplexity(result: dict, identity: dict) -> tuple[list[Score], list[dict]]:
    """A result of eval_perplexity: one model, data set and window length."""
    data, length, n = result["data"], result["seq_len"], result["n_windows"]
    dataset = Path(data["path"]).parent.name
    score = Score("perplexity", dataset, length, n, data["source"], metric="perplexity", **identity)
    settings = {
        "dataset": data.get("dataset"),
        "sliding_window": result.get("sliding_window"),
        "documents": result.get("documents"),
        "all_windows": n == result.get("n_windows_total"),
        "sha256": data.get("sha256"),
    }
    interval = result["perplexity_interval_95"]
    whole = with_value(score, result["val_perplexity"], interval, settings=settings)
    losses = result.get("document_losses")
    if losses:
        targets = map(int, losses["targets"])
        whole.samples = dict(enumerate(losses["sum"]))
        whole.targets = dict(zip(whole.samples, targets, strict=True))
    scores = [whole]
    for last in (64, 256):
        entry = result.get(f"last_{last}")
        if entry:
            interval = entry["perplexity_interval_95"]
            scores.append(with_value(score, entry["perplexity"], interval, part=f"last {last}"))
    for bucket in result.get("loss_by_position", ()):
        part = f"positions {int(bucket['from'])}-{int(bucket['to'])}"
        scores.append(with_value(score, bucket["perplexity"], part=part))
    return scores, [run_entry(score, data, result)]


def read_long_ppl(result: dict, identity: dict) -> tuple[list[Score], list[dict]]:
    """LongPPL of eval_perplexity: one model, data set and length; n is the number of key tokens."""
    data, length, n = result["data"], result["seq_len"], result["n_key_tokens"]
    dataset = Path(data["path"]).parent.name
    score = Score("long_ppl", dataset, length, n, data["source"], metric="perplexity", **identity)
    settings = {"evaluator": result["settings"].get("evaluator"), "sha256": data.get("sha256")}
    whole = with_value(score, result["long_ppl"], result["long_ppl_interval_95"], settings=settings)
    if whole.value is not None:
        losses = result["document_losses"]
        whole.samples = dict(enumerate(losses["sum"]))
        whole.targets = dict(enumerate(map(int, losses["targets"])))
    return [whole], [run_entry(score, data, result)]


def read_needle(result: dict, identity: dict) -> tuple[list[Score], list[dict]]:
    """A result of needle: one model, length and depth."""
    length, depth, data = result["context_length"], result["depth_percent"], result["data"]
    check_fields({"depth": depth})
    samples, found, seconds = {}, {}, 0
    for trial in result["trials"]:
        seconds += trial.get("seconds") or 0
        if "error" not in trial:
            id_ = length, depth, int(trial["trial"])
            samples[id_], found[id_] = trial["score"], float(trial["exact"])
    n = len(samples)
    score = Score("needle", result["template"], length, n, data["source"], part=f"depth {depth:g}", **identity)
    score.drawn_text = result.get("drawn_text", False)
    scores = [with_value(score, result["score"], result.get("score_interval_95"), samples=samples)]
    if "rate" in result:
        scores.append(with_value(score, result["rate"], result.get("rate_interval_95"), metric="rate", samples=found))
    overlap = result.get("lceg_overlap")
    if overlap is not None:  # of the first trial
        first = {(length, depth, 0): overlap}
        scores.append(with_value(score, overlap, metric="lceg_overlap", n=1, samples=first))
    return scores, [run_entry(score, data, result | {"seconds": seconds})]


def read_scores(result: dict, identity: dict) -> tuple[list[Score], list[dict]]:
    """A scores.json of all benchmarks but perplexities and needle: one model, all sets or tasks."""
    scores, runs = [], []
    benchmark = result["benchmark"]
    if benchmark not in BENCHMARKS or benchmark in RANGES:  # those have files of their own
        raise ValueError(f"unknown benchmark '{benchmark}'")
    is_ruler = benchmark == "ruler"
    entries = result["tasks" if is_ruler else "sets"]
    for name, entry in entries.items():
        task, length = name, result.get("length")
        if benchmark in ("trec", "icl", "kv"):
            task, shots = re.fullmatch(r"((?:standin_)?(?:trec|icl|kv))_(\d+)(?:shots|pairs)", name).groups()
            length = int(shots)
        run = entry.get("run") or {}
        source = entry["source"] or "unverified"
        ids = entry["indices" if is_ruler else "ids"]
        if None in ids:  # predictions of other code, in the order of the data
            ids = range(len(ids))
        values = [100 * value for value in entry["row_scores"]]
        samples = dict(zip(ids, values, strict=True))
        if len(samples) < len(ids):
            raise ValueError(f"{name} has an id twice")
        score = Score(benchmark, task, length, entry["n"], source, **identity)
        settings = {"complete": entry.get("complete"), "max_length": run.get("max_length")}
        scores.append(with_value(score, entry["score"], entry["interval_95"], samples=samples, settings=settings))
        for metric, key in (("strict", "strict"), ("upstream", "score_upstream")):
            if entry.get(key) is not None:
                scores.append(with_value(score, entry[key], metric=metric))
        data = {"source": source, **(run.get("data") or {})}
        runs.append(run_entry(score, data, {**result, **run, **entry}))
    for source, categories in (result.get("categories") or {}).items():
        for category, entry in categories.items():
            task = category if source == "official" else f"{source}_{category}"
            n = sum(entries[name]["n"] for name in entry["sets"])
            score = Score(benchmark, task, None, n, source, part="category", **identity)
            scores.append(with_value(score, entry["score"], entry["interval_95"]))
    if not runs:
        raise ValueError("it has no set")
    return scores, runs


def find_files(roots: list[Path]) -> Iterator[tuple[str, Path]]:
    """(name, path) of each JSON file that may be a result. The name begins at its root (of several: root's parent)."""
    for root in roots:
        base = root if len(roots) == 1 else root.parent
        for path in sorted(root.rglob("*.json")):
            name = path.relative_to(base).as_posix()
            was_set_aside = re.search(r"(^|/)old\d*/", name)
            if not was_set_aside:
                yield name, path


def read_file(path: Path, file: str) -> tuple[dict, list[Score], list[dict]]:
    """(the model's MODEL_KEYS, path and fingerprint, scores, runs) of a JSON file; no scores if it is no result."""
    result = json.loads(read_text(path))
    if path.name == "scores.json":
        read = read_scores
    elif path.name.endswith("_results.json"):
        read = read_needle
    elif "val_perplexity" in result:
        read = read_perplexity
    elif "long_ppl" in result:
        read = read_long_ppl
    else:
        return {}, [], []
    info = {key: result.get(key) for key in MODEL_KEYS}
    info["method"] = result["method"] or "base"
    info["path"] = result["model"] or result["name"]
    info["checkpoint"] = result.get("checkpoint") or result.get("settings", {}).get("checkpoint")
    identity = {"model": Path(info["path"]).name, "protocol": result["protocol"], "seed": result["seed"], "file": file}
    scores, runs = read(result, identity)
    return check_fields(info), [check_score(score) for score in scores], runs


def add_model(results: Results, info: dict) -> str:
    """Adds a result's model. Returns its name: its folder's, after those above if another checkpoint has that name."""
    parts = Path(info.pop("path")).parts
    for i in reversed(range(len(parts))):
        name = "/".join(parts[i:])  # its end is the same in every stage
        known = results.models.setdefault(name, dict(info))
        known_fields = [key for key in info if None not in (known[key], info[key]) and key != "base_model"]
        conflicts = [key for key in known_fields if known[key] != info[key]]
        if not conflicts:
            break
        key = conflicts[0]
        results.warnings.append(f"{name}: {key} is {known[key]} in one result and {info[key]} in another")
    known |= {key: value for key, value in info.items() if known[key] is None}
    return name


def collect(roots: list[Path]) -> Results:
    """All results below `roots`, in an order that depends on the results alone."""
    results = Results({}, [], [], [])
    first_scores, repeats = {}, {}
    for file, path in find_files(roots):
        try:
            info, scores, runs = read_file(path, file)
        except ODD_FILE as error:
            reason = printable(f"{type(error).__name__}: {error}")
            results.warnings.append(f"left out: {path} is not a complete result ({reason})")
            continue
        model = add_model(results, info) if scores else None
        results.runs += [entry | {"model": model} for entry in runs]
        for score in scores:
            score.model = model
            first = first_scores.setdefault((model, *score.key), score)
            if first is not score:
                repeats[score.file] = first.file
    for file, first_file in repeats.items():
        results.warnings.append(f"{file} repeats {first_file}, which is the one used")
    results.warnings = list(dict.fromkeys(results.warnings))  # once each
    results.scores = [*first_scores.values(), *needle_means(first_scores.values())]
    results.scores.sort(key=sort_key)
    return results


def sort_key(score: Score) -> tuple:
    """By model, benchmark, task, length and part, whose numbers are compared as numbers."""
    name = score.part.split(" ")[0]
    numbers = [int(digits) for digits in re.findall(r"\d+", score.part)]
    return score.model, score.benchmark, score.task, score.length or 0, name, numbers, score.metric, score.source


def needle_means(scores: Iterable[Score]) -> list[Score]:
    """The mean over depths at each length, as further scores."""
    cells_by_length = defaultdict(list)
    for score in scores:
        if score.benchmark == "needle" and score.value is not None:
            key = (score.model, score.task, score.length, score.metric, score.source)
            cells_by_length[key].append(score)
    means = []
    for cells in cells_by_length.values():
        n = sum(cell.n for cell in cells)
        total = sum(cell.value * cell.n for cell in cells)
        folder = cells[0].file.rpartition("/")[0]
        mean = replace(cells[0], part="", n=n, value=total / n, file=folder, settings={}, samples={})
        mean.drawn_text = all(cell.drawn_text for cell in cells)
        for cell in cells:
            mean.samples |= cell.samples
        set_interval(mean, [mean])
        means.append(mean)
    return means
