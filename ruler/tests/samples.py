"""Hand-written data and predictions, so that those stages are tested without prepare.py."""

import json
from pathlib import Path


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


def save_data(folder: Path, task: str, data: list[dict], **run) -> None:
    """<folder>/<task>/validation.jsonl and run.json, as prepare.py leaves them."""
    (folder / task).mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in data)
    (folder / task / "validation.jsonl").write_text(text)
    about = {"complete": True, "source": "official", "profile": "upstream", "seed": 42, "mean_fill": 0.97}
    (folder / task / "run.json").write_text(json.dumps(about | {"num_samples": len(data)} | run))


def save_predictions(folder: Path, task: str, data: list[dict], reply, **cost) -> None:
    """<folder>/<task>.jsonl with reply(row) as each answer, in RULER's format."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{task}.jsonl").open("w") as file:
        for row in data:
            kept = {"index": row["index"], "pred": reply(row), "input": row["input"], "outputs": row["outputs"]}
            kept |= {"others": {}, "truncation": -1, "length": row["length"]}
            file.write(json.dumps(kept | cost) + "\n")
