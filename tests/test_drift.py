"""Two draws of one initialization are told from two initializations, at a rate of false alarms that is kept."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_initcheck import check_init
from pytest_initcheck.probing.statistics import kurtosis, measure, settle
from pytest_initcheck.statements.drift import (
    Sample,
    chance,
    comparisons,
    drifted,
    limit,
    mean_test,
    sample_of,
    std_test,
)

DRAWS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "normal": lambda shape, g: torch.randn(shape, generator=g),
    "uniform": lambda shape, g: torch.rand(shape, generator=g) - 0.5,
    "skewed": lambda shape, g: (torch.rand(shape, generator=g) * 4.6).exp(),
    "mixed": lambda shape, g: (
        torch.randn(shape, generator=g) * torch.where(torch.rand(shape, generator=g) < 0.25, 3, 1)
    ),
    "sparse": lambda shape, g: torch.randn(shape, generator=g) * (torch.rand(shape, generator=g) < 0.5),
}


def sample(x: Tensor) -> Sample:
    (value,), (peak,) = settle([measure(x)]), kurtosis([x])
    assert value is not None
    constant = value.min if value.min == value.max else None
    return Sample(tuple(x.shape), "float32", constant, value.mean, value.std, peak, value.zeros)


def of(make: Callable[[], nn.Module], seed: int = 0) -> dict[str, Sample]:
    report = check_init(make, "4x8", seed=seed)
    return {name: s for name, p in report.parameters.items() if (s := sample_of(p)) is not None}


def changed(was: Tensor, now: Tensor, alpha: float = 1e-6) -> list[str]:
    return [f"{d.kind}: {d.text}" for d in drifted({"w": sample(was)}, {"w": sample(now)}, alpha=alpha)]


# Two-sided tails of Student's t: closed forms for one and two degrees of freedom, tables (Abramowitz and Stegun 26.10) else.
@pytest.mark.parametrize(
    ("t", "freedom", "expected"),
    [
        (5.0, 1.0, 1 - 2 / math.pi * math.atan(5.0)),
        (0.5, 1.0, 1 - 2 / math.pi * math.atan(0.5)),
        (7.0, 2.0, 1 - 7 / math.sqrt(51)),
        (0.1, 2.0, 1 - 0.1 / math.sqrt(2.01)),
        (2.228139, 10.0, 0.05),
        (3.659405, 29.0, 0.001),
        (4.891638, 1e9, 1e-6),
        (4.891638, 9.9e5, 1e-6),
    ],
)
def test_tails_of_t(t: float, freedom: float, expected: float) -> None:
    assert chance(t, freedom) == pytest.approx(expected, rel=3e-4)
    assert chance(-t, freedom) == chance(t, freedom)


@given(p=st.floats(1e-12, 0.5), freedom=st.floats(0.5, 1e7))
def test_the_limit_is_where_the_chance_is(p: float, freedom: float) -> None:
    assert chance(limit(p, freedom), freedom) == pytest.approx(p, rel=1e-3)


def test_for_normal_draws_of_known_kurtosis_the_ratio_of_stds_is_the_f_test() -> None:
    # A million values leave the kurtosis no doubt: r = n - 1 but for the caution taken.
    was = Sample((1000, 1000), "float32", mean=0.0, std=1.0, kurtosis=3.0)
    t, freedom = std_test(was, replace(was, std=1.01))

    assert freedom == pytest.approx(1e6, rel=0.1)
    assert t == pytest.approx(math.log(1.01) * math.sqrt(freedom), rel=1e-3)
    assert mean_test(was, replace(was, mean=0.01))[0] == pytest.approx(0.01 / math.sqrt(2e-6))


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("n", [4, 16, 64, 1024])
def test_alarms_are_no_more_frequent_than_asked_for(kind: str, n: int) -> None:
    alpha, runs = 0.01, 400
    generator = torch.Generator().manual_seed(n)
    if kind == "sparse" and n < 64:
        pytest.skip("all of a few values that are often zero may be zero: that is said among the limits")

    alarms = sum(
        bool(changed(DRAWS[kind]((n,), generator), DRAWS[kind]((n,), generator), alpha=alpha)) for _ in range(runs)
    )

    # Two tests of each pair: 8 expected at most, and 19 or more with a chance of 1e-3 (binomial).
    assert alarms <= 18


@pytest.mark.parametrize("kind", DRAWS)
def test_a_tenth_more_is_found_in_a_large_weight(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (DRAWS[kind]((512, 512), generator) for _ in range(2))

    assert changed(one, other) == []
    assert [c.partition(":")[0] for c in changed(one, other * 1.1)][:1] == ["std"]


def test_what_changed_is_said_with_what_sampling_allows() -> None:
    n = 512 * 512  # quantiles: random draws differ between processors
    one = (torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n) * 0.0625).float().reshape(512, 512)

    assert changed(one, one * 0.707) == ["std: std 0.0442 was 0.0625 (x0.71, beyond ±1.1 % sampling error)"]
    (mean,) = changed(one, one + 0.01)
    assert re.fullmatch(r"mean: mean 0.01 was \S+ \(beyond ±0.00084 sampling error\)", mean), mean


def test_constants_are_equal_or_not() -> None:
    ones = torch.ones(16)

    assert changed(ones, ones) == []
    assert changed(ones, ones * (1 + 1e-7)) == []
    assert changed(ones, ones * 0.5) == ["constant: 0.5 was 1"]
    assert changed(torch.zeros(16), torch.randn(16, generator=torch.Generator().manual_seed(0)))[0].endswith(
        "was all 0"
    )


def test_a_single_number_may_be_drawn_or_set_and_only_a_whole_one_was_set_for_sure() -> None:
    assert changed(torch.tensor([0.3]), torch.tensor([0.8])) == []
    assert changed(torch.tensor([0.0]), torch.tensor([0.8])) == ["constant: 0.8 was 0"]
    assert changed(torch.tensor([0.0]), torch.tensor([1.0])) == ["constant: 1 was 0"]


def test_shape_dtype_and_names() -> None:
    was = {"a": Sample((2,), "float32", 0.0), "b": Sample((2,), "float32", 0.0), "c": Sample((2,), "float32", 0.0)}
    now = {"a": Sample((3,), "float32", 0.0), "b": Sample((2,), "bfloat16", 0.0), "d": Sample((), "float32", 0.0)}

    assert {d.name: d.text for d in drifted(was, now, alpha=1e-6)} == {
        "a": "shape 3 was 2",
        "b": "dtype bfloat16 was float32",
        "c": "is gone (float32 2 in the baseline)",
        "d": "is new (float32 scalar)",
    }


def test_a_model_under_other_seeds_is_the_same_and_with_another_scheme_is_not() -> None:
    def make(gain: float = 1.0) -> nn.Module:
        model = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
        model[2].weight.data *= gain
        return model

    was = of(make)

    assert comparisons(was) == 12
    assert all(not drifted(was, of(make, seed), alpha=1e-4 / 12) for seed in range(1, 6))
    assert [d.name for d in drifted(was, of(lambda: make(1.3), 7), alpha=1e-4 / 12)] == ["2.weight"]


def test_repeated_rows_count_once() -> None:
    def make() -> nn.Module:
        model = nn.Linear(8, 512)
        model.weight.data = model.weight.data[:8].repeat(64, 1)
        return model

    found = [of(make, seed)["weight"] for seed in range(12)]

    assert found[0].count < 8 * 512 / 8
    assert not any(drifted({"w": found[0]}, {"w": other}, alpha=1e-4) for other in found[1:])


def test_weights_that_a_parametrization_makes_are_not_tested() -> None:
    # Divided by their own largest singular value, they vary more than independent values of that std would.
    found = of(lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 64)), nn.Linear(64, 2)))

    assert [name for name, s in found.items() if "original" in name and s.tested] == []
    assert found["1.weight"].tested


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 3000), scale=st.floats(1e-30, 1e30))
def test_kurtosis_of_any_magnitude(n: int, scale: float) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(n))
    y = x.double() - x.double().mean()
    expected = float((y**4).mean() / (y**2).mean() ** 2)

    (got,) = kurtosis([x * scale])

    assert got == pytest.approx(expected, rel=1e-3)


def test_kurtosis_where_there_is_none() -> None:
    nothing = [
        torch.ones(5),
        torch.tensor([1.0, math.nan]),
        torch.arange(5),
        torch.ones(1),
        torch.empty(3, device="meta"),
    ]

    assert kurtosis(nothing) == [None] * 5
    assert kurtosis([torch.rand(200_000)])[0] == pytest.approx(1.8, abs=0.05)
