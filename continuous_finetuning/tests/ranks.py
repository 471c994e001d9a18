"""Runs several command lines of fine-tune.py in the same ranks, one after the other. Not a test file itself.

    torchrun --nproc_per_node=2 ranks.py RUNS.json        a list of [argument list, step, signal]

Starting torchrun, torch and DeepSpeed takes longer than training a tiny model. In that step, if it is not null, rank 1
alone gets the signal. --sequence_parallel_size works once in a process, in the last run.
"""

import json
import os
import runpy
import sys
from pathlib import Path

import torch.distributed as dist
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

STAGE = Path(__file__).parent.parent
sys.path.insert(0, str(STAGE))
os.chdir(STAGE)

import training  # noqa: E402

os._exit = lambda status: None  # how a run with DeepSpeed ends
leave_group, dist.destroy_process_group = dist.destroy_process_group, lambda: None
check_signal = training.StopOnSignal.on_step_end

for argv, step, number in json.loads(Path(sys.argv[1]).read_text()):

    def on_step_end(self, args, state, control, step=step, number=number, **kwargs):
        if state.global_step == step and args.process_index == 1:
            os.kill(os.getpid(), number)
        check_signal(self, args, state, control, **kwargs)

    training.StopOnSignal.on_step_end = on_step_end
    sys.argv = ["fine-tune.py", *argv]
    try:
        runpy.run_path("fine-tune.py", run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 143 and step, stop.code
    unset_hf_deepspeed_config()  # a process of its own would not have it at its start
leave_group()
