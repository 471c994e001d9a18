"""yarn: YaRN (arXiv 2309.00071): slow angles interpolated, fast ones kept, scores sharpened.

theta_j' = theta_j * ((1 - mask_j) / s + mask_j), mask_j = 1 - clip((j - low) / (high - low), 0, 1)
low, high = floor, ceil of d ln(C / (2 pi n)) / (2 ln theta) for n = beta_fast, beta_slow rotations
cos and sin times 0.1 ln(s) + 1, so that the scores are multiplied by its square (eq. 15)

The ramp is over the index j with whole bounds, as in YaRN's code and in Transformers; in the paper it is over the
wavelength ratio. s = ceil(L_train / C). Llama-2 at 32k: ramp 20 ... 46, attention factor 1.20794.

--critical_dim i ends the ramp at high = i, the critical dimension that LongRoPE2 measures (arXiv 2502.20082; 30 for
Llama-3-8B): beta_slow = C / (2 pi theta^(2i/d)).
"""

import math

from methods import ContextExtension, option


class Method(ContextExtension):
    scaling_factor: float | None = option(None, "s, slow angles are divided by it [ceil(trained / original length)]")
    beta_fast: float = option(32.0, "angles with more rotations than this inside the original window are kept")
    beta_slow: float | None = option(None, "angles with fewer rotations than this are interpolated in full [1]")
    critical_dim: int | None = option(None, "index j of the first angle that is interpolated in full", int)

    def __post_init__(self):
        self.scaling_factor = self.scaling_factor or self.ratio
        if self.critical_dim is not None:
            if self.beta_slow is not None:
                raise ValueError("give --critical_dim or --beta_slow, not both")
            index = self.critical_dim - 0.01  # rounding must not lift the bound, a ceil, to the next index
            wavelength = 2 * math.pi * self.rope_theta ** (2 * index / self.head_dim)
            self.beta_slow = self.original_length / wavelength
        self.beta_slow = self.beta_slow or 1.0
        if self.beta_slow >= self.beta_fast:
            raise ValueError(f"--beta_slow {self.beta_slow} must be below --beta_fast {self.beta_fast}")

    def options(self):
        resolved = super().options()
        del resolved["critical_dim"]  # it is beta_slow
        return resolved

    def rope_parameters(self):
        return {
            "rope_type": "yarn",
            "rope_theta": self.rope_theta,
            "factor": self.scaling_factor,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "original_max_position_embeddings": self.original_length,  # default: the extended one
        }
