"""How much the output follows the inputs, to first order: read off the gradient that is pulled back anyway.

Where an operation with weights takes what the model was given, it is given an alias of it that asks for a gradient; nothing
else of the pass changes, since what comes out asked for one before. With a random direction c pulled back through the
Jacobian J, the square of J^T c is, on average, what a random disturbance of the inputs changes in the output. A disturbance in
earnest costs a forward pass, and is left for what comes near a bound.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .memory import is_dense
from .modules import sample_dim
from .statistics import rms
from .whereabouts import flat, moves_only, tells_about, writes


def disturbable(tensor: Tensor) -> bool:
    """Return whether ``tensor`` is a signal: floating, finite, and not a mask of two values."""
    if not is_dense(tensor) or not tensor.is_floating_point() or tensor.numel() < 2 or tensor.is_inference():
        return False
    values = tensor.detach().reshape(-1)
    low, high = torch.aminmax(values)
    if not bool(torch.isfinite(low) & torch.isfinite(high)) or low == high:
        return False
    return not bool(((values == low) | (values == high)).all())


class Entrances:
    """The places of one forward pass at which signals enter.

    Args:
        inputs: tensors that the model is given.

    Attributes:
        known: whether no signal entered elsewhere.
        signals: whether any input is one.
    """

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        self.known = True
        self._given: dict[int, tuple[weakref.ref[Tensor], float]] = {}
        self._aliases: dict[int, tuple[Tensor, float, weakref.ref[Tensor]]] = {}
        for tensor in inputs:
            if disturbable(tensor):
                self.known = self.known and not tensor.requires_grad
                self._given[id(tensor)] = weakref.ref(tensor), float(rms(tensor))
        self.signals = bool(self._given)

    @property
    def leaves(self) -> list[Tensor]:
        """What stands in the graph for the signals."""
        return [alias for alias, _, _ in self._aliases.values()]

    def opened(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """Return the arguments for an operation, with aliases of what the model was given."""
        if not self._given or not self.known or tells_about(name):
            return args
        operands = flat((*args, *kwargs.values()))
        signals = [t for t in operands if self._of(t) is not None]
        if not signals or (moves_only(name) and len(signals) == 1):
            return args
        joins = any(t.requires_grad for t in operands) and torch.is_grad_enabled() and not writes(name, kwargs)
        # An alias has the operation save more for the backward pass, and a checkpoint, which computes anew, saves as much again or refuses.
        joins = joins and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
        if not joins or any(self._of(t) is not None for t in flat(tuple(kwargs.values()))):
            self.known = False
            return args
        return [self._alias(a) for a in args]

    def passed(self, name: str, args: Sequence[Any], out: Any) -> None:
        """Follow what only moves values from one place to another."""
        if not self._given or not self.known or not moves_only(name) or not args or not isinstance(args[0], Tensor):
            return
        size = self._of(args[0])
        if size is None:
            return
        for tensor in flat((out,)):
            if not tensor.is_floating_point() or tensor.requires_grad:
                self.known = False
            self._given[id(tensor)] = weakref.ref(tensor), size

    def response(self, gradients: Sequence[Tensor | None], output: Tensor, batch: int | None) -> float | None:
        """Return the relative change of the output over a relative change of the inputs, to first order.

        Args:
            gradients: one for each of :attr:`leaves`, for a direction that is random, centred, and of RMS 1 over the number of elements.
            output: what it was pulled back from.
            batch: number of samples.
        """
        if not self.known or not self._aliases:
            return None
        sizes = [size for _, size, _ in self._aliases.values()]
        power = sum(
            (size * float(rms(g))) ** 2 * g.numel() for size, g in zip(sizes, gradients, strict=True) if g is not None
        )
        return followed(power, output, batch)

    def _of(self, tensor: Tensor) -> float | None:
        found = self._given.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def _alias(self, value: Any) -> Any:
        if isinstance(value, tuple | list) and type(value) in (tuple, list):
            return type(value)(self._alias(item) for item in value)
        if not isinstance(value, Tensor) or (size := self._of(value)) is None:
            return value
        known = self._aliases.get(id(value))
        if known is None or known[2]() is not value:
            alias = value.detach().requires_grad_()
            # Under a key of its own, should the id of one that is gone come again.
            if known is not None:
                self._aliases[-len(self._aliases) - 1] = known
            self._aliases[id(value)] = known = alias, size, weakref.ref(value)
        return known[0]


def followed(power: float, output: Tensor, batch: int | None) -> float | None:
    """Return what ``power``, the summed square of (size of a signal x its gradient), makes of ``output``."""
    dim = sample_dim(output, batch)
    samples = 1 if dim is None else output.shape[dim]
    varying = output if samples < 2 else output - output.mean(dim, keepdim=True)
    scale, lost = float(rms(varying)), 1.0 if samples < 2 else (samples - 1) / samples
    found = math.sqrt(power * output.numel() * lost) / scale if scale > 0 else math.nan
    return found if math.isfinite(found) else None
