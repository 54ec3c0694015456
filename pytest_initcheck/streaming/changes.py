"""What was done to the values of a part since they were drawn, kept small: it is done again whenever they are drawn again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import thresholds

#: Elements that are packed at a time.
CHUNK = 1 << 22
#: Weights of which one stays, or fewer, where the places of those that do take no more memory than a bit for each weight.
FEW = 64


@dataclass(frozen=True, slots=True)
class Signs:
    """A direction of one tensor: one bit a weight, one size for all, and which weights stay.

    Attributes:
        shape: of the tensor.
        positive: a bit for each weight, packed chunk after chunk.
        still: the places of those that stay, where they are few.
        moves: else a bit for each that does not, packed likewise; ``None`` where they are few.
        size: of the step, against an optimizer's.
    """

    shape: tuple[int, ...]
    positive: Tensor
    still: Tensor
    moves: Tensor | None
    size: float

    def add_to(self, target: Tensor) -> None:
        """Step ``target`` by it."""
        if target.is_contiguous():
            self._add_to(target.view(-1))
        else:
            step = torch.zeros(self.shape, dtype=target.dtype, device=target.device)
            self._add_to(step.view(-1), alpha=1.0)
            target.add_(step, alpha=thresholds.STEP)

    def _add_to(self, flat: Tensor, alpha: float = thresholds.STEP) -> None:
        stays = flat[self.still]
        for i, chunk in enumerate(flat.split(CHUNK)):
            bits = slice(i * CHUNK // 8, (i + 1) * CHUNK // 8)
            step = _unpacked(self.positive[bits], chunk.numel()).to(flat.dtype).mul_(2).sub_(1)
            if self.moves is not None:
                step.mul_(_unpacked(self.moves[bits], chunk.numel()))
            if self.size != 1.0:
                step.mul_(self.size)
            chunk.add_(step, alpha=alpha)
        flat[self.still] = stays


@dataclass(frozen=True, slots=True)
class Exact:
    """A direction of one tensor as it is."""

    values: Tensor

    def add_to(self, target: Tensor) -> None:
        """Step ``target`` by it."""
        target.add_(self.values.to(target.dtype), alpha=thresholds.STEP)


def signs_of(gradient: Tensor, size: float = 1.0) -> Signs:
    """Return the signs of ``gradient``, which is not changed."""
    # One tensor for all chunks: many that stay, between those that come and go, would keep the memory of these.
    flat = gradient.reshape(-1)
    positive = flat.new_empty(-(-flat.numel() // 8), dtype=torch.uint8)
    few = FEW * (flat.numel() - sum(int(chunk.count_nonzero()) for chunk in flat.split(CHUNK))) <= flat.numel()
    moves = None if few else torch.empty_like(positive)
    still: list[Tensor] = []
    for i, chunk in enumerate(flat.split(CHUNK)):
        bits = slice(i * CHUNK // 8, (i + 1) * CHUNK // 8)
        positive[bits] = _packed(chunk > 0)
        if moves is None:
            still.append((chunk == 0).nonzero().view(-1) + i * CHUNK)
        else:
            moves[bits] = _packed(chunk != 0)
    places = torch.cat(still) if still else flat.new_empty(0, dtype=torch.int64)
    return Signs(tuple(gradient.shape), positive, places, moves, size)


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
