"""The English sets of LongBench (arXiv 2308.14508), many-shot TREC (arXiv 2409.12181), and two sets after HELMET.

Names: <set> as in LongBench, trec_<N>shots; the prefix standin_ marks stand-ins by make_standin.py. After HELMET (arXiv
2410.02694): standin_kv_<N>pairs, the value of a key in a JSON object, and standin_icl_<N>shots, many-shot TREC with
numbers as labels that each row shuffles anew.
"""

import re
from dataclasses import dataclass

STANDIN = "standin_"
STANDIN_SETS = ("qasper", "multifieldqa_en", "trec", "passage_retrieval_en", "lcc", "repobench-p")
CATEGORIES = ("single-doc", "multi-doc", "summarization", "few-shot", "synthetic", "code")
FOLDERS = {  # of predictions, by benchmark
    "longbench": "pred",
    "longbench_e": "pred_e",
    "trec": "pred_trec",
    "kv": "pred_kv",
    "icl": "pred_icl",
}


@dataclass(frozen=True)
class Set:
    category: str
    metric: str
    new_tokens: int  # longest answer
    rows: int  # of the official file
    rows_e: int | None  # of LongBench-E's; None: not in it
    words: int  # average length of a row


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
LONGBENCH_E = tuple(name for name, official in SETS.items() if official.rows_e)
ALL_SETS = SETS | {  # with those after HELMET, whose length is in their names
    "kv": Set("recall", "contained", 50, 100, None, 0),
    "icl": Set("few-shot", "exact", 20, 500, None, 0),
}
TREC_SHOTS = (1, 5, 10, 25, 50, 75, 100, 200, 300, 400, 500, 625, 750, 875, 1000)  # 200 rows each
# sets whose answers are cut to their first line before they are scored: by LongBench, and by the paper
FIRST_LINE = {
    "upstream": frozenset({"trec", "triviaqa", "samsum", "icl"}),
    "lceg": frozenset({*SETS, "icl"}) - {"gov_report", "qmsum", "multi_news", "lcc", "repobench-p"},
}


def expand(names: list[str], e: bool) -> list[str]:
    """The sets of a command line: `longbench` (with `e` LongBench-E's) and `manyshots_trec` stand for all of theirs."""
    many_shots = [f"trec_{shots}shots" for shots in TREC_SHOTS]
    groups = {"longbench": LONGBENCH_E if e else SETS, "manyshots_trec": many_shots}
    expanded = {}  # a dict keeps the order
    for name in names:
        expanded |= dict.fromkeys(groups.get(name, [name]))
    return list(expanded)


def parse_name(name: str) -> tuple[str, int | None]:
    """(the set whose prompt and metric `name` has, its number of shots or pairs). Raises ValueError if it is unknown.

    "standin_trec_5shots" -> ("trec", 5), "standin_qasper" -> ("qasper", None)
    """
    base, count = name.removeprefix(STANDIN), None
    match = re.fullmatch(r"(trec|icl)_(\d+)shots|(kv)_(\d+)pairs", base)
    if match:
        base, count = filter(None, match.groups())
        count = int(count)
    known = ALL_SETS if count and name.startswith(STANDIN) else SETS
    if base not in known:
        made = f"{STANDIN}<set>, {STANDIN}kv_<N>pairs, {STANDIN}icl_<N>shots"
        raise ValueError(f"unknown set {name}; known: {' '.join(SETS)}, trec_<N>shots, and stand-ins {made}")
    return base, count


def official_rows(name: str, e: bool = False) -> int | None:
    """How many rows the official file of a set has; None for a stand-in. e: of LongBench-E."""
    if name.startswith(STANDIN):
        return None
    base, _ = parse_name(name)
    return SETS[base].rows_e if e else SETS[base].rows
