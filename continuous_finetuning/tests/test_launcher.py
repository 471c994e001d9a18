"""finetune.sh, extend.sh and finetune.slurm: the commands they start, failures, signals, two nodes.

A shell script replaces python and records its arguments.
"""

import os
import signal
import subprocess
import time

import pytest

from tiny import STAGE, run

FAKE_PYTHON = """#!/usr/bin/env bash
if [ -n "${WAITS:-}" ]; then
  trap 'echo checkpoint >"$CALLS.checkpoint"; kill $!; exit 1' TERM
  sleep 60 &
fi
echo "$* GPUS=${CUDA_VISIBLE_DEVICES:-}" >>"$CALLS"
case " $* " in *" --method_name $FAILS "*) echo "Traceback of $FAILS"; exit 3 ;; esac
wait
"""


class Launcher:
    """Runs a launcher with FAKE_PYTHON in place of python; returns what it printed."""

    def __init__(self, folder):
        self.folder, self.calls = folder, folder / "calls"
        self.calls.touch()
        self.environment = {"PYTHON": folder / "python", "CALLS": self.calls, "FAILS": "none"}
        self.script("python", FAKE_PYTHON)

    def script(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def __call__(self, *flags, script="finetune.sh", **settings):
        return run("bash", script, *flags, **self.environment | settings)

    def commands(self):
        """The arguments of each call of python, in order."""
        return [line.split(" ") for line in self.calls.read_text().splitlines()]


@pytest.fixture
def launcher(tmp_path):
    return Launcher(tmp_path)


def flag(command, name):
    """The last value of a flag, which counts."""
    return command[len(command) - command[::-1].index(f"--{name}")]


def test_recipe_of_the_study(launcher):
    launcher("--seed", "1", METHODS="pi")
    (command,) = launcher.commands()
    at = command.index("fine-tune.py")
    assert command[:at] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=8"]
    name = "llama2-7b-hf-slimpajama_pi_32768"
    expected = f"""--method_name pi --model_max_length 32768 --output_dir ckpts/llama2-7b-hf-slimpajama/{name}
        --wandb_name {name} --model_name_or_path meta-llama/Llama-2-7b-hf
        --dataset_dir Leooyii/Slimpajama_downsample_32k_1B --bf16 True --tf32 True --use_flash_attn True
        --num_train_epochs 1 --per_device_train_batch_size 1 --gradient_accumulation_steps 32
        --sequence_parallel_size 1 --gradient_checkpointing True --offload_activations False --tiled_mlp False
        --save_steps 20 --save_total_limit 1 --learning_rate 2e-5 --weight_decay 0.0 --warmup_steps 20
        --lr_scheduler_type constant_with_warmup --report_to wandb --use_wandb True
        --deepspeed ds_configs/stage3_offload.json --seed 1"""
    assert command[at + 1 : -1] == expected.split()


def test_methods_lengths_and_flags_of_one_method(launcher):
    settings = {"LENGTHS": "8192 16384", "FLAGS_pi": "--seed 3", "NPROC": 1, "DEEPSPEED": "", "GPUS": "2 3"}
    launcher("--scaling_factor", "5", METHODS="origin pi", BATCH_SIZE=2, **settings)
    commands = launcher.commands()
    started = [(flag(c, "model_max_length"), flag(c, "method_name"), "--seed" in c) for c in commands]
    assert started == [("8192", "origin", 0), ("8192", "pi", 1), ("16384", "origin", 0), ("16384", "pi", 1)]
    for command in commands:
        assert command[0] == "fine-tune.py" and "--deepspeed" not in command and command[-1] == "GPUS=2,3"
        assert (flag(command, "scaling_factor"), flag(command, "per_device_train_batch_size")) == ("5", "2")


@pytest.mark.parametrize(
    "settings, accumulation",
    [
        ({"SEQUENCE_PARALLEL": 4}, "128"),
        ({"NNODES": 2, "MASTER_ADDR": "a", "SEQUENCE_PARALLEL": 4, "BATCH_SIZE": 2}, "32"),
        ({"NPROC": 1, "GRADIENT_ACCUMULATION": 3, "GLOBAL_BATCH": 7}, "3"),
        ({"ESTIMATE": "64xH100"}, "4"),
    ],
)
def test_accumulation_follows_from_the_global_batch(launcher, settings, accumulation):
    launcher(METHODS="pi", **settings)
    (command,) = launcher.commands()
    assert flag(command, "gradient_accumulation_steps") == accumulation
    assert flag(command, "sequence_parallel_size") == str(settings.get("SEQUENCE_PARALLEL", 1))
    if "ESTIMATE" in settings:
        assert command[0] == "fine-tune.py" and flag(command, "estimate") == "64xH100" and flag(command, "deepspeed")


def test_bad_settings(launcher):
    for settings in ({"GLOBAL_BATCH": 100}, {"NNODES": 2}):
        log = launcher(expect=1, **settings)
        assert log.startswith("error: ") and log.count("\n") == 1 and next(iter(settings)) in log
    assert not launcher.commands()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_run_does_not_stop_the_others(launcher, jobs):
    log = launcher(METHODS="origin pi yarn", FAILS="pi", JOBS=jobs, expect=1)
    assert "Traceback of pi" in log and log.endswith("failed: pi 32768\n")
    assert {flag(command, "method_name") for command in launcher.commands()} == {"origin", "pi", "yarn"}


@pytest.mark.parametrize("jobs, number", [(1, signal.SIGTERM), (2, signal.SIGINT)])
def test_a_signal_reaches_the_runs_and_ends_the_launcher(launcher, number, jobs):
    process = subprocess.Popen(
        ["bash", "finetune.sh"],
        cwd=STAGE,
        env=os.environ | launcher.environment | {"METHODS": "origin pi ntk yarn", "WAITS": "yes", "JOBS": str(jobs)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a signal goes to the launcher's whole process group
        # a shell that was put in the background passes Ctrl-C on as ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 30
    while len(launcher.commands()) < jobs:
        assert time.monotonic() < end, "never started"
        time.sleep(0.02)
    process.send_signal(number)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 143 and "stopped; rerun the same command to resume" in log and "failed" not in log
    assert (launcher.folder / "calls.checkpoint").read_text() == "checkpoint\n"  # the run could finish its step
    assert len(launcher.commands()) == jobs


def test_extend_sh(launcher):
    settings = {"FLAGS_yarn": "--beta_fast 16", "RECIPE": "r", "OUTPUT_ROOT": "out", "TARGET": 512}
    log = launcher("--x", script="extend.sh", METHODS="ntk_frozen yarn", FAILS="yarn", expect=1, **settings)
    assert log.endswith("failed: yarn\n") and log.count("failed: ") == 1
    frozen, yarn = launcher.commands()
    assert frozen[0] == "extend.py" and flag(frozen, "output_dir") == "out/r_ntk_frozen" and frozen[-2] == "--x"
    assert flag(frozen, "model_max_length") == flag(frozen, "longest_text") == "512" and "--beta_fast" not in frozen
    assert flag(yarn, "output_dir") == "out/r_yarn_frozen" and flag(yarn, "beta_fast") == "16"

    # of a method that the study trains as well, FLAGS_<method> belongs to the training
    settings |= {"TRAINED": "pi yarn", "FLAGS_yarn": "--learning_rate 1e-5", "FLAGS_yarn_frozen": "--beta_fast 8"}
    launcher(script="extend.sh", METHODS="yarn", **settings)
    command = launcher.commands()[-1]
    assert flag(command, "beta_fast") == "8" and "--learning_rate" not in command


def test_two_nodes_in_slurm(launcher):
    """finetune.slurm, and the launcher that it starts on every node, with a fake srun."""
    srun = 'while [[ $1 == --* ]]; do shift; done\nfor node in 0 1; do SLURM_NODEID=$node "$@" </dev/null; done\n'
    launcher.script("scontrol", '#!/usr/bin/env bash\n[ "$*" = "show hostnames n[07-08]" ] && printf "n07\\nn08\\n"\n')
    launcher.script("srun", f"#!/usr/bin/env bash\n{srun}")
    settings = {"PATH": f"{launcher.folder}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": STAGE}
    settings |= {"SLURM_GPUS_ON_NODE": 4, "SLURM_CPUS_PER_TASK": 8, "SLURM_NNODES": 2}
    launcher(script="finetune.slurm", SLURM_JOB_NODELIST="n[07-08]", METHODS="clex pi", **settings)
    commands = launcher.commands()
    assert [flag(command, "method_name") for command in commands] == ["clex", "pi"] * 2
    for command, node, port in zip(commands, (0, 0, 1, 1), (29500, 29501) * 2, strict=True):
        assert command[2:6] == ["--nnodes=2", f"--node_rank={node}", "--nproc_per_node=4", "--master_addr=n07"]
        assert f"--master_port={port}" in command  # a run does not meet what is left of the previous one
        assert flag(command, "gradient_accumulation_steps") == "32"
