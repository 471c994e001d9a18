"""The key-value cache, and decoding rows together, one token per row and step.

On a GPU a step is one replay of a CUDA graph: an eager step of a 7B model costs 25 ms, nearly all of it launching
kernels; a replayed graph costs what the GPU needs. A graph has fixed addresses and shapes, so it reads a fixed number
of positions (`visible`, rounded up by `round_length`), and a mask hides those that a row has not filled.
"""

import math

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from attention import eager_kernels, graph_kernels

NOT_FINITE = -1  # instead of a token, where the logits are NaN or infinite


def most_probable(logits_BV: torch.Tensor) -> torch.Tensor:
    """The most probable token of each row, int64 [B, 1], or NOT_FINITE, without waiting for the device."""
    largest_B1, token_B1 = logits_BV.max(-1, keepdim=True)  # NaN if any is
    return token_B1.where(largest_B1.isfinite(), NOT_FINITE)


def round_length(length: int) -> int:
    """A length rounded up by at most an eighth, so that few graphs serve many lengths."""
    step = max(256, 2 ** (length.bit_length() - 4))
    return math.ceil(length / step) * step


class CacheLayer(DynamicLayer):
    """Keys and values of one layer, [B, H, capacity, d], of which the first `length` positions are filled.

    on_cpu: each attention call gets a copy on its device.  capacity_hint: positions to make room for.
    """

    def __init__(self, on_cpu: bool = False):
        super().__init__()
        self.on_cpu = on_cpu
        self.length = 0
        self.capacity_hint = 0

    def update(self, key_states, value_states, *args, **kwargs):
        """Appends keys and values, [B, H, n, d] each; returns all of them so far."""
        device = key_states.device
        self.keys = self.append(self.keys, key_states)
        self.values = self.append(self.values, value_states)
        self.is_initialized = True
        self.length += key_states.shape[2]
        return self.keys[:, :, : self.length].to(device), self.values[:, :, : self.length].to(device)

    def append(self, old, new) -> torch.Tensor:
        """`old` (None at first) with `new` behind its filled positions. It is replaced only if there is no room."""
        if old is None:
            old = new[:, :, :0].to("cpu" if self.on_cpu else new.device)
        end = self.length + new.shape[2]
        missing = max(end, self.capacity_hint) - old.shape[2]
        if missing > 0:
            old = pad(old, (0, 0, 0, missing))  # zeros: what a mask hides must be finite
        old[:, :, self.length : end] = new
        return old

    def get_seq_length(self) -> int:
        return self.length

    def crop(self, length: int, capacity: int):
        """Keeps the first `length` positions; the next update makes room for `capacity` positions in all."""
        self.length = length
        self.capacity_hint = capacity


class DecodeLayer(DynamicLayer):
    """Keys and values of one layer while rows are decoded, [B, H, capacity, d], filled by the prefill.

    position_B1: int64, the position of each row's next token.  visible: positions that the attention reads.
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


class Decoder:
    """Greedy steps over keys and values that the prefill has filled.

    model: a causal language model with the attention implementation attention.CACHED.
    states: keys and values of each layer, [B, H, capacity, d].  use_graph: capture the step in a CUDA graph.
    """

    def __init__(self, model, states: list[tuple], use_graph: bool):
        rows, _, capacity, _ = states[0][0].shape
        device = states[0][0].device
        self.model = model
        self.shape = (rows, capacity)
        self.use_graph = use_graph
        self.token_B1 = torch.zeros((rows, 1), dtype=torch.int64, device=device)
        self.position_B1 = torch.zeros_like(self.token_B1)
        self.position_m = torch.arange(capacity, device=device)
        self.cache = DynamicCache()
        self.cache.layers = [DecodeLayer(k, v, self.position_B1) for k, v in states]
        self.graphs = {}  # by the number of visible positions

    def fill(self, row: int, layers: list[CacheLayer]):
        """Copies the keys and values of a prefilled prompt to one row."""
        for source, layer in zip(layers, self.cache.layers, strict=True):
            layer.keys[row, :, : source.length] = source.keys[0, :, : source.length]
            layer.values[row, :, : source.length] = source.values[0, :, : source.length]

    def start(self, lengths: list[int], visible: int):
        """Begins a group. lengths: tokens of each prompt.  visible: positions that the graph's attention reads."""
        self.position_B1.copy_(torch.tensor(lengths)[:, None])
        self.visible = visible
        self.longest = max(lengths)

    def step(self, tokens: list[int]) -> list[int]:
        """Appends one token to each row; returns the most probable next tokens."""
        self.token_B1.copy_(torch.tensor(tokens)[:, None])
        self.longest += 1
        if self.use_graph:
            if self.visible not in self.graphs:
                self.graphs[self.visible] = self.capture(self.visible)
            self.graphs[self.visible].replay()
        else:
            with eager_kernels():
                self.forward(self.longest)
        return self.token_B1[:, 0].tolist()

    def forward(self, visible: int):
        """One step: reads `token_B1` and `position_B1` and replaces both."""
        hidden_Bm = self.position_m[:visible] > self.position_B1
        mask_Bm = torch.zeros(hidden_Bm.shape, dtype=self.model.dtype, device=hidden_Bm.device)
        mask_Bm = mask_Bm.masked_fill(hidden_Bm, -math.inf)
        for layer in self.cache.layers:
            layer.visible = visible
        output = self.model(
            input_ids=self.token_B1,
            position_ids=self.position_B1,
            attention_mask=mask_Bm[:, None, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.token_B1.copy_(most_probable(output.logits[:, -1]))
        self.position_B1.add_(1)

    def capture(self, visible: int) -> torch.cuda.CUDAGraph:
        """The graph of one step. The warm-up writes the same keys and values as the first replay."""
        token_B1 = self.token_B1.clone()
        position_B1 = self.position_B1.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), graph_kernels():
            self.forward(visible)
            self.token_B1.copy_(token_B1)
            self.position_B1.copy_(position_B1)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), graph_kernels():
            self.forward(visible)
        return graph
