"""longrope: LongRoPE (arXiv 2402.13753) by the closed form of LongRoPE2 (arXiv 2502.20082): a factor for each angle.

theta_j' = theta_j / lambda_j,  cos and sin times sqrt(1 + ln s / ln C),  s = ceil(L_train / C)

lambda_j is s from the critical dimension r on, and s^(j / r) below it. r is the first j whose wavelength exceeds C,
ceil(d/2 log_theta(C / 2 pi)): 46 for Llama-2, 35 for Llama-3. LongRoPE2 measured smaller ones: --critical_dim 30 for
Llama-3-8B. The factors that LongRoPE finds by a search differ from these.

All rows have the target's length, so the trained rope serves short texts, too: short_factor equals long_factor.
"""

import math
from dataclasses import dataclass

from methods import ContextExtension, option


@dataclass
class Method(ContextExtension):
    scaling_factor: float | None = option(None, "s, the largest factor [ceil(trained / original length)]")
    critical_dim: int | None = option(None, "index j of the first angle that is divided by s [wavelength > C]", int)

    def __post_init__(self):
        self.scaling_factor = self.scaling_factor or self.ratio
        angles = self.head_dim // 2
        turns = self.original_length / (2 * math.pi)
        self.critical_dim = self.critical_dim or math.ceil(angles * math.log(turns, self.rope_theta))
        if not 0 < self.critical_dim < angles:
            raise ValueError(f"--critical_dim {self.critical_dim} must be an index of an angle, 1 to {angles - 1}")

    def rope_parameters(self):
        factors = []
        for j in range(self.head_dim // 2):
            factors.append(self.scaling_factor ** min(j / self.critical_dim, 1.0))
        attention_factor = math.sqrt(1 + math.log(self.scaling_factor) / math.log(self.original_length))
        return {
            "rope_type": "longrope",
            "rope_theta": self.rope_theta,
            "factor": self.scaling_factor,
            "short_factor": factors,
            "long_factor": factors,
            "attention_factor": attention_factor,
            "short_mscale": attention_factor,  # vLLM reads these two instead
            "long_mscale": attention_factor,
            "original_max_position_embeddings": self.original_length,
        }
