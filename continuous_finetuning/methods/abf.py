"""abf: the rope's base is adjusted to the target length ("adjusted base frequency", arXiv 2309.16039, section 2).

theta' = --new_base, or by the law of arXiv 2310.05209: theta^(ln(L / 2 pi) / ln(C / 2 pi)), with which the angle that
turned once in C tokens turns once in L tokens. Llama-2 at 32k: 192,144. A warning names a base below the least one
that arXiv 2405.14591 gives for the length (table 2, for heads of 128).
"""

import math

from run import warn_rank0

from methods import ContextExtension, option

LEAST_BASES = {  # by length, tokens
    2**12: 2.7e4, 2**13: 8.4e4, 2**14: 3.1e5, 2**15: 6.4e5, 2**16: 2.1e6, 2**17: 7.8e6, 2**18: 3.6e7, 2**19: 6.4e7,
    2**20: 5.1e8,
}  # fmt: skip


class Method(ContextExtension):
    new_base: float | None = option(None, "the rope's base [theta^(ln(L / 2 pi) / ln(C / 2 pi))]")

    def __post_init__(self):
        if self.new_base is None:
            turns = self.model_max_length / (2 * math.pi)
            turns_before = self.original_length / (2 * math.pi)
            self.new_base = self.rope_theta ** (math.log(turns) / math.log(turns_before))
        reached = [length for length in LEAST_BASES if length <= self.model_max_length]
        least = LEAST_BASES[max(reached)] if reached else 0
        if self.new_base < least:
            found = f"the rope's base {self.new_base:,.0f} is below {least:,.0f}"
            warn_rank0(f"WARNING: {found}, the least for {self.model_max_length} tokens (arXiv 2405.14591)")

    def rope_parameters(self):
        return {"rope_type": "default", "rope_theta": self.new_base}
