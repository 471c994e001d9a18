"""The tasks of a benchmark: what data, predictions and scores share."""

from pathlib import Path

from run import errors_of, read_text

import yaml

STAGE = Path(__file__).resolve().parent
# longest answer of each family of tasks, tokens, as in NVIDIA/RULER (arXiv 2404.06654)
FAMILIES = {
    "niah": 128,
    "variable_tracking": 30,
    "common_words_extraction": 120,
    "freq_words_extraction": 50,
    "qa": 32,
}


def read_tasks(benchmark: str) -> dict:
    """{task: {"task": its family, "args", "tokens_to_generate", "metric"}} of <benchmark>.yaml, in the file's order.

    metric: string_match_all, the share of the gold answers that are found, or string_match_part, whether any of them is
    (qa). Raises ValueError if an entry names no family.
    """
    path = STAGE / f"{benchmark}.yaml"
    tasks = {}
    with errors_of(f"no benchmark {benchmark} in {path}; families of tasks are {', '.join(FAMILIES)}"):
        for name, task in yaml.safe_load(read_text(path)).items():
            family = task["task"]
            metric = "string_match_part" if family == "qa" else "string_match_all"
            tasks[name] = {"args": {}, "tokens_to_generate": FAMILIES[family], "metric": metric} | task
    return tasks


def choose_tasks(names: list | None, tasks: dict) -> list[str]:
    """The tasks that a flag names, as `a b` or `a,b`; all for no names or `all`. Raises ValueError for other names."""
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
    """Raises ValueError if a folder's flag is empty, or if several values share it without their field, as {length}."""
    if not pattern:
        raise ValueError(f"{flag} is empty; give a folder")
    for name, given in values.items():
        if len(given) > 1 and f"{{{name}}}" not in pattern:
            raise ValueError(f"several {name}s need {{{name}}} in {flag}")


def fill_in(pattern: str, model: str, length: int) -> Path:
    """A folder given with the placeholders {model} and {length}."""
    return Path(pattern.replace("{model}", model).replace("{length}", str(length)))
