"""Reads the result files of every stage, recognised by their content; incomplete ones are reported and left out."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from run import errors_of, read_text

from scores import PERPLEXITIES, Score, add_needle_means

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
    "checkpoint",
)  # fmt: skip
RUN_KEYS = ("command", "versions", "engine", "dtype", "attention", "seconds", "peak_memory_bytes")
SETTING_KEYS = ("sliding_window", "documents", "all_windows", "evaluator", "complete", "max_length")
COUNTS = ("length", "original_length", "trained_length", "trained_tokens", "sliding_window", "documents", "max_length")
AMOUNTS = (*COUNTS, "n", "seconds", "peak_memory_bytes")  # never negative
TYPES = {  # of what `read_file` returns; all else is text or None
    **dict.fromkeys((*COUNTS, "training_seed"), int | None),
    **dict.fromkeys(("seconds", "peak_memory_bytes"), int | float | None),
    **dict.fromkeys(("exact_attention", "complete", "all_windows"), bool | None),
    **dict.fromkeys(("method", "path"), str),
    "versions": dict | None,
    **Score.__annotations__,
}
HIGHEST = {"needle": 1, "perplexity": 1e300, "long_ppl": 1e300}  # scores; all others 100


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


def read_object(pairs) -> dict:
    """An object of a result's JSON, its names and texts printable: they come into tables and the report."""
    record = {}
    for key, value in pairs:
        record[printable(key)] = printable(value) if isinstance(value, str) else value
    return record


def pick(record: dict, keys) -> dict:
    """These keys of a record, None where it lacks one."""
    return {key: record.get(key) for key in keys}


def check_range(name: str, number, highest: float = 2**63) -> None:
    """Raises ValueError, or TypeError, unless this is a number from 0 to `highest`, but for rounding."""
    if not -1e-6 <= number <= highest + 1e-6:
        raise ValueError(f"{name} is {number}")


def check_types(record: dict) -> None:
    """Raises TypeError or ValueError unless the values have their TYPES, and no count is negative."""
    for key, value in record.items():
        if not isinstance(value, TYPES.get(key, str | None)):
            raise TypeError(f"{key} is {value!r}")
        if key in AMOUNTS and value is not None:
            check_range(key, value)


def check_score(score: Score) -> None:
    """Raises TypeError or ValueError unless a score has the right types, and numbers in the range of its benchmark."""
    check_types(vars(score))
    check_types(score.settings)
    numbers = [bound for bound in (score.low, score.high) if bound == bound]  # NaN without an interval
    if score.value is not None:
        numbers.insert(0, score.value)
    for number in (*numbers, *score.samples.values()):
        check_range(f"a score of {score.task}", number, HIGHEST.get(score.benchmark, 100))
    for number in score.targets.values():
        check_range("a number of targets", number)
    if score.benchmark in PERPLEXITIES and 0 in numbers:
        raise ValueError(f"a perplexity of {score.task} is 0")


def read_perplexity(result):
    """Perplexity or LongPPL of eval_perplexity: one model, data set and length. n: windows, of LongPPL key tokens."""
    name, value, n = "perplexity", result.get("val_perplexity"), result.get("n_windows")
    if "long_ppl" in result:
        name, value, n = "long_ppl", result["long_ppl"], result["n_key_tokens"]
    shared = {
        "benchmark": name,
        "task": Path(result["data"]["path"]).parent.name,
        "length": result["seq_len"],
        "n": n,
        "source": result["data"]["source"],
        "metric": "perplexity",
    }
    samples, targets = {}, {}
    losses = result.get("document_losses")
    if losses:
        pairs = zip(losses["sum"], losses["targets"], strict=True)
        for document, (loss, n_targets) in enumerate(pairs):
            samples[document] = loss
            targets[document] = n_targets
    interval = result[f"{name}_interval_95"]
    yield shared | {"value": value, "interval": interval, "samples": samples, "targets": targets}
    for last in (64, 256):
        entry = result.get(f"last_{last}")
        if entry:
            interval = entry["perplexity_interval_95"]
            yield shared | {"part": f"last {last}", "value": entry["perplexity"], "interval": interval}


def read_needle(result):
    """A result of needle: one model, length and depth. Adds the seconds of all trials to the result."""
    length, depth = result["context_length"], result["depth_percent"]
    check_range("depth_percent", depth, 100)
    result["seconds"] = sum(trial.get("seconds") or 0 for trial in result["trials"])
    answered = [trial for trial in result["trials"] if "error" not in trial]
    shared = {
        "benchmark": "needle",
        "task": result["template"],
        "length": length,
        "n": len(answered),
        "source": result["data"]["source"],
        "part": f"depth {depth:g}",
        "drawn_text": result.get("drawn_text", False),
    }
    for metric, key in {"score": "score", "rate": "exact"}.items():
        samples = {(length, depth, trial["trial"]): float(trial[key]) for trial in answered}
        interval = result[f"{metric}_interval_95"]
        yield shared | {"metric": metric, "value": result[metric], "interval": interval, "samples": samples}
    overlap = result.get("lceg_overlap")
    if overlap is not None:  # of the first trial
        samples = {(length, depth, 0): overlap}
        yield shared | {"metric": "lceg_overlap", "value": overlap, "samples": samples, "n": 1}


