"""LM-Infinite (arXiv 2308.16137) for any Llama: a local window, and the first tokens seen at a fixed distance.

Query i sees, in one softmax,
    keys k with 0 <= i - k < local_window                      at their distance i - k;
    keys k < global_tokens with i - k >= local_window          all at the distance local_window;
and no other key (the paper's Lambda-shaped mask and its distance ceiling). No training, no new weights. All keys stay
in the cache.
"""

from .modeling_near_far import NearFarConfig, model_classes


class LMInfiniteConfig(NearFarConfig):
    model_type = "lm_infinite"
    attribute_map = {"window": "local_window", "far_keys": "global_tokens"}
    local_window: int = 4096
    global_tokens: int = 10

    def far_query_position(self, index):
        return index.new_full(index.shape, self.local_window)

    def far_key_position(self, index):
        return index.new_zeros(index.shape)


LMInfiniteModel, LMInfiniteForCausalLM, AUTO_MAP = model_classes(LMInfiniteConfig)
