"""string: STRING (arXiv 2410.18745): far keys are shifted to distances that training has met more often.

Not trained. With S = shift and W = local_window, the paper uses it within the base's window C, with S = C / 3 and
W = 128 (here at most C / 32). Beyond it, S = L - C + W keeps all positions below C in a text of L <= 2 C - W tokens.
"""

from methods import PositionRule, option


class Method(PositionRule):
    shift: int | None = option(None, "S, keys nearer than this keep their distance, tokens [C / 3, or L - C + W]", int)
    local_window: int | None = option(None, "W, distance of the first shifted key, tokens [128 or C / 32]", int)

    extends_rows = False  # it is of use within the base's window, too
    set_for_longest_text = True  # the shift decides how long a text may be

    def __post_init__(self):
        C, L = self.original_length, self.model_max_length
        W = self.local_window = self.local_window or min(128, C // 32)
        S = self.shift = self.shift or max(C // 3, L - C + W)
        positions = max(min(S, L), L - S + W)
        if positions > C:
            given = f"at {L} tokens, string with --shift {S} and --local_window {W}"
            remedy = f"it reaches {2 * C - W} tokens (give --model_max_length and --longest_text up to that)"
            raise ValueError(f"{given} has {positions} positions, above the base's {C}; {remedy}")
