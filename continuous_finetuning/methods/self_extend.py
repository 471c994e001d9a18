"""self_extend: Self-Extend (arXiv 2401.01325): far keys share positions in groups, near keys keep their own.

Not trained. With G = group_size and W = neighbor_window, a text of L tokens needs positions up to (L - W) / G + W, at
most the base's window C. For C = 4096 the defaults are the study's, G = 64 and W = 1024. For another C: W = C / 4, and
the smallest G that keeps the largest position within 2/3 C, the upper end of the authors' rule (1/2 ... 2/3) C >
W + (L - W) / G (datamllab/LongLM).
"""

import math

from methods import PositionRule, option


class Method(PositionRule):
    group_size: int | None = option(
        None, "G, so many far keys share a position [64 if the original length C is 4096, else computed]", int
    )
    neighbor_window: int | None = option(None, "W, keys nearer than this keep their distance, tokens [C / 4]", int)

    set_for_longest_text = True  # the group size decides how long a text may be

    def __post_init__(self):
        C, L = self.original_length, self.model_max_length
        W = self.neighbor_window = self.neighbor_window or C // 4
        if self.group_size is None:
            room = max(1, 2 * C - 3 * W)  # 3 (2/3 C - W), a whole number
            self.group_size = 64 if C == 4096 else math.ceil(3 * (L - W) / room)
        if L - W > (C - W) * self.group_size:
            given = f"--group_size {self.group_size} and --neighbor_window {W}"
            remedy = "give a larger group or a smaller window"
            raise ValueError(f"at {L} tokens, positions are beyond the base's {C} with {given}; {remedy}")
