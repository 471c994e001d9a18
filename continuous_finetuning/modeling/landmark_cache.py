"""The key-value cache of modeling_landmark.py, and where the tokens of a forward pass are in it.

This file travels inside the checkpoint. Suffixes: as in modeling_landmark.py.
"""

import torch
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin


class LandmarkLayer(CacheLayerMixin):
    """The cache of one layer: keys and values [B, H, capacity, d], capacity in whole blocks, 0 where it is not filled.

    A key is rotated by its place inside its block only; queries are rotated by the distance to the block, so a block
    can take any slot. `landmarks` [B, H, blocks, d] repeats the landmarks' keys on the model's device.
    """

    def __init__(self, block: int, on_cpu: bool):
        super().__init__()
        self.block = block
        self.on_cpu = on_cpu
        self.length = 0  # tokens of the row
        self.expected = 0  # tokens to make room for

    def append(self, k_BHnd, v_BHnd):
        """Adds n tokens of the row (text and landmarks). The memory grows by an eighth, or to `expected` tokens."""
        start = self.length
        end = start + k_BHnd.shape[2]
        first, last = start // self.block, -(-end // self.block)
        blocks = self.landmarks.shape[2] if self.is_initialized else 0
        if last > blocks:
            self._grow(max(last + blocks // 8, -(-self.expected // self.block)), k_BHnd)
        self.keys[:, :, start:end] = k_BHnd.to(self.keys.device)
        self.values[:, :, start:end] = v_BHnd.to(self.keys.device)
        landmarks = self.keys[:, :, self.block - 1 :: self.block][:, :, first:last]
        self.landmarks[:, :, first : first + landmarks.shape[2]] = landmarks.to(k_BHnd.device)
        self.length = end

    def _grow(self, blocks: int, like):
        B, H, _, d = like.shape
        for name in ("keys", "values", "landmarks"):
            length = blocks if name == "landmarks" else blocks * self.block
            device = "cpu" if self.on_cpu and name != "landmarks" else like.device
            with torch.inference_mode(False):  # a cache begun in inference mode may be continued outside it
                grown = torch.zeros(B, H, length, d, dtype=like.dtype, device=device)
            if self.is_initialized:
                old = getattr(self, name)
                grown[:, :, : old.shape[2]] = old
            setattr(self, name, grown)
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Tokens of text, which is what the caller counts."""
        return self.length - self.length // self.block

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def reorder_cache(self, beam_idx):
        if self.is_initialized:
            for name in ("keys", "values", "landmarks"):
                tensor = getattr(self, name)
                setattr(self, name, tensor.index_select(0, beam_idx.to(tensor.device)))

    def reset(self):
        self.__init__(self.block, self.on_cpu)

    def lazy_initialization(self, key_states, value_states):
        """Nothing to do before the first `append`."""

    def update(self, key_states, value_states, *args, **kwargs):
        raise NotImplementedError("a landmark cache is filled by LandmarkAttention")


def landmark_cache(cache, config):
    """A cache of landmark layers: `cache` with its empty layers replaced, or a new one for None."""
    cache = DynamicCache() if cache is None else cache
    if not (cache.layers and isinstance(cache.layers[0], LandmarkLayer)):
        if cache.get_seq_length():
            raise ValueError("this cache was filled by another model; start landmark attention with an empty one")
        on_cpu = config.cache_on_cpu or getattr(cache, "offloading", False)
        expected = max((getattr(layer, "capacity_hint", 0) for layer in cache.layers), default=0)
        cache.layers = [LandmarkLayer(config.block, on_cpu) for _ in range(config.num_hidden_layers)]
        for layer in cache.layers:
            layer.expected = expected
    return cache


def take_blocks(x_BHSd, index_BHq, block: int):
    """The blocks with these indices, int64 [B, H, ...], of keys or values: [B, H, ..., b, d], on the index's device."""
    B, H, S, d = x_BHSd.shape
    head_BH = torch.arange(B * H, device=index_BHq.device).view(B, H, *[1] * (index_BHq.ndim - 2))
    index = (head_BH * (S // block) + index_BHq).to(x_BHSd.device)
    blocks = x_BHSd.reshape(-1, block, d).index_select(0, index.flatten())
    return blocks.unflatten(0, index.shape).to(index_BHq.device)


class Piece:
    """The tokens `start` ... `start + n - 1` of the row, whose local section begins at `local`, a multiple of b."""

    def __init__(self, b, start, n, local, device):
        self.b = b
        self.first_block = local // b
        place_n = torch.arange(start, start + n, device=device)
        self.place_in_block = place_n % b
        self.query_B11n = (place_n - local).view(1, 1, 1, n)
        self.earlier_B1 = torch.full((1, 1), self.first_block, device=device)

    def update(self, layer: LandmarkLayer, k_BHnd, v_BHnd):
        """Adds keys and values to the cache; returns those of the local section, [B, H, G, b, d] each."""
        layer.append(k_BHnd, v_BHnd)
        last_block = -(-layer.length // self.b)
        blocks = slice(self.first_block * self.b, last_block * self.b)
        keys_Gb = layer.keys[:, :, blocks].unflatten(2, (-1, self.b))
        values_Gb = layer.values[:, :, blocks].unflatten(2, (-1, self.b))
        return keys_Gb.to(k_BHnd.device), values_Gb.to(k_BHnd.device)

    def landmarks(self, layer: LandmarkLayer):
        """Keys of the landmarks of the blocks before the local section, [B, H, G, d]."""
        return layer.landmarks[:, :, : self.first_block]


class Step:
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
