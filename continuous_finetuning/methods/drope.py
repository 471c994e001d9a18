"""drope: DroPE (arXiv 2512.12167): the rope is removed, and the model is recalibrated at its original length.

Every angle is 0, so that attention sees the order of the tokens through the causal mask only, and no position is new at
the target length. Training rows have the original length; longer rows are cut.

With --partial_rotary_factor p, the slowest angles alone are 0 and d p / 2 fast ones stay (p-RoPE, arXiv 2410.06205).
"""

from methods import ContextExtension, option


class Method(ContextExtension):
    partial_rotary_factor: float | None = option(None, "share of the angles that stay, as 0.25 or 0.75 [none: 1 / d]")

    supports = ("sequence_parallel_size",)

    def __post_init__(self):
        # the factor 1 / (all elements of a head) leaves no angle; vLLM refuses 0
        turned = self.rope.get("partial_rotary_factor", 1.0)  # share of the elements that the base's rope turns
        self.partial_rotary_factor = self.partial_rotary_factor or turned / self.head_dim
        if self.partial_rotary_factor >= 1:
            raise ValueError(f"--partial_rotary_factor {self.partial_rotary_factor} must be below 1, all angles")

    @property
    def row_length(self):
        return self.original_length

    def rope_parameters(self):
        return {
            "rope_type": "proportional",
            "rope_theta": self.rope_theta,
            "partial_rotary_factor": self.partial_rotary_factor,
        }
