"""Gradients of sharded parameters: FSDP leaves them in ``.grad``, laid out as the parameters are, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layout import laid_out_as
from .world import World


def pulled_back(
    world: World,
    roots: Sequence[Tensor],
    leaves: Sequence[Tensor],
    signals: Sequence[Tensor] | None,
    *,
    retain_graph: bool,
) -> list[Tensor | None]:
    """Return the gradients of ``leaves``, laid out as these are; ``None`` for those not reached. No ``.grad`` stays.

    Args:
        world: the ranks.
        roots, signals: what is pulled back, as ``torch.autograd.backward`` takes them.
        leaves: parameters, or other tensors of the graph.
        retain_graph: whether the graph is needed again.
    """
    if world.accumulates:
        for leaf in leaves:
            if not leaf.is_leaf:
                leaf.retain_grad()
        torch.autograd.backward(roots, signals, retain_graph=retain_graph)
        found: list[Tensor | None] = [leaf.grad for leaf in leaves]
        for tensor in (*(t for t in leaves if t.is_leaf), *world.parameters()):
            tensor.grad = None
    else:
        found = list(torch.autograd.grad(roots, leaves, signals, allow_unused=True, retain_graph=retain_graph))
    with torch.no_grad():
        return [None if g is None else laid_out_as(g.detach(), leaf) for g, leaf in zip(found, leaves, strict=True)]
