"""Tensor -> Stats: cheap numbers where the tensor is seen, read together at the end; exact from 1e-38 to 1e38."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import thresholds
from ..records import Histogram, Stats
from ..sharding.layout import gathered, is_partial, is_sharded, local
from ..sharding.moments import NOTHING, joined
from ..sharding.world import current
from .sampled import sampled

#: Below this mean square, float32 squares of typical elements (under 1e-15) may have been flushed to zero.
_TINY_MEAN_SQUARE = 1e-30
#: Below this share of the mean square, float32 rounding of ``dot`` (about 1e-6) is not small against what is left.
_CANCELLED = 1e-2
#: Elements per chunk of the float64 passes, so that they never hold a second tensor of the full size.
_CHUNK = 1 << 20
#: Elements that fit a core's cache, whatever is read from them.
_BLOCK = 1 << 17
#: Elements of one sample from which on it pays to sum sample by sample.
_RUN = 1 << 14
#: Elements looked at for the share of zeros in a large tensor, and in how many runs.
_SAMPLE = 1 << 14
_RUNS = 64

#: Bins of a histogram.
_BINS = 32


@dataclass(frozen=True, slots=True)
class Pending:
    """Numbers of one tensor that were asked for and may still be on the device.

    Attributes:
        count: number of elements.
        numbers: the values of :data:`_NUMBERS`, as a float64 vector while on a device; ``None`` for no values.
        samples: whether variation across samples was asked for.
        units: share of zero units along dimension 1 and along the last one, likewise.
        held: how many of a tensor that is spread over ranks this one holds; ``None`` for an ordinary tensor.
        seen: number of elements that all but the RMS and whether it is finite was estimated from; 0 for all.
    """

    count: int
    numbers: Tensor | tuple[float, ...] | None
    samples: bool
    units: Tensor | tuple[float, ...] | None = None
    held: int | None = None
    seen: int = 0


# Order of the numbers in Pending.numbers; variance is around the mean and over n.
_NUMBERS = ("mean", "variance", "mean_square", "min", "max", "zeros", "variation_square", "scale")
_LOW, _HIGH = 3, 4
# The same as an accelerator gives them, without what follows from the rest.
_FEWER = ("mean", "variance", "min", "max", "filled", "variation_square")


def measure(tensor: Tensor, *, batch_dim: int | None = None, units: bool = False, exact: bool = True) -> Pending | None:
    """Enqueue the statistics of ``tensor``; nothing of it is kept and nothing is synchronised on an accelerator.

    On CPU, where reading a number is free, one pass of sum, dot and aminmax decides whether it was exact and only a
    tensor that under- or overflowed float32 squares, or whose mean dwarfs its deviation, is read again in float64.
    On an accelerator that decision would be a synchronisation, so every tensor is read in scaled form.

    Args:
        tensor: any tensor. Complex ones count as twice as many real numbers (real and imaginary parts), sparse ones as
            their dense form.
        batch_dim: dimension that runs over samples, for ``Stats.variation``.
        units: also count the units (channels, features) that are zero for every sample.
        exact: whether every element of a large tensor counts; else, on CPU, a part of them where it decides.

    Returns:
        What :func:`settle` turns into :class:`Stats`; ``None`` for tensors that hold no real numbers (integers, bools).
    """
    if is_sharded(tensor):
        return _part(tensor, batch_dim, units=units)
    with torch.no_grad():
        x = _real(tensor.detach())
        if x is None:
            return None
        samples = batch_dim is not None and x.shape[batch_dim] > 1
        if x.device.type == "meta" or x.numel() == 0:
            return Pending(x.numel(), None, samples)
        rows = x.movedim(batch_dim, 0) if samples and batch_dim else x
        if not exact and x.device.type == "cpu" and (batch_dim in (0, None) or not samples):
            part = sampled(_flat(x), rows if samples else None, x.shape, units=units)
            if part is not None:
                variance = part.square - part.mean * part.mean
                known = (part.mean, variance, part.square, part.low, part.high, part.zeros, part.variation, 1.0)
                return Pending(x.numel(), known, samples, (0.0, 0.0) if units else None, seen=part.seen)
        read = _on_cpu if x.device.type == "cpu" else _on_device
        numbers, common = read(x, rows if samples else None)
        if not units:
            return Pending(x.numel(), numbers, samples)
        if isinstance(numbers, tuple) and (numbers[_LOW] > 0 or numbers[_HIGH] < 0):
            return Pending(x.numel(), numbers, samples, (0.0, 0.0))
        return Pending(x.numel(), numbers, samples, _zero_units(x if common is None else common, common is not None))


def _part(tensor: Tensor, batch_dim: int | None, *, units: bool) -> Pending | None:
    """What this rank's part of a sharded tensor says; :func:`settle` joins the parts."""
    sharded: Any = tensor.detach()
    split = batch_dim is not None and any(p.is_shard(batch_dim) for p in sharded.placements)
    # Addends say nothing of their sum, nor some samples of how samples differ.
    mine = gathered(sharded) if split or is_partial(sharded) else local(sharded)
    found = measure(mine, batch_dim=batch_dim, units=units)
    if found is None or tensor.is_meta:
        return found
    if found.numbers is None:
        return replace(found, count=tensor.numel(), numbers=NOTHING, held=0, units=(0.0, 0.0) if units else None)
    return replace(found, count=tensor.numel(), held=mine.numel())


