"""abf: the rope's base is adjusted to the target length ("adjusted base frequency", arXiv 2309.16039, section 2).

theta' = --new_base, or by the law of arXiv 2310.05209: theta^(ln(L / 2 pi) / ln(C / 2 pi)), with which the angle that
turned once in C tokens turns once in L tokens. Llama-2 at 32k: 192,144.
"""

import math
from dataclasses import dataclass

from methods import ContextExtension, option


@dataclass
class Method(ContextExtension):
    new_base: float | None = option(None, "the rope's base [theta^(ln(L / 2 pi) / ln(C / 2 pi))]")

    def __post_init__(self):
        if self.new_base is None:
            turns = self.model_max_length / (2 * math.pi)
            turns_before = self.original_length / (2 * math.pi)
            self.new_base = self.rope_theta ** (math.log(turns) / math.log(turns_before))

    def rope_parameters(self):
        return {"rope_type": "default", "rope_theta": self.new_base}
