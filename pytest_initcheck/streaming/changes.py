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
    """A direction of one tensor: one bit a weight, one size for all, and which weights stay.

    Attributes:
        shape: of the tensor.
        positive: a bit for each weight, packed in chunks.
        still: of each chunk, the places that do not move, as ``int32``; where that takes more memory, a packed bit for each that moves.
        size: of the step, against an optimizer's.
    """

    shape: tuple[int, ...]
    positive: tuple[Tensor, ...]
    still: tuple[Tensor, ...]
    size: float

    def add_to(self, target: Tensor) -> None:
        """Step ``target`` by it."""
        flat = target.view(-1) if target.is_contiguous() else None
        whole = None if flat is not None else torch.empty(self.shape, dtype=target.dtype, device=target.device).view(-1)
        into = flat if flat is not None else whole
        assert into is not None
        for i, chunk in enumerate(into.split(CHUNK)):
            step = _unpacked(self.positive[i], chunk.numel()).to(target.dtype).mul_(2).sub_(1)
            if self.still[i].dtype is torch.int32:
                step.index_fill_(0, self.still[i].long(), 0)
            else:
                step.mul_(_unpacked(self.still[i], chunk.numel()))
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
    still: list[Tensor] = []
    for chunk in gradient.reshape(-1).split(CHUNK):
        positive.append(_packed(chunk > 0))
        moves = chunk != 0
        few = 32 * (moves.numel() - int(moves.count_nonzero())) <= moves.numel()
        still.append(moves.logical_not_().nonzero().view(-1).int() if few else _packed(moves))
    return Signs(tuple(gradient.shape), tuple(positive), tuple(still), size)


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