def settle(pending: Sequence[Pending | None]) -> list[Stats | None]:
    """Return the statistics of everything that :func:`measure` enqueued, reading each device once."""
    known = [p.numbers for p in pending if p is not None and p.numbers is not None]
    values = iter([_completed(numbers) for numbers in read_back(known)])
    if (world := current()) is not None:
        held = [p.count if p.held is None else p.held for p in pending if p is not None and p.numbers is not None]
        values = iter(joined(world, list(values), held))
    return [None if p is None else _stats(p, next(values) if p.numbers is not None else None) for p in pending]


def settle_units(pending: Sequence[Pending | None]) -> list[tuple[float, float] | None]:
    """Return the shares of zero units along dimension 1 and along the last one, where :func:`measure` counted them."""
    known = [p.units for p in pending if p is not None and p.units is not None]
    values = iter(read_back(known))
    if (world := current()) is not None:
        flat = world.mean([share for pair in values for share in pair])
        values = iter([tuple(v for v in flat[i : i + 2] if v is not None) for i in range(0, len(flat), 2)])
    return [
        (pair[0], pair[1]) if p is not None and p.units is not None and (pair := next(values)) else None
        for p in pending
    ]


def own_seed(seed: int) -> int:
    """Return a seed for noise of our own: users seed with small numbers, and their inputs must not be our noise."""
    return (seed * 1_000_003 + 0x1D15EA5E) % 2**62


def rms(tensor: Tensor) -> Tensor:
    """Return the root mean square of ``tensor`` as a float64 scalar on its device, exact from 1e-38 to 1e38."""
    if is_sharded(tensor):
        (stats,) = settle([measure(tensor)])
        return torch.tensor(0.0 if stats is None else stats.rms, dtype=torch.float64)
    x = _real(tensor.detach())
    if x is None or x.numel() == 0 or x.device.type == "meta":
        return torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        if x.device.type == "cpu":
            flat = _flat(x)
            square = _dot(flat) / flat.numel()
            if not _TINY_MEAN_SQUARE < square < math.inf and (square or flat.count_nonzero()):
                square = _squares(flat, 0.0) / flat.numel()
            return torch.tensor(math.sqrt(square), dtype=torch.float64)
        peak = x.abs().amax().double()
        scale = torch.where((peak > 0) & peak.isfinite(), peak, 1.0)
        return _scaled(x, scale).square().mean(dtype=torch.float64).sqrt() * scale


def kurtosis(tensors: Sequence[Tensor]) -> list[float | None]:
    """Return the fourth central moment over the squared variance of each tensor: 3 for a normal draw, 1.8 for a uniform one.

    It is estimated from 16,384 elements of a larger tensor, and ``None`` where the elements seen are all equal, not
    finite or not there.
    """
    found: list[Tensor | tuple[float, ...]] = []
    with torch.no_grad():
        for tensor in tensors:
            x = _part_of(gathered(tensor.detach()))
            if x is None or x.numel() < 2 or x.device.type == "meta":
                found.append((math.nan,))
                continue
            centred = x.double()
            centred = centred - centred.mean()
            square = (centred / centred.abs().amax()).square()
            found.append((square.square().mean() / square.mean().square()).reshape(1))
    return [value if math.isfinite(value) else None for (value,) in read_back(found)]


