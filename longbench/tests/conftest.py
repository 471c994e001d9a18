"""A tiny Llama whose tokens are bytes, rows of LongBench's schema, and the stage's scripts called in this process."""

import json
import sys
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

import tiny

WINDOW = 512  # of the tiny model, tokens


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    folder = tiny.save_base(tmp_path_factory.mktemp("models") / "tiny", max_position_embeddings=WINDOW)
    model = LlamaForCausalLM.from_pretrained(folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    model.lm_head.weight.data[vocabulary["Ċ"]] *= 2  # newline: so that lines, and samsum's answers, end now and then
    model.save_pretrained(folder)
    return folder


def run_main(main, *flags, script: str = "script.py") -> None:
    """Calls a script's main() with these flags."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, flags)])
        main()


@pytest.fixture
def call(capsys):
    """call(main, flags...) -> (stdout, the lines of stderr that begin with "error" and the error that ended main)."""

    def call(*words, **script):
        capsys.readouterr()
        ending = []
        try:
            run_main(*words, **script)
        except (ValueError, SystemExit) as error:
            ending = [f"error: {error}"]
        printed = capsys.readouterr()
        return printed.out, [line for line in printed.err.splitlines() if line.startswith("error")] + ending

    return call


def make_row(index: int, words: int = 20, **fields) -> dict:
    """A row of LongBench's schema, its context `words` words long."""
    context = " ".join(f"w{(index * 7 + i) % 89}" for i in range(words))
    row = {"input": f"Which is number {index}?", "context": context, "answers": [f"w{index}"], "length": words}
    return row | {"dataset": "hotpotqa", "language": "en", "all_classes": None, "_id": f"id{index:03}"} | fields


def write_rows(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
