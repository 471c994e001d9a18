"""ReRoPE (github.com/bojone/rerope) for any Llama: distances beyond a window are all that of its end.

Query i sees every key k <= i, in one softmax, at the relative position min(i - k, local_window). Its scores are
multiplied by max(1, ln(i + 1) / ln C), with C = original_length, so that attention stays sharp among more keys. No
training, no new weights.
"""

import math

from .modeling_near_far import NearFarConfig, model_classes


class ReRoPEConfig(NearFarConfig):
    model_type = "rerope"
    attribute_map = {"window": "local_window"}
    local_window: int = 1024
    original_length: int = 4096

    def far_query_position(self, index):
        return index.new_full(index.shape, self.local_window)

    def far_key_position(self, index):
        return index.new_zeros(index.shape)

    def query_scale(self, index):
        return ((index + 1).log() / math.log(self.original_length)).clamp(min=1)


ReRoPEModel, ReRoPEForCausalLM, AUTO_MAP = model_classes(ReRoPEConfig)
