"""The paper's published numbers (paper.tsv) beside ours, where a run is one of theirs.

That is: the same base, method, trained tokens and length (paper.json), data and settings (PAPER_RUNS). No needle, whose
prompt has other words; perplexity on the paper's token files only, by SHA-256 (paper.json, or from the user).
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent
PAPER = json.loads((FOLDER / "paper.json").read_text(encoding="utf-8"))
SETTINGS = ["sliding_window", "documents", "all_windows", "complete", "max_length", "sha256"]
PAPER_RUNS = (  # a query for the scores that may stand beside the paper's
    "part == '' and ("
    "benchmark == 'perplexity' and metric == 'perplexity' and protocol == 'lceg-windows' and sliding_window == 256"
    " and documents == 10 and all_windows == True and sha256 in @token_files"
    " or metric == 'score' and protocol == 'lceg' and source == 'official' and complete == True"
    " and (benchmark == 'longbench' or benchmark == 'ruler' and n == 500))"
)


def name_in_paper(row):
    """What the paper calls this row; None if it is not one of its models."""
    info, base = row.info, PAPER["base"]
    trained_tokens = info["trained_tokens"] or 0
    released = str(info["base_model"]).startswith(base["released_by"])  # trained for an unknown number of tokens
    is_from_base = released or info["base_model"] in base["names"]
    if not is_from_base or row.window != base["original_length"]:
        return None
    for name, model in PAPER["models"].items():
        same_length = model["trained_length"] in (None, row.length)
        same_tokens = released or np.isclose(trained_tokens, model["trained_tokens"], rtol=0.05, atol=0)
        if info["method"] == model["method"] and same_length and same_tokens:
            return name
    return None


def compare(scores, token_files) -> pd.DataFrame:
    """Our numbers beside the paper's where that is allowed. token_files: SHA-256 of more token files of the paper."""
    settings = pd.DataFrame(scores.settings.tolist(), scores.index, SETTINGS)
    unknown = set(token_files) - set(settings.sha256)
    if unknown:
        raise ValueError(f"--paper_data: no perplexity was measured on a token file with SHA-256 {unknown.pop()}")
    token_files = [*token_files, *PAPER["token_files"]]
    ours = scores.join(settings).query(PAPER_RUNS, engine="python")
    ours["name"] = ours.row.map(name_in_paper)
    ours["paper_protocol_value"] = ours.value
    ours["length"] = ours.length.fillna(ours.max_length).astype(float)  # of LongBench
    ours = ours.dropna(subset="name")
    groups = ours.groupby(["label", "name", "benchmark", "length"], as_index=False, sort=False)  # of parts of a mean
    means = groups.paper_protocol_value.agg(paper_protocol_value="mean", n="size")
    is_complete = means.n == means.benchmark.map(PAPER["parts"])
    means = means[is_complete].assign(task="mean")
    published = pd.read_table(FOLDER / "paper.tsv")
    columns = ["label", "name", "benchmark", "length", "paper_protocol_value", "task"]
    comparisons = pd.concat([means, ours])[columns].merge(published)
    return comparisons.assign(difference=comparisons.paper_protocol_value - comparisons.paper)
