"""The key-value cache of modeling_landmark.py, beside which it travels inside the checkpoint."""

import torch
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin


class LandmarkLayer(CacheLayerMixin):
    """The cache of one layer: keys and values [B, H, capacity in blocks, b, d], 0 where it is not filled.

    A key is rotated by its place inside its block only; queries are rotated by the distance to the block, so a block
    can take any slot. `landmarks` [B, H, capacity, d] repeats the landmarks' keys on the model's device.
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
        capacity = self.keys.shape[2] if self.is_initialized else 0
        if last > capacity:
            self._grow(max(last + capacity // 8, -(-self.expected // self.block)), k_BHnd)
        self.keys.flatten(2, 3)[:, :, start:end] = k_BHnd.to(self.keys.device)
        self.values.flatten(2, 3)[:, :, start:end] = v_BHnd.to(self.keys.device)
        self.landmarks[:, :, first:last] = self.keys[:, :, first:last, -1].to(k_BHnd.device)
        self.length = end

    def blocks(self, chosen_BHq):
        """Keys and values, [B, H, ..., b, d] each, of the blocks with these indices, int64 [B, H, ...]."""
        B, H, capacity = self.keys.shape[:3]
        head_BH = torch.arange(B * H, device=chosen_BHq.device).view(B, H, *[1] * (chosen_BHq.ndim - 2))
        index = (head_BH * capacity + chosen_BHq).to(self.keys.device)
        for x in (self.keys, self.values):
            blocks = x.flatten(0, 2).index_select(0, index.flatten()).unflatten(0, index.shape)
            yield blocks.to(chosen_BHq.device)

    def _grow(self, capacity: int, like):
        B, H, _, d = like.shape
        for name in ("keys", "values", "landmarks"):
            shape = (B, H, capacity, d) if name == "landmarks" else (B, H, capacity, self.block, d)
            device = "cpu" if self.on_cpu and name != "landmarks" else like.device
            with torch.inference_mode(False):  # a cache begun in inference mode may be continued outside it
                grown = torch.zeros(shape, dtype=like.dtype, device=device)
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
        cache.layers = [LandmarkLayer(config.block, on_cpu) for _ in range(config.num_hidden_layers)]
    return cache
