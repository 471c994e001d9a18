"""One process of several: who speaks, and how they agree."""

import os
import sys
import time

import torch.distributed as dist

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def fail(message: str):
    """Ends the run with one line; under torchrun only the first process speaks, and its end ends the others."""
    if RANK > 0:
        time.sleep(10)
    sys.exit(f"error: {message}")


def say(message: str):
    if RANK == 0:
        print(message, flush=True)


def share(value):
    """The first process's value, in every process; the others wait for it."""
    if WORLD == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
