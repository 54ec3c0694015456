"""What of a parameter lies where: its part on this rank, the whole of it, and the modules that lay it out.

Nothing of ``torch.distributed`` is imported here: a tensor can be a ``DTensor``, and a module one of FSDP's, only where that was
imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .flat import is_flat

#: Autograd nodes of torch.distributed that hand on the same numbers, laid out otherwise.
HANDED_ON = frozenset(("_ToTorchTensor", "_FromTorchTensor", "Redistribute", "RegisterPostBackwardFunction"))


def _known(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


def is_sharded(tensor: Any) -> bool:
    """Return whether ``tensor`` is a ``DTensor``: a tensor that a mesh of ranks holds together."""
    kind = _known("torch.distributed.tensor", "DTensor")
    return kind is not None and isinstance(tensor, kind)


def is_partial(tensor: Any) -> bool:
    """Return whether the ranks hold addends of the values rather than the values."""
    return any(p.is_partial() for p in tensor.placements)


def local(tensor: Tensor) -> Tensor:
    """Return what this rank holds of ``tensor``, in the same memory; ``tensor`` itself where it is an ordinary one.

    Of a sum that is still spread over the ranks, the sum.
    """
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor
    if is_partial(sharded):
        with torch.no_grad(), _masks_kept(sharded):
            sharded = sharded.redistribute(placements=_summed(sharded))
    held = sharded._local_tensor
    return _waited(held)


def laid_out_as(tensor: Tensor, other: Tensor) -> Tensor:
    """Return ``tensor`` with the placements of ``other``; as it is where either is an ordinary tensor."""
    if not is_sharded(tensor) or not is_sharded(other):
        return tensor
    one: Any = tensor
    two: Any = other
    if one.placements == two.placements or one.device_mesh != two.device_mesh:
        return tensor
    found: Tensor = one.redistribute(placements=two.placements)
    return found


def gathered(tensor: Tensor) -> Tensor:
    """Return all of ``tensor`` as an ordinary one, gathered from the ranks where it is spread over them."""
    if not is_sharded(tensor):
        return tensor
    with _masks_kept(tensor):
        found: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return _waited(found)


def spread_as(values: Tensor, other: Tensor) -> Tensor:
    """Return ``values``, the same on every rank, to stand in place of ``other``: laid out as it is, whole where it is a sum to be made.

    No rank sends anything.
    """
    if not is_sharded(other):
        return values
    from torch.distributed.tensor import DTensor, Replicate

    sharded: Any = other
    mesh = sharded.device_mesh
    everywhere = DTensor.from_local(values, mesh, [Replicate()] * mesh.ndim, run_check=False)
    for p in sharded.placements:
        if hasattr(p, "mask_buffer") and p.mask_buffer.data is not None:
            p.mask_buffer.release_mask()  # of a sum that is no longer made; the next call would meet it
    found: Tensor = everywhere.redistribute(placements=_summed(sharded))
    return found


@contextmanager
def whole_to_fill(parameter: Tensor) -> Iterator[Tensor]:
    """Yield what to write all values of ``parameter`` to, the same on every rank: each keeps its part when the context ends."""
    if not is_sharded(parameter):
        yield parameter
        return
    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=local(parameter).device)
    yield values
    with torch.no_grad():
        local(parameter).copy_(local(spread_as(values, parameter.detach())))


def share(tensor: Tensor) -> tuple[int, ...]:
    """Return which part this rank holds: its places along the dimensions of the mesh that split ``tensor``; ``()`` for all of it."""
    if not is_sharded(tensor):
        return ()
    sharded: Any = tensor
    places = sharded.device_mesh.get_coordinate() or ()
    return tuple(at for at, p in zip(places, sharded.placements, strict=False) if not p.is_replicate())


def part_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of the part of ``tensor`` that the first rank holds: the same on every rank, whatever is left for the last."""
    if not is_sharded(tensor):
        return tuple(tensor.shape)
    sharded: Any = tensor
    sizes = list(tensor.shape)
    for dim, p in enumerate(sharded.placements):
        if not p.is_replicate() and not p.is_partial():
            sizes[p.dim] = -(-sizes[p.dim] // sharded.device_mesh.size(dim))
    return tuple(sizes)


def _summed(sharded: Any) -> list[Any]:
    from torch.distributed.tensor import Replicate

    return [Replicate() if p.is_partial() else p for p in sharded.placements]


@contextmanager
def _masks_kept(sharded: Any) -> Iterator[None]:
    """The masks by which addends of a split embedding are told apart outlast one sum: the model's own is still to come."""
    buffers = [p.mask_buffer for p in sharded.placements if hasattr(p, "mask_buffer")]
    were = [(b, b.data, b.refcount) for b in buffers]
    try:
        yield
    finally:
        for buffer, data, count in were:
            buffer.data, buffer.refcount = data, count


def _waited(tensor: Any) -> Tensor:
    """The tensor itself, where a collective that was not waited for yet stands in for it."""
    found: Tensor = tensor.wait() if hasattr(tensor, "wait") and hasattr(tensor, "elem") else tensor
    return found


# -- modules


def kind_of(module: nn.Module) -> str:
    """Return the class name of ``module`` as it was written, whatever ``fully_shard`` made of the class."""
    return _written(type(module)).__name__


def _written(kind: type) -> type:
    made = _known("torch.distributed.fsdp", "FSDPModule")
    if made is not None and issubclass(kind, made) and len(kind.__mro__) > 2 and kind.__mro__[1] is made:
        return kind.__mro__[2]
    return kind


def units(model: nn.Module) -> Iterator[Any]:
    """Yield the modules of ``model`` that ``fully_shard`` was applied to."""
    kind = _known("torch.distributed.fsdp", "FSDPModule")
    if kind is not None:
        yield from (m for m in model.modules() if isinstance(m, kind))


def resharded(*models: nn.Module) -> None:
    """Have every unit hold its shards only, as before a pass: what was gathered is stale once a shard is written to."""
    for model in models:
        for unit in units(model):
            unit.reshard()


def standing_in(model: nn.Module) -> dict[int, tuple[nn.Parameter, nn.Parameter]]:
    """Return id of the parameter that a pass computes with -> that one, and the sharded one that it stands in for.

    One unit at a time is gathered to learn it.
    """
    found: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for unit in units(model):
        before = [(m, dict(m._parameters)) for m in unit.modules()]
        unit.unshard()
        for module, were in before:
            for name, now in module._parameters.items():
                was = were.get(name)
                if now is not None and was is not None and now is not was:
                    found[id(now)] = (now, was)
        unit.reshard()
    return found


def is_distributed(model: nn.Module) -> bool:
    """Return whether several processes hold ``model`` together: parameters that are sharded, or a wrapper for data in parallel."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not there and "torch.distributed.tensor" not in sys.modules:
        return False
    if any(is_sharded(t) for t in (*model.parameters(), *model.buffers())):
        return True
    if next(units(model), None) is not None:
        return True
    return any(isinstance(m, nn.parallel.DistributedDataParallel) for m in model.modules()) or is_flat(model)