def histogram(tensor: Tensor) -> Histogram | None:
    """Return how the finite values of ``tensor`` are spread; ``None`` where fewer than two differ."""
    with torch.no_grad():
        x = _part_of(tensor.detach())
        if x is None or x.numel() < 2 or x.device.type == "meta":
            return None
        # On the CPU: not every accelerator counts into bins deterministically, and torch may have been told to insist.
        values = x.cpu().double().reshape(-1)
        values = values[values.isfinite()]
        if values.numel() < 2:
            return None
        low, high = float(values.min()), float(values.max())
        if not 0 < high - low < math.inf:
            return None
        places = ((values - low) / (high - low) * _BINS).long().clamp_(max=_BINS - 1)
        return Histogram(low, high, tuple(int(n) for n in torch.bincount(places, minlength=_BINS)))


def saturated_share(tensor: Tensor, low: float, high: float) -> Tensor:
    """Return the share of elements in the outer 0.5 % of the range ``low..high`` at either end, as a scalar."""
    margin = (high - low) * (1 - thresholds.FLAT) / 2
    with torch.no_grad():
        y = tensor.detach()
        return ((y > high - margin) | (y < low + margin)).double().mean()


def _real(x: Tensor) -> Tensor | None:
    """Dense real floating view of a tensor (a copy only where there is no view), or None for integers and bools."""
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj()) if not x.is_sparse else torch.view_as_real(x.to_dense())
    if not x.is_floating_point():
        return None
    if x.layout is not torch.strided:
        x = x.to_dense()
    if x.is_nested or x.is_quantized:
        return None
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    return x


def _part_of(x: Tensor) -> Tensor | None:
    """As :func:`_real`, of a large tensor the runs across it that :func:`_sampled` takes; where it can, it converts no more than these."""
    if x.is_floating_point() and x.layout is torch.strided and not x.is_nested:
        return _real(_sampled(_flat(x)))
    real = _real(x)
    return None if real is None else _sampled(_flat(real))


def _flat(x: Tensor) -> Tensor:
    """One-dimensional view in whatever order the memory has; a copy only of tensors with gaps or overlaps."""
    if x.is_contiguous():
        return x.view(-1)
    strides = sorted(((st, sz) for st, sz in zip(x.stride(), x.shape, strict=True) if sz != 1))
    expected = 1
    for stride, size in strides:
        if stride != expected:
            return x.reshape(-1)
        expected *= size
    return x.as_strided((x.numel(),), (1,))


def _dot(flat: Tensor) -> float:
    return float(torch.dot(flat, flat))


