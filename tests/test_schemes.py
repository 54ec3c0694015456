"""Every scheme for one weight: its std, its shape, its source of randomness, its code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pytest_initcheck.schemes import BY_FANS, ONES, ZEROS, Draw, by_fans, fill_, kaiming, siren


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("followed_by", ["none", "relu", "tanh", "gelu"])
@pytest.mark.parametrize("scheme", [s for s in BY_FANS if s not in ("zeros", "identity", "delta_orthogonal")])
def test_std_is_the_formulas_within_two_percent(scheme: str, followed_by: str):
    draw = by_fans(scheme, 2048, 2048, followed_by)

    w = fill_(torch.empty(2048, 2048), draw, generator=seeded())

    assert float(w.square().mean().sqrt()) == pytest.approx(draw.std, rel=0.02)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_the_same_std_as_torch(kind: str):
    w = torch.empty(256, 64, 3, 3)

    for mode in ("fan_in", "fan_out"):
        getattr(nn.init, f"kaiming_{kind}_")(w, mode=mode, nonlinearity="relu", generator=seeded())
        ours = by_fans(f"kaiming_{kind}", 64 * 9, 256 * 9, "relu", mode=mode)
        assert ours.std == pytest.approx(float(w.std()), rel=0.02)
    getattr(nn.init, f"xavier_{kind}_")(w, generator=seeded())
    assert by_fans(f"xavier_{kind}", 64 * 9, 256 * 9).std == pytest.approx(float(w.std()), rel=0.02)


def test_truncated_at_two_stds_and_corrected():
    draw = by_fans("truncated_normal", 64, 64, std=0.5)

    w = fill_(torch.empty(1000, 1000), draw, generator=seeded())

    assert float(w.std()) == pytest.approx(0.5, rel=0.005)
    assert float(w.abs().max()) <= 2 * 0.5 / 0.8796 + 1e-3


def test_orthogonal_along_the_dimensions_that_are_used():
    draw = by_fans("orthogonal", 32, 64, gain=2.0)

    w = fill_(torch.empty(32, 64), draw, out_dim=1, in_dim=0, generator=seeded())

    assert torch.allclose(w @ w.T, 4 * torch.eye(32), atol=1e-4)


def test_orthogonal_gate_by_gate():
    w = fill_(torch.empty(4 * 16, 16), by_fans("orthogonal", 16, 16), groups=4, generator=seeded())

    for gate in w.chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(16), atol=1e-5)


def test_delta_orthogonal_keeps_the_norm_of_an_image():
    w = fill_(torch.empty(24, 16, 3, 3), by_fans("delta_orthogonal", 16 * 9, 24 * 9), generator=seeded())
    x = torch.randn(2, 16, 8, 8, generator=seeded(1))

    y = nn.functional.conv2d(x, w, padding=1)

    assert torch.allclose(y.square().sum(1), x.square().sum(1), rtol=1e-4)


def test_identity_hands_on_its_input():
    w = fill_(torch.empty(8, 8, 3), by_fans("identity", 24, 24), generator=seeded())
    x = torch.randn(2, 8, 10)

    assert torch.equal(nn.functional.conv1d(x, w, padding=1), x)


def test_sparse_has_the_same_number_of_inputs_everywhere():
    w = fill_(torch.empty(64, 200), by_fans("sparse", 200, 64, "relu", sparsity=0.95), generator=seeded())

    assert (w != 0).sum(1).tolist() == [10] * 64


def test_siren():
    assert siren(256, first=False).std == pytest.approx(math.sqrt(6 / 256) / 30 / math.sqrt(3))
    assert siren(2, first=True).std == pytest.approx(0.5 / math.sqrt(3))


def test_constants_and_gates():
    assert torch.equal(fill_(torch.empty(3), ZEROS), torch.zeros(3))
    assert torch.equal(fill_(torch.empty(3), ONES), torch.ones(3))
    bias = fill_(torch.empty(8), Draw("gates", options={"values": (0.0, 1.0, 0.0, 0.0)}))
    assert bias.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("scheme", BY_FANS)
def test_a_seed_gives_the_same_weights_in_every_dtype(scheme: str):
    draw = by_fans(scheme, 48, 32, "relu")

    first = fill_(torch.empty(32, 48), draw, generator=seeded(3))
    again = fill_(torch.empty(32, 48), draw, generator=seeded(3))
    half = fill_(torch.empty(32, 48, dtype=torch.bfloat16), draw, generator=seeded(3))

    assert torch.equal(first, again)
    assert torch.equal(half, first.bfloat16())


def test_without_a_generator_torchs_own_seed_counts():
    torch.manual_seed(5)
    first = fill_(torch.empty(4, 4), Draw("normal", 1.0))
    torch.manual_seed(5)

    assert torch.equal(fill_(torch.empty(4, 4), Draw("normal", 1.0)), first)


@pytest.mark.parametrize("scheme", BY_FANS)
def test_the_code_draws_the_same_distribution(scheme: str):
    draw = by_fans(scheme, 512, 256, "relu")
    w = torch.empty(256, 512)

    torch.manual_seed(0)
    exec(draw.code("w"), {"torch": torch, "nn": nn, "w": w})

    expected = fill_(torch.empty(256, 512), draw).square().mean().sqrt()
    assert float(w.square().mean().sqrt()) == pytest.approx(float(expected), rel=0.03)


def test_gates_in_code():
    w = torch.empty(6)

    exec(Draw("gates", options={"values": (1.0, 2.0)}).code("w"), {"torch": torch, "nn": nn, "w": w})

    assert w.tolist() == [1, 1, 1, 2, 2, 2]


def test_draws_say_what_they_are():
    assert str(kaiming(512, 512)) == "normal, std 0.0625"
    assert str(ZEROS) == "zeros"
    assert str(by_fans("xavier_uniform", 3, 3)) == "uniform in +-1"
    assert kaiming(512, 512).times(0.5, "halved").std == 0.03125


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="scheme must be one of"):
        by_fans("kaming", 3, 3)
    with pytest.raises(ValueError, match="mode must be"):
        kaiming(3, 3, mode="fan")
    with pytest.raises(ValueError, match="needs a weight of two dimensions"):
        fill_(torch.empty(3), by_fans("orthogonal", 3, 3))
