"""Decodes rows together, one token per row and step; on a GPU a step is one replay of a CUDA graph.

An eager step of a 7B model costs 25 ms, nearly all of it launching kernels; a replayed graph costs what the GPU needs.
A graph fixes addresses and shapes, so it reads a fixed number of positions (`visible`, rounded up by `round_length`)
and a mask hides what a row has not filled.
"""

import math

import torch
from transformers import DynamicCache

from attention import eager_kernels, graph_kernels
from kv_cache import CacheLayer, DecodeLayer


def round_length(length: int) -> int:
    """A length rounded up by at most an eighth, so that few graphs serve many lengths."""
    step = max(256, 2 ** (length.bit_length() - 4))
    return -(-length // step) * step


class Decoder:
    """Greedy steps over keys and values that are already filled.

    model: a causal language model with the attention implementation attention.CACHED.
    keys, values: one tensor per layer, [B, H, capacity, d].  use_graph: capture the step in a CUDA graph.
    """

    def __init__(self, model, keys: list[torch.Tensor], values: list[torch.Tensor], use_graph: bool):
        rows, device = len(keys[0]), keys[0].device
        self.model = model
        self.keys = keys
        self.use_graph = use_graph
        self.token_B1 = torch.zeros((rows, 1), dtype=torch.int64, device=device)
        self.position_B1 = torch.zeros_like(self.token_B1)
        vocabulary = model.config.get_text_config().vocab_size
        self.bias_V = torch.zeros(vocabulary, dtype=model.dtype, device=device)  # -inf for banned tokens
        self.banned = set()
        self.place_m = torch.arange(keys[0].shape[2], device=device)
        self.cache = DynamicCache()
        self.cache.layers = [DecodeLayer(k, v, self.position_B1) for k, v in zip(keys, values, strict=True)]
        self.graphs = {}  # by the number of visible positions

    def start(self, lengths: list[int], visible: int):
        """Begins a group. lengths: tokens of each prompt.  visible: positions that the graph's attention reads."""
        self.position_B1.copy_(torch.tensor(lengths)[:, None])
        self.visible = visible
        self.longest = max(lengths)

    def step(self, tokens: list[int], banned: set[int]) -> list[int]:
        """Appends one token to each row; returns the most probable next tokens, none of which is banned."""
        if banned != self.banned:
            self.bias_V.zero_()
            self.bias_V[list(banned)] = -math.inf
            self.banned = banned
        self.token_B1.copy_(torch.tensor(tokens)[:, None])
        self.longest += 1
        if self.use_graph:
            self.replay(self.visible)
        else:
            with eager_kernels():
                self.forward(self.longest)
        return self.token_B1[:, 0].tolist()

    def forward(self, visible: int):
        """One step: reads `token_B1` and `position_B1` and replaces both."""
        hidden_Bm = self.place_m[:visible] > self.position_B1
        mask_B11m = torch.zeros(hidden_Bm.shape, dtype=self.model.dtype, device=hidden_Bm.device)
        mask_B11m = mask_B11m.masked_fill(hidden_Bm, -math.inf)[:, None, None]
        for layer in self.cache.layers:
            layer.visible = visible
        logits_BV = self.model(
            input_ids=self.token_B1,
            position_ids=self.position_B1,
            attention_mask=mask_B11m,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self.token_B1.copy_((logits_BV + self.bias_V).argmax(-1, keepdim=True))
        self.position_B1.add_(1)

    def replay(self, visible: int):
        """Runs the step's graph, captured on its first use."""
        if visible not in self.graphs:
            self.graphs[visible] = self.capture(visible)
        self.graphs[visible].replay()

    def capture(self, visible: int) -> torch.cuda.CUDAGraph:
        """The graph of one step. The warm-up writes the same keys and values that the first replay will."""
        token_B1, position_B1 = self.token_B1.clone(), self.position_B1.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream), graph_kernels():
            self.forward(visible)
            self.token_B1.copy_(token_B1)
            self.position_B1.copy_(position_B1)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph), graph_kernels():
            self.forward(visible)
        return graph


class GroupStorage:
    """Memory for the keys and values of a group of rows, one flat tensor per layer, kept between groups."""

    def __init__(self):
        self.keys = []
        self.values = []
        self.decoders = {}  # by (rows, capacity): their graphs hold addresses in this memory

    def reserve(self, layers: list[CacheLayer], rows: int, capacity: int):
        """Makes room for `rows` rows of `capacity` positions, shaped and placed as the layers of a filled cache."""
        if self.keys and all(
            k.numel() >= rows * capacity * layer.keys.shape[1] * layer.keys.shape[3]
            for k, layer in zip(self.keys, layers, strict=True)
        ):
            return
        self.keys, self.values, self.decoders = [], [], {}  # before memory is allocated anew
        for layer in layers:
            size = rows * capacity * layer.keys.shape[1]
            self.keys.append(layer.keys.new_zeros(size * layer.keys.shape[3]))
            self.values.append(layer.values.new_zeros(size * layer.values.shape[3]))

    def views(self, layers: list[CacheLayer], rows: int, capacity: int) -> tuple[list, list]:
        """The memory as one tensor [rows, H, capacity, d] per layer, for keys and for values."""
        views = []
        for flat, name in ((self.keys, "keys"), (self.values, "values")):
            shaped = []
            for tensor, layer in zip(flat, layers, strict=True):
                heads, width = getattr(layer, name).shape[1], getattr(layer, name).shape[3]
                shaped.append(tensor[: rows * heads * capacity * width].view(rows, heads, capacity, width))
            views.append(shaped)
        return views[0], views[1]
