"""finetune.sh and finetune.slurm: the commands they start, what they refuse, failures and signals.

A shell script stands in for python and writes down how it was called; the last test starts the real fine-tune.py.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from transformers import AutoConfig

from conftest import STAGE, L, run

STAND_IN = """#!/usr/bin/env bash
number=0
while ! mkdir "$CALLS/$number.taken" 2>/dev/null; do number=$((number + 1)); done
printf '%s\\n' "$@" >"$CALLS/$number.partial"
mv "$CALLS/$number.partial" "$CALLS/$number"
case " $* " in *" --method_name $FAILS "*) echo "Traceback of $FAILS"; exit 3 ;; esac
if [ -n "${WAITS:-}" ]; then
  trap 'echo checkpoint >"$CALLS/../checkpoint"; kill $!; exit 1' TERM
  sleep 60 &
  wait
fi
exit 0
"""
# what a shell of someone else may have set
OURS = re.compile(
    "^(SLURM_|NPROC|NNODES|NODE_RANK|MASTER_|METHODS|LENGTHS|BASE|DATASET|RECIPE|OUTPUT_ROOT|DEEPSPEED|BATCH_SIZE|JOBS"
    "|GLOBAL_BATCH|GRADIENT_|SEQUENCE_|OFFLOAD_|TILED_|DOCUMENT_|ESTIMATE|FLAGS_|PYTHON$|TORCH_ELASTIC)"
)


class Launcher:
    def __init__(self, folder):
        self.folder, self.calls, self.process = folder, folder / "calls", None
        (folder / "calls").mkdir()
        self.script("python", STAND_IN)

    def script(self, name, text):
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *flags, **settings):
        env = {name: value for name, value in os.environ.items() if not OURS.match(name)}
        env |= {"PATH": f"{self.folder / 'bin'}:{env['PATH']}", "CALLS": str(self.calls), "FAILS": "none"}
        self.process = subprocess.Popen(
            ["bash", "finetune.sh", *flags],
            # a shell that was put in the background passes Ctrl-C on as ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            cwd=STAGE,
            env=env | {name: str(value) for name, value in settings.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self.process

    def __call__(self, *flags, expect=0, **settings):
        """Runs it to its end; returns what it printed."""
        process = self.start(*flags, **settings)
        log, _ = process.communicate(timeout=60)
        assert process.returncode == expect, log
        return log

    def commands(self):
        """What python was called with, in order."""
        files = sorted((path for path in self.calls.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        return [path.read_text().splitlines() for path in files]

    def wait_for(self, count):
        end = time.monotonic() + 30
        while len(self.commands()) < count:
            assert time.monotonic() < end, "never started"
            time.sleep(0.02)


@pytest.fixture
def launcher(tmp_path):
    launcher = Launcher(tmp_path)
    yield launcher
    if launcher.process and launcher.process.poll() is None:  # a test that failed
        launcher.process.terminate()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def flag(command, name):
    return command[command.index(f"--{name}") + 1]


def test_the_studys_recipe(launcher):
    log = launcher("--seed", "1", METHODS="pi")
    (command,) = launcher.commands()
    at = command.index("fine-tune.py")
    assert command[:at] == ["-m", "torch.distributed.run", "--nproc_per_node=8"]
    expected = """--model_name_or_path meta-llama/Llama-2-7b-hf --bf16 True
        --output_dir ckpts/llama2-7b-hf-slimpajama/llama2-7b-hf-slimpajama_pi_32768 --model_max_length 32768
        --use_flash_attn True --low_rank_training False --num_train_epochs 1 --per_device_train_batch_size 1
        --gradient_accumulation_steps 32 --sequence_parallel_size 1 --offload_activations False --tiled_mlp False
        --document_mask False --evaluation_strategy no --save_strategy steps --save_steps 20 --save_total_limit 1
        --learning_rate 2e-5 --weight_decay 0.0 --warmup_steps 20 --lr_scheduler_type constant_with_warmup
        --logging_steps 1 --tf32 True --gradient_checkpointing True --report_to wandb --use_wandb True
        --wandb_name llama2-7b-hf-slimpajama_pi_32768 --dataset_dir Leooyii/Slimpajama_downsample_32k_1B
        --method_name pi --deepspeed ds_configs/stage3_offload.json --seed 1"""
    assert command[at + 1 :] == expected.split()
    assert log == f"+ {launcher.folder / 'bin' / 'python'} {' '.join(command)}\n".replace(
        str(launcher.folder / "bin" / "python"), "python"
    )


def test_every_method_at_every_length(launcher):
    launcher(METHODS="origin pi", LENGTHS="8192 16384", FLAGS_pi="--scaling_factor 3", NPROC=1, DEEPSPEED="")
    commands = launcher.commands()
    started = [(flag(c, "model_max_length"), flag(c, "method_name")) for c in commands]
    assert started == [("8192", "origin"), ("8192", "pi"), ("16384", "origin"), ("16384", "pi")]
    assert all(command[0] == "fine-tune.py" and "--deepspeed" not in command for command in commands)
    assert ["--scaling_factor" in command for command in commands] == [False, True, False, True]


def test_two_nodes_by_hand(launcher):
    launcher(METHODS="pi yarn", NNODES=2, NODE_RANK=1, MASTER_ADDR="node1", MASTER_PORT=1234)
    first, second = launcher.commands()
    assert first[: first.index("fine-tune.py")] == [
        "-m", "torch.distributed.run", "--nnodes=2", "--node_rank=1", "--nproc_per_node=8", "--master_addr=node1",
        "--master_port=1234",
    ]  # fmt: skip
    assert "--master_port=1235" in second  # a run does not meet what is left of the one before
    assert flag(first, "gradient_accumulation_steps") == "16"  # 256 rows over 16 GPUs


def test_two_nodes_under_slurm(launcher):
    launcher.script("scontrol", '#!/usr/bin/env bash\n[ "$*" = "show hostnames n[07-08]" ] && printf "n07\\nn08\\n"\n')
    launcher(METHODS="pi", SLURM_NNODES=2, SLURM_NODEID=1, SLURM_JOB_NODELIST="n[07-08]")
    (command,) = launcher.commands()
    assert command[2:7] == [
        "--nnodes=2", "--node_rank=1", "--nproc_per_node=8", "--master_addr=n07", "--master_port=29500",
    ]  # fmt: skip
    launcher(METHODS="pi", SLURM_NNODES=1, SLURM_NODEID=0, SLURM_JOB_NODELIST="n07")
    assert launcher.commands()[1][:3] == ["-m", "torch.distributed.run", "--nproc_per_node=8"]


@pytest.mark.parametrize(
    "settings, accumulation",
    [
        ({}, "32"),
        ({"NNODES": 2, "MASTER_ADDR": "a"}, "16"),
        ({"SEQUENCE_PARALLEL": 4}, "128"),
        ({"NNODES": 2, "MASTER_ADDR": "a", "SEQUENCE_PARALLEL": 4, "BATCH_SIZE": 2}, "32"),
        ({"GLOBAL_BATCH": 32}, "4"),
        ({"GLOBAL_BATCH": 2, "SEQUENCE_PARALLEL": 8}, "2"),
        ({"NPROC": 1, "GRADIENT_ACCUMULATION": 3, "GLOBAL_BATCH": 7}, "3"),
        ({"ESTIMATE": "64xH100"}, "4"),
    ],
)
def test_accumulation_follows_from_the_global_batch(launcher, settings, accumulation):
    launcher(METHODS="pi", **settings)
    (command,) = launcher.commands()
    assert flag(command, "gradient_accumulation_steps") == accumulation
    assert flag(command, "sequence_parallel_size") == str(settings.get("SEQUENCE_PARALLEL", 1))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"GLOBAL_BATCH": 100}, "error: GLOBAL_BATCH=100 is no multiple of the 8 rows that 8 GPUs have at a time"),
        ({"GLOBAL_BATCH": 4}, "error: GLOBAL_BATCH=4 is no multiple of the 8 rows"),
        ({"SEQUENCE_PARALLEL": 3}, "error: SEQUENCE_PARALLEL=3 does not divide the 8 GPUs"),
        ({"NNODES": 2}, "error: NNODES=2 needs MASTER_ADDR"),
        ({"NNODES": 2, "MASTER_ADDR": "a", "JOBS": 2}, "error: JOBS=2: on many nodes the runs go one after the other"),
    ],
)
def test_what_is_refused(launcher, settings, message):
    log = launcher(expect=1, **settings)
    assert log.startswith(message) and log.count("\n") == 1 and not launcher.commands()


def test_options_of_memory_reach_the_command(launcher):
    launcher(METHODS="pi", OFFLOAD_ACTIVATIONS="True", TILED_MLP="True", DOCUMENT_MASK="True")
    (command,) = launcher.commands()
    assert [flag(command, name) for name in ("offload_activations", "tiled_mlp", "document_mask")] == ["True"] * 3


def test_estimate_starts_one_process_for_each_run(launcher):
    launcher(METHODS="pi yarn", ESTIMATE="16xA100-80", NNODES=2)
    for command, method in zip(launcher.commands(), ("pi", "yarn"), strict=True):
        assert command[0] == "fine-tune.py" and flag(command, "method_name") == method
        assert flag(command, "estimate") == "16xA100-80" and flag(command, "deepspeed")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_run_does_not_stop_the_others(launcher, jobs):
    log = launcher(METHODS="origin pi yarn", FAILS="pi", JOBS=jobs, expect=1)
    assert "Traceback of pi" in log and log.endswith("failed: pi 32768\n")
    assert {flag(command, "method_name") for command in launcher.commands()} == {"origin", "pi", "yarn"}


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_run_and_ends_the_rest(launcher, number, jobs):
    process = launcher.start(METHODS="origin pi ntk yarn", WAITS="yes", JOBS=jobs)
    launcher.wait_for(jobs)
    process.send_signal(number)
    log, _ = process.communicate(timeout=30)
    assert process.returncode == 143 and "stopped; the same command goes on" in log and "failed" not in log
    assert (launcher.folder / "checkpoint").read_text() == "checkpoint\n"  # the run did its last work
    assert len(launcher.commands()) == jobs


RANK = """
import os, signal, sys, time
from pathlib import Path
folder, rank = Path(os.environ["CALLS"]), os.environ["RANK"]
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
(folder / f"ready{rank}").touch()
while not told:
    time.sleep(0.02)
