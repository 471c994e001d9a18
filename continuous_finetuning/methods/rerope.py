"""rerope: ReRoPE (github.com/bojone/rerope): no distance is larger than a window's, and scores grow with the length.

Not trained, and for texts of any length. Of the base's window C, the author takes local_window = C / 4 to C / 2.
"""

from methods import PositionRule, option


class Method(PositionRule):
    local_window: int | None = option(None, "W, keys nearer than this keep their distance, tokens [C / 4]", int)

    def __post_init__(self):
        self.local_window = self.local_window or self.original_length // 4
        self.check_window(self.local_window)

    def config_fields(self):
        return self.options() | {"original_length": self.original_length}
