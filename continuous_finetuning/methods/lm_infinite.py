"""lm_infinite: LM-Infinite (arXiv 2308.16137): a local window and the first tokens, at distances the base has seen.

Not trained. All keys stay in the cache: memory grows with the length.
"""

from methods import PositionRule, option


class Method(PositionRule):
    local_window: int | None = option(None, "keys seen at their own distance, tokens [original length]", int)
    global_tokens: int = option(10, "first tokens, which every query sees [10]", int)

    def __post_init__(self):
        self.local_window = self.local_window or self.original_length
        self.check_window(self.local_window)
