"""Layers of the key-value cache whose memory is kept: for the prefill of one prompt, and for decoding several rows."""

import torch
from transformers.cache_utils import DynamicLayer


class CacheLayer(DynamicLayer):
    """Keys and values of one layer, [B, H, capacity, d], of which the first `length` positions are filled.

    Tokens are written in place, and cropping only lowers `length`. With `on_cpu` the tensors stay in CPU memory and
    each attention call gets a copy on its device. capacity_hint: positions to allocate at first.
    """

    def __init__(self, on_cpu: bool = False):
        super().__init__()
        self.on_cpu = on_cpu
        self.length = 0
        self.capacity_hint = 0

    def update(self, key_states, value_states, *args, **kwargs):
        """Appends keys and values, [B, H, n, d] each; returns all of them so far."""
        device = key_states.device
        end = self.length + key_states.shape[2]
        if not self.is_initialized or end > self.keys.shape[2]:
            self.grow(max(end, self.capacity_hint), key_states, value_states)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end].to(device), self.values[:, :, :end].to(device)

    def grow(self, capacity: int, key_states, value_states):
        """Allocates `capacity` positions and keeps the filled ones; zeros, because hidden positions must be finite."""
        for name, like in (("keys", key_states), ("values", value_states)):
            device = "cpu" if self.on_cpu else like.device
            grown = like.new_zeros(*like.shape[:2], capacity, like.shape[3], device=device)
            if self.length:
                grown[:, :, : self.length] = getattr(self, name)[:, :, : self.length]
            setattr(self, name, grown)
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.length

    def crop(self, length: int, capacity: int):
        """Keeps the first `length` positions and makes room for `capacity` positions in all."""
        self.length = length
        self.capacity_hint = capacity
        if self.is_initialized and self.keys.shape[2] < capacity:
            self.grow(capacity, self.keys, self.values)


class DecodeLayer(DynamicLayer):
    """Keys and values of one layer while rows are decoded: each row's new token goes to the row's own position.

    keys, values: [B, H, capacity, d], filled by the prefill.  position_B1: int64, where the next token of each row
    goes.  visible: how many positions the attention sees; the mask hides those that a row has not filled.
    """

    def __init__(self, keys, values, position_B1):
        super().__init__()
        self.keys = keys
        self.values = values
        self.position_B1 = position_B1
        self.row_B = torch.arange(len(keys), device=keys.device)
        self.visible = keys.shape[2]
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        """Writes one token per row, [B, H, 1, d] each; returns the visible keys and values."""
        position_B = self.position_B1[:, 0].to(self.keys.device)
        self.keys[self.row_B, :, position_B] = key_states[:, :, 0]
        self.values[self.row_B, :, position_B] = value_states[:, :, 0]
        return self.keys[:, :, : self.visible], self.values[:, :, : self.visible]

    def get_seq_length(self) -> int:
        return self.visible - 1
