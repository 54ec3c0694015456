"""Statistics of a large tensor from a part of it, with one exact pass; nothing where a part does not decide.

The sum of squares is taken over every element: a single one that is not finite shows in it, and so does one that is too large for a
half-precision format. All else is estimated from elements at equal distances, unless what they say comes near to what anybody decides by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Elements from which on a tensor is sampled: smaller ones are in a cache, and read as fast as they are picked from.
LARGE = 1 << 17
#: Elements that are looked at, and at how many places of each sample at least.
SEEN, PLACES = 1 << 14, 1 << 12
#: Below this distance every line of memory would be read all the same.
_NEAR = 16
#: So often must a unit be looked at, or one that is alive would look dead too often for the part to pay.
_OFTEN = 16
#: A root of the sum of squares beyond which the largest element might not fit a half-precision format.
_SUMMED = 3e4
#: Mean squares below which single ones may have been flushed to zero.
_TINY = 1e-30
#: Shares of the mean square, and of the RMS over the samples, below which an estimate is not believed.
_CANCELLED, _ALIKE = 1e-2, 1e-2


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a part of a tensor says of it; ``square`` is of the whole.

    Attributes:
        mean, square, low, high, zeros: mean, mean square, smallest and largest element, share of zeros.
        variation: mean square around the mean over the samples; NaN without samples.
        seen: number of elements looked at.
    """

    mean: float
    square: float
    low: float
    high: float
    zeros: float
    variation: float
    seen: int


def sampled(flat: Tensor, rows: Tensor | None, shape: torch.Size, *, units: bool) -> Sampled | None:
    """Return what a part of a tensor says of it, ``None`` where every element has to be read.

    Args:
        flat: the elements, in the order of their memory.
        rows: the tensor with its samples first, where it has some.
        shape: of the tensor.
        units: whether some channel or feature could be zero for all samples; one that looks so has to be read.
    """
    n = flat.numel()
    if n < LARGE or (rows is not None and not rows.is_contiguous()) or (units and rows is None):
        return None
    samples = 1 if rows is None else rows.shape[0]
    length = n // samples
    step = _step(length, max(SEEN // samples, PLACES))
    if step < _NEAR or (units and _OFTEN * max(shape[1], shape[-1]) > n // step):
        return None
    square = float(torch.dot(flat, flat)) / n
    if not (square > _TINY and math.sqrt(square * n) < _SUMMED):
        return None
    part = flat.view(samples, length)[:, ::step].contiguous()
    low, high = (float(v) for v in torch.aminmax(part))
    mean, own = float(part.mean()), float(torch.dot(part.view(-1), part.view(-1))) / part.numel()
    if not low < high or high <= 0 or own <= 0 or square - mean * mean < _CANCELLED * square:
        return None
    variation = math.nan
    if rows is not None:
        apart = float((part - part.mean(0)).square().mean()) / own
        if apart < _ALIKE**2:
            return None
        variation = apart * square
    if units and not _all_alive(part, shape, step):
        return None
    zeros = 1.0 - float(part.sign().abs_().mean()) if low <= 0 <= high else 0.0
    return Sampled(mean, square, low, high, zeros, variation, part.numel())


def spread_out(tensor: Tensor) -> Tensor:
    """Return some :data:`SEEN` elements of a large tensor, at equal distances."""
    flat = tensor.detach().reshape(-1)
    return flat[:: _step(flat.numel(), SEEN)]


def _step(length: int, places: int) -> int:
    """A distance that has no divisor in common with the length, so that no dimension is stepped along."""
    step = max(length // places, 1) | 1
    while math.gcd(step, length) != 1:
        step += 2
    return step


def _all_alive(part: Tensor, shape: torch.Size, step: int) -> bool:
    """Whether every slice along dimension 1, and along the last one, is seen not to be zero."""
    at = part.any(0).nonzero().view(-1) * step
    inner = math.prod(shape[2:])
    for size, places in ((shape[1], at // inner), (shape[-1], at % shape[-1])):
        alive = torch.zeros(size, dtype=torch.bool)
        alive[places] = True
        if not bool(alive.all()):
            return False
    return True
