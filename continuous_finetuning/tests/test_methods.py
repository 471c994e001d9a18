"""Every rope against its formula, restated here in float64 for Llama-2: head_dim 128, theta 10000, 4096 -> 32k, 64k."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import checkpoint_writer
import methods
from rope import rope_at

D, THETA, C = 128, 10000.0, 4096
J = np.arange(D // 2, dtype=np.float64)


def llama2(window=C, theta=THETA):
    rope_parameters = {"rope_type": "default", "rope_theta": theta}
    shape = {"hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": window}
    return LlamaConfig(**shape, rope_parameters=rope_parameters)


def rope(name, length, config=None, **flags):
    """(inv_freq float64 [d/2], attention factor, method) as Transformers builds them from the method's config."""
    config = config or llama2()
    method = methods.build(name, config, length, flags)
    rotary = LlamaRotaryEmbedding(checkpoint_writer.extended_config(config, method, {}))
    return rotary.inv_freq.double().numpy(), rotary.attention_scaling, method


def close(inv_freq, expected):
    np.testing.assert_allclose(inv_freq, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "name, trained, length, alpha, base",
    [
        ("ntk", 32768, 1000, 29, 305_922),
        ("ntk", 32768, 131072, 125, 1_349_567),
        ("ntk", 65536, 65536, 121, 1_305_706),
        ("ntk_frozen", 32768, 4096, 1, 10_000),
        ("ntk_frozen", 32768, 8192, 3, 30_528),
        ("ntk_frozen", 32768, 65536, 31, 327_366),
    ],
)
def test_ntk(name, trained, length, alpha, base):
    """The recorded rule, evaluated as every stage does, gives the base of each total length."""
    inv_freq, factor, method = rope(name, trained)
    config = llama2()
    config.context_extension = {"rope_by_length": method.rope_by_length()}
    rope_parameters = rope_at(config, length)
    theta = rope_parameters["rope_theta"]
    assert rope_parameters["rope_type"] == "default" and round(theta) == base
    assert math.isclose(theta, THETA * alpha ** (D / (D - 2)), rel_tol=1e-12)
    if length <= method.trained_length:  # the rope of the checkpoint's config
        close(inv_freq, theta ** (-2 * J / D))
        assert factor == 1


@pytest.mark.parametrize("length, s", [(32768, 8), (32769, 9), (4097, 2)])
def test_scaling_factor_is_a_whole_number(length, s):
    for name in ("pi", "yarn", "llama3", "longrope"):
        assert methods.build(name, llama2(), length, {}).options()["scaling_factor"] == s


def test_abf_warns_of_a_base_below_the_least_one(capsys):
    """Table 2 of arXiv 2405.14591: 640,000 for 32k."""
    rope("abf", 40_000, new_base=639_999.0)
    assert "639,999 is below 640,000, the least for 40000 tokens" in capsys.readouterr().err
    rope("abf", 40_000, new_base=640_000.0)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("theta, window, length", [(THETA, C, 32768), (THETA, C, 65536), (5e5, 8192, 131072)])
