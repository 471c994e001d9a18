"""Runs command lines of fine-tune.py in the ranks of one torchrun. Not a test file itself.

    torchrun --nproc_per_node=2 ranks.py RUNS.json        [[[argument list, step, signal], ...], ...]

The runs of an inner list share a process, a fork of the rank, because Python, torch and DeepSpeed take longer to start
than a tiny model to train. In that step, if it is not null, rank 1 gets the signal. SIGKILL goes to all ranks and
leaves an incomplete checkpoint, as when the machine fails during a save. A run with --sequence_parallel_size must be
the last one of its process.
"""

import ctypes
import json
import os
import runpy
import signal
import sys
from pathlib import Path

import deepspeed  # noqa: F401
import torch.distributed as dist
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

STAGE = Path(__file__).parent.parent
sys.path.insert(0, str(STAGE))
os.chdir(STAGE)

import training  # noqa: E402

PR_SET_PDEATHSIG = 1
check_signal = training.StopOnSignal.on_step_end


def run_all(runs: list) -> None:
    os._exit = lambda status: None  # how a run with DeepSpeed ends
    dist.destroy_process_group = lambda: None
    for argv, step, number in runs:

        def on_step_end(self, args, state, control, step=step, number=number, **kwargs):
            if state.global_step == step and number == signal.SIGKILL:
                if args.process_index == 0:
                    (training.last_checkpoint(Path(args.output_dir)) / training.COMPLETE_MARKER).unlink()
                os.kill(os.getpid(), number)
            elif state.global_step == step and args.process_index == 1:
                os.kill(os.getpid(), number)
            check_signal(self, args, state, control, **kwargs)

        training.StopOnSignal.on_step_end = on_step_end
        sys.argv = ["fine-tune.py", *argv]
        try:
            runpy.run_path("fine-tune.py", run_name="__main__")
        except SystemExit as stop:
            assert stop.code == 143 and step, stop.code
        unset_hf_deepspeed_config()  # a process of its own would not have it at its start


exit_now = os._exit
for number, runs in enumerate(json.loads(Path(sys.argv[1]).read_text())):
    process = os.fork()
    if process == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # ends with its rank
        port = int(os.environ["MASTER_PORT"]) + 1 + number  # each group of ranks has a store of its own
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": str(port)}
        run_all(runs)
        sys.stdout.flush()
        exit_now(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    is_killed = runs[-1][2] == signal.SIGKILL
    assert status == (-signal.SIGKILL if is_killed else 0), f"exit status {status}"
