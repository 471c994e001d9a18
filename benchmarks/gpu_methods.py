"""Every method through every stage on a tiny model, by the launchers that users call: a table of what worked.

    python benchmarks/gpu_methods.py               all methods
    python benchmarks/gpu_methods.py --zero3       each trained method under DeepSpeed ZeRO-3 with offload
    python benchmarks/gpu_methods.py --tiny        two methods, for a CPU

A cell is "ok" if the stage wrote its result for that method's checkpoint. The end of the output of a stage in which
anything failed follows the table.
"""

import argparse
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

VARIABLES = {
    **dict(RECIPE="tiny", LENGTHS="256", TARGET="256", BATCH_SIZE="2", GRADIENT_ACCUMULATION="1", NPROC="1"),
    **dict(REPORT_TO="none", USE_WANDB="False"),
    "FLAGS_landmark": "--model_max_length 64 --mem_freq 7 --top_k 2",
    "FLAGS_longlora": "--low_rank_training True",
    "FLAGS_clex": "--time_dt 0.1",
}
ZERO3 = "DEEPSPEED=ds_configs/stage3_offload.json bash continuous_finetuning/finetune.sh"
STAGES = {  # command; the result of the checkpoint {name}
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


class Report:
    """A table with a column for each method and a row for each stage.

    checkpoints: the folder of each method's checkpoint below `out`.  logs: the output of stages that failed.
    """

    def __init__(self, out: Path, checkpoints: dict[str, str]):
        self.out, self.checkpoints, self.logs = out, checkpoints, []
        print_head("stage", *checkpoints, "seconds")

    def run_stage(self, stage: str, names: list[str], command: str, result: str) -> None:
        """Runs a command and prints which of the methods `names` now have the result."""
        start = time.perf_counter()
        command = command.format(methods=" ".join(names))
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, text=True, **streams)
        cells = dict.fromkeys(self.checkpoints, "")
        for name in names:
            found = any(self.out.glob(result.format(name=self.checkpoints[name])))
            cells[name] = "ok" if found else "FAILED"
        print_row(stage, *cells.values(), round(time.perf_counter() - start))
        if "FAILED" in cells.values():
            self.logs.append(f"\n{stage}:\n\n```\n{done.stdout[-2000:]}\n```")


def write_inputs(out: Path) -> None:
    """A base with a window of 64 tokens, rows to train on, and a text."""
    draw = random.Random(0)
    tiny.save_base(out / "base")
    rows = [json.dumps({"input_ids": draw.choices(range(2, 258), k=256)}) for _ in range(8)]
    (out / "rows.jsonl").write_text("\n".join(rows))
    (out / "text").mkdir()
    np.array([0, *draw.choices(range(2, 258), k=299)] * 10, "uint16").tofile(out / "text" / "test.bin")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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

    report = Report(out, checkpoints)
    if args.zero3:
        for name in trained:
            report.run_stage(f"ZeRO-3, {name}", [name], "METHODS={methods} " + ZERO3, "{name}/config.json")
    else:
        for stage, (command, result) in STAGES.items():
            stage_methods = {"train": trained, "extend": frozen}.get(stage, names)
            report.run_stage(stage, stage_methods, command, result)
    print(*report.logs, sep="\n")
    sys.exit(1 if report.logs else 0)


if __name__ == "__main__":
    main()
