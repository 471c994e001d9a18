"""streaming: StreamingLLM (arXiv 2309.17453): attention sinks and a sliding window, at their places in the cache.

Not trained, for texts of any length. It gives what StreamingLLM gives token by token, but hidden keys stay in the
cache: memory grows with the length.
"""

from methods import PositionRule, option


class Method(PositionRule):
    local_window: int | None = option(None, "last keys, which a query sees, tokens [C - sinks]", int)
    sinks: int = option(4, "first keys, which every query sees [4]", int)

    def __post_init__(self):
        C = self.original_length
        self.local_window = self.local_window or C - self.sinks
        if self.local_window < 1 or self.local_window + self.sinks > C:
            kept = f"--sinks {self.sinks} and --local_window {self.local_window}"
            raise ValueError(f"{kept} must be at most the base's window, {C}, together")
