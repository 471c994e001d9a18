"""CLEX: the ODE against closed form and a fine dense solver, positions, checkpoint."""

import math

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from methods import clex
from scripts import run_here, training_flags
from tiny import C, L

D, THETA = 32, 10000.0
J = np.arange(D // 2, dtype=np.float64)


def ntk(t):
    """log frequencies of NTK with alpha = 2t - 1, restated."""
    base = THETA * (2 * t - 1) ** (D / (D - 2))
    return np.log(base ** (-2 * J / D))


def test_network_against_a_fine_reference():
    """dz/dt restated in float64 and integrated by small Euler-midpoint steps; before training it is NTK."""
    torch.manual_seed(0)
    network = clex.LogFrequencies(THETA, D, 1.0, 0.05)
    np.testing.assert_allclose(network(8).detach().numpy(), [ntk(t) for t in range(1, 9)], atol=2e-4)
    torch.nn.init.uniform_(network.up, -0.25, 0.25)
    torch.nn.init.normal_(network.down, std=0.05)
    up, down = network.up.detach().double().numpy(), network.down.detach().double().numpy()

    def derivative(t, z):
        x = up @ (z + ntk(t))
        return down @ (x / (1 + np.exp(-x))) - 2 * J / (D - 2) * 2 / (2 * t - 1)

    z, step = ntk(1), 1e-3
    expected = [z]
    for t in np.arange(1, 3, step):
        middle = z + step / 2 * derivative(t, z)
        z = z + step * derivative(t + step / 2, middle)
        expected.append(z)
    np.testing.assert_allclose(network(3).detach().numpy(), expected[::1000], atol=1e-4)
    for last in (1, 2):
        torch.testing.assert_close(network(last), network(3)[:last])


def test_positions():
    """First 0, last floor(n t / c) - 1, between them distinct multiples of 1/c, ascending, spread over t windows."""
    method = clex.Method(64, 256, {"rope_type": "default", "rope_theta": THETA}, D)
    rotary = clex.ClexRotaryEmbedding(clex.LogFrequencies(THETA, D, 1.0, 0.1), method)
    for n, t in [(256, 1), (256, 7), (300, 3), (64, 5)]:
        torch.manual_seed(0)
        positions, c = rotary.positions(n, t), max(1, n // 64)
        assert len(positions) == n and positions[0] == 0 and positions[-1] == n * t // c - 1
        inner = positions[1:-1] * c
        assert torch.equal(inner, inner.round()) and (inner.diff() > 0).all()
        assert inner[0] >= 1 and inner[-1] <= n * t - 2
    every = rotary.positions(256, 1)[1:-1] * 4
    assert torch.equal(every, torch.arange(1.0, 255, dtype=torch.float64))  # t = 1: all of them


def test_checkpoint_is_plain_and_has_every_frequency(base, rows, tmp_path):
    flags = training_flags(base, rows, "clex", tmp_path)
    run_here("fine-tune.py", *flags, "--max_steps", 4, "--learning_rate", 1e-2)
    assert not any("log_frequencies" in name for name in load_file(tmp_path / "model.safetensors"))
    network = clex.LogFrequencies(THETA, D, 1.0, 0.1)
    network.load_state_dict(load_file(tmp_path / "clex" / "log_frequencies.safetensors"))
    assert network.down.abs().sum() > 0  # it was trained
    expected = network(8).exp().detach().numpy()
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    record = model.config.context_extension
    assert record["options"] == {"max_factor": 8, "param_factor": 1.0, "time_dt": 0.1, "log_scale": True}
    rule = record["rope_by_length"]
    assert rule["rule"] == "frequencies"
    np.testing.assert_allclose(rule["inv_freq"], expected, rtol=1e-5)
    np.testing.assert_allclose(model.model.rotary_emb.inv_freq, expected[L // C - 1], rtol=1e-5)
    assert math.isclose(model.model.rotary_emb.attention_scaling**2, math.log(L) / math.log(C), rel_tol=1e-9)
