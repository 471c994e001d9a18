"""StreamingLLM (arXiv 2309.17453) for any Llama: attention sinks and a sliding window, at their places in the cache.

Query i sees, in one softmax, the last `local_window` keys, its own included, and the first `sinks` keys. Positions are
places among these keys: 0, 1, ... for the sinks and the following numbers for the window. So a key of the window keeps
its distance, and towards a sink the query has its place, min(i, sinks + local_window - 1). No training, no new weights.
Hidden keys stay in the cache.
"""

from .modeling_near_far import NearFarConfig, model_classes


class StreamingConfig(NearFarConfig):
    model_type = "streaming"
    attribute_map = {"window": "local_window", "far_keys": "sinks"}
    local_window: int = 4092
    sinks: int = 4

    def far_query_position(self, index):
        return index.clamp(max=self.sinks + self.local_window - 1)

    def far_key_position(self, index):
        return index


StreamingModel, StreamingForCausalLM, AUTO_MAP = model_classes(StreamingConfig)
