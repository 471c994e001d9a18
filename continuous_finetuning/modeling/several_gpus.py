"""What layers share, on the GPU of each: a model may be spread over several.

This file travels inside the checkpoint.
"""

import copy

import torch


class Movable:
    """An object whose tensors accelerate moves to the device of each layer that it is given to."""

    def to(self, device, non_blocking=False):
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(moved, name, value.to(device, non_blocking=non_blocking))
        return moved
