"""Naming the distribution behind some values: every kind, every dtype, and silence where they are too few."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_initcheck.schemes import BY_FANS, Draw, by_fans, fill_
from pytest_initcheck.schemes.distributions import kolmogorov, name_distribution


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(96, 64), (64, 16, 3, 3)])
@pytest.mark.parametrize("scheme", BY_FANS)
def test_every_scheme_in_every_dtype(scheme: str, shape: tuple[int, ...], dtype: torch.dtype):
    if scheme == "delta_orthogonal" and len(shape) == 2:
        pytest.skip("the middle of a kernel of one position is orthogonal")
    kernel = math.prod(shape[2:])
    draw = by_fans(scheme, shape[1] * kernel, shape[0] * kernel, "relu", units=shape[0])
    values = fill_(torch.empty(shape), draw, generator=seeded()).to(dtype)

    named = name_distribution(values)

    assert named.kind == draw.kind
    assert named.std == pytest.approx(draw.std, rel=0.05) or draw.kind in ("constant", "identity")


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: nn.Linear(256, 128).weight, "= kaiming_uniform(a=sqrt(5)), PyTorch's default: 0.577/sqrt(fan_in)"),
        (lambda: nn.init.xavier_normal_(torch.empty(128, 256)), "= xavier_normal"),
        (lambda: nn.init.kaiming_normal_(torch.empty(128, 256), nonlinearity="relu"), "= kaiming_normal(relu)"),
        (lambda: nn.init.normal_(torch.empty(128, 256), std=0.02), "= normal(std=0.02)"),
        (lambda: nn.init.normal_(torch.empty(128, 256), std=0.2), "std 0.2 = "),
        (lambda: torch.full((128, 256), 0.25), "constant 0.25"),
        (lambda: torch.zeros(128, 256), "zeros"),
        (lambda: nn.init.orthogonal_(torch.empty(128, 256), gain=2.0), "orthogonal, gain 2"),
        (lambda: nn.init.eye_(torch.empty(128, 256)), "identity, gain 1"),
    ],
)
def test_what_is_said(layer, text: str):
    torch.manual_seed(0)

    assert text in str(name_distribution(layer(), fan_in=256, fan_out=128, followed_by="relu"))


def test_the_depth_to_which_pytorchs_default_carries_a_signal():
    torch.manual_seed(0)

    named = name_distribution(nn.Linear(512, 512).weight, fan_in=512, fan_out=512, followed_by="relu")

    assert named.factor == pytest.approx(math.sqrt(1 / 3) / math.sqrt(2), rel=0.01)  # 1/sqrt(6) a layer
    assert named.depth == pytest.approx(3 / math.log10(math.sqrt(6)), rel=0.02)
    carried = nn.init.kaiming_normal_(torch.empty(512, 512), nonlinearity="relu")
    assert name_distribution(carried, fan_in=512, fan_out=512, followed_by="relu").depth > 300


@given(st.integers(0, 10_000), st.sampled_from(["normal", "uniform", "truncated_normal"]), st.integers(2, 64))
@settings(max_examples=150, deadline=None)
def test_never_sure_and_wrong_on_few_values(seed: int, kind: str, n: int):
    values = fill_(torch.empty(n), Draw(kind, 0.1), generator=seeded(seed))

    assert name_distribution(values).kind in (kind, "too few")


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_independent_rows_are_never_orthogonal(seed: int):
    for shape in ((2, 50_000), (3, 3), (64, 4096), (128, 128)):
        values = torch.randn(shape, generator=seeded(seed)).to(torch.bfloat16)

        assert name_distribution(values).kind in ("normal", "too few")


@pytest.mark.parametrize(
    "values",
    [
        torch.distributions.Laplace(0.0, 1.0).icdf(torch.linspace(0.001, 0.999, 5000)),
        torch.cat([torch.randn(3000, generator=seeded()), 10 * torch.randn(3000, generator=seeded(1))]),
        torch.tensor([1.0, float("nan")] * 50),
    ],
    ids=["laplace", "mixture", "nan"],
)
def test_what_has_no_name(values: Tensor):
    assert name_distribution(values).kind == "other"


def test_a_mean_that_is_not_zero():
    named = name_distribution(3 + 0.5 * torch.randn(10_000, generator=seeded()))

    assert (named.kind, round(named.mean, 1), round(named.std, 1)) == ("normal", 3.0, 0.5)
    assert name_distribution(torch.rand(10_000, generator=seeded())).kind == "uniform"


def test_gates_of_an_lstm():
    bias = torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(24)

    assert name_distribution(bias).kind == "gates"


def test_odd_tensors():
    assert name_distribution(torch.empty(0)).kind == "too few"
    assert name_distribution(torch.ones(4, dtype=torch.int64)).kind == "too few"
    assert name_distribution(torch.empty(4, 4, device="meta")).kind == "too few"


@pytest.mark.slow
def test_kolmogorovs_probability_is_one():
    """Under the hypothesis the probabilities are uniform: 1 % of them are below 1 %."""
    draws = 2000
    low = sum(
        kolmogorov(torch.randn(400, generator=seeded(s), dtype=torch.float64), "normal", 1.0, math.inf) < 0.01
        for s in range(draws)
    )

    assert 5 <= low <= 38  # binomial(2000, 0.01) within 4 sigma
