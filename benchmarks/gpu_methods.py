"""Every method through every stage on a tiny model, by the launchers that users call: a table of what worked.

    python benchmarks/gpu_methods.py               all methods
    python benchmarks/gpu_methods.py --zero3       each trained method under DeepSpeed ZeRO-3 with offload
    python benchmarks/gpu_methods.py --tiny        two of them, for a CPU

A cell is "ok" if the stage wrote its result for that method's checkpoint; a row is printed as soon as its stage is
done. The end of the log of a stage in which anything failed is printed below the table.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "common" / "tests"), str(ROOT / "continuous_finetuning")]
import methods  # noqa: E402
import tiny  # noqa: E402

FLAGS = {  # small enough for a window of 64 tokens
    "FLAGS_landmark": "--model_max_length 64 --mem_freq 7 --top_k 2",
    "FLAGS_longlora": "--low_rank_training True",
    "FLAGS_clex": "--time_dt 0.1",
}
TRAINING = {
    "EPOCHS": 1,
    "DEEPSPEED": "",
    "NPROC": 1,
    "BATCH_SIZE": 2,
    "GRADIENT_ACCUMULATION": 1,
    "REPORT_TO": "none",
    "USE_WANDB": "False",
}


def write_data(folder: Path) -> None:
    """Rows to train on and a token file, random bytes."""
    draw = random.Random(0)
    rows = [{"input_ids": [0, *(draw.randrange(2, 258) for _ in range(tiny.L - 1))]} for _ in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [[0, *(draw.randrange(2, 258) for _ in range(599))] for _ in range(12)]
    (folder / "text").mkdir()
    np.array(texts, "uint16").tofile(folder / "text" / "test.bin")


def launch(stage: str, script: str, *flags, **variables) -> tuple[float, str]:
    """Runs a launcher; returns its seconds and its output."""
    environment = {name: str(value) for name, value in variables.items()}
    environment["PYTHON"] = sys.executable
    began = time.perf_counter()
    done = subprocess.run(
        ["bash", script, *flags],
        cwd=ROOT / stage,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return time.perf_counter() - began, done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="origin and lm_infinite only")
    parser.add_argument("--zero3", action="store_true", help="ZeRO-3 with offload instead of the stages")
    args = parser.parse_args()
    names = ["origin", "lm_infinite"] if args.tiny else methods.available()
    trained = [name for name in names if methods.get(name).trained]
    frozen = [name for name in names if not methods.get(name).trained]
    folder = Path(tempfile.mkdtemp())
    base = tiny.save_base(folder / "base")
    write_data(folder)

    ckpts, out = folder / "ckpts", folder / "out"
    shared = {"BASE": base, "RECIPE": "tiny", "OUTPUT_ROOT": ckpts}
    training = shared | TRAINING | FLAGS | {"METHODS": " ".join(trained), "LENGTHS": tiny.L}
    training |= {"DATASET": folder / "rows.jsonl", "JOBS": min(4, os.cpu_count())}
    paths = {name: ckpts / f"tiny_{name}_{tiny.L}" for name in trained}
    paths |= {name: ckpts / f"tiny_{name.removesuffix('_frozen')}_frozen" for name in frozen}
    evaluated = {"CHECKPOINTS": " ".join(map(str, paths.values())), "JOBS": min(4, os.cpu_count()), "NPROC": 1}
    ruler = evaluated | {"ROOT_DIR": out / "ruler", "SEQ_LENGTHS": 2048, "NUM_SAMPLES": 1, "TASKS": "niah_single_1"}
    standin = ["make_standin.py", "--sets", "passage_retrieval_en", "--words", "45", "--rows", "2", "--shots", "1"]
    standin += ["--output_dir", str(folder / "sets")]
    subprocess.run([sys.executable, *standin], cwd=ROOT / "longbench", stdout=subprocess.DEVNULL, check=False)

    stages = {
        "train or extend": [
            ("continuous_finetuning", "finetune.sh", [], training),
            ("continuous_finetuning", "extend.sh", [], shared | {"METHODS": " ".join(frozen), "TARGET": tiny.L}),
        ],
        "perplexity": [
            (
                "eval_perplexity",
                "eval.sh",
                ["--trust_remote_code", "--max_windows", "2"],
                evaluated | {"DATASETS": folder / "text/test.bin", "LENGTHS": "256", "OUTPUT_ROOT": out / "ppl"},
            )
        ],
        "needle": [
            (
                "needle",
                "eval.sh",
                ["--trust_remote_code", "--depths", "50"],
                evaluated | {"LENGTHS": "700", "OUTPUT_ROOT": out / "needle", "FIGURES": out / "img"},
            )
        ],
        "longbench": [
            (
                "longbench",
                "eval.sh",
                ["--trust_remote_code", "--data_dir", str(folder / "sets"), "--max_length", "512"],
                evaluated | {"DATASETS": "standin_passage_retrieval_en", "OUTPUT_ROOT": out / "longbench"},
            )
        ],
        "ruler": [("ruler", "run.sh", ["synthetic", "--trust_remote_code"], ruler)],
    }
    results = {
        "train or extend": lambda name: ckpts.glob(f"{paths[name].name}/config.json"),
        "perplexity": lambda name: out.glob(f"ppl/*/{paths[name].name}_256_*.json"),
        "needle": lambda name: out.glob(f"needle/{paths[name].name}/*_results.json"),
        "longbench": lambda name: out.glob(f"longbench/pred/{paths[name].name}/scores.json"),
        "ruler": lambda name: out.glob(f"ruler/{paths[name].name}/synthetic/2048/pred/scores.json"),
    }
    if args.zero3:
        if not find_spec("deepspeed"):
            sys.exit("error: deepspeed is not installed: pip install -r requirements.txt")
        trained = trained[:1] if args.tiny else trained
        training |= {"DEEPSPEED": "ds_configs/stage3_offload.json", "JOBS": 1}
        stages = {
            f"ZeRO-3 offload, {name}": [("continuous_finetuning", "finetune.sh", [], training | {"METHODS": name})]
            for name in trained
        }
        results = {f"ZeRO-3 offload, {name}": results["train or extend"] for name in trained}
    logs = []
    print("| stage | " + " | ".join(names) + " | seconds |\n|---" + "|---" * len(names) + "|---|", flush=True)
    for stage, calls in stages.items():
        outputs = [launch(*call[:2], *call[2], **call[3]) for call in calls]
        tried = [name for name in names if not args.zero3 or stage.endswith(f" {name}")]
        failed = [name for name in tried if not any(results[stage](name))]
        cells = ["FAILED" if name in failed else "ok" if name in tried else "" for name in names]
        print(f"| {stage} | " + " | ".join(cells) + f" | {sum(output[0] for output in outputs):.0f} |", flush=True)
        if failed:
            logs.append((stage, "".join(output[1] for output in outputs)[-1500:]))
    for stage, log in logs:
        print(f"\n{stage}:\n\n```\n{log}\n```")
    sys.exit(1 if logs else 0)


if __name__ == "__main__":
    main()
