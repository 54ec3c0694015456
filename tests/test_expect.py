"""Tests of draws keep their rate of false alarms for any number of values, and find what was drawn otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import SettingsError
from pytest_initcheck.statements.expect import (
    Expectation,
    constant,
    dirac,
    identity,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    misfits,
    normal,
    ones,
    orthogonal,
    truncated_normal,
    uniform,
    xavier_normal,
    xavier_uniform,
    zeros,
)

init = nn.init
#: Expectation -> how torch draws it.
DRAWN: list[tuple[Expectation, Callable[[Tensor], object]]] = [
    (normal(std=0.02), lambda x: init.normal_(x, std=0.02)),
    (normal(mean=1.0, std=0.1), lambda x: init.normal_(x, 1.0, 0.1)),
    (uniform(-0.5, 0.5), lambda x: init.uniform_(x, -0.5, 0.5)),
    (uniform(0.0, 3.0), lambda x: init.uniform_(x, 0.0, 3.0)),
    (truncated_normal(), init.trunc_normal_),
    (truncated_normal(std=0.02), lambda x: init.trunc_normal_(x, std=0.02)),
    (truncated_normal(mean=0.5, std=0.5, a=0.0, b=2.0), lambda x: init.trunc_normal_(x, 0.5, 0.5, 0.0, 2.0)),
    (xavier_uniform(), init.xavier_uniform_),
    (xavier_normal(gain=5 / 3), lambda x: init.xavier_normal_(x, gain=5 / 3)),
    (kaiming_uniform(a=math.sqrt(5)), lambda x: init.kaiming_uniform_(x, a=math.sqrt(5))),
    (kaiming_normal(mode="fan_out", nonlinearity="relu"), lambda x: init.kaiming_normal_(x, 0, "fan_out", "relu")),
    (lecun_normal(), lambda x: init.kaiming_normal_(x, nonlinearity="linear")),
    (lecun_uniform(), lambda x: init.kaiming_uniform_(x, nonlinearity="linear")),
]
COMPARED: list[tuple[Expectation, Callable[[Tensor], object]]] = [
    (zeros(), init.zeros_),
    (ones(), init.ones_),
    (constant(0.1), lambda x: init.constant_(x, 0.1)),
    (orthogonal(gain=math.sqrt(2)), lambda x: init.orthogonal_(x, gain=math.sqrt(2))),
    (identity(), init.eye_),
]


def told(x: Tensor, expected: Expectation, alpha: float) -> list[str]:
    assert expected.of is not None
    return [m.what for m in misfits(x, expected.of(x), alpha=alpha)]


@pytest.mark.parametrize(
    "shape",
    [(1, 2), *(pytest.param(s, marks=pytest.mark.slow) for s in ((1, 1), (1, 3), (2, 4), (8, 16), (64, 64)))],
    ids=str,
)
@pytest.mark.parametrize(("expected", "draw"), DRAWN, ids=lambda v: str(v) if isinstance(v, Expectation) else "")
def test_a_draw_is_refused_no_more_often_than_stated(
    expected: Expectation, draw: Callable[[Tensor], object], shape: tuple[int, int]
) -> None:
    alpha, runs = 0.02, 100
    alarms = 0
    for seed in range(runs):
        torch.manual_seed(seed)
        x = torch.empty(shape)
        draw(x)
        alarms += bool(told(x, expected, alpha))

    # Three tests of rate alpha each, and what a binomial count exceeds once in 10,000.
    assert alarms <= 3 * alpha * runs + 3.8 * math.sqrt(3 * alpha * runs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("expected", "draw"), DRAWN + COMPARED, ids=lambda v: str(v) if isinstance(v, Expectation) else ""
)
def test_large_draws_pass_in_every_dtype(
    expected: Expectation, draw: Callable[[Tensor], object], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = torch.empty(512, 600)
    draw(x)

    assert told(x.to(dtype), expected, 1e-8) == []


@pytest.mark.parametrize(("expected", "draw"), DRAWN, ids=lambda v: str(v) if isinstance(v, Expectation) else "")
def test_what_is_a_tenth_off_is_found(expected: Expectation, draw: Callable[[Tensor], object]) -> None:
    torch.manual_seed(0)
    x = torch.empty(256, 256)
    draw(x)
    assert expected.of is not None
    middle, std = expected.of(x).mean, expected.of(x).std

    assert told((x - middle) * 0.9 + middle, expected, 1e-8)
    assert told((x - middle) * 1.1 + middle, expected, 1e-8)
    assert "location" in told(x + 0.1 * std, expected, 1e-8) or "range" in told(x + 0.1 * std, expected, 1e-8)


def test_another_shape_with_the_same_std_is_found() -> None:
    torch.manual_seed(0)
    x = torch.empty(128, 128)

    assert told(init.uniform_(x, -math.sqrt(3), math.sqrt(3)), normal(), 1e-8) == ["shape"]
    assert told(init.normal_(x), uniform(-math.sqrt(3), math.sqrt(3)), 1e-8) == ["range"]
    assert "shape" in told(init.uniform_(x, -1.5, 1.5), truncated_normal(), 1e-8)


@pytest.mark.parametrize("count", [2, 8, 1000])
def test_values_that_are_all_equal_were_not_drawn(count: int) -> None:
    assert told(torch.full((count,), 0.01), normal(std=0.02), 1e-8) == ["constant"]


def test_one_value_far_off_is_found() -> None:
    assert told(torch.tensor([0.5]), normal(std=0.02), 1e-6)
    assert not told(torch.tensor([0.05]), normal(std=0.02), 1e-6)


@pytest.mark.parametrize(("expected", "draw"), COMPARED, ids=lambda v: str(v) if isinstance(v, Expectation) else "")
def test_what_is_compared_must_be_equal(expected: Expectation, draw: Callable[[Tensor], object]) -> None:
    x = torch.empty(16, 16)
    draw(x)
    assert not told(x, expected, 1e-6)
    x[3, 5] += 0.01

    assert told(x, expected, 1e-6) in (["constant"], ["structure"])


@pytest.mark.parametrize("shape", [(32, 8), (8, 32), (32, 8, 3, 3)], ids=str)
def test_orthogonal_of_any_shape(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = init.orthogonal_(torch.empty(shape))

    assert not told(x, orthogonal(), 1e-6)
    assert told(x, orthogonal(gain=2.0), 1e-6) == ["structure"]
    assert told(torch.randn(shape) / math.sqrt(max(shape)), orthogonal(), 1e-6) == ["structure"]


def test_dirac_hands_its_input_on() -> None:
    assert not told(init.dirac_(torch.empty(8, 8, 3, 3)), dirac(), 1e-6)
    assert told(torch.zeros(8, 8, 3, 3), dirac(), 1e-6) == ["structure"]


def test_values_that_are_not_finite() -> None:
    assert told(torch.tensor([0.1, math.nan]), normal(), 1e-6) == ["range"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: normal(std=-1), "std must be a number above 0 \\(got -1\\)"),
        (lambda: uniform(1, 0), "a must be below b"),
        (lambda: truncated_normal(mean=3), "needs its mean between a and b"),
        (lambda: kaiming_normal(mode="fan"), "mode must be 'fan_in' or 'fan_out' \\(got 'fan'\\)"),
        (lambda: kaiming_normal(nonlinearity="gelus"), "nonlinearity: Unsupported"),
        (lambda: told(torch.zeros(3), xavier_normal(), 0.1), "needs two dimensions \\(this one has shape \\[3\\]\\)"),
        (lambda: told(torch.zeros(3), orthogonal(), 0.1), "orthogonal needs two dimensions or more"),
        (lambda: told(torch.zeros(3, 3), dirac(), 0.1), "dirac needs three to five dimensions"),
    ],
)
def test_what_cannot_be_expected_is_one_sentence(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()


def test_an_expectation_is_written_as_its_call() -> None:
    assert str(normal(std=0.02)) == "normal(std=0.02)"
    assert str(kaiming_uniform(a=math.sqrt(5))) == "kaiming_uniform(a=2.23607)"
    assert str(kaiming_normal(nonlinearity="relu")) == "kaiming_normal(nonlinearity='relu')"
    assert str(zeros()) == "zeros()"
