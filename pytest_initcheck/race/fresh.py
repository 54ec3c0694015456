"""Inputs that were not given but could have been: mixed from the samples that were, with noise, or in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..probing.entrances import disturbable
from ..probing.memory import is_dense
from ..probing.modules import sample_dim
from ..response.perturb import noisy


def mixed(inputs: Sequence[Tensor], batch: int | None, generator: torch.Generator) -> list[Tensor]:
    """Return ``inputs`` with every sample mixed with another one, the same for all tensors.

    Signals are rotated into each other, which keeps their spread; where they are nowhere negative, interpolated, which keeps
    that. Ids are taken place by place from one or the other. Masks, and what has no samples, stay as they are.
    """
    samples = batch or 1
    other = torch.randperm(samples, generator=generator)
    angle = torch.rand(samples, generator=generator, dtype=torch.float32) * torch.pi / 2
    found = []
    for x in inputs:
        dim = sample_dim(x, batch) if is_dense(x) else None
        if dim is None or x.is_complex() or x.is_inference():
            found.append(x)
        elif not x.is_floating_point():
            take = torch.rand(x.shape, generator=generator, dtype=torch.float32) < 0.5
            found.append(torch.where(take.to(x.device), x.detach().index_select(dim, other.to(x.device)), x.detach()))
        elif disturbable(x):
            found.append(_blended(x.detach(), dim, other, angle))
        else:
            found.append(x)
    return found


def shuffled(inputs: Sequence[Tensor], batch: int | None, seed: int) -> list[Tensor]:
    """Return ``inputs`` with every sample in the place of another one, the same for all tensors and always the same."""
    ring = torch.randperm(batch or 1, generator=torch.Generator().manual_seed(seed + 4))
    order = torch.empty_like(ring)
    # One ring through all of them: a permutation alone leaves one sample where it is, and both of two.
    order[ring] = ring.roll(1)
    found = []
    for x in inputs:
        dim = sample_dim(x, batch) if is_dense(x) else None
        found.append(x if dim is None or x.is_inference() else x.detach().index_select(dim, order.to(x.device)))
    return found


def _blended(x: Tensor, dim: int, other: Tensor, angle: Tensor) -> Tensor:
    shape = [-1 if d == dim else 1 for d in range(x.ndim)]
    own, theirs = x.float(), x.index_select(dim, other.to(x.device)).float()
    a = angle.to(x.device).reshape(shape)
    if bool((x >= 0).all()):
        share = a.cos().square()
        return (share * own + (1 - share) * theirs).to(x.dtype)
    middle = own.mean(dim, keepdim=True)
    return (middle + a.cos() * (own - middle) + a.sin() * (theirs - middle)).to(x.dtype)


def jittered(inputs: Sequence[Tensor], size: float, generator: torch.Generator) -> list[Tensor]:
    """Return ``inputs`` with noise of ``size`` of their RMS on the signals."""
    return [noisy(x, size, generator) if disturbable(x) else x for x in inputs]
