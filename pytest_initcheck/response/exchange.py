"""Samples of the inputs exchanged: any input stands that, numbers, ids and flags alike, and every sample is still a real one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..probing.memory import holds_values
from ..probing.modules import sample_dim
from ..probing.probe import Probed, centred
from ..probing.statistics import rms


@dataclass(frozen=True, slots=True)
class Disturbed:
    """What a pass with other inputs returned.

    Attributes:
        outputs: as the probe's own pass returned them, in the same order.
        size: RMS of the change of the inputs over their own; 0.0 where it is not known that any arrived.
    """

    outputs: list[Tensor]
    size: float


def varies(tensor: Tensor, batch: int | None) -> bool:
    """Whether the samples of ``tensor`` differ."""
    if tensor.layout is not torch.strided or tensor.is_complex() or not holds_values(tensor):
        return False
    dim = sample_dim(tensor, batch)
    if dim is None or tensor.numel() == 0:
        return False
    return not bool((tensor == tensor.narrow(dim, 0, 1)).all())


def exchanged(probed: Probed, order: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any], float]:
    """Return the arguments of the call with sample ``order[i]`` in the place of sample ``i``, and how large a change that is.

    The size is the largest over the inputs of RMS of the change over RMS around the mean over the samples: that is the same for numbers
    and for whatever ids and flags are encoded as, a table of rows or a one-hot vector.
    """
    swap: dict[int, Tensor] = {}
    size = 0.0
    for tensor in probed.inputs():
        if varies(tensor, probed.batch):
            dim = sample_dim(tensor, probed.batch)
            assert dim is not None
            other = tensor.detach().index_select(dim, torch.tensor(order, device=tensor.device))
            spread = float(rms(centred(_numbers(tensor), probed.batch)))
            change = float(rms(_numbers(other) - _numbers(tensor)))
            swap[id(tensor)] = other
            size = max(size, change / spread if spread > 0 else 0.0)
    arrived: set[int] = set()
    args = replaced(probed.call.args, swap, arrived)
    kwargs = replaced(probed.call.kwargs, swap, arrived)
    return args, kwargs, size if len(arrived) == len(swap) else 0.0


def _numbers(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.is_floating_point() else tensor.detach().float()


def replaced(value: Any, swap: Mapping[int, Tensor], arrived: set[int]) -> Any:
    """Return ``value`` with the tensors in it exchanged by id, in containers of the same kind; ``arrived`` gets the ids.

    A container that cannot be filled anew is returned as it is, and what is in it did not arrive.
    """
    if isinstance(value, Tensor):
        if id(value) not in swap:
            return value
        arrived.add(id(value))
        return swap[id(value)]
    inside: set[int] = set()
    try:
        other = _refilled(value, swap, inside)
    except Exception:  # containers of the user's
        return value
    arrived |= inside
    return other


def _refilled(value: Any, swap: Mapping[int, Tensor], arrived: set[int]) -> Any:
    if isinstance(value, MutableMapping):
        other = copy.copy(value)
        for key in list(value):
            other[key] = replaced(value[key], swap, arrived)
        return other
    if isinstance(value, tuple | list):
        items = [replaced(v, swap, arrived) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
