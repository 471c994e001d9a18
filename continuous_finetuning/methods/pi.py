"""pi: Position Interpolation (arXiv 2306.15595, eq. 4): every position is divided by s.

angle(m, j) = (m / s) * theta^(-2j/d), s = ceil(L_train / C), the same at every evaluation length.
"""

from methods import ContextExtension, option


class Method(ContextExtension):
    scaling_factor: float | None = option(None, "s, positions are divided by it [ceil(trained / original length)]")

    def __post_init__(self):
        self.scaling_factor = self.scaling_factor or self.ratio

    def rope_parameters(self):
        return {"rope_type": "linear", "rope_theta": self.rope_theta, "factor": self.scaling_factor}
