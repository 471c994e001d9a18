"""Hand-written data and predictions, so that those stages are tested without prepare.py."""

import json
from pathlib import Path
from run import write_json


def rows(task: str, count: int) -> list[dict]:
    """Short rows of data in RULER's format with 1, 2, 3, 1, ... golds and a common beginning."""
    made = []
    for index in range(count):
        golds = [f"{1000003 * (index + 1) + 17 * k}" for k in range(1 + index % 3)]
        noise = "The grass is green. " * (2 + index % 4)
        text = f"{task}: remember the numbers. {noise}They are {' '.join(golds)}. Numbers:"
        row = {"index": index, "input": text, "outputs": golds, "length": len(text) + 1 + 8}
        made.append(row | {"tokens_to_generate": 8})
    return made


def write_lines(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def save_data(folder: Path, task: str, data: list[dict]) -> None:
    """<folder>/<task>/validation.jsonl and run.json, as prepare.py leaves them."""
    write_lines(folder / task / "validation.jsonl", data)
    write_json(folder / task / "run.json", {"source": "official", "profile": "upstream", "seed": 42})


def save_predictions(folder: Path, task: str, data: list[dict], reply, **cost) -> None:
    """<folder>/<task>.jsonl with reply(row) as each answer, in RULER's format."""
    others = {"others": {}, "truncation": -1, **cost}
    write_lines(folder / f"{task}.jsonl", [{**row, "pred": reply(row), **others} for row in data])
