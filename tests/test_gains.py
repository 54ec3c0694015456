"""Gains against published values, closed forms and samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pytest_initcheck.gain_table import ALIASES, CRITICAL, GAINS, INTEGRATED, PLAIN, WITH_MEAN, Gain, weight_gain
from pytest_initcheck.schemes.gains import gain, known, slope

# Brock et al. 2021, the constants of their released networks (estimated from samples, hence the tolerance).
PUBLISHED_VARIANCE = {
    "celu": 1.270926833152771, "elu": 1.2716004848480225, "gelu": 1.7015043497085571,
    "leaky_relu": 1.70590341091156, "log_sigmoid": 1.9193484783172607, "relu": 1.7139588594436646,
    "relu6": 1.7131484746932983, "selu": 1.0008515119552612, "sigmoid": 4.803835391998291,
    "silu": 1.7881293296813965, "softsign": 2.338853120803833, "softplus": 1.9203323125839233,
    "tanh": 1.5939117670059204,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_VARIANCE)
def test_normalizer_free_networks(name: str):
    assert gain(name, moment="variance") == pytest.approx(PUBLISHED_VARIANCE[name], rel=1e-3)


@pytest.mark.parametrize("name", ["linear", "conv2d", "relu", "leaky_relu"])
def test_torch_where_it_has_the_same_definition(name: str):
    assert gain(name) == pytest.approx(nn.init.calculate_gain(name), rel=1e-4)


def test_torch_with_a_slope():
    assert gain("leaky_relu", negative_slope=0.2) == pytest.approx(nn.init.calculate_gain("leaky_relu", 0.2))


def test_tanh_of_torch_is_this_number_rounded_up():
    assert gain("tanh") == pytest.approx(nn.init.calculate_gain("tanh"), rel=0.05)
    assert gain("tanh") == pytest.approx(1.5925, rel=1e-4)


def test_selu_is_its_own_fixed_point():
    assert gain(lambda x: F.selu(x)) == pytest.approx(1.0, abs=1e-6)
    assert gain(F.selu, moment="variance") == pytest.approx(1.0, abs=1e-6)


def test_relu_of_std_and_rms():
    assert gain("relu") == pytest.approx(math.sqrt(2), rel=1e-9)
    assert gain("relu", moment="variance") == pytest.approx(1 / math.sqrt(0.5 - 0.5 / math.pi), rel=1e-6)


@pytest.mark.parametrize(
    "name", sorted(known() - {"softmax", "softmin", "log_softmax", "gumbel_softmax", "normalize", "norm"})
)
def test_the_integral_is_the_closed_form(name: str):
    x = torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    special = {
        "linear": lambda: x, "sin": x.sin, "cos": x.cos, "erf": x.erf, "exp": x.exp, "square": x.square,
        "tanh": x.tanh, "sigmoid": x.sigmoid,
        "glu": lambda: F.glu(torch.stack([other, x], -1)), "swiglu": lambda: other * F.silu(x),
        "geglu": lambda: other * F.gelu(x), "reglu": lambda: other * F.relu(x),
        "prelu": lambda: F.prelu(x, torch.tensor(0.25).double()), "rrelu": lambda: F.rrelu(x, training=True),
        "threshold": lambda: F.threshold(x, 0.0, 0.0),
    }  # fmt: skip
    y = special[name]() if name in special else getattr(F, name)(x)

    assert gain(name) == pytest.approx(1 / float(y.square().mean().sqrt()), rel=0.02)


EVERY_ACTIVATION = [
    name
    for name in nn.modules.activation.__all__
    if name not in ("MultiheadAttention",)  # a layer, not an activation
]


@pytest.mark.parametrize("name", EVERY_ACTIVATION)
def test_every_activation_of_torch_nn_has_a_gain(name: str):
    module = nn.Threshold(0.1, 0.0) if name == "Threshold" else getattr(nn, name)()

    assert 0 < gain(name) < 10
    assert 0 < gain(module) < 10


def test_modules_bring_their_own_options():
    assert gain(nn.LeakyReLU(0.2)) == pytest.approx(gain("leaky_relu", negative_slope=0.2))
    assert gain(nn.GELU("tanh")) == pytest.approx(gain("gelu", approximate="tanh"))
    assert gain(nn.PReLU(3, init=0.5)) == pytest.approx(gain("leaky_relu", negative_slope=0.5))
    assert gain(nn.Hardtanh(-3, 3)) == pytest.approx(gain(lambda x: x.clamp(-3, 3)))
    assert gain(nn.ELU(2.0)) != gain("elu")


@given(st.floats(0.1, 4.0))
def test_any_function(factor: float):
    assert gain(lambda x: factor * x) == pytest.approx(1 / factor, rel=1e-6)


def test_wrong_names_are_told_the_right_ones():
    with pytest.raises(ValueError, match=r"activation must be one of .*relu.* \(got .rleu.\)"):
        gain("rleu")
    with pytest.raises(ValueError, match="moment must be"):
        gain("relu", moment="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no gain makes up"):
        gain(torch.zeros_like)
    with pytest.raises(ValueError, match="elementwise"):
        gain(lambda x: x.sum())


def test_the_phase_of_deep_networks():
    assert gain("relu") * slope("relu") == pytest.approx(1.0, abs=1e-4)
    assert gain("gelu") * slope("gelu") == pytest.approx(1.035, abs=0.01)


@pytest.mark.parametrize("name", [name for name, g in GAINS.items() if g.source in INTEGRATED])
def test_the_table_holds_the_integral_where_it_says_so(name: str):
    assert GAINS[name].value == pytest.approx(gain(name), rel=1e-9, abs=0)


@pytest.mark.parametrize("name", [name for name, g in GAINS.items() if g.source in (CRITICAL, WITH_MEAN)])
def test_the_table_holds_the_slope_at_the_origin_where_it_says_so(name: str):
    f = getattr(F, name, None) or getattr(torch, name)
    origin = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = f(origin)
    (slope_there,) = torch.autograd.grad(value, origin)

    assert GAINS[name].value == pytest.approx(1 / (slope_there.item() * math.sqrt(1 + value.item() ** 2)), rel=1e-12)
    assert (GAINS[name].source == WITH_MEAN) == (value.item() != 0)


def test_every_activation_with_a_gain_is_in_the_table():
    assert known() <= set(GAINS)
    assert set(ALIASES.values()) <= set(GAINS)


def test_weight_gains():
    assert weight_gain("relu") == Gain(math.sqrt(2), "He et al. 2015")
    assert weight_gain(None) == weight_gain("norm") == weight_gain("something new") == PLAIN
    assert weight_gain("nn.SiLU") == weight_gain("swish") == weight_gain("silu")
