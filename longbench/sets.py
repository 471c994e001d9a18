"""The sets of LongBench (arXiv 2308.14508) in English and of many-shot TREC (arXiv 2409.12181): the facts of each.

Names: <set> for LongBench's own, with --e its LongBench-E version (a file <set>_e.jsonl); trec_<N>shots; and with
standin_ in front of either, the stand-ins that make_standin.py writes. Imports nothing, so that scoring starts at once.
"""

import re
from dataclasses import dataclass

STANDIN = "standin_"
CATEGORIES = ("single-doc", "multi-doc", "summarization", "few-shot", "synthetic", "code")


@dataclass(frozen=True)
class Set:
    """category, metric: names.  new_tokens: longest answer.  rows, rows_e: of its file and of LongBench-E's (None: not
    in it).  words: LongBench's average length."""

    category: str
    metric: str
    new_tokens: int
    rows: int
    rows_e: int | None
    words: int


SETS = {  # in the order of the paper's script
    "narrativeqa": Set("single-doc", "qa_f1", 128, 200, None, 18409),
    "qasper": Set("single-doc", "qa_f1", 128, 200, 224, 3619),
    "multifieldqa_en": Set("single-doc", "qa_f1", 64, 150, 150, 4559),
    "hotpotqa": Set("multi-doc", "qa_f1", 32, 200, 300, 9151),
    "2wikimqa": Set("multi-doc", "qa_f1", 32, 200, 300, 4887),
    "musique": Set("multi-doc", "qa_f1", 32, 200, None, 11214),
    "gov_report": Set("summarization", "rouge", 512, 200, 300, 8734),
    "qmsum": Set("summarization", "rouge", 512, 200, None, 10614),
    "multi_news": Set("summarization", "rouge", 512, 200, 294, 2113),
    "trec": Set("few-shot", "classification", 64, 200, 300, 5177),
    "triviaqa": Set("few-shot", "qa_f1", 32, 200, 300, 8209),
    "samsum": Set("few-shot", "rouge", 128, 200, 300, 6258),
    "passage_count": Set("synthetic", "count", 32, 200, 300, 11141),
    "passage_retrieval_en": Set("synthetic", "retrieval", 32, 200, 300, 9289),
    "lcc": Set("code", "code_sim", 64, 500, 300, 1235),
    "repobench-p": Set("code", "code_sim", 64, 500, 300, 4206),
}
LONGBENCH_E = tuple(name for name, facts in SETS.items() if facts.rows_e)
TREC_SHOTS = (1, 5, 10, 25, 50, 75, 100, 200, 300, 400, 500, 625, 750, 875, 1000)  # 200 rows each
# sets whose answers are cut to their first line before they are scored
FIRST_LINE = {
    "upstream": frozenset({"trec", "triviaqa", "samsum"}),
    "lceg": frozenset(SETS) - {"gov_report", "qmsum", "multi_news", "lcc", "repobench-p"},
}


def base_set(name: str) -> str:
    """The LongBench set whose prompt and metric `name` has: "standin_trec_5shots" -> "trec". ValueError if unknown."""
    base = name.removeprefix(STANDIN)
    if match := re.fullmatch(r"trec_(\d+)shots", base):
        base = "trec" if name.startswith(STANDIN) or int(match[1]) in TREC_SHOTS else base
    elif base.endswith("_e") and base[:-2] in LONGBENCH_E:
        base = base[:-2]
    if base not in SETS:
        shots = f"trec_<N>shots with N = {' '.join(map(str, TREC_SHOTS))}"
        raise ValueError(f"unknown set {name}; there are {' '.join(SETS)}, {shots}, and stand-ins {STANDIN}<set>")
    return base


def many_shot(name: str) -> bool:
    """Whether a set is many-shot TREC, whose predictions stand in pred_trec/."""
    return base_set(name) == "trec" and name.removeprefix(STANDIN).endswith("shots")


def official_rows(name: str, e: bool = False) -> int | None:
    """How many rows the official file has; None for a stand-in. e: of LongBench-E."""
    if name.startswith(STANDIN):
        return None
    facts = SETS[base_set(name)]
    return facts.rows_e if e else facts.rows
