"""The methods that give far keys other positions, for any Llama: no training, no new weights.

In each, query i sees keys k <= i in one softmax: near keys at their distance i - k, far ones at the distance
`far_query_position(i)` - `far_key_position(k)`, by default `window`. modeling_near_far.py computes the attention.
"""

import math

from .modeling_near_far import NearFarConfig, model_classes


class LMInfiniteConfig(NearFarConfig):
    """LM-Infinite (arXiv 2308.16137): a window, and the first `global_tokens` keys at the distance `local_window`.

    No other key is seen: the paper's Lambda-shaped mask and its distance ceiling.
    """

    model_type = "lm_infinite"
    attribute_map = {"window": "local_window", "far_keys": "global_tokens"}
    local_window: int = 4096
    global_tokens: int = 10


class StreamingConfig(NearFarConfig):
    """StreamingLLM (arXiv 2309.17453): a window and the first `sinks` keys, at their places among these keys.

    0, 1, ... are the places of the sinks, the following numbers those of the window. So towards a sink the query is at
    min(i, sinks + local_window - 1).
    """

    model_type = "streaming"
    attribute_map = {"window": "local_window", "far_keys": "sinks"}
    local_window: int = 4092
    sinks: int = 4

    def far_query_position(self, index):
        return index.clamp(max=self.sinks + self.local_window - 1)

    def far_key_position(self, index):
        return index


class SelfExtendConfig(NearFarConfig):
    """Self-Extend (arXiv 2401.01325): far keys share positions in groups of G = group_size.

    From W = neighbor_window on, the distance is floor(i / G) - floor(k / G) + W - W / G (W / G may be a fraction).
    """

    model_type = "self_extend"
    attribute_map = {"window": "neighbor_window"}
    group_size: int = 64
    neighbor_window: int = 1024

    def far_query_position(self, index):
        return index // self.group_size + self.neighbor_window - self.neighbor_window / self.group_size

    def far_key_position(self, index):
        return index // self.group_size


class ReRoPEConfig(NearFarConfig):
    """ReRoPE (github.com/bojone/rerope): the distance min(i - k, local_window).

    Scores are multiplied by max(1, ln(i + 1) / ln original_length), so that attention stays sharp among more keys.
    """

    model_type = "rerope"
    attribute_map = {"window": "local_window"}
    local_window: int = 1024
    original_length: int = 4096

    def query_scale(self, index):
        return ((index + 1).log() / math.log(self.original_length)).clamp(min=1)


class StringConfig(NearFarConfig):
    """STRING (arXiv 2410.18745): from `shift` on, the distance is i - k - shift + local_window."""

    model_type = "string"
    attribute_map = {"window": "shift"}
    shift: int = 1365
    local_window: int = 128

    def far_query_position(self, index):
        return index - self.shift + self.local_window

    def far_key_position(self, index):
        return index


class DCAConfig(NearFarConfig):
    """Dual Chunk Attention (arXiv 2402.17463): positions start anew in every chunk.

    With s = chunk_size and chunks of c = s - local_window tokens, key k has the position k mod c. The query is at
        i mod c towards its own chunk, min(i mod c + c, s) towards the chunk before, s towards earlier chunks.
    The first, and the second while i mod c < local_window, give the distance i - k; otherwise the query is at s.
    """

    model_type = "dca"
    attribute_map = {"window": "chunk_size"}
    chunk_size: int = 3072
    local_window: int = 512

    def first_near_key(self, index):
        # the start of the query's chunk; for the first `local_window` queries of a chunk, that of the one before
        step = self.chunk_size - self.local_window
        return (index - self.local_window) // step * step

    def far_key_position(self, index):
        return index % (self.chunk_size - self.local_window)


AUTO_MAPS = {}  # by method
for rule in (LMInfiniteConfig, StreamingConfig, SelfExtendConfig, ReRoPEConfig, StringConfig, DCAConfig):
    AUTO_MAPS[rule.model_type] = model_classes(rule)
    for cls in AUTO_MAPS[rule.model_type].values():
        globals()[cls.__name__] = cls  # Transformers looks classes up by name
