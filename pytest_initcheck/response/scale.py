"""What an output that is too large comes from: what scales it, and what it would be with inputs of unit scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..probing.probe import centred, gradients
from ..sharding.layout import gathered, is_sharded
from ..words import named_error
from .exchange import replaced
from .perturb import Push, rms

#: Inputs within these bounds of unit scale are not asked about.
_USUAL = (1 / 3, 3.0)
#: Elements that are taken to double precision at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Scales:
    """What :func:`scales` found.

    Attributes:
        pulls: for every parameter, how many per cent the output grows with one per cent of it.
        with_unit_inputs: RMS of the output over the samples with every floating input at mean 0 and std 1; ``None`` where
            the inputs are about that already.
        unseen: what could not be asked, one sentence each.
    """

    pulls: dict[str, float] = field(default_factory=dict)
    with_unit_inputs: float | None = None
    unseen: tuple[str, ...] = ()


def scales(push: Push) -> Scales:
    """Return what the scale of the output depends on; the model is left as it is."""
    unseen: list[str] = []
    pulls: dict[str, float] = {}
    small = None
    try:
        pulls = _pulls(push)
        small = _with_unit_inputs(push)
    except Exception as error:  # asked to explain only: what was found stands without it
        unseen.append(f"what the output's scale comes from was not judged ({named_error(error)})")
    return Scales(pulls, small, tuple(unseen))


def _pulls(push: Push) -> dict[str, float]:
    output = push.forward(graph=True)[push.probed.primary]
    if not output.requires_grad:
        return {}
    with torch.enable_grad():
        spread = centred(output.float(), push.probed.batch)
        peak = float(spread.detach().abs().max())
        if not 0 < peak < math.inf:
            return {}
        size = (spread / peak).square().mean().log() / 2
    if push.streamed is not None:
        return push.streamed.pulls(size, _product, keep=push.probed.holds_graph)
    found = gradients(
        [size], list(push.parameters.values()), [torch.ones_like(size)], retain_graph=push.probed.holds_graph
    )
    return {
        name: _product(parameter.detach(), slope)
        for (name, parameter), slope in zip(push.parameters.items(), found, strict=True)
        if slope is not None
    }


def _product(one: Tensor, other: Tensor) -> float:
    """The sum of the products of two tensors, in double precision block by block."""
    if is_sharded(one) or is_sharded(other):
        return float(gathered((one.double() * other.double()).sum()))
    pairs = zip(one.flatten().split(_BLOCK), other.flatten().split(_BLOCK), strict=True)
    return sum(float(torch.dot(x.double(), y.double())) for x, y in pairs)


def _with_unit_inputs(push: Push) -> float | None:
    given = [t for t in push.probed.inputs() if t.is_floating_point() and t.numel() > 1]
    swap: dict[int, Tensor] = {}
    for tensor in given:
        std, size = float(tensor.std()), rms(tensor)
        if std > 0 and not _USUAL[0] <= size <= _USUAL[1]:
            swap[id(tensor)] = ((tensor - tensor.mean()) / std).to(tensor.dtype)
    if not swap:
        return None
    probed = push.probed
    with torch.no_grad():
        outputs = probed.select(probed.rerun_raw(replaced(probed.call.args, swap), replaced(probed.call.kwargs, swap)))
    return rms(centred(outputs[probed.primary], probed.batch))
