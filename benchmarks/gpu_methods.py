"""Every method through every stage on a tiny model, by the launchers that users call: a table of what worked.

    python benchmarks/gpu_methods.py               all methods
    python benchmarks/gpu_methods.py --zero3       the trained methods under DeepSpeed ZeRO-3 with offload
    python benchmarks/gpu_methods.py --tiny        two methods, for a CPU

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

import numpy as np
from harness import ROOT, print_head, print_row

import methods
import tiny
from run import Parser

VARIABLES = {
    **dict(RECIPE="tiny", LENGTHS="256", TARGET="256", BATCH_SIZE="2", GRADIENT_ACCUMULATION="1", NPROC="1"),
    **dict(REPORT_TO="none", USE_WANDB="False"),
    "FLAGS_landmark": "--model_max_length 64 --mem_freq 7 --top_k 2",
    "FLAGS_longlora": "--low_rank_training True",
    "FLAGS_clex": "--time_dt 0.1",
    "FLAGS_string": "--model_max_length 126 --longest_text 126",  # all that it reaches
}
STAGES = {  # command; the result of the checkpoint {name}
    "ZeRO-3": (
        "METHODS='{methods}' DEEPSPEED=ds_configs/stage3_offload.json bash continuous_finetuning/finetune.sh",
        "{name}/config.json",
    ),
    "train": ("METHODS='{methods}' DEEPSPEED= bash continuous_finetuning/finetune.sh", "{name}/config.json"),
    "extend": ("METHODS='{methods}' bash continuous_finetuning/extend.sh", "{name}/config.json"),
    "perplexity": (
        "DATASETS=$OUTPUT_ROOT/text/test.bin bash eval_perplexity/eval.sh --trust_remote_code --max_windows 2",
        "text/{name}_256_*.json",
    ),
    "needle": (
        "LENGTHS=700 bash needle/eval.sh --trust_remote_code --depths 50 --max_new_tokens 8",
        "{name}/*_results.json",
    ),
    "longbench": (
        "$PYTHON longbench/make_standin.py --sets lcc --words 45 --rows 2 --shots --output_dir $OUTPUT_ROOT/sets;"
        "DATASETS=standin_lcc bash longbench/eval.sh --trust_remote_code --data_dir $OUTPUT_ROOT/sets --max_length 512",
        "pred/{name}/scores.json",
    ),
    "ruler": (
        "ROOT_DIR=$OUTPUT_ROOT SEQ_LENGTHS=2048 NUM_SAMPLES=1 TASKS=niah_single_1 "
        "PREPARE_FLAGS='--tokens_to_generate 8' bash ruler/run.sh synthetic --trust_remote_code",
        "{name}/synthetic/2048/pred/scores.json",
    ),
}


def run_stage(out: Path, stage: str, command: str, result: str, checkpoints: dict[str, str], used: list[str]) -> str:
    """Runs a command for the methods `used` and prints a row: which of them now have the result.

    checkpoints: the folder of each method's checkpoint below `out`. Returns the end of the output if one failed, or "".
    """
    start = time.perf_counter()
    command = command.format(methods=" ".join(used))
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, text=True, **streams)
    cells = []
    for name, checkpoint in checkpoints.items():
        found = any(out.glob(result.format(name=checkpoint)))
        cells.append("" if name not in used else "ok" if found else "FAILED")
    print_row(stage, *cells, round(time.perf_counter() - start))
    return f"\n{stage}:\n\n```\n{done.stdout[-2000:]}\n```" if "FAILED" in cells else ""


def write_inputs(out: Path) -> None:
    """A base with a window of 64 tokens, rows to train on, and a text."""
    draw = random.Random(0)
    tiny.save_base(out / "base")
    rows = [json.dumps({"input_ids": draw.choices(range(2, 258), k=256)}) for _ in range(8)]
    (out / "rows.jsonl").write_text("\n".join(rows))
    (out / "text").mkdir()
    np.array([0, *draw.choices(range(2, 258), k=299)] * 10, "uint16").tofile(out / "text" / "test.bin")


def main():
    parser = Parser(__doc__)
    parser.add_argument("--tiny", action="store_true", help="origin and lm_infinite only")
    parser.add_argument("--zero3", action="store_true", help="ZeRO-3 with offload instead of the stages")
    args = parser.parse_args()
    names = ["origin", "lm_infinite"] if args.tiny else methods.available()
    trained = [name for name in names if methods.get(name).trained]
    frozen = [name for name in names if not methods.get(name).trained]
    checkpoints = {name: f"tiny_{name}_256" for name in trained}  # as the launchers name them
    checkpoints |= {name: f"tiny_{name.removesuffix('_frozen')}_frozen" for name in frozen}
    out = Path(tempfile.mkdtemp())
    write_inputs(out)
    paths = " ".join(f"{out}/{checkpoint}" for checkpoint in checkpoints.values())
    os.environ.update(VARIABLES, BASE=f"{out}/base", DATASET=f"{out}/rows.jsonl", CHECKPOINTS=paths)
    os.environ.update(OUTPUT_ROOT=str(out), FIGURES=f"{out}/img", PYTHON=sys.executable)
    os.environ["JOBS"] = str(1 if args.tiny else min(8, os.cpu_count()))

    users = dict.fromkeys(STAGES, names) | {"ZeRO-3": trained, "train": trained, "extend": frozen}
    print_head("stage", *checkpoints, "seconds")
    logs = []
    for stage, (command, result) in STAGES.items():
        if args.zero3 == (stage == "ZeRO-3"):
            logs.append(run_stage(out, stage, command, result, checkpoints, users[stage]))
    print("".join(logs))
    sys.exit(1 if any(logs) else 0)


if __name__ == "__main__":
    main()