def read_set(result):
    """A set or task of a scores.json: its entry and what `split_sets` adds."""
    shared = {
        "benchmark": result["benchmark"],
        "task": result["set"],
        "length": result.get("length"),
        "n": result["n"],
        "source": result["source"],
    }
    counted = re.fullmatch(r"(\w+)_(\d+)(?:shots|pairs)", result["set"])
    if counted:
        shared |= {"task": counted[1], "length": int(counted[2])}
    ids = result.get("ids") or result["indices"]
    if None in ids:  # predictions of other code, in the order of the data
        ids = range(len(ids))
    values = [100 * value for value in result["row_scores"]]
    samples = dict(zip(ids, values, strict=True))
    yield shared | {"value": result["score"], "interval": result["interval_95"], "samples": samples}
    for metric, key in {"strict": "strict", "upstream": "score_upstream"}.items():
        if result.get(key) is not None:
            yield shared | {"metric": metric, "value": result[key]}


def split_sets(result) -> list[dict]:
    """The sets of a scores.json: the entry of each, with what the file and the set's run say."""
    if result["benchmark"] not in BENCHMARKS:
        raise ValueError(f"unknown benchmark '{result['benchmark']}'")
    parts = []
    for name, entry in (result.get("sets") or result["tasks"]).items():
        part = {**result, **(entry.get("run") or {}), **entry, "set": name}
        part["source"] = entry["source"] or "unverified"
        parts.append(part)
    return parts


def find_files(roots):
    """Yields (name, path) of each JSON file. The name begins at its root (of several: root's parent)."""
    for root in roots:
        base = root if len(roots) == 1 else root.parent
        for path in sorted(root.rglob("*.json")):
            name = path.relative_to(base).as_posix()
            if not re.search(r"(^|/)old\d*/", name):  # one that was set aside
                yield name, path


def read_file(path: Path, file: str):
    """(MODEL_KEYS and path of the model, scores, runs) of a JSON file; no scores if it is no result.

    Raises an exception if a key is missing, or a value has another type or is out of its range.
    """
    result = json.loads(read_text(path), object_pairs_hook=read_object)
    parts = [result]
    if path.name == "scores.json":
        read, parts = read_set, split_sets(result)
    elif path.name.endswith("_results.json"):
        read = read_needle
    elif "val_perplexity" in result or "long_ppl" in result:
        read = read_perplexity
        result |= result.get("settings", {})
        result["all_windows"] = result.get("n_windows") == result.get("n_windows_total")
    else:
        return {}, [], []
    info = pick(result, MODEL_KEYS)
    info["method"] = result["method"] or "base"
    info["path"] = result["model"] or result["name"]
    scores, runs = [], []
    for part in parts:
        data = part.get("data") or {}
        shared = {
            "protocol": result["protocol"],
            "seed": result["seed"],
            "file": file,
            "settings": pick(part, SETTING_KEYS) | pick(data, ["dataset", "sha256"]),
        }
        own = [Score(**fields, **shared) for fields in read(part)]
        scores += own
        facts = {
            "step": "evaluations",
            "benchmark": own[0].benchmark,
            "task": own[0].task,
            "source": data.get("source", own[0].source),
            "data": data.get("dataset") or Path(data.get("path") or "").name,
            "sha256": data.get("sha256") or "",
        }
        runs.append(pick(part, RUN_KEYS) | facts)
    for record in (info, *runs):
        check_types(record)
    for score in scores:
        check_score(score)
    return info, scores, runs


def add_model(results, info) -> str:
    """Adds a result's model. Returns its name: its folder's, or its path if another checkpoint has that name."""
    path = info.pop("path")
    name = Path(path).name
    known = results.models.setdefault(name, info)
    for key in known.keys() - {"base_model"}:  # the path of the base depends on the stage
        if len({known[key], info[key]} - {None}) > 1:
            results.warnings.append(f"{path} is another checkpoint than the first {name}")
            name = path.strip("./")
            known = results.models.setdefault(name, info)
            break
    for key, value in info.items():
        if known[key] is None:
            known[key] = value
    return name


def collect(roots) -> Results:
    """All results below `roots`, a list of folders, in an order that depends on the results alone."""
    results = Results({}, [], [], [])
    first_scores = {}
    for file, path in find_files(roots):
        try:
            with errors_of(f"{path} is not a complete result"):
                info, scores, runs = read_file(path, file)
        except ValueError as error:
            results.warnings.append(f"left out: {error}")
            continue
        if not scores:
            continue
        model = add_model(results, info)
        for run in runs:
            results.runs.append(run | {"model": model})
        for score in scores:
            score.model = model
            first = first_scores.setdefault((model, *score.key), score)
            if first is not score:
                results.warnings.append(f"{score.file} repeats {first.file}, which is the one used")
    results.warnings = list(dict.fromkeys(results.warnings))  # once each
    results.scores = add_needle_means(list(first_scores.values()))
    return results
