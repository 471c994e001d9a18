"""Runs command lines of fine-tune.py, one after the other, in the ranks of one torchrun. Not a test file itself.

    torchrun --nproc_per_node=2 ranks.py RUNS.json        a list of [argument list, step, signal]

Each run is a fork of its rank, since Python, torch and DeepSpeed take longer to start than a tiny model to train.
In that step, if it is not null, rank 1 gets the signal. SIGKILL goes to all ranks and leaves an incomplete checkpoint,
as when the machine fails during a save.
"""

import ctypes
import json
import os
import runpy
import signal
import sys
from pathlib import Path

import deepspeed

STAGE = Path(__file__).parent.parent
sys.path.insert(0, str(STAGE))
os.chdir(STAGE)

import training  # noqa: E402

for name in ("ShareMemCommBuilder", "CPUAdamBuilder"):  # DeepSpeed would load them in each fork
    deepspeed.accelerator.get_accelerator().create_op_builder(name).load()

PR_SET_PDEATHSIG = 1
check_signal = training.StopOnSignal.on_step_end

for number, (argv, step, stop) in enumerate(json.loads(Path(sys.argv[1]).read_text())):

    def on_step_end(self, args, state, control, step=step, stop=stop, **kwargs):
        if state.global_step == step and stop == signal.SIGKILL:
            if args.process_index == 0:
                (training.last_checkpoint(Path(args.output_dir)) / training.COMPLETE_MARKER).unlink()
            os.kill(os.getpid(), stop)
        elif state.global_step == step and args.process_index == 1:
            os.kill(os.getpid(), stop)
        check_signal(self, args, state, control, **kwargs)

    process = os.fork()
    if process == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # ends with its rank
        port = int(os.environ["MASTER_PORT"]) + 1 + number  # each run has a store of its own
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": str(port)}
        training.StopOnSignal.on_step_end = on_step_end
        sys.argv = ["fine-tune.py", *argv]
        runpy.run_path("fine-tune.py", run_name="__main__")
        sys.exit()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status == {None: 0, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[stop], f"exit status {status}"
