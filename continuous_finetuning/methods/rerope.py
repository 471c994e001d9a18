"""rerope: ReRoPE (github.com/bojone/rerope): no distance is larger than a window's, and scores grow with the length.

Not trained, and for texts of any length. Of the base's window C, the author takes local_window = C / 4 to C / 2.
"""

from dataclasses import dataclass

from methods import ContextExtension, option


@dataclass
class Method(ContextExtension):
    local_window: int | None = option(None, "W, keys nearer than this keep their distance, tokens [C / 4]", int)

    trained = False
    modeling = "position_rules"

    def __post_init__(self):
        self.local_window = self.local_window or max(1, self.original_length // 4)
        if self.local_window > self.original_length:
            raise ValueError(f"--local_window {self.local_window} is above the base's window, {self.original_length}")

    def config_fields(self):
        return self.options() | {"original_length": self.original_length}
