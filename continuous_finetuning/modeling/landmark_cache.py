"""The key-value cache of modeling_landmark.py, and where the tokens of a forward pass are in it.

This file travels inside the checkpoint. Suffixes: as in modeling_landmark.py.
"""

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from .several_gpus import Movable


class LandmarkLayer(DynamicLayer):
    """Keys and values of one layer, [B, H, capacity, d]: text and landmarks, in whole blocks, 0 where not filled.

    A key is rotated by its place inside its block only; queries are rotated by the distance to the block, so a block
    can take any slot.  on_cpu: keep them in CPU memory.  capacity_hint: places to make room for.
    """

    is_croppable = False

    def __init__(self, block: int, on_cpu: bool = False, capacity_hint: int = 0):
        super().__init__()
        self.block = block
        self.on_cpu = on_cpu
        self.capacity_hint = capacity_hint
        self.length = 0  # filled places

    def update(self, key_states, value_states, *args, **kwargs):
        """Appends keys and values, [B, H, n, d] each; returns the whole memory."""
        start = self.length
        self.length += key_states.shape[2]
        self.keys = self.with_room(self.keys, key_states)
        self.values = self.with_room(self.values, value_states)
        self.is_initialized = True
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys, self.values

    def with_room(self, memory, states):
        """The memory, None at first, extended by blocks of zeros if it does not have `length` places."""
        if memory is None:
            memory = states[:, :, :0].to("cpu" if self.on_cpu else states.device)
        capacity = memory.shape[2]
        if self.length <= capacity:
            return memory
        blocks = -(-max(self.length, self.capacity_hint) // self.block)
        return pad(memory, (0, 0, 0, blocks * self.block - capacity))

    def get_seq_length(self) -> int:
        """Tokens of text, which is what callers count."""
        return self.length - self.length // self.block

    def reset(self):
        super().reset()
        self.length = 0


def with_landmark_layers(cache, config):
    """`cache`, a new one for None, with its empty layers replaced by landmark layers."""
    cache = DynamicCache() if cache is None else cache
    first = cache.layers[0] if cache.layers else None
    if not isinstance(first, LandmarkLayer):
        # an evaluation sets these two
        on_cpu = getattr(first, "on_cpu", False)
        capacity_hint = getattr(first, "capacity_hint", 0)
        cache.layers = [LandmarkLayer(config.block, on_cpu, capacity_hint) for _ in range(config.num_hidden_layers)]
    return cache


def take_blocks(x_BHSd, index_BHq, block: int):
    """The blocks with these indices, int64 [B, H, ...], of keys or values: [B, H, ..., b, d], on the index's device."""
    B, H, S, d = x_BHSd.shape
    head_BH = torch.arange(B * H, device=index_BHq.device).view(B, H, *[1] * (index_BHq.ndim - 2))
    index = (head_BH * (S // block) + index_BHq).to(x_BHSd.device)
    blocks = x_BHSd.reshape(-1, block, d).index_select(0, index.flatten())
    return blocks.unflatten(0, index.shape).to(index_BHq.device)


class Piece(Movable):
    """The places `start` ... `start + n - 1` of the row, whose local section begins at `local`, a multiple of b."""

    def __init__(self, b, start, n, local, device):
        self.b = b
        self.local = local
        place_n = torch.arange(start, start + n, device=device)
        self.place_in_block = place_n % b
        self.query_B11n = (place_n - local).view(1, 1, 1, n)
        self.earlier_B1 = torch.full((1, 1), local // b, device=device)

    def update(self, layer: LandmarkLayer, k_BHnd, v_BHnd):
        """Adds keys and values to the cache; returns those of the local section, [B, H, G, b, d] each."""
        keys, values = layer.update(k_BHnd, v_BHnd)
        last_block = -(-layer.length // self.b)
        section = slice(self.local, last_block * self.b)
        keys_Gb = keys[:, :, section].unflatten(2, (-1, self.b))
        values_Gb = values[:, :, section].unflatten(2, (-1, self.b))
        return keys_Gb.to(k_BHnd.device), values_Gb.to(k_BHnd.device)

    def landmarks(self, layer: LandmarkLayer):
        """Keys of the landmarks of the blocks before the local section, [B, H, G, d]."""
        return layer.keys[:, :, self.b - 1 : self.local : self.b].to(self.query_B11n.device)


class Step(Movable):
    """One token per row, at `place_B1` of the row, and a landmark after it, for a cache of a fixed size.

    All shapes depend on the cache only, and no value is read back, so a CUDA graph can hold the step. The landmark
    counts only if the token fills its block; otherwise the next token overwrites it.
    """

    def __init__(self, b, place_B1):
        self.b = b
        self.place_B2 = torch.cat([place_B1, place_B1 + 1], 1)
        self.place_in_block = (self.place_B2 % b)[:, None]
        self.query_B11n = self.place_in_block[:, None]
        self.earlier_B1 = place_B1 // b

    def update(self, layer, k_BHnd, v_BHnd):
        """Writes keys and values to the cache; returns those of each row's own block, [B, H, 1, b, d] each."""
        row_B1 = torch.arange(len(k_BHnd), device=k_BHnd.device)[:, None]
        layer.keys[row_B1, :, self.place_B2] = k_BHnd.transpose(1, 2)
        layer.values[row_B1, :, self.place_B2] = v_BHnd.transpose(1, 2)
        own_BH1 = self.earlier_B1[:, None].expand(-1, k_BHnd.shape[1], -1)
        return take_blocks(layer.keys, own_BH1, self.b), take_blocks(layer.values, own_BH1, self.b)

    def landmarks(self, layer):
        """Keys of the landmarks of all blocks that the cache has room for, [B, H, G, d]."""
        return layer.keys[:, :, self.b - 1 :: self.b]
