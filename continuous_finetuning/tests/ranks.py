"""Runs several command lines of fine-tune.py in the same ranks, one after the other. Not a test file itself.

    torchrun --nproc_per_node=2 ranks.py RUNS.json        a list of [argument list, stop_after]

Starting torchrun, torch and DeepSpeed takes longer than training a tiny model. stop_after: the step in which rank 1
alone gets SIGTERM, or null. --sequence_parallel_size works once in a process, in the last run.
"""

import json
import os
import runpy
import signal
import sys
from pathlib import Path

import torch.distributed as dist

STAGE = Path(__file__).parent.parent
sys.path.insert(0, str(STAGE))
os.chdir(STAGE)

import training  # noqa: E402

os._exit = lambda status: None  # how a run with DeepSpeed ends
leave_group, dist.destroy_process_group = dist.destroy_process_group, lambda: None
check_signal = training.StopOnSignal.on_step_end

for argv, stop_after in json.loads(Path(sys.argv[1]).read_text()):

    def on_step_end(self, args, state, control, stop_after=stop_after, **kwargs):
        if state.global_step == stop_after and args.process_index == 1:
            signal.raise_signal(signal.SIGTERM)
        check_signal(self, args, state, control, **kwargs)

    training.StopOnSignal.on_step_end = on_step_end
    sys.argv = ["fine-tune.py", *argv]
    try:
        runpy.run_path("fine-tune.py", run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 143 and stop_after, stop.code
leave_group()
