"""Large tensors: what a part of them is enough for, and what it must not miss."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_initcheck import check_init
from pytest_initcheck.probing.sampled import LARGE
from pytest_initcheck.probing.statistics import measure, settle, settle_units
from pytest_initcheck.records import Stats

SHAPE = (8, 64, 32, 32)


def normal(*shape: int) -> Tensor:
    return torch.randn(*(shape or SHAPE), generator=torch.Generator().manual_seed(0))


def stats(tensor: Tensor, *, exact: bool = False, units: bool = False) -> Stats:
    (found,) = settle([measure(tensor, batch_dim=0, units=units, exact=exact)])
    assert found is not None
    return found


def dead(tensor: Tensor) -> float:
    ((along_channels, _),) = settle_units([measure(tensor, batch_dim=0, units=True, exact=False)])  # type: ignore[misc]
    return along_channels


@pytest.mark.parametrize(
    "make",
    [normal, lambda: normal().relu(), lambda: normal() * 3 + 1, lambda: normal().sigmoid() - 0.3],
    ids=["normal", "relu", "off centre", "one-sided"],
)
def test_a_part_says_what_the_whole_does(make: Callable[[], Tensor]):
    x = make()
    part, whole = stats(x), stats(x, exact=True)
    assert 0 < part.sampled < x.numel() / 16
    assert whole.sampled == 0
    assert part.rms == pytest.approx(whole.rms, rel=1e-5)
    for field in ("mean", "std", "zeros", "variation"):
        assert getattr(part, field) == pytest.approx(getattr(whole, field), abs=0.03 * whole.rms), field


def test_small_tensors_are_read_whole():
    x = normal(8, LARGE // 8 - 1)
    assert stats(x) == stats(x, exact=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 123_457, 8 * 64 * 32 * 32 - 1])
def test_a_single_element_that_is_not_finite_is_seen(value: float, at: int):
    x = normal()
    x.view(-1)[at] = value
    assert repr(stats(x)) == repr(stats(x, exact=True))
    assert not stats(x).finite


def test_a_single_element_that_a_half_precision_format_cannot_hold_is_seen():
    x = normal()
    x.view(-1)[54_321] = 7e4
    assert stats(x).max == pytest.approx(7e4)


def test_zeros_are_zeros_only_if_every_element_is():
    x = torch.zeros(SHAPE)
    assert stats(x).rms == 0
    x.view(-1)[54_321] = 1e-20
    assert stats(x).rms > 0
    assert stats(x).sampled == 0


def test_samples_that_look_alike_are_read_whole():
    x = normal(1, *SHAPE[1:]).expand(SHAPE).contiguous()
    assert stats(x).variation == 0
    x[3, 5, 7, 11] += 1e-3
    assert stats(x).sampled == 0
    assert 0 < (stats(x).variation or 0) < 1e-5


def test_a_signal_that_is_never_positive_is_read_whole():
    x = -normal().abs()
    assert stats(x).sampled == 0
    x.view(-1)[54_321] = 0.5
    assert stats(x).max == 0.5


def test_a_mean_that_dwarfs_the_deviation_is_read_whole():
    assert stats(normal() + 1000).std == pytest.approx(1.0, rel=0.01)


def test_a_unit_that_looks_dead_is_read_whole():
    x = normal().relu()
    assert stats(x, units=True).sampled > 0
    assert dead(x) == 0
    x[:, 7] = 0
    assert dead(x) == pytest.approx(1 / 64)
    x[3, 7, 5, 9] = 1.0
    assert dead(x) == 0


class Wide(nn.Module):
    """Activations large enough for a part of them to do."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 64, 3, padding=1), nn.Linear(64, 4)
        with torch.no_grad():
            self.conv.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return out


def test_the_record_says_which_it_is_and_a_bound_reads_everything():
    x = normal(4, 3, 32, 32)
    layer = check_init(Wide(), x).trace.layers["conv"]
    assert layer.activation.sampled > 0
    assert layer.gradient is not None
    assert layer.gradient.sampled > 0
    exact = check_init(Wide(), x, activation_std="0.01:100").trace.layers["conv"]
    assert exact.activation.sampled == 0
    assert layer.activation.std == pytest.approx(exact.activation.std, rel=0.02)