def _on_cpu(x: Tensor, rows: Tensor | None) -> tuple[tuple[float, ...], Tensor | None]:
    flat = _flat(x)
    n = flat.numel()
    # Samples that lie one after the other are averaged in the same pass, while they are in the cache.
    adjoining = rows is not None and n >= rows.shape[0] * _RUN and rows.is_contiguous()
    sums = torch.empty(n // rows.shape[0], dtype=flat.dtype) if rows is not None and adjoining else None
    low, high, total, squares = _sweep(flat, sums)
    if not (math.isfinite(low) and math.isfinite(high)):
        # aminmax hands on NaN; where it met only infinities, min and max still say so.
        return (math.nan, math.nan, math.nan, low, high, _zeros(flat, low, high), math.nan, 1.0), None
    if low == high == 0.0:
        return (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0), None
    mean = total / n
    square = squares / n
    scale = 1.0
    if not (_TINY_MEAN_SQUARE < square < math.inf and math.isfinite(mean)):
        # Everything below is relative to the largest magnitude, so that no square leaves float64.
        scale = max(-low, high)
        mean = _sum(flat, scale) / n
        square = _squares(flat, 0.0, scale) / n
    variance = square - mean * mean
    if variance < _CANCELLED * square:
        # Two passes: the exact mean, then squares around it.
        mean = _sum(flat, scale) / n
        variance = 0.0 if low == high else _squares(flat, mean, scale) / n
    variation, common = math.nan, None
    if rows is not None:
        if sums is not None and scale == 1.0:
            common = sums.div_(rows.shape[0]).view(rows.shape[1:])
        else:
            common = rows.mean(0) if scale == 1.0 else (rows.double() / scale).mean(0)
        part = _flat(common)
        variation = square - _dot(part) / part.numel()
        if variation < _CANCELLED * square:
            common = rows.mean(0, dtype=torch.float64).div_(scale)
            variation = sum(_squares_apart(row, common, scale) for row in rows) / n
    return (mean, variance, square, low, high, _zeros(flat, low, high), variation, scale), common


def _sweep(flat: Tensor, sums: Tensor | None = None) -> tuple[float, float, float, float]:
    """Smallest, largest, sum and sum of squares, block by block: each comes from memory once, not three times.

    Args:
        flat: the values.
        sums: filled with the sum over the samples that follow one another in ``flat``.
    """
    low, high, total, squares = math.inf, -math.inf, 0.0, 0.0
    for sample, row in enumerate(flat.split(sums.numel()) if sums is not None else (flat,)):
        for start, block in enumerate(row.split(_BLOCK) if row.numel() > _BLOCK else (row,)):
            least, most = torch.aminmax(block)
            a, b = least.item(), most.item()
            if a != a or b != b:
                return math.nan, math.nan, math.nan, math.nan
            low, high = min(low, a), max(high, b)
            squares += torch.dot(block, block).item()
            if sums is None:
                total += block.sum().item()
            else:
                part = sums[start * _BLOCK : start * _BLOCK + block.numel()]
                part.add_(block) if sample else part.copy_(block)
    return low, high, total if sums is None else sums.sum().item(), squares


def _on_device(x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """As few kernels as there can be: a step of most models is as long as it takes to launch them."""
    if x.dtype == torch.float64:
        return _in_scaled_form(x, rows)
    wide = x.double()  # in which no square of what was narrower is too small or too large
    low, high = torch.aminmax(wide)
    variance, mean = torch.var_mean(wide, correction=0)
    filled = torch.count_nonzero(x).double() / x.numel()
    apart, common = mean, None
    if rows is not None:
        within, common = torch.var_mean(wide if rows is x else rows.double(), 0, correction=0)
        apart = within.mean()
    return torch.stack([mean, variance, low, high, filled, apart]), common


def _in_scaled_form(x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
    low, high = (v.double() for v in torch.aminmax(x))
    peak = torch.maximum(-low, high)
    scale = torch.where((peak > 0) & peak.isfinite(), peak, 1.0)
    mean = x.mean(dtype=torch.float64)
    # Centred first and scaled then: scaling rounds, and what it rounds off may be all there is besides the mean.
    centred = _scaled(x - mean.to(x.dtype), scale)
    offset = centred.mean(dtype=torch.float64)  # what rounding the mean to the tensor's dtype left over
    variance = centred.square().mean(dtype=torch.float64) - offset.square()
    square = _scaled(x, scale).square().mean(dtype=torch.float64)
    zeros = 1.0 - torch.count_nonzero(x).double() / x.numel()
    variation, common = torch.full_like(mean, math.nan), None
    if rows is not None:
        common = rows.mean(0, dtype=torch.float64).to(x.dtype)
        variation = _scaled(rows - common, scale).square().mean(dtype=torch.float64)
    return torch.stack([mean / scale, variance, square, low, high, zeros, variation, scale]), common


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    # Dividing a float32 by a float32 magnitude below 1e-38 is inexact where denormals are flushed; two roots are not.
    root = scale.sqrt().to(x.dtype)
    return x / root / root


def _chunks(flat: Tensor, scale: float) -> Iterable[Tensor]:
    for chunk in flat.split(_CHUNK):
        yield chunk.double().div_(scale) if chunk.dtype != torch.float64 else chunk / scale


def _sum(flat: Tensor, scale: float) -> float:
    return sum(float(chunk.sum()) for chunk in _chunks(flat, scale))


def _squares(flat: Tensor, mean: float, scale: float = 1.0) -> float:
    """Sum of (x / scale - mean)^2 in float64."""
    return sum(_dot(chunk.sub_(mean)) for chunk in _chunks(flat, scale))


def _squares_apart(row: Tensor, common: Tensor, scale: float) -> float:
    return math.fsum(
        _dot(a.sub_(b.double()))
        for a, b in zip(_chunks(row.reshape(-1), scale), common.reshape(-1).split(_CHUNK), strict=True)
    )


def _sampled(flat: Tensor) -> Tensor:
    """``flat`` itself, or runs across it where it is large."""
    n = flat.numel()
    return flat if n <= _SAMPLE else flat[: n - n % _RUNS].view(_RUNS, -1)[:, : _SAMPLE // _RUNS]


def _zeros(flat: Tensor, low: float, high: float) -> float:
    if low > 0 or high < 0:
        return 0.0
    # No rule needs this number exactly, and it would cost more than all others.
    flat = _sampled(flat)
    if low != low:
        return 1.0 - torch.count_nonzero(flat).item() / flat.numel()
    # Without a branch for each element, which count_nonzero has and no predictor gets right behind a relu.
    return 1.0 - flat.sign().abs_().sum().item() / flat.numel()


def _zero_units(values: Tensor, averaged: bool) -> Tensor:
    """Shares of slices that are zero throughout, along dimension 1 and along the last one of the full tensor.

    Args:
        values: the tensor without its sample dimension, averaged over it (zero where all samples are: they would have
            to cancel otherwise), or the full tensor.
        averaged: which of the two.
    """
    first = 0 if averaged else 1
    sizes = values.abs()
    shares = []
    for dim in (first, values.dim() - 1):
        if not 0 <= dim < values.dim():
            shares.append(torch.full((), math.nan, dtype=torch.float64, device=values.device))
            continue
        others = [d for d in range(values.dim()) if d != dim]
        total = sizes.sum(others) if others else sizes
        shares.append((total == 0).double().mean())
    return torch.stack(shares)


def read_back(vectors: Sequence[Tensor | tuple[float, ...]]) -> list[Sequence[float]]:
    """Return the numbers of all vectors, in their order, with one transfer for each device and length; tuples as they are."""
    out: list[Sequence[float]] = [v if isinstance(v, tuple) else () for v in vectors]
    alike: dict[tuple[torch.device, int], list[int]] = {}
    for i, vector in enumerate(vectors):
        if isinstance(vector, Tensor):
            alike.setdefault((vector.device, vector.numel()), []).append(i)
    for indices in alike.values():
        rows: list[list[float]] = torch.stack([vectors[i] for i in indices]).tolist()  # type: ignore[misc]
        for i, row in zip(indices, rows, strict=True):
            out[i] = row
    return out


def _completed(numbers: Sequence[float]) -> Sequence[float]:
    if len(numbers) != len(_FEWER):
        return numbers
    mean, variance, low, high, filled, apart = numbers
    return mean, variance, variance + mean * mean, low, high, 1.0 - filled, apart, 1.0


def _stats(pending: Pending, numbers: Sequence[float] | None) -> Stats:
    if numbers is None:
        nan = math.nan
        return Stats(pending.count, nan, nan, nan, nan, nan, nan, finite=pending.count == 0)
    mean, variance, square, low, high, zeros, apart, scale = numbers
    n = pending.count
    finite = math.isfinite(low) and math.isfinite(high)
    if not finite:
        mean = variance = square = math.nan
    variation: float | None = None
    if pending.samples:
        variation = math.nan if not finite else 0.0 if square == 0 else math.sqrt(max(apart, 0.0) / square)
    return Stats(
        count=n,
        mean=mean * scale,
        std=math.sqrt(max(variance, 0.0) * n / (n - 1)) * scale if n > 1 else (0.0 if finite else math.nan),
        rms=math.sqrt(max(square, 0.0)) * scale if finite else math.nan,
        min=low,
        max=high,
        zeros=zeros,
        finite=finite,
        variation=variation,
        sampled=pending.seen,
    )
