"""What only sharding can break: replicas that differ, shards that are copies of each other or were drawn apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..records import Spread
from .layout import is_sharded, local, share
from .world import World

#: Shards of fewer elements are not compared: few values agree, or differ, by chance.
FEW = 64
#: Elements that are turned to integers at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    """One rank's part: where it stands in the whole, what its bits add up to, and its moments."""

    place: tuple[int, ...]
    bits: int
    count: int
    constant: bool
    mean: float = 0.0
    std: float = 0.0
    kurtosis: float = math.nan


def spread(world: World, model: nn.Module) -> tuple[Spread, ...]:
    """Return how each parameter and buffer of ``model`` lies on the ranks; the same on each of them."""
    named: list[tuple[str, Tensor, bool]] = [(n, t, False) for n, t in model.named_parameters()]
    named += [(n, t, True) for n, t in model.named_buffers()]
    with torch.no_grad():
        mine = [_part(t) for _, t, _ in named]
    every = world.told(mine)
    return tuple(
        _spread(name, tensor, buffer, world.ranks, [parts[i] for parts in every])
        for i, (name, tensor, buffer) in enumerate(named)
    )


@contextmanager
def equal(world: World, model: nn.Module, spreads: Sequence[Spread]) -> Iterator[None]:
    """Give every rank the first rank's values of what should be equal and is not, while the context lasts.

    What is replicated and differs is found; everything else is judged with one set of values, or ranks would part ways.
    """
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    were = []
    with torch.no_grad():
        for one in spreads:
            if one.differing:
                tensor, place = local(held[one.name]), share(held[one.name])
                were.append((tensor, tensor.clone()))
                values = world.told((place, tensor.cpu()))
                tensor.copy_(next(value for at, value in values if at == place))
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in were:
                tensor.copy_(value)


def _spread(name: str, tensor: Tensor, buffer: bool, ranks: Sequence[int], parts: Sequence[_Part]) -> Spread:
    first: dict[tuple[int, ...], tuple[int, _Part]] = {}
    differing = []
    for rank, part in zip(ranks, parts, strict=True):
        known = first.setdefault(part.place, (rank, part))[1]
        if known.bits != part.bits:
            differing.append(rank)
    known_parts = [(rank, part) for rank, part in first.values() if part.count >= FEW]
    bits = [part.bits for _, part in known_parts if not part.constant]
    copies = sum(bits.count(b) > 1 for b in bits) / len(bits) if len(bits) > 1 else 0.0
    return Spread(
        name,
        buffer,
        is_sharded(tensor) and len(first) > 1,
        tuple(differing),
        copies,
        tuple(rank for rank, _ in known_parts),
        tuple(part.count for _, part in known_parts),
        tuple(part.mean for _, part in known_parts),
        tuple(part.std for _, part in known_parts),
        tuple(part.kurtosis for _, part in known_parts),
    )


def _part(tensor: Tensor) -> _Part:
    held = local(tensor.detach())
    count = held.numel()
    if held.is_meta or not count or held.layout is not torch.strided:
        return _Part(share(tensor), 0, 0, True)
    flat = held.reshape(-1)
    # What is not finite says nothing of how it was drawn: other rules speak of it.
    constant = bool((flat == flat[0]).all()) or not bool(flat.isfinite().all())
    bits = _bits(flat)
    if constant and flat.is_floating_point():
        return _Part(share(tensor), bits, count, True, float(flat[0]))
    if not flat.is_floating_point() or count < FEW:
        return _Part(share(tensor), bits, count, constant)
    x = flat.double()
    mean = float(x.mean())
    x = x - mean
    square = float(x.square().mean())
    fourth = float(x.square().square().mean())
    return _Part(share(tensor), bits, count, False, mean, math.sqrt(square), fourth / square**2 if square else math.nan)


def _bits(flat: Tensor) -> int:
    """A checksum of the bits in their order: integers times odd numbers, added up modulo 2**64."""
    raw = flat.contiguous().view(torch.uint8)
    wide = raw.view(torch.int32) if raw.numel() % 4 == 0 and raw.storage_offset() % 4 == 0 else raw
    total = 0
    for start, block in enumerate(wide.split(_BLOCK)):
        factors = torch.arange(block.numel(), device=block.device, dtype=torch.int64)
        factors = factors.mul_(2).add_(2 * start * _BLOCK + 1).mul_(0x9E3779B97F4A7C1)
        total += int((block.to(torch.int64) * factors).sum())
    return total % 2**63
