"""clex: Continuous Length EXtrapolation (arXiv 2310.16450): the rope's frequencies follow a learned ODE in the length.

State z_j(t) = log of frequency j when the context is t times the original window; z(1) = log theta_j. Eq. 9 and 10:

    dz/dt = W_down SiLU(W_up (z + log n(t))) + d(log n)/dt,    n_j(t) = theta_j (2t - 1)^(-2j / (d - 2))

n is dynamic NTK with alpha = 2t - 1, and W_down starts at zero, so that before training z(t) is NTK exactly. All layers
share one network. While training, each step draws t from {1 ... max_factor} and spreads the row's positions over t
windows. For use, t = ceil(L / C): `rope_by_length` holds the frequencies of every t, and the model is a plain Llama.
The network is saved in clex/. With log_scale, the scores are multiplied by ln L / ln C.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torchdiffeq import odeint
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from methods import ContextExtension, option
from rope import frequencies


class LogFrequencies(nn.Module):
    """z(t), float32 [J], J = d/2, for t = 1, 2, ... The network has P hidden units."""

    def __init__(self, theta: float, head_dim: int, param_factor: float, time_dt: float):
        super().__init__()
        self.time_dt = time_dt
        j_J = torch.arange(head_dim // 2, dtype=torch.float64)
        self.slope_J = (-2 * j_J / (head_dim - 2)).float()  # of log n over ln(2t - 1)
        self.start_J = (-2 * j_J / head_dim * math.log(theta)).float()
        width = max(1, round(param_factor * head_dim))
        # not Linears: ZeRO-3 gathers a module's own parameters for its forward
        self.up = nn.Parameter(torch.zeros(width, head_dim // 2))
        self.down = nn.Parameter(torch.zeros(head_dim // 2, width))

    def derivative(self, t: torch.Tensor, z_J: torch.Tensor) -> torch.Tensor:
        """dz/dt, eq. 10, in float32 also if the weights are bfloat16."""
        slope_J, start_J = self.slope_J.to(z_J), self.start_J.to(z_J)
        alpha = 2 * t - 1
        log_n_J = start_J + slope_J * torch.log(alpha)
        hidden_P = nn.functional.silu(self.up.float() @ (z_J + log_n_J))
        slope_of_log_n_J = slope_J * 2 / alpha
        return self.down.float() @ hidden_P + slope_of_log_n_J

    def forward(self, last: int) -> torch.Tensor:
        """z at t = 1, 2, ..., last, [last, J], by RK4 with steps of time_dt."""
        unused = 0 * (self.up.float().sum() + self.down.float().sum())  # t = 1 needs no weight, ranks need gradients
        start_J = self.start_J.to(self.up.device) + unused
        t = torch.arange(1.0, last + 1, device=start_J.device)
        return odeint(self.derivative, start_J, t, method="rk4", options={"step_size": self.time_dt})


class ClexRotaryEmbedding(nn.Module):
    """Replaces Llama's rotary embedding while training: draws t and positions at each call."""

    def __init__(self, log_frequencies: LogFrequencies, method: "Method"):
        super().__init__()
        self.log_frequencies = log_frequencies
        self.method = method

    def positions(self, n: int, t: int) -> torch.Tensor:
        """n positions spread over t windows, float64: 0, a sorted sample of 1 ... nt - 2 by c = n // C, nt/c - 1."""
        c = n // self.method.original_length
        sample = torch.randperm(n * t - 2)[: n - 2].sort().values + 1
        first = torch.zeros(1)
        last = torch.tensor([n * t // c - 1.0])
        return torch.cat([first, sample.double() / c, last])

    def forward(self, x_BnD, position_ids):
        """(cos, sin), [1, n, d] each. Ranks that share a row draw the same positions, and each takes its part."""
        n = self.method.model_max_length
        t = int(torch.randint(1, self.method.max_factor + 1, ()))
        with torch.autocast(x_BnD.device.type, enabled=False):
            inv_freq_J = self.log_frequencies(t)[-1].exp()
            positions_n = self.positions(n, t).float().to(x_BnD.device)
            if x_BnD.shape[1] < n:
                positions_n = positions_n[position_ids[0]]
            angles_nJ = positions_n[:, None] * inv_freq_J
            angles_1nd = angles_nJ.repeat(1, 2)[None]
            scale = 1.0
            if self.method.log_scale:  # of cos and sin of both q and k: the scores are multiplied by its square
                scale = math.sqrt(math.log(n, self.method.original_length))
            cos_1nd, sin_1nd = angles_1nd.cos() * scale, angles_1nd.sin() * scale
        return cos_1nd.to(x_BnD.dtype), sin_1nd.to(x_BnD.dtype)


class Method(ContextExtension):
    max_factor: int = option(32, "the largest t, in original windows", int)
    param_factor: float = option(1.0, "width of the network over head_dim")
    time_dt: float = option(0.01, "step of the ODE solver, in t")
    log_scale: bool = option(True, "multiply the scores by ln L / ln C", bool)

    supports = ("sequence_parallel_size", "document_mask")
    llama_only = True

    def __post_init__(self):
        if self.max_factor < self.ratio:
            raise ValueError(f"--max_factor {self.max_factor} is below trained / original length, {self.ratio:g}")
        self._network = LogFrequencies(self.rope_theta, self.head_dim, self.param_factor, self.time_dt)

    @torch.no_grad()
    def rope_by_length(self):
        return {
            "rule": "frequencies",
            "rope_theta": self.rope_theta,
            "original_length": self.original_length,
            "log_scale": self.log_scale,
            "inv_freq": self._network(self.max_factor).double().exp().tolist(),
        }

    def rope_parameters(self):
        return frequencies(self.rope_by_length(), self.model_max_length, self.head_dim)

    def prepare(self, model, low_rank):
        nn.init.kaiming_uniform_(self._network.up, a=math.sqrt(5))  # as a Linear starts
        model.model.rotary_emb = ClexRotaryEmbedding(self._network.to(model.device), self)
        return model

    def finish_reads(self, model):
        return list(self._network.parameters())

    def finish(self, model, folder: Path):
        (folder / "clex").mkdir(exist_ok=True)
        save_file(self._network.state_dict(), folder / "clex" / "log_frequencies.safetensors")
        model.config.rope_parameters = self.rope_parameters()
        model.config.context_extension["rope_by_length"] = self.rope_by_length()
        model.model.rotary_emb = LlamaRotaryEmbedding(model.config).to(model.device)
        return model