time.sleep(3)  # the rest of the step
(folder / f"checkpoint{rank}").touch()
sys.exit(1)
"""


@pytest.mark.parametrize("to_all", [False, True], ids=["launcher", "everyone"])
def test_torchrun_lets_its_ranks_finish(launcher, to_all):
    """With the real torchrun and ranks that need a while; SLURM tells every process of a step, torchrun too."""
    rank = launcher.folder / "rank.py"
    rank.write_text(RANK)
    launcher.script(
        "python", f'#!/usr/bin/env bash\necho $$ >"$CALLS/torchrun"\nexec {sys.executable} "${{@:1:3}}" {rank}\n'
    )
    process = launcher.start(METHODS="pi yarn", NPROC=2, TORCH_ELASTIC_SHUTDOWN_TIMEOUT=20)
    end = time.monotonic() + 60
    while not all((launcher.calls / f"ready{number}").exists() for number in (0, 1)):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    if to_all:
        os.kill(int((launcher.calls / "torchrun").read_text()), signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    log, _ = process.communicate(timeout=60)
    assert process.returncode == 143, log
    assert (launcher.calls / "checkpoint0").exists() and (launcher.calls / "checkpoint1").exists(), log
    assert "--method_name yarn" not in log


def test_a_dead_rank_ends_the_job_with_its_error(launcher):
    rank = launcher.folder / "rank.py"
    rank.write_text(
        "import os, time\nif os.environ['RANK'] == '1':\n    raise SystemExit('rank 1 is out')\ntime.sleep(99)\n"
    )
    launcher.script("python", f'#!/usr/bin/env bash\nexec {sys.executable} "${{@:1:3}}" {rank}\n')
    log = launcher(METHODS="pi", NPROC=2, expect=1)
    assert "rank 1 is out" in log and log.endswith("failed: pi 32768\n")


def test_two_launchers_train_together(base, rows, tmp_path):
    """Two nodes, here two launchers on one machine: real torchrun, real training."""
    settings = dict(
        METHODS="pi", LENGTHS=str(L), BASE=base, DATASET=rows, RECIPE="tiny", OUTPUT_ROOT=tmp_path, NPROC=1, NNODES=2,
        DEEPSPEED="", GLOBAL_BATCH=8, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port(), REPORT_TO="none",
        USE_WANDB="False", BF16="False", TF32="False", USE_FLASH_ATTN="False", PYTHON=sys.executable, OMP_NUM_THREADS=1,
    )  # fmt: skip
    nodes = []
    for rank in (1, 0):
        env = os.environ | {name: str(value) for name, value in settings.items()} | {"NODE_RANK": str(rank)}
        command = ["bash", "finetune.sh", "--max_steps", "2"]
        nodes.append(subprocess.Popen(command, cwd=STAGE, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    for node in nodes:
        log, _ = node.communicate(timeout=120)
        assert node.returncode == 0, log.decode()
    record = AutoConfig.from_pretrained(tmp_path / f"tiny_pi_{L}").context_extension
    assert record["recipe"]["global_batch"] == 8 and record["trained_tokens"] == 2 * 8 * L


def test_finetune_slurm():
    text = (STAGE / "finetune.slurm").read_text()
    subprocess.run(["bash", "-n", STAGE / "finetune.slurm"], check=True)
    head, body = text.split("set -u", 1)
    options = re.findall(r"^#SBATCH (.*)$", head, re.MULTILINE)
    assert "#SBATCH" not in body  # SLURM reads none behind the first command
    assert all(re.fullmatch(r"--[a-z-]+(=\S+)?", option) for option in options)
    given = dict(option.lstrip("-").split("=") if "=" in option else (option.lstrip("-"), "") for option in options)
    assert given["nodes"] == "2" and given["ntasks-per-node"] == "1" and given["gpus-per-node"] == "8"
    assert re.fullmatch(r"TERM@\d+", given["signal"]) and "requeue" in given and given["open-mode"] == "append"


def test_finetune_slurm_starts_the_launcher_on_every_node(launcher):
    """With a stand-in for srun that does what SLURM would on two nodes, one after the other."""
    launcher.script("scontrol", '#!/usr/bin/env bash\nprintf "n07\\nn08\\n"\n')
    launcher.script(
        "srun",
        '#!/usr/bin/env bash\nwhile [ "$1" != bash ]; do shift; done\n'
        'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" || exit; done\n',
    )
    env = {name: value for name, value in os.environ.items() if not OURS.match(name)} | {
        "PATH": f"{launcher.folder / 'bin'}:{os.environ['PATH']}", "CALLS": str(launcher.calls), "FAILS": "none",
        "SLURM_SUBMIT_DIR": str(STAGE), "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "8", "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "n[07-08]", "METHODS": "clex",
    }  # fmt: skip
    subprocess.run(["bash", STAGE / "finetune.slurm", "--seed", "2"], cwd="/", env=env, check=True)
    for node, command in enumerate(launcher.commands()):
        assert command[2:6] == ["--nnodes=2", f"--node_rank={node}", "--nproc_per_node=4", "--master_addr=n07"]
        assert flag(command, "method_name") == "clex" and flag(command, "seed") == "2"
        assert flag(command, "gradient_accumulation_steps") == "32"
    assert len(launcher.commands()) == 2


def test_finetune_sh_runs_every_method_and_length(base, rows, tmp_path):
    """The real thing with its settings from the environment; a second time it finds everything done."""
    settings = dict(
        METHODS="origin pi", LENGTHS=str(L), BASE=base, DATASET=rows, RECIPE="tiny", OUTPUT_ROOT=tmp_path, NPROC=1,
        DEEPSPEED="", GRADIENT_ACCUMULATION=2, REPORT_TO="none", USE_WANDB="False", BF16="False", TF32="False",
        USE_FLASH_ATTN="False", LR="1e-2", WARMUP_STEPS=2,
    )  # fmt: skip
    command = ["bash", "finetune.sh", "--max_steps", "3"]
    environment = {name: str(value) for name, value in settings.items()} | {"PYTHON": sys.executable}
    log = run(*command, **environment)
    assert "+ " in log and "--method_name pi" in log
    for method in ("origin", "pi"):
        config = AutoConfig.from_pretrained(tmp_path / f"tiny_{method}_{L}")
        assert config.context_extension["method"] == method
    assert run(*command, **environment).count("is trained already") == 2
    log = run(*command, expect=1, **{**environment, "METHODS": "nope pi"})
    assert "no method 'nope'" in log and "failed: nope" in log and log.count("is trained already") == 1
    log = run(*command, **{**environment, "METHODS": "pi", "ESTIMATE": "2xH200"})
    assert "pi at 256 tokens on 2xH200: " in log and "  hours  " in log
