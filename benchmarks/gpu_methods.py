"""Every method through every stage on a tiny model, by the launchers that users call: a table of what worked.

    python benchmarks/gpu_methods.py               all methods
    python benchmarks/gpu_methods.py --zero3       each trained method under DeepSpeed ZeRO-3 with offload
    python benchmarks/gpu_methods.py --tiny        two methods, for a CPU

A cell is "ok" if the stage wrote its result for that method's checkpoint. The end of the output of a stage in which
anything failed follows the table.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from harness import ROOT, print_head, print_row

import methods
import tiny

VARIABLES = """BASE={out}/base DATASET={out}/rows.jsonl RECIPE=tiny LENGTHS=256 TARGET=256 BATCH_SIZE=2 NPROC=1
GRADIENT_ACCUMULATION=1 REPORT_TO=none USE_WANDB=False FIGURES={out}/img"""
FLAGS = {
    "FLAGS_landmark": "--model_max_length 64 --mem_freq 7 --top_k 2",
    "FLAGS_longlora": "--low_rank_training True",
    "FLAGS_clex": "--time_dt 0.1",
}
EVALUATIONS = {  # command; the result of the checkpoint {name}
    "perplexity": (
        "DATASETS={out}/text/test.bin bash eval_perplexity/eval.sh --trust_remote_code --max_windows 2",
        "text/{name}_256_*.json",
    ),
    "needle": (
        "LENGTHS=700 bash needle/eval.sh --trust_remote_code --depths 50 --max_new_tokens 8",
        "{name}/*_results.json",
    ),
    "longbench": (
        "$PYTHON longbench/make_standin.py --sets lcc --words 45 --rows 2 --shots --output_dir {out}/sets;"
        "DATASETS=standin_lcc bash longbench/eval.sh --trust_remote_code --data_dir {out}/sets --max_length 512",
        "pred/{name}/scores.json",
    ),
    "ruler": (
        "ROOT_DIR={out} SEQ_LENGTHS=2048 NUM_SAMPLES=1 TASKS=niah_single_1 PREPARE_FLAGS='--tokens_to_generate 8' "
        "bash ruler/run.sh synthetic --trust_remote_code",
        "{name}/synthetic/2048/pred/scores.json",
    ),
}


class Table:
    """A column for each method and a row for each stage.

    checkpoints: the name of each method's checkpoint.  logs: output of the stages in which anything failed.
    """

    def __init__(self, out: Path, checkpoints: dict[str, str]):
        self.out, self.checkpoints, self.logs = out, checkpoints, []
        print_head("stage", *checkpoints, "seconds")

    def add_stage(self, stage: str, names: list[str], command: str, result: str = "{name}/config.json") -> None:
        """Runs a command and prints which of the methods `names` now have the result, a path below `out`."""
        start = time.perf_counter()
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(["bash", "-c", command.format(out=self.out)], cwd=ROOT, text=True, **streams)
        cells = []
        for name, checkpoint in self.checkpoints.items():
            found = any(self.out.glob(result.format(name=checkpoint)))
            cells.append("" if name not in names else "ok" if found else "FAILED")
        print_row(stage, *cells, round(time.perf_counter() - start))
        if "FAILED" in cells:
            self.logs.append(f"\n{stage}:\n\n```\n{done.stdout[-2000:]}\n```")


def write_inputs(out: Path) -> None:
    """A base with a window of 64 tokens, rows to train on, and a text."""
    draw = random.Random(0)
    tiny.save_base(out / "base")
    rows = [draw.choices(range(2, 258), k=256) for _ in range(8)]
    pd.DataFrame({"input_ids": rows}).to_json(out / "rows.jsonl", orient="records", lines=True)
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
    for variable in VARIABLES.format(out=out).split():
        name, value = variable.split("=")
        os.environ[name] = value
    os.environ.update(FLAGS, PYTHON=sys.executable, JOBS=str(1 if args.tiny else min(8, os.cpu_count())))
    os.environ["CHECKPOINTS"] = " ".join(f"{out}/{checkpoint}" for checkpoint in checkpoints.values())
    os.environ["OUTPUT_ROOT"] = str(out)

    table = Table(out, checkpoints)
    finetune, extend = "bash continuous_finetuning/finetune.sh", "bash continuous_finetuning/extend.sh"
    if args.zero3:
        for name in trained:
            command = f"METHODS={name} DEEPSPEED=ds_configs/stage3_offload.json {finetune}"
            table.add_stage(f"ZeRO-3, {name}", [name], command)
    else:
        table.add_stage("train", trained, f"METHODS='{' '.join(trained)}' DEEPSPEED= {finetune}")
        table.add_stage("extend", frozen, f"METHODS='{' '.join(frozen)}' {extend}")
        for stage, (command, result) in EVALUATIONS.items():
            table.add_stage(stage, names, command, result)
    print(*table.logs, sep="\n")
    sys.exit(1 if table.logs else 0)


if __name__ == "__main__":
    main()
