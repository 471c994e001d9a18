"""The result file of each cell of the grid.

results/<test name>/<test name>_len_<tokens>_depth_<percent * 100>_results.json: first the keys of the paper's code,
which describe the first trial (its score is the mean over all trials), then ours.
"""

from pathlib import Path

from run import write_json
from scoring import lceg_overlap, rouge1_f
from stats import wilson


def write_cell(folder: Path, entries: list[dict], run: dict) -> None:
    """Writes the file of one cell.

    entries: its trials, answered or failed, the first one first.  run: what all cells share: model, data, settings,
    versions. With the protocol "lceg" the scores of the paper's code are added for the first trial.
    """
    answered = [entry for entry in entries if "error" not in entry]
    n = len(answered)
    score = sum(entry["score"] for entry in answered)
    exact = sum(entry["exact"] for entry in answered)
    first = entries[0]
    response = first.get("response")
    result = {
        "model": run["model"],
        "context_length": first["length"],
        "depth_percent": first["depth"],
        "version": 1,
        "needle": first["needle"],
        "model_response": response,
        "score": score / n if n else None,
        "test_duration_seconds": first["seconds"],
        "test_timestamp_utc": first["utc"],
        "n": n,
        "score_interval_95": wilson(score, n) if n else None,
        "exact": exact,
        "rate": exact / n if n else None,
        "rate_interval_95": wilson(exact, n) if n else None,
    }
    if run["protocol"] == "lceg":
        failed = response is None
        result["lceg_overlap"] = None if failed else lceg_overlap(first["answer"], response)
        result["lceg_rouge1_f_x10"] = None if failed else 10 * rouge1_f(first["needle"], response)
    cell_keys = ("length", "depth")  # the same in all trials
    result["trials"] = [{key: value for key, value in entry.items() if key not in cell_keys} for entry in entries]
    result["prompt_tokens"] = first["prompt_tokens"]
    peaks = [entry["peak_memory_bytes"] for entry in answered if entry["peak_memory_bytes"]]
    result["peak_memory_bytes"] = max(peaks, default=None)
    name = f"{folder.name}_len_{first['length']}_depth_{round(first['depth'] * 100)}_results.json"
    write_json(folder / name, result | run)
