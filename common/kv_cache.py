"""A layer of the key-value cache whose memory is kept: filled in place, cropped by a number."""

from transformers.cache_utils import DynamicLayer


class CacheLayer(DynamicLayer):
    """Keys and values of one layer, [B, H, capacity, d], of which the first `length` positions are filled.

    Tokens are written in place, and cropping only lowers `length`. With `on_cpu` the tensors stay in CPU memory and
    each attention call gets a copy on its device. capacity_hint: positions to allocate when memory has to grow.
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
        """Allocates `capacity` positions and keeps the filled ones."""
        for name, like in (("keys", key_states), ("values", value_states)):
            device = "cpu" if self.on_cpu else like.device
            grown = like.new_empty(*like.shape[:2], capacity, like.shape[3], device=device)
            if self.length:
                grown[:, :, : self.length] = getattr(self, name)[:, :, : self.length]
            setattr(self, name, grown)
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.length

    def copy_row(self, row: int, rows: int, source: "CacheLayer"):
        """Makes `source`, a layer of one row, row number `row` of `rows` here, right-aligned to `length` positions."""
        for name in ("keys", "values"):
            filled = getattr(source, name)[:, :, : source.length]
            if row == 0:  # zeros: padding gets no attention weight, but it must be finite
                shape = (rows, filled.shape[1], self.capacity_hint, filled.shape[3])
                setattr(self, name, filled.new_zeros(shape))
            getattr(self, name)[row, :, self.length - source.length : self.length] = filled[0]
        self.is_initialized = True
