"""LSUV: scale weights, one after the other, until what each computes has unit variance on data (Mishkin and Matas 2016)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProbeError
from ..probing.call import Call
from ..probing.dispatch import Mode
from ..probing.randomness import seed_torch

_aten = torch.ops.aten
#: Operations that multiply a weight by a signal, as they arrive below autograd: functional calls, raw parameters and
#: modules all end here.
_PRODUCTS = frozenset(
    {
        _aten.mm,
        _aten.addmm,
        _aten.bmm,
        _aten.baddbmm,
        _aten.mv,
        _aten.addmv,
        _aten.convolution,
        _aten.mkldnn_convolution,
        _aten._convolution,
        _aten.linear,
        _aten.mkldnn_linear,
        _aten._trilinear,
    }
)


class Outputs(Mode):
    """While active, notes the variance of what every weight computes.

    Args:
        weights: name -> the tensors that hold it; what is computed from them alone counts as the weight, too.
    """

    def __init__(self, weights: Mapping[str, Collection[Tensor]]) -> None:
        super().__init__()
        self.order: list[str] = []
        self._sums: dict[str, list[float]] = {}
        self._names: dict[int, str] = {t.untyped_storage()._cdata: name for name, held in weights.items() for t in held}
        self._kept: list[Tensor] = []  # storages must not be freed while their address stands for a weight

    def std(self, name: str) -> float:
        """Return the std over all values that weight ``name`` has computed, NaN if it has computed none."""
        count, total, square = self._sums.get(name, [0.0, 0.0, 0.0])
        return math.sqrt(max(square / count - (total / count) ** 2, 0.0)) if count else math.nan

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        flat = [a for a in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        named = {id(a): n for a in flat if (n := self._names.get(a.untyped_storage()._cdata)) is not None}
        if not named:
            return out
        if len(named) == len({id(a) for a in flat}):
            # computed from one weight alone: a view, a cast, a parametrization
            for made in torch.utils._pytree.tree_leaves(out) if len(set(named.values())) == 1 else ():
                if isinstance(made, Tensor):
                    self._names.setdefault(made.untyped_storage()._cdata, next(iter(named.values())))
                    self._kept.append(made)
        elif func.overloadpacket in _PRODUCTS:
            values = out.detach().double()
            for name in dict.fromkeys(named.values()):
                if name not in self._sums:
                    self.order.append(name)
                sums = self._sums.setdefault(name, [0.0, 0.0, 0.0])
                sums[0] += values.numel()
                sums[1] += float(values.sum())
                sums[2] += float(values.square().sum())
        return out


def calibrate(
    model: nn.Module,
    call: Call,
    weights: Mapping[str, Collection[Tensor]],
    multiply: Callable[[str, float], None],
    *,
    tolerance: float,
    passes: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Scale ``weights`` in the order in which the model uses them.

    Args:
        model: the module; its weights are changed, its buffers are written to by its own forward pass.
        call: the data.
        weights: name -> the tensors that hold it.
        multiply: multiplies the weight of that name by a factor.
        tolerance: how far a std may be from 1.
        passes: forward passes for one weight at most.
        seed: seed of what the model draws, the same in every pass.

    Returns:
        Name -> the factor that it was multiplied by, and the std that its output has then; in the order of use. Weights
        that no pass used are not in it; those whose output is constant have factor 1 and std 0.

    Raises:
        ProbeError: a std is not finite.
    """

    def forward() -> Outputs:
        seed_torch(seed)
        seen = Outputs(weights)
        with torch.no_grad(), seen:
            model(*call.args, **call.kwargs)
        return seen

    seen = forward()
    order = list(seen.order)
    found: dict[str, tuple[float, float]] = {}
    for name in order:
        factor = 1.0
        for _ in range(passes):
            std = seen.std(name)
            if not math.isfinite(std):
                raise ProbeError(
                    f"the output of {name} is not finite on these inputs (std {std}), so it cannot be scaled"
                )
            if std == 0 or abs(std - 1) <= tolerance:
                break
            multiply(name, 1 / std)
            factor /= std
            seen = forward()
        found[name] = (factor, seen.std(name))
    # Later weights can change earlier outputs only where weights are shared or the model is recurrent: measured at the end.
    return {name: (factor, seen.std(name)) for name, (factor, _) in found.items()}
