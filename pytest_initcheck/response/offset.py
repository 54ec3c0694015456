"""What all samples of an output have in common at the start, apart from what a bias adds to it on purpose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ProbeError
from ..probing.modules import sample_dim
from ..probing.probe import centred, gradients
from ..sharding.layout import gathered, local
from .ask import natural_unit
from .perturb import Push, rms

#: The slopes of a bias that is added to an output are equal, and the change that it makes is the same for all samples, up to rounding.
_EQUAL = 1e-3
#: Vectors that are tried, each with a pass: a model of several parts may end in several biases.
_ASKED = 4


def common(output: Tensor, batch: int | None) -> float:
    """Return the RMS of the mean of ``output`` over its samples, without the share that such a mean has of what varies; 0.0 without samples."""
    dim = sample_dim(output, batch)
    if dim is None or output.shape[dim] < 2:
        return 0.0
    varying = rms(centred(output, batch)) ** 2 / (output.shape[dim] - 1)
    return math.sqrt(max(rms(output.mean(dim)) ** 2 - varying, 0.0))


def inner_offset(push: Push, above: float) -> float:
    """Return :func:`common` of the judged output in its natural unit, as it is without the biases that are added to that output.

    A bias of the last layer is where a prior is put on purpose (the mean of the targets, the logit of a rare class). What earlier layers
    put there, or a weight, is nobody's intention.

    Args:
        push: the model and what it returned.
        above: smaller offsets are returned as they are, without a pass.
    """
    start, batch = push.start, push.probed.batch
    unit = natural_unit(start)
    there = common(gathered(start.detach()).float(), batch) / unit
    if not above < there < math.inf:
        return there
    now = start.detach()
    try:
        with torch.no_grad():
            for parameter in _added(push):
                held = local(parameter.data)
                value = held.clone()
                held.zero_()
                without = push.forward(graph=False)[push.probed.primary]
                change = gathered(without).float() - gathered(now).float()
                if rms(centred(change, batch)) <= _EQUAL * rms(change):
                    now = without
                else:
                    held.copy_(value)
    except ProbeError:
        return there
    finally:
        push.restore()
    return common(gathered(now).float(), batch) / unit


def _added(push: Push) -> Sequence[nn.Parameter]:
    """The last few vectors of which every element moves the sum of the output as much as any other: as a bias of the last layer does."""
    vectors = [p for p in push.parameters.values() if p.ndim <= 1]
    output = push.forward(graph=True)[push.probed.primary]
    if not vectors or not output.requires_grad:
        return []
    with torch.enable_grad():
        total = output.float().sum()
    slopes = gradients([total], vectors, [torch.ones_like(total)], retain_graph=push.probed.holds_graph)
    found = []
    for vector, slope in zip(vectors, slopes, strict=True):
        if slope is not None:
            low, high = (float(v) for v in torch.aminmax(gathered(slope).float()))
            if max(high, -low) > 0 and high - low <= _EQUAL * max(high, -low):
                found.append(vector)
    return found[-_ASKED:]
