"""Statistics against float64, over every magnitude and every kind of tensor."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pytest_initcheck.probing.statistics import (
    Pending,
    _on_device,
    histogram,
    measure,
    rms,
    saturated_share,
    settle,
    settle_units,
)
from pytest_initcheck.records import Stats


def stats(tensor: Tensor, batch_dim: int | None = None) -> Stats:
    (found,) = settle([measure(tensor, batch_dim=batch_dim)])
    assert found is not None
    return found


def as_on_an_accelerator(x: Tensor, batch_dim: int | None = None) -> Stats:
    """The path that never reads a number back, on the CPU."""
    rows = None if batch_dim is None else x.movedim(batch_dim, 0)
    numbers, _ = _on_device(x, rows)
    (found,) = settle([Pending(x.numel(), numbers, batch_dim is not None)])
    assert found is not None
    return found


def reference(tensor: Tensor, batch_dim: int | None = None) -> Stats:
    x = tensor.double()
    scale = float(x.abs().max()) or 1.0
    x = x / scale
    apart = None
    if batch_dim is not None:
        apart = float(((x - x.mean(batch_dim, keepdim=True)).square().mean() / x.square().mean()).sqrt())
    return Stats(
        count=x.numel(),
        mean=float(x.mean()) * scale,
        std=float(x.std()) * scale,
        rms=float(x.square().mean().sqrt()) * scale,
        min=float(tensor.min()),
        max=float(tensor.max()),
        zeros=float((x == 0).double().mean()),
        finite=True,
        variation=apart,
    )


def agree(got: Stats, want: Stats, rel: float) -> None:
    assert got.count == want.count
    assert got.mean == pytest.approx(want.mean, rel=rel, abs=rel * want.rms)
    assert got.std == pytest.approx(want.std, rel=rel)
    assert got.rms == pytest.approx(want.rms, rel=rel)
    assert (got.min, got.max) == (want.min, want.max)
    assert got.zeros == pytest.approx(want.zeros)
    assert got.finite is True
    if want.variation is not None:
        assert got.variation == pytest.approx(want.variation, rel=1e-3, abs=1e-9)


@given(
    exponent=st.floats(-37, 37),
    offset=st.sampled_from([0.0, 0.0, 0.5, -1.0, 30.0, -1e3]),
    shape=st.lists(st.integers(2, 7), min_size=1, max_size=4),
    sparse=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=300, deadline=None)
def test_agrees_with_float64_from_1e_minus_38_to_1e38(
    exponent: float, offset: float, shape: list[int], sparse: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) + offset) * 10.0 ** min(exponent, 34)
    if sparse:
        x = x.relu()
    x = x.float()
    if not bool(x.any()) or float(x.std()) == 0:
        return
    agree(stats(x, 0), reference(x, 0), 2e-5)
    agree(as_on_an_accelerator(x, 0), reference(x, 0), 2e-5)


@pytest.mark.parametrize("magnitude", [1e-38, 1e-30, 1e-24, 1e-19, 1e-10, 1.0, 1e10, 1e18, 1e19, 1e30, 3e37])
def test_magnitudes_at_size(magnitude: float) -> None:
    x = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0)) * magnitude
    agree(stats(x, 0), reference(x, 0), 1e-5)
    agree(as_on_an_accelerator(x, 0), reference(x, 0), 1e-5)
    assert float(rms(x)) == pytest.approx(reference(x).rms, rel=1e-5)


def test_squares_of_the_largest_and_of_the_smallest_numbers_are_not_lost() -> None:
    assert stats(torch.tensor([1e38, -1e38])).std == pytest.approx(math.sqrt(2) * 1e38, rel=1e-6)
    assert stats(torch.full((10,), 1e-38)).rms == pytest.approx(1e-38, rel=1e-6)
    mixed = torch.tensor([1e38, 1e-38])
    assert stats(mixed).rms == pytest.approx(1e38 / math.sqrt(2), rel=1e-6)


def test_a_mean_that_dwarfs_the_deviation_does_not_cancel() -> None:
    x = 1e4 + torch.randn(32, 500, generator=torch.Generator().manual_seed(0))
    assert stats(x).std == pytest.approx(float(x.double().std()), rel=1e-6)
    constant = stats(torch.full((100,), 0.3))
    assert constant.std == 0
    assert constant.mean == pytest.approx(0.3)


def test_variation_resolves_samples_that_hardly_differ() -> None:
    common = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    for apart in (1.0, 1e-2, 1e-4, 1e-6):
        noise = torch.randn(16, 4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        x = (common.double() + apart * noise).to(torch.float64)
        assert stats(x, 0).variation == pytest.approx(reference(x, 0).variation, rel=1e-3)
    assert stats(common.expand(8, -1), 0).variation == pytest.approx(0, abs=1e-9)


def test_variation_along_another_dimension() -> None:
    x = torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(0))
    x[:, :, 0] = 2.0
    assert stats(x, 1).variation == pytest.approx(reference(x, 1).variation, rel=1e-5)
    assert stats(x).variation is None
    assert stats(x[:1], 0).variation is None, "one sample does not vary"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    x = torch.randn(4, 5)
    x[1, 2] = bad
    for found in (stats(x, 0), as_on_an_accelerator(x, 0)):
        assert found.finite is False
        assert all(math.isnan(v) for v in (found.mean, found.std, found.rms))
        assert found.variation is not None
        assert math.isnan(found.variation)
    if bad == math.inf:
        assert stats(x).max == math.inf


def test_zeros() -> None:
    zero = stats(torch.zeros(4, 5), 0)
    assert (zero.mean, zero.std, zero.rms, zero.zeros, zero.variation) == (0, 0, 0, 1, 0)
    assert as_on_an_accelerator(torch.zeros(4, 5), 0) == zero
    assert stats(torch.tensor([0.0, 1.0, -1.0, 0.0])).zeros == 0.5
    big = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    big[torch.rand(300_000, generator=torch.Generator().manual_seed(1)) < 0.3] = 0
    assert stats(big).zeros == pytest.approx(0.3, abs=0.02)
    assert stats(big.relu()).zeros == pytest.approx(float((big.relu() == 0).double().mean()), abs=0.02)


def test_every_kind_of_tensor() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 8, generator=generator)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        agree(stats(x.to(dtype)), reference(x.to(dtype)), 1e-5)
    assert stats(torch.tensor(2.5)) == Stats(1, 2.5, 0.0, 2.5, 2.5, 2.5, 0.0, True)
    agree(stats(x[:, ::2]), reference(x[:, ::2]), 1e-5)
    agree(stats(x.t(), 1), reference(x.t(), 1), 1e-5)
    agree(stats(x.expand(3, 6, 8)), reference(x.expand(3, 6, 8).contiguous()), 1e-5)
    image = torch.randn(2, 3, 4, 4, generator=generator).contiguous(memory_format=torch.channels_last)
    agree(stats(image, 0), reference(image, 0), 1e-5)
    agree(stats(x.to_sparse()), reference(x), 1e-5)
    z = torch.complex(x, x.flip(0))
    assert stats(z).count == 2 * x.numel()
    assert stats(z.conj()).rms == pytest.approx(stats(x).rms, rel=1e-6)
    assert stats(torch.empty(0, 3), 0).count == 0
    assert stats(torch.empty(0, 3)).finite is True
    meta = stats(torch.empty(4, 5, device="meta"))
    assert meta.count == 20
    assert meta.finite is False
    assert settle([measure(torch.arange(4)), measure(torch.tensor([True])), None]) == [None, None, None]
    leaf = torch.randn(3, requires_grad=True)
    assert stats(leaf).count == 3


def test_nothing_of_the_tensor_changes() -> None:
    x = torch.randn(40, 50) * 1e-25
    y = x.clone()
    stats(x, 0)
    rms(x)
    assert torch.equal(x, y)
    assert x._version == 0
    double = x.double() + 100
    kept = double.clone()
    stats(double, 0)
    assert torch.equal(double, kept)


def test_units_that_are_zero_for_every_sample() -> None:
    x = torch.rand(4, 6, 5, 5) + 0.1
    x[:, :3] = 0
    x[..., 0] = 0
    assert settle_units([measure(x, batch_dim=0, units=True)]) == [pytest.approx((0.5, 0.2))]
    assert settle_units([measure(x, units=True)]) == [pytest.approx((0.5, 0.2))]
    assert settle_units([measure(torch.ones(3, 4), units=True), None, measure(torch.ones(3, 4))]) == [
        (0, 0),
        None,
        None,
    ]


def test_saturated_share() -> None:
    x = torch.tensor([-0.999, -0.5, 0.0, 0.98, 0.999])
    assert float(saturated_share(x, -1, 1)) == pytest.approx(0.4)
    assert float(saturated_share(torch.tensor([0.001, 0.5]), 0, 1)) == pytest.approx(0.5)


@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=60),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_histogram_counts_every_value_once(values: list[float], dtype: torch.dtype):
    found = histogram(torch.tensor(values, dtype=dtype))

    distinct = torch.tensor(values, dtype=dtype).unique()
    if len(distinct) == 1:
        assert found is None
        return
    assert found is not None
    assert (found.low, found.high) == (float(distinct[0]), float(distinct[-1]))
    assert sum(found.counts) == len(values)
    assert found.counts[0] > 0
    assert found.counts[-1] > 0


def test_a_histogram_is_what_torch_counts():
    values = torch.randn(3, 5, 70, generator=torch.Generator().manual_seed(0))

    found = histogram(values)

    assert found is not None
    assert list(found.counts) == torch.histc(values, len(found.counts), found.low, found.high).int().tolist()


def test_a_histogram_leaves_out_what_is_not_finite_and_samples_what_is_large():
    found = histogram(torch.tensor([math.nan, 1.0, math.inf, 3.0, -math.inf]))
    assert found is not None
    assert (found.low, found.high, sum(found.counts)) == (1.0, 3.0, 2)
    assert histogram(torch.full((9,), math.nan)) is None
    assert histogram(torch.zeros(0)) is None
    assert histogram(torch.arange(4)) is None

    large = histogram(torch.linspace(0, 1, 1 << 20))
    assert large is not None
    assert sum(large.counts) == 1 << 14
    assert max(large.counts) < 1.5 * min(large.counts)


def test_a_histogram_of_complex_values_and_of_gaps():
    complex_values = histogram(torch.complex(torch.ones(4), torch.zeros(4)))
    assert complex_values is not None
    assert (complex_values.counts[0], complex_values.counts[-1]) == (4, 4)
    gaps = histogram(torch.arange(20.0).view(4, 5)[:, ::2])
    assert gaps is not None
    assert sum(gaps.counts) == 12
