"""Samples of the inputs exchanged: any input stands that, numbers, ids and flags alike, and every sample is still a real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..probing.apart import varies
from ..probing.call import with_items
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


def replaced(value: Any, swap: Mapping[int, Tensor], arrived: set[int] | None = None) -> Any:
    """Return ``value`` with the tensors in it exchanged by id, in containers of the same kind; ``arrived`` gets the ids."""
    if isinstance(value, Tensor):
        if id(value) not in swap:
            return value
        if arrived is not None:
            arrived.add(id(value))
        return swap[id(value)]
    if isinstance(value, Mapping | tuple | list):
        return with_items(value, lambda v: replaced(v, swap, arrived))
    return value
