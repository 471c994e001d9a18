"""Self-Extend (arXiv 2401.01325) for any Llama: far keys share positions in groups, near keys keep their own.

With W = neighbor_window and G = group_size, query i sees every key k <= i, in one softmax, at the relative position
    i - k                                        if i - k < W;
    floor(i / G) - floor(k / G) + W - W / G      otherwise (W / G may be a fraction).
No training, no new weights. A text of L tokens needs positions up to (L - W) / G + W.
"""

from .modeling_near_far import NearFarConfig, model_classes


class SelfExtendConfig(NearFarConfig):
    model_type = "self_extend"
    attribute_map = {"window": "neighbor_window"}
    group_size: int = 64
    neighbor_window: int = 1024

    def far_query_position(self, index):
        return index // self.group_size + self.neighbor_window - self.neighbor_window / self.group_size

    def far_key_position(self, index):
        return index // self.group_size


SelfExtendModel, SelfExtendForCausalLM, AUTO_MAP = model_classes(SelfExtendConfig)
