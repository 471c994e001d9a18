"""The paper's published numbers (paper.tsv) beside ours, where a run is one of theirs.

That is: the same base, method, trained tokens, lengths, data and settings (paper.json). No needle, whose prompt has
other words; perplexity on the paper's token files only (SHA-256 in paper.json or from the user), in pg19 or proof_file.
"""

import json
from pathlib import Path

import pandas as pd

from rows import Row

FOLDER = Path(__file__).parent
PAPER = json.loads((FOLDER / "paper.json").read_text(encoding="utf-8"))
COLUMNS = ["label", "name", "benchmark", "length", "task", "paper_protocol_value"]


def name_in_paper(row: Row) -> str | None:
    """What the paper calls this row; None if it is not one of its models."""
    info, base = row.info, PAPER["base"]
    released = str(info["base_model"]).startswith(base["released_by"])  # trained for an unknown number of tokens
    is_from_base = released or info["base_model"] in base["names"]
    if not is_from_base or row.window != base["original_length"]:
        return None
    for name, model in PAPER["models"].items():
        if info["method"] == model["method"] and model["trained_length"] in (None, row.length):
            expected = model["trained_tokens"]
            difference = abs((info["trained_tokens"] or 0) - expected)
            if released or difference <= 0.05 * expected:
                return name
    return None


def compare(scores: pd.DataFrame, token_files: list[str]) -> pd.DataFrame:
    """Our numbers beside the paper's where that is allowed. token_files: SHA-256 of more token files of the paper."""
    unknown = set(token_files) - set(scores.settings.str.get("sha256"))
    if unknown:
        raise ValueError(f"--paper_data: no perplexity was measured on a token file with SHA-256 {unknown.pop()}")
    lines = []
    for line in scores[scores.benchmark.isin(PAPER["settings"])].itertuples():
        settings = line._asdict() | line.settings
        expected = PAPER["settings"][line.benchmark]
        if not expected.items() <= settings.items():
            continue
        if line.benchmark == "perplexity" and settings["sha256"] not in (*token_files, *PAPER["token_files"]):
            continue
        if line.benchmark == "longbench":
            settings["length"] = settings["max_length"]
        settings["name"] = name_in_paper(line.row)
        settings["paper_protocol_value"] = line.value
        lines.append(settings)
    ours = pd.DataFrame(lines, columns=COLUMNS).dropna(subset="name")
    ours = ours.astype({"length": float, "paper_protocol_value": float})
    groups = ours.groupby(["label", "name", "benchmark", "length"], as_index=False, sort=False)  # of parts of a mean
    means = groups.agg(paper_protocol_value=("paper_protocol_value", "mean"), n=("task", "size"))
    is_complete = means.n == means.benchmark.map(PAPER["parts"])
    means = means[is_complete].assign(task="mean")
    published = pd.read_table(FOLDER / "paper.tsv")
    comparisons = pd.concat([means, ours], join="inner").merge(published)
    return comparisons.assign(difference=comparisons.paper_protocol_value - comparisons.paper)
