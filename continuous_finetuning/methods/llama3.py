"""llama3: the rope of Llama 3.1 (arXiv 2407.21783; code of meta-llama/llama-models): slow angles divided by s.

With a wavelength of w = 2 pi / theta_j tokens:  w > C / low: theta_j / s;  w < C / high: theta_j;  between them
theta_j * ((1 - t) / s + t),  t = (C / w - low) / (high - low). The scores are not sharpened. s = ceil(L_train / C).
"""

from methods import ContextExtension, option


class Method(ContextExtension):
    scaling_factor: float | None = option(None, "s, slow angles are divided by it [ceil(trained / original length)]")
    low_freq_factor: float = option(1.0, "angles with fewer turns than this inside the original window are slow")
    high_freq_factor: float = option(4.0, "angles with more turns than this inside the original window are kept")

    def __post_init__(self):
        self.scaling_factor = self.scaling_factor or self.ratio
        low, high = self.low_freq_factor, self.high_freq_factor
        if low >= high:
            raise ValueError(f"--low_freq_factor {low} must be below --high_freq_factor {high}")

    def rope_parameters(self):
        return {
            "rope_type": "llama3",
            "rope_theta": self.rope_theta,
            "factor": self.scaling_factor,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": self.original_length,
        }
