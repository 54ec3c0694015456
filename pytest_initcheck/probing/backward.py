"""Where a backward pass starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _Start(torch.autograd.Function):
    """A scalar whose backward pass hands each root the gradient that it is to start with."""

    @staticmethod
    def forward(ctx: Any, signals: Sequence[Tensor], *roots: Tensor) -> Tensor:
        ctx.signals = signals
        return roots[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _one: Tensor) -> Any:
        return None, *ctx.signals


def start(roots: Sequence[Tensor], signals: Sequence[Tensor]) -> Tensor:
    """Return a scalar from which a backward pass gives ``roots`` the gradients ``signals``.

    ``torch.autograd.grad(roots, ..., signals)`` does the same, and imports sympy to compare their shapes: 500 modules in a
    fresh process.
    """
    with torch.enable_grad():
        scalar: Tensor = _Start.apply(signals, *roots)  # type: ignore[no-untyped-call]
    return scalar
