"""ntk_frozen: Dynamic NTK without training ("NTK-F" of arXiv 2409.12181; bloc97 and emozilla, r/LocalLLaMA 14mrgpr).

The rule of `ntk` with T = C, the original length, and f = 2: prompts within the window see the base unchanged, longer
ones alpha(L) = 2 L / C - 1. Llama-2: alpha 1, 3, 7, 15, 31 at 4k ... 64k.
"""

from methods import ntk, option


class Method(ntk.Method):
    ntk_factor: float | None = option(2.0, "f of alpha(L) = f L/C - (f - 1)")

    trained = False

    @property
    def trained_length(self):
        return self.original_length
