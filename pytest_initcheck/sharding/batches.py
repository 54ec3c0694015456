"""The samples that all ranks look at together, whether each was given its own or all were given the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..words import plural
from .world import World, named

#: So many samples are looked at where the ranks' own batches differ and are smaller than this.
ENOUGH = 16


def shared(world: World, tensors: Sequence[Tensor], dims: Sequence[int | None]) -> tuple[list[Tensor], str]:
    """Return inputs that are the same on every rank, made of what each was given, and how in a sentence.

    A verdict is about one function of one batch. Data parallel ranks bring a batch each: as many samples from each as together
    take no more memory than one rank's own did (or than 16 take).

    Args:
        world: the ranks.
        tensors: what this rank was given.
        dims: the dimension of each that runs over the samples; ``None`` for one that has none.
    """
    held = [t.detach().cpu() for t in tensors]
    told = world.told((_digest(held), [(str(t.dtype), tuple(t.shape)) for t in held]))
    digests = [digest for digest, _ in told]
    if len(set(digests)) == 1:
        return list(tensors), f"every one of {plural(len(told), 'rank')} was given the same inputs"
    first = [world.ranks[digests.index(d)] for d in dict.fromkeys(digests)]  # one rank for each batch that there is
    unlike = [r for r, (_, form) in zip(world.ranks, told, strict=True) if form != told[0][1]]
    sizes = [t.shape[d] for t, d in zip(held, dims, strict=True) if d is not None]
    if unlike or not sizes:
        why = f"{named(unlike)} brought other shapes" if unlike else "they have no dimension that runs over samples"
        given = world.told(held if world.rank == world.ranks[0] else None)[0]
        return _placed(given, tensors), f"the inputs of rank {world.ranks[0]} were used on all ranks: {why}"
    size = sizes[0]
    most = max(size, ENOUGH)
    heard = first[:most]
    each = min(size, most // len(heard))
    mine = None
    if world.rank in heard:
        mine = [t if d is None else t.narrow(d, 0, each) for t, d in zip(held, dims, strict=True)]
    brought = [given for given in world.told(mine) if given is not None]
    joined = [brought[0][i] if d is None else torch.cat([given[i] for given in brought], d) for i, d in enumerate(dims)]
    told_of = f"{each * len(heard)} samples were looked at, {each} from each of {named(heard)}, which brought batches of their own"
    return _placed(joined, tensors), told_of


def _placed(values: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    return [v.to(t.device).requires_grad_(t.requires_grad) for v, t in zip(values, like, strict=True)]


def _digest(tensors: Sequence[Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        dense = tensor if tensor.layout is torch.strided and not tensor.is_nested else tensor.to_dense()
        dense = torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense
        found.update(bytes(dense.contiguous().reshape(-1).view(torch.uint8).tolist()))
    return found.hexdigest()
