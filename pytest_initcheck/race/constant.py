"""What the best constant output is, and what it pays: the error before anything is learned, for a loss of which nothing else is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..probing.call import with_items
from ..probing.modules import sample_dim
from ..response.adam import Adam

Loss = Callable[[Any], Tensor]

#: Rates and number of Adam steps on the constant itself; no pass of the model is among them.
RATES, STEPS = (0.03, 0.3), 80
#: A loss that in the second half of the steps still falls by this share of what it fell in the first has no least value in reach.
FALLING = 0.5


@dataclass(frozen=True)
class Constant:
    """The best output that is the same for all samples.

    Attributes:
        loss: what it pays.
        values: one sample of each floating tensor of the output that has samples, in the order of the output.
        batch: number of samples.
    """

    loss: float
    values: tuple[Tensor, ...]
    batch: int

    def beside(self, raw: Any, real: Tensor) -> Any:
        """Return ``raw`` with the constant in the place of all samples that are not ``real``.

        Args:
            raw: what the model returned.
            real: which samples stay, ``bool[batch]``.
        """
        values = iter(self.values)

        def mixed(value: Any) -> Any:
            if isinstance(value, Tensor):
                dim = _samples(value, self.batch)
                if dim is None:
                    return value
                stays = real.to(value.device).view([-1 if d == dim else 1 for d in range(value.ndim)])
                return torch.where(stays, value, next(values).to(value.device, value.dtype))
            return with_items(value, mixed) if isinstance(value, Mapping | tuple | list) else value

        return mixed(raw)


def best_constant(loss: Loss, raw: Any, batch: int | None) -> Constant | None:
    """Return the best output that is the same for all samples.

    Args:
        loss: the user's, from the model's output to a scalar.
        raw: what the model returned; its floating tensors that have samples are exchanged for constants.
        batch: number of samples.

    Returns:
        ``None`` where there is none: the loss cannot be had of constants, it goes on falling (a log-likelihood that the
        output itself is), or it is not positive (a likelihood of numbers): then zero is not the least that can be paid, and no share of it an error.
    """
    parts: list[tuple[Tensor, torch.Size]] = []

    def shape(value: Any) -> Any:
        if isinstance(value, Tensor):
            dim = _samples(value, batch)
            if dim is None:
                return value.detach()
            parts.append((torch.nan_to_num(value.detach().float(), 0.0, 0.0, 0.0).mean(dim, keepdim=True), value.shape))
            return _Slot(len(parts) - 1, value.dtype)
        return with_items(value, shape) if isinstance(value, Mapping | tuple | list) else value

    form = shape(raw)
    if not parts or batch is None:
        return None
    best, endless = math.inf, False
    values: tuple[Tensor, ...] = ()
    for zeros in (False, True):
        for rate in RATES:
            try:
                losses, reached = _descent(loss, form, parts, rate, zeros=zeros)
            except Exception:  # a loss need not take constants
                return None
            if losses and min(losses) < best:
                best, values = min(losses), reached
                first, last = losses[0] - losses[len(losses) // 2], losses[len(losses) // 2] - losses[-1]
                endless = last > FALLING * first > 0
    return None if endless or not 0 < best < math.inf else Constant(best, values, batch)


def _samples(value: Tensor, batch: int | None) -> int | None:
    """The dimension of a floating tensor that runs over samples."""
    return sample_dim(value, batch) if value.is_floating_point() else None


class _Slot:
    """The place of a constant in what the model returns."""

    def __init__(self, at: int, dtype: torch.dtype) -> None:
        self.at, self.dtype = at, dtype


def _descent(
    loss: Loss, form: Any, parts: list[tuple[Tensor, torch.Size]], rate: float, *, zeros: bool
) -> tuple[list[float], tuple[Tensor, ...]]:
    """The losses on the way, and the constants that paid the least of them."""
    values = [(torch.zeros_like(v) if zeros else v.clone()).requires_grad_(True) for v, _ in parts]

    def filled(value: Any) -> Any:
        if isinstance(value, _Slot):
            return values[value.at].expand(parts[value.at][1]).to(value.dtype)
        return with_items(value, filled) if isinstance(value, Mapping | tuple | list) else value

    adam = Adam(values, rate)
    losses: list[float] = []
    least: tuple[Tensor, ...] = ()
    with torch.inference_mode(False), torch.enable_grad():
        for _ in range(STEPS):
            now = loss(filled(form))
            if not math.isfinite(float(now.detach())) or not now.requires_grad:
                break
            losses.append(float(now.detach()))
            if losses[-1] <= min(losses):
                least = tuple(v.detach().clone() for v in values)
            adam.step(now, retain_graph=False)
    return losses, least
