"""The tasks of a benchmark: what data, predictions and scores have to know of them in common.

Facts of NVIDIA/RULER (arXiv 2404.06654): the thirteen tasks, and for each family of tasks how many tokens are generated
and which of the two scores counts.
"""

from pathlib import Path
from typing import NamedTuple

import yaml

STAGE = Path(__file__).resolve().parent
TASKS = (
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "vt",
    "cwe",
    "fwe",
    "qa_1",
    "qa_2",
)


class Family(NamedTuple):
    tokens_to_generate: int
    metric: str  # string_match_all: share of the golds found; string_match_part: any of them found


FAMILIES = {
    "niah": Family(128, "string_match_all"),
    "variable_tracking": Family(30, "string_match_all"),
    "common_words_extraction": Family(120, "string_match_all"),
    "freq_words_extraction": Family(50, "string_match_all"),
    "qa": Family(32, "string_match_part"),
}


def read_tasks(benchmark: str) -> dict[str, dict]:
    """{task: {"task": its family, "args", "tokens_to_generate", "metric"}} of <benchmark>.yaml, in its order; what an
    entry leaves out is its family's. ValueError, one line, if it is wrong."""
    path = STAGE / f"{benchmark}.yaml"
    if not path.is_file():
        raise ValueError(f"no benchmark {benchmark}: {path} is missing")
    tasks = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, task in tasks.items():
        if not isinstance(task, dict) or task.get("task") not in FAMILIES:
            raise ValueError(f"{path}: {name} names no family of tasks; known: {', '.join(FAMILIES)}")
    return {name: FAMILIES[task["task"]]._asdict() | task for name, task in tasks.items()}


def choose(names: list[str] | None, tasks: dict[str, dict]) -> list[str]:
    """The tasks that a flag names, as `a b` or `a,b`; without names, all. ValueError, one line, if one is unknown."""
    names = [name for word in names or tasks for name in word.split(",") if name]
    for name in names:
        if name not in tasks:
            raise ValueError(f"unknown task {name}; known: {', '.join(tasks)}")
    return list(dict.fromkeys(names))
