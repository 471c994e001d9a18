"""The tasks of a benchmark: what data, predictions and scores share.

Facts of NVIDIA/RULER (arXiv 2404.06654): for each family of tasks, how many tokens are generated and which of the two
scores counts.
"""

from pathlib import Path

import yaml

from run import errors_of, read_text

STAGE = Path(__file__).resolve().parent
# string_match_all: the share of the gold answers that are found; string_match_part: whether any of them is
FAMILIES = {
    "niah": {"tokens_to_generate": 128, "metric": "string_match_all"},
    "variable_tracking": {"tokens_to_generate": 30, "metric": "string_match_all"},
    "common_words_extraction": {"tokens_to_generate": 120, "metric": "string_match_all"},
    "freq_words_extraction": {"tokens_to_generate": 50, "metric": "string_match_all"},
    "qa": {"tokens_to_generate": 32, "metric": "string_match_part"},
}


def read_tasks(benchmark: str) -> dict[str, dict]:
    """{task: {"task": its family, "args", "tokens_to_generate", "metric"}} of <benchmark>.yaml, in the file's order.

    Where an entry gives no tokens_to_generate or metric, its family's are used. Raises ValueError if the file is
    missing or an entry names no family.
    """
    path = STAGE / f"{benchmark}.yaml"
    tasks = {}
    with errors_of(f"no benchmark {benchmark} in {path}; families of tasks are {', '.join(FAMILIES)}"):
        for name, task in yaml.safe_load(read_text(path)).items():
            tasks[name] = {"args": {}} | FAMILIES[task["task"]] | task
    return tasks


def choose_tasks(names: list[str] | None, tasks: dict[str, dict]) -> list[str]:
    """The tasks that a flag names, as `a b` or `a,b`; all tasks without names or for `all`.

    Raises ValueError if a name is unknown.
    """
    if not names or names == ["all"]:
        return list(tasks)
    chosen = dict.fromkeys(" ".join(names).replace(",", " ").split())
    for name in chosen:
        if name not in tasks:
            raise ValueError(f"unknown task {name}; known: {', '.join(tasks)}")
    return list(chosen)


def check_row(row: dict, text: str = "input") -> None:
    """Raises KeyError, TypeError or ValueError unless a row of data, or a prediction, can be used. text: its text."""
    if not isinstance(row["outputs"], list) or not row["outputs"]:
        raise TypeError("outputs is a list of answers")
    "".join([row[text], *row["outputs"]])  # raises if one is not text
    int(row["index"])


def check_fields(pattern: str, flag: str, **values: list) -> None:
    """Raises ValueError if a flag that several values share does not have their field, as {length}."""
    for name, given in values.items():
        if len(given) > 1 and f"{{{name}}}" not in pattern:
            raise ValueError(f"several {name}s need {{{name}}} in {flag}")


def fill_in(pattern: str, model: str, length: int) -> Path:
    """A folder given with the placeholders {model} and {length}."""
    return Path(pattern.replace("{model}", model).replace("{length}", str(length)))
