"""longrope: LongRoPE (arXiv 2402.13753) and LongRoPE2 (arXiv 2502.20082): each angle is divided by its own factor.

theta_j' = theta_j / lambda_j,  cos and sin times sqrt(1 + ln s / ln C),  s = ceil(L_train / C)

lambda_j comes from a file that LongRoPE's search wrote (--factor_file), or from LongRoPE2's closed form: s from the
critical dimension r on, s^(j / r) below it. r is the first j whose wavelength exceeds C, ceil(d/2 log_theta(C / 2 pi)):
46 for Llama-2, 35 for Llama-3. LongRoPE2 measured smaller ones: --critical_dim 30 for Llama-3-8B.

All rows have the target's length, so the trained rope serves short texts, too: short_factor equals long_factor.
"""

import math

from run import errors_of, run_key

import numpy as np

from methods import ContextExtension, option


def read_factors(path: str, pairs: int) -> list[float]:
    """The factors of `pairs` angles in a CSV file, once or equal for every layer. Raises ValueError on other files."""
    with errors_of(f"--factor_file {path} ({pairs} factors for each layer)"):
        layers = np.loadtxt(path, delimiter=",").reshape(-1, pairs)
    factors = layers[0]
    if not (factors > 0).all() or (layers != factors).any():
        raise ValueError(f"--factor_file {path}: the factors must be positive and the same in all layers")
    return factors.tolist()


class Method(ContextExtension):
    scaling_factor: float | None = option(None, "s, the largest factor [ceil(trained / original length)]")
    critical_dim: int | None = option(None, "index j of the first angle that is divided by s [wavelength > C]", int)
    factor_file: str | None = option(None, "CSV file of d/2 factors, one row or equal rows for all layers", str)

    def __post_init__(self):
        self.scaling_factor = self.scaling_factor or self.ratio
        pairs = self.head_dim // 2
        if self.factor_file is not None:
            if self.critical_dim is not None:
                raise ValueError("give --factor_file or --critical_dim, not both")
            self._factors = read_factors(self.factor_file, pairs)
            return
        turns = self.original_length / (2 * math.pi)
        self.critical_dim = self.critical_dim or math.ceil(pairs * math.log(turns, self.rope_theta))
        if not 0 < self.critical_dim < pairs:
            raise ValueError(f"--critical_dim {self.critical_dim} must be an index of an angle, 1 to {pairs - 1}")
        self._factors = [self.scaling_factor ** min(j / self.critical_dim, 1.0) for j in range(pairs)]

    def options(self):
        options = super().options()
        if self.factor_file is not None:
            options["factors"] = run_key({"factors": self._factors})  # the same file with other numbers is another run
        return options

    def rope_parameters(self):
        attention_factor = math.sqrt(1 + math.log(self.scaling_factor) / math.log(self.original_length))
        return {
            "rope_type": "longrope",
            "rope_theta": self.rope_theta,
            "factor": self.scaling_factor,
            "short_factor": self._factors,
            "long_factor": self._factors,
            "attention_factor": attention_factor,
            "short_mscale": attention_factor,  # vLLM reads these two instead
            "long_mscale": attention_factor,
            "original_max_position_embeddings": self.original_length,
        }
