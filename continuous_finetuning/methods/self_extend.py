"""self_extend: Self-Extend (arXiv 2401.01325): far keys share positions in groups, near keys keep their own.

Relative position of query i and key k, d = i - k:   d                                        if d < W
                                                     floor(i / G) - floor(k / G) + W - W / G  otherwise
in one softmax; G = group_size, W = neighbor_window. Not trained: the weights are the base's, the attention is in
modeling/modeling_self_extend.py.

A text of L tokens needs positions up to (L - W) / G + W, which must not exceed the base's original length C. For
C = 4096 the defaults are the study's, G = 64 and W = 1024. For another C: W = C / 4, and the smallest G that keeps the
largest position at --model_max_length within 2/3 C, the upper end of the rule that the method's authors found by trial,
(1/2 ... 2/3) C > W + (L - W) / G (README of their repository, datamllab/LongLM).
"""

from dataclasses import dataclass
from typing import ClassVar

from methods import ContextExtension, option


@dataclass
class Method(ContextExtension):
    group_size: int | None = option(
        None, "G, far keys share a position in groups of it [64 if the original length C is 4096, else computed]", int
    )
    neighbor_window: int | None = option(None, "W, keys nearer than this keep theirs, tokens [C / 4]", int)

    trained: ClassVar[bool] = False
    exact_attention: ClassVar[bool] = False
    scales_rope: ClassVar[bool] = False
    modeling: ClassVar[str | None] = "self_extend"

    def __post_init__(self):
        C, L = self.original_length, self.model_max_length
        W = self.neighbor_window = max(1, C // 4) if self.neighbor_window is None else self.neighbor_window
        for name in ("neighbor_window", "group_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise SystemExit(f"error: --{name} must be a whole number above 0, not {getattr(self, name)}")
        if W >= C:
            raise SystemExit(
                f"error: --neighbor_window {W} leaves no position for groups; give less than the base's window of {C}"
            )
        if self.group_size is None:
            room = 2 * C - 3 * W  # 3 (2/3 C - W), in whole numbers
            if C != 4096 and room <= 0:
                raise SystemExit(f"error: --neighbor_window {W} is above 2/3 of the {C} tokens; give --group_size too")
            self.group_size = 64 if C == 4096 else -(-3 * (L - W) // room)
        if L - W > (C - W) * self.group_size:
            raise SystemExit(
                f"error: --group_size {self.group_size} with --neighbor_window {W} reaches position "
                f"{(L - W) / self.group_size + W:.0f} at {L} tokens, beyond the base's {C}; "
                f"give a --group_size of at least {-(-(L - W) // (C - W))}"
            )
        if self.rope["rope_type"] in ("dynamic", "longrope"):
            raise SystemExit(
                f"error: the base's rope ({self.rope['rope_type']}) changes with the length of the text; self_extend "
                "needs a base whose rope does not"
            )

    def config_fields(self):
        return self.options()
