"""ntk: Dynamic NTK-aware scaling of the rope's base (bloc97 and emozilla, r/LocalLLaMA 14lz7j5 and 14mrgpr; used
for fine-tuning as in arXiv 2402.10171; the study's own formula is in arXiv 2409.12181, section 3).

alpha(L) = f * max(L, T) / C - (f - 1);   base(L) = theta * alpha(L)^(d / (d - 2))

T is the trained length, f = ceil(T / C / 2). Training rows are T long, so the checkpoint is a plain Llama with the
`rope_theta` base(T). Only longer prompts get a larger base, fixed once per prompt: `rope_by_length`. Llama-2 (C = 4096,
theta 10000, d 128): 32k alpha 29, base 305,922; 64k alpha 121, base 1,305,706. The paper's Tables 7 and 8 give alpha 57
for 64k instead: `--ntk_alpha 57`.
"""

import math

import rope
from methods import ContextExtension, option


class Method(ContextExtension):
    ntk_factor: float | None = option(None, "f of alpha(L) = f L/C - (f - 1) [ceil(trained / original length / 2)]")
    ntk_alpha: float | None = option(None, "one alpha for every length, instead of alpha(L)")

    def __post_init__(self):
        half = math.ceil(self.model_max_length / self.original_length / 2)
        self.ntk_factor = self.ntk_factor or float(half)

    def rope_parameters(self):
        if self.ntk_alpha is None:
            return rope.ntk(self.rope_by_length(), self.trained_length, self.head_dim)
        exponent = self.head_dim / (self.head_dim - 2)
        return {"rope_type": "default", "rope_theta": self.rope_theta * self.ntk_alpha**exponent}

    def rope_by_length(self):
        if self.ntk_alpha is not None:
            return None
        return {
            "rule": "ntk",
            "rope_theta": self.rope_theta,
            "factor": self.ntk_factor,
            "original_length": self.original_length,
            "trained_length": self.trained_length,
        }
