"""The sets of LongBench (arXiv 2308.14508) in English and of many-shot TREC (arXiv 2409.12181).

Names: <set> is LongBench's (LongBench-E has a file <set>_e.jsonl), trec_<N>shots is many-shot TREC, and standin_ before
either marks a stand-in made by make_standin.py.
"""

import re
from dataclasses import dataclass

STANDIN = "standin_"
STANDIN_SETS = ("qasper", "multifieldqa_en", "trec", "passage_retrieval_en", "lcc", "repobench-p")
CATEGORIES = ("single-doc", "multi-doc", "summarization", "few-shot", "synthetic", "code")
FOLDERS = {"longbench": "pred", "longbench_e": "pred_e", "trec": "pred_trec"}  # of predictions, by benchmark


@dataclass(frozen=True)
class Set:
    """label: LongBench's short name.  new_tokens: longest answer.  rows, rows_e: of the official file and of
    LongBench-E's (None: not in it).  words: average length of a row.
    """

    label: str
    category: str
    metric: str
    new_tokens: int
    rows: int
    rows_e: int | None
    words: int


SETS = {  # in the order of the paper's script
    "narrativeqa": Set("NrtvQA", "single-doc", "qa_f1", 128, 200, None, 18409),
    "qasper": Set("Qasper", "single-doc", "qa_f1", 128, 200, 224, 3619),
    "multifieldqa_en": Set("MF-en", "single-doc", "qa_f1", 64, 150, 150, 4559),
    "hotpotqa": Set("HotpotQA", "multi-doc", "qa_f1", 32, 200, 300, 9151),
    "2wikimqa": Set("2WikiMQA", "multi-doc", "qa_f1", 32, 200, 300, 4887),
    "musique": Set("Musique", "multi-doc", "qa_f1", 32, 200, None, 11214),
    "gov_report": Set("GovReport", "summarization", "rouge", 512, 200, 300, 8734),
    "qmsum": Set("QMSum", "summarization", "rouge", 512, 200, None, 10614),
    "multi_news": Set("MultiNews", "summarization", "rouge", 512, 200, 294, 2113),
    "trec": Set("TREC", "few-shot", "classification", 64, 200, 300, 5177),
    "triviaqa": Set("TriviaQA", "few-shot", "qa_f1", 32, 200, 300, 8209),
    "samsum": Set("SAMSum", "few-shot", "rouge", 128, 200, 300, 6258),
    "passage_count": Set("PCount", "synthetic", "count", 32, 200, 300, 11141),
    "passage_retrieval_en": Set("PRe", "synthetic", "retrieval", 32, 200, 300, 9289),
    "lcc": Set("Lcc", "code", "code_sim", 64, 500, 300, 1235),
    "repobench-p": Set("RB-P", "code", "code_sim", 64, 500, 300, 4206),
}
LONGBENCH_E = tuple(name for name, facts in SETS.items() if facts.rows_e)
TREC_SHOTS = (1, 5, 10, 25, 50, 75, 100, 200, 300, 400, 500, 625, 750, 875, 1000)  # 200 rows each
# sets whose answers are cut to their first line before they are scored: by LongBench, and by the paper
FIRST_LINE = {
    "upstream": frozenset({"trec", "triviaqa", "samsum"}),
    "lceg": frozenset(SETS) - {"gov_report", "qmsum", "multi_news", "lcc", "repobench-p"},
}


def expand(names: list[str], e: bool) -> list[str]:
    """The sets of a command line: `longbench` (with `e` LongBench-E's) and `manyshots_trec` stand for all of theirs."""
    groups = {
        "longbench": LONGBENCH_E if e else tuple(SETS),
        "manyshots_trec": tuple(f"trec_{shots}shots" for shots in TREC_SHOTS),
    }
    expanded = []
    for name in names:
        expanded += groups.get(name, (name,))
    return list(dict.fromkeys(expanded))


def base_set(name: str) -> str:
    """The LongBench set whose prompt and metric `name` has: "standin_trec_5shots" -> "trec". ValueError if unknown."""
    base = name.removeprefix(STANDIN)
    if match := re.fullmatch(r"trec_(\d+)shots", base):
        base = "trec" if name.startswith(STANDIN) or int(match[1]) in TREC_SHOTS else base
    if base not in SETS:
        shots = f"trec_<N>shots with N = {' '.join(map(str, TREC_SHOTS))}"
        raise ValueError(f"unknown set {name}; known: {' '.join(SETS)}, {shots}, and stand-ins {STANDIN}<set>")
    return base


def shots_of(name: str) -> int | None:
    """The number of shots of a many-shot set; None for other sets."""
    match = re.fullmatch(r"trec_(\d+)shots", name.removeprefix(STANDIN))
    return int(match[1]) if match else None


def benchmark_of(name: str, e: bool) -> str:
    """The benchmark that a set belongs to, a key of FOLDERS."""
    if shots_of(name) is not None:
        return "trec"
    return "longbench_e" if e else "longbench"


def official_rows(name: str, e: bool = False) -> int | None:
    """How many rows the official file of a set has; None for a stand-in. e: of LongBench-E."""
    if name.startswith(STANDIN):
        return None
    facts = SETS[base_set(name)]
    return facts.rows_e if e else facts.rows
