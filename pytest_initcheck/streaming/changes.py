"""What was done to the values of a part since they were drawn, kept small: it is done again whenever they are drawn again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import thresholds

#: Elements that are packed at a time.
CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Signs:
    """A direction of one tensor: one bit a weight and one size for all, a second bit where some weights stay.

    Attributes:
        shape: of the tensor.
        positive: a bit for each weight, packed in chunks.
        moved: likewise, whether it moves at all; ``None`` where all do.
        size: of the step, against an optimizer's.
    """

    shape: tuple[int, ...]
    positive: tuple[Tensor, ...]
    moved: tuple[Tensor, ...] | None
    size: float

    def add_to(self, target: Tensor) -> None:
        """Step ``target`` by it."""
        flat = target.view(-1) if target.is_contiguous() else None
        whole = None if flat is not None else torch.empty(self.shape, dtype=target.dtype, device=target.device).view(-1)
        into = flat if flat is not None else whole
        assert into is not None
        for i, chunk in enumerate(into.split(CHUNK)):
            step = _unpacked(self.positive[i], chunk.numel()).to(target.dtype).mul_(2).sub_(1)
            if self.moved is not None:
                step.mul_(_unpacked(self.moved[i], chunk.numel()))
            if self.size != 1.0:
                step.mul_(self.size)
            if flat is not None:
                chunk.add_(step, alpha=thresholds.STEP)
            else:
                chunk.copy_(step)
        if whole is not None:
            target.add_(whole.view(self.shape), alpha=thresholds.STEP)


@dataclass(frozen=True, slots=True)
class Exact:
    """A direction of one tensor as it is."""

    values: Tensor

    def add_to(self, target: Tensor) -> None:
        """Step ``target`` by it."""
        target.add_(self.values.to(target.dtype), alpha=thresholds.STEP)


def signs_of(gradient: Tensor, size: float = 1.0) -> Signs:
    """Return the signs of ``gradient``, which is not changed."""
    positive: list[Tensor] = []
    moved: list[Tensor] = []
    still = False
    for chunk in gradient.reshape(-1).split(CHUNK):
        positive.append(_packed(chunk > 0))
        here = chunk != 0
        if still or not bool(here.all()):
            still = True
        moved.append(_packed(here))
    return Signs(tuple(gradient.shape), tuple(positive), tuple(moved) if still else None, size)


def _packed(flags: Tensor) -> Tensor:
    n = flags.numel()
    wide = flags.new_zeros(-(-n // 8) * 8) if n % 8 else flags
    if n % 8:
        wide[:n] = flags
    rows = wide.view(torch.uint8).view(8, -1)
    packed = rows[0].clone()
    for bit in range(1, 8):
        packed |= rows[bit] << bit
    return packed


def _unpacked(packed: Tensor, n: int) -> Tensor:
    rows = torch.empty((8, packed.numel()), dtype=torch.uint8, device=packed.device)
    for bit in range(8):
        torch.bitwise_and(packed >> bit, 1, out=rows[bit])
    return rows.view(-1)[:n]


@dataclass(eq=False)
class Step:
    """One step of some parameters, by name."""

    directions: dict[str, Signs | Exact] = field(default_factory=dict)

    def __call__(self, parameters: Mapping[str, Tensor]) -> None:
        """Take it with those of ``parameters`` that it has a direction for."""
        for name, p in parameters.items():
            if (direction := self.directions.get(name)) is not None:
                direction.add_to(p)


@dataclass(frozen=True, slots=True)
class Shrink:
    """Weights multiplied; vectors and scalars stay."""

    factor: float
    trained: frozenset[str]

    def __call__(self, parameters: Mapping[str, Tensor]) -> None:
        """Multiply those of ``parameters`` that are trained weights."""
        for name, p in parameters.items():
            if name in self.trained and p.ndim > 1:
                p.mul_(self.factor)


Alteration = Callable[[Mapping[str, Tensor]], None]
