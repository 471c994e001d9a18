"""rerope: ReRoPE (github.com/bojone/rerope): no distance is larger than a window's, and scores grow with the length.

Relative position of query i and key k, d = i - k:   min(d, W)
in one softmax; all scores of query i are multiplied by max(1, ln(i + 1) / ln C). C is the original length and W =
local_window, which the author takes as C / 4 to C / 2. Not trained, and for texts of any length: the weights are the
base's, the attention is in modeling/modeling_rerope.py.
"""

from dataclasses import dataclass

from methods import ContextExtension, option


@dataclass
class Method(ContextExtension):
    local_window: int | None = option(None, "W, keys nearer than this keep their distance, tokens [C / 4]", int)

    trained = False
    exact_attention = False
    modeling = "rerope"

    def __post_init__(self):
        self.local_window = self.local_window or max(1, self.original_length // 4)
        if self.local_window > self.original_length:
            raise ValueError(f"--local_window {self.local_window} is above the base's window, {self.original_length}")

    def config_fields(self):
        return self.options() | {"original_length": self.original_length}