def test_one_rope_for_every_length(tmp_path, theta, window, length):
    plain, s = theta ** (-2 * J / D), length / window
    config = llama2(window, theta=theta)

    def check(name, expected, expected_factor=1.0, **flags):
        inv_freq, factor, method = rope(name, length, config, **flags)
        close(inv_freq, expected)
        assert math.isclose(factor, expected_factor) and method.rope_by_length() is None
        return method.rope_parameters()

    check("pi", plain / s)
    check("pi", plain / 5, scaling_factor=5.0)
    check("ntk", (theta * 57 ** (D / (D - 2))) ** (-2 * J / D), ntk_alpha=57.0)  # the paper's Tables 7 and 8

    low = math.floor(D * math.log(window / (2 * math.pi * 32)) / (2 * math.log(theta)))
    high = math.ceil(D * math.log(window / (2 * math.pi * 1)) / (2 * math.log(theta)))
    ramp = np.clip((J - low) / (high - low), 0, 1)
    check("yarn", plain * (ramp / s + 1 - ramp), 0.1 * math.log(s) + 1)
    if window == C:
        published = {32768: 1.20794, 65536: 1.27726}[length]
        assert (low, high) == (20, 46) and math.isclose(0.1 * math.log(s) + 1, published, abs_tol=5e-6)

    turns = math.log(length / (2 * math.pi)) / math.log(window / (2 * math.pi))
    check("abf", (theta**turns) ** (-2 * J / D))
    check("abf", 1e6 ** (-2 * J / D), new_base=1e6)

    wavelength = 2 * np.pi / plain
    t = np.clip((window / wavelength - 1) / (4 - 1), 0, 1)  # 0: slow, 1: fast
    check("llama3", plain * ((1 - t) / s + t))
    t = np.clip((window / wavelength - 2) / (3 - 2), 0, 1)
    check("llama3", plain * ((1 - t) / 5 + t), scaling_factor=5.0, low_freq_factor=2.0, high_freq_factor=3.0)

    sharpened = math.sqrt(1 + math.log(s) / math.log(window))
    first_slow = int(np.argmax(wavelength > window))
    assert first_slow == {C: 46, 8192: 35}[window]
    for flags, r in (({}, first_slow), ({"critical_dim": 30}, 30)):
        parameters = check("longrope", plain / s ** np.minimum(J / r, 1), sharpened, **flags)
        assert parameters["short_factor"] == parameters["long_factor"]
        mscales = [parameters[name] for name in ("attention_factor", "short_mscale", "long_mscale")]
        assert mscales == [sharpened] * 3  # vLLM reads the last two
    factors = [1 + j / 7 for j in range(D // 2)]
    for layers in (1, 32):  # one row, and one for each layer
        np.savetxt(tmp_path / "factors.csv", [factors] * layers, delimiter=",", fmt="%.17g")
        check("longrope", plain / factors, sharpened, factor_file=str(tmp_path / "factors.csv"))
    file = {"factor_file": str(tmp_path / "factors.csv")}
    before = methods.build("longrope", llama2(), 32768, file).options()
    np.savetxt(tmp_path / "factors.csv", factors[::-1])
    assert methods.build("longrope", llama2(), 32768, file).options() != before  # a rerun is another run

    check("drope", 0 * plain)
    for share in (0.25, 0.75):
        check("drope", np.where(J < share * D / 2, plain, 0), partial_rotary_factor=share)

    for r in (30, 46):
        inv_freq, _, method = rope("yarn", length, config, critical_dim=r)
        assert math.isclose(method.beta_slow, window / (2 * math.pi * theta ** (2 * r / D)), rel_tol=3e-3)
        slow = np.isclose(inv_freq, plain / s, rtol=1e-6, atol=0)
        assert int(np.argmax(slow)) == r and slow[r:].all()
        assert "critical_dim" not in method.options()  # a finished yarn run is the same run as before


def test_bad_factor_files(tmp_path):
    for text, message in {"1,2": "64 factors", "1," * 63 + "0": "positive", "x": "could not convert"}.items():
        (tmp_path / "factors.csv").write_text(text)
        with pytest.raises(ValueError, match=f"factors.csv.*{message}"):
            rope("longrope", 32768, factor_file=str(tmp_path / "factors.csv"))


@pytest.mark.parametrize("window, length, G, W", [(4096, 65536, 64, 1024), (128, 512, 9, 32), (128, 2048, 38, 32)])
def test_defaults_of_self_extend_and_lm_infinite(window, length, G, W):
    """Self-Extend: the study's for 4096, else the smallest group that keeps positions within 2/3 of the window."""
    method = methods.build("self_extend", llama2(window), length, {})
    assert method.options() == method.config_fields() == {"group_size": G, "neighbor_window": W} and not method.trained
    assert (length - W) / G + W <= 2 / 3 * window + 1e-9
    if window != 4096:
        assert (length - W) / (G - 1) + W > 2 / 3 * window  # no smaller group would do
    method = methods.build("lm_infinite", llama2(window), length, {})
    assert method.options() == {"local_window": window, "global_tokens": 10}


def test_a_method_may_be_a_dataclass_by_its_decorator_too(monkeypatch):
    @dataclass
    class Method(methods.get("yarn")):
        more: float = methods.option(1.0, "an option")

    cls = methods.get("pi")
    monkeypatch.setattr(methods, "get", lambda name: Method if name == "origin" else cls)
    method = methods.build("origin", llama2(), 32768, {"more": 2.0, "beta_fast": 30.0})
    assert method.options() == methods.build("origin", llama2(), 32768, {}).options() | {"more": 2.0, "beta_fast": 30.0}


@pytest.mark.parametrize(
    "name, length, flags, message",
    [
        ("nope", 32768, {}, "no method 'nope'; there are: .*ntk, ntk_frozen, origin, pi, .*yarn"),
        ("pi", 4096, {}, "not above the base's own window, 4096"),
        ("pi", 32768, {"beta_fast": 3.0}, "--beta_fast is an option of yarn, not of pi"),
        ("pi", 32768, {"scaling_factor": 0.0}, "--scaling_factor must be a positive number"),
        ("clex", 32768, {"max_factor": 2}, "--max_factor 2 is below trained / original length, 8"),
        ("yarn", 32768, {"beta_slow": 40.0}, "--beta_slow 40.0 must be below --beta_fast 32.0"),
        ("llama3", 32768, {"low_freq_factor": 4.0}, "--low_freq_factor 4.0 must be below --high_freq_factor 4.0"),
        ("longrope", 32768, {"critical_dim": 64}, "--critical_dim 64 must be"),
        ("longrope", 32768, {"factor_file": "no/file"}, "--factor_file no/file "),
        ("lm_infinite", 32768, {"local_window": 4097}, "is above the base's window"),
        ("self_extend", 16384, {"neighbor_window": 4096, "group_size": 4}, "positions are beyond the base's 4096"),
        ("self_extend", 16384, {"group_size": 2}, "positions are beyond the base's 4096"),
        ("rerope", 32768, {"local_window": 4097}, "is above the base's window"),
        ("string", 16384, {}, "positions, above the base's 4096"),  # more than twice the window
        ("dca", 32768, {"chunk_size": 4097}, "a chunk of up to the base's window, 4096"),
        ("dca", 32768, {"chunk_size": 1023}, "a window of up to half of it"),
        ("streaming", 32768, {"local_window": 4093}, "must be at most the base's window, 4096, together"),
        ("landmark", 4096, {"top_k": 63}, "leave no room for the text"),  # of 64 blocks of 64
    ],
)
def test_bad_input(name, length, flags, message):
    with pytest.raises(ValueError, match=message):
        methods.build(name, llama2(), length, flags)
