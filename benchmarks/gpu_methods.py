"""Every method through every stage on a tiny model, by the launchers that users call: a table of what worked.

    python benchmarks/gpu_methods.py               all methods
    python benchmarks/gpu_methods.py --tiny        the base, pi (trained) and lm_infinite (own attention), for a CPU

A cell is "ok" if the stage wrote its result for that method's checkpoint. The end of the output of a stage in which
anything failed follows the table.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import ROOT, print_head, print_row
from run import Parser

import numpy as np

import methods
import tiny

SETTINGS = """
export RECIPE=tiny BASE=$OUTPUT_ROOT/base DATASET=$OUTPUT_ROOT/rows.jsonl ROOT_DIR=$OUTPUT_ROOT FIGURES=$OUTPUT_ROOT/img
export LENGTHS=256 TARGET=256 BATCH_SIZE=2 GRADIENT_ACCUMULATION=1 NPROC=1 REPORT_TO=none USE_WANDB=False
export FLAGS_landmark='--model_max_length 64 --mem_freq 7 --top_k 2' FLAGS_longlora='--low_rank_training True'
export FLAGS_string='--model_max_length 126 --longest_text 126' # all that it reaches
export FLAGS_clex='--time_dt 0.1'
"""
STAGES = {  # command; the result of the checkpoint {name}
    "train": ("DEEPSPEED= bash continuous_finetuning/finetune.sh", "{name}/config.json"),
    "extend": ("bash continuous_finetuning/extend.sh", "{name}/config.json"),
    "perplexity": (
        "DATASETS=$OUTPUT_ROOT/text/test.bin bash eval_perplexity/eval.sh --trust_remote_code --max_windows 2",
        "text/{name}_256_*.json",
    ),
    "needle": (
        "LENGTHS=700 bash needle/eval.sh --trust_remote_code --depths 50 --max_new_tokens 8",
        "{name}/*_results.json",
    ),
    "longbench": (
        "DATASETS=standin_lcc bash longbench/eval.sh --trust_remote_code --data_dir $OUTPUT_ROOT --max_length 512",
        "pred/{name}/scores.json",
    ),
    "ruler": (
        "export SEQ_LENGTHS=2048 NUM_SAMPLES=1 TASKS=niah_single_1 PREPARE_FLAGS='--tokens_to_generate 8'\n"
        "bash ruler/run.sh synthetic --trust_remote_code",
        "{name}/synthetic/2048/pred/scores.json",
    ),
    "ZeRO-3": (
        "export OUTPUT_ROOT=$OUTPUT_ROOT/zero3 DEEPSPEED=ds_configs/stage3_offload.json\n"
        "bash continuous_finetuning/finetune.sh",
        "zero3/{name}/config.json",
    ),
}


def checkpoint_name(method: str) -> str:
    """The folder of a method's checkpoint, as the launchers name it, or of the base."""
    if method == "base":
        return method
    return f"tiny_{method}_256" if methods.get(method).trained else f"tiny_{method.removesuffix('_frozen')}_frozen"


def write_inputs(out: Path) -> None:
    """A base with a window of 64 tokens, rows to train on, a text, and a set of LongBench."""
    draw = random.Random(0)
    tiny.save_base(out / "base")
    rows = [json.dumps({"input_ids": draw.choices(range(2, 258), k=256)}) for _ in range(8)]
    (out / "rows.jsonl").write_text("\n".join(rows))
    (out / "text").mkdir()
    np.array([0, *draw.choices(range(2, 258), k=299)] * 10, "uint16").tofile(out / "text" / "test.bin")
    row = {"input": "", "context": "x = 1\n" * 50, "answers": ["x = 1"], "length": 150, "all_classes": None, "_id": "0"}
    (out / "standin_lcc.jsonl").write_text(json.dumps(row))


def main():
    parser = Parser(__doc__)
    parser.add_argument("--tiny", action="store_true", help="the base, pi and lm_infinite only")
    is_tiny = parser.parse_args().tiny
    names = ["pi", "lm_infinite"] if is_tiny else methods.available()
    columns = ["base", *names]
    trained = [name for name in names if methods.get(name).trained]
    frozen = [name for name in names if name not in trained]
    out = Path(tempfile.mkdtemp())
    write_inputs(out)
    jobs = 1 if is_tiny else min(8, os.cpu_count())
    checkpoints = [f"{out}/{checkpoint_name(name)}" for name in columns]
    os.environ.update(OUTPUT_ROOT=str(out), CHECKPOINTS=" ".join(checkpoints), JOBS=str(jobs), PYTHON=sys.executable)

    print_head("stage", *columns, "seconds")
    failures = ""
    for stage, (command, result) in STAGES.items():
        used = {"train": trained, "extend": frozen, "ZeRO-3": trained}.get(stage, columns)
        if not used:
            continue
        start = time.perf_counter()
        os.environ["METHODS"] = " ".join(used)
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(["bash", "-c", SETTINGS + command], cwd=ROOT, text=True, **streams)
        cells = dict.fromkeys(columns, "")
        for method in used:
            found = any(out.glob(result.format(name=checkpoint_name(method))))
            cells[method] = "ok" if found else "FAILED"
        print_row(stage, *cells.values(), round(time.perf_counter() - start))
        if "FAILED" in cells.values():
            failures += f"\n{stage}:\n\n```\n{done.stdout[-2000:]}\n```"
    print(failures)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
