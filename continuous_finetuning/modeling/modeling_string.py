"""STRING (arXiv 2410.18745) for any Llama: far keys are shifted to distances that training has met more often.

With S = shift and W = local_window, query i sees every key k <= i, in one softmax, at the relative position
    i - k              if i - k < S;
    i - k - S + W      otherwise.
No training, no new weights. A text of L tokens needs positions below max(S, L - S + W).
"""

from .modeling_near_far import NearFarConfig, model_classes


class StringConfig(NearFarConfig):
    model_type = "string"
    attribute_map = {"window": "shift"}
    shift: int = 1365
    local_window: int = 128

    def far_query_position(self, index):
        return index - self.shift + self.local_window

    def far_key_position(self, index):
        return index


StringModel, StringForCausalLM, AUTO_MAP = model_classes(StringConfig)
