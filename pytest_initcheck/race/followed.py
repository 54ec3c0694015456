"""Which inputs the outputs are computed from: the others are targets, of a training step or of a model that computes its own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ProbeError
from ..probing.apart import varies
from ..probing.modules import sample_dim
from ..response.exchange import replaced
from ..response.perturb import Push
from ..sharding.layout import local
from ..sharding.together import on_all
from .copies import unchanged

#: What every weight is moved by, as a share of its largest: enough to open what starts closed, as a gate of zeros; and of weights that are all
#: zero, that much.
_OPENED, _AT_LEAST = 0.01, 1e-3


def followed(push: Push, loss: Callable[[Any], Tensor] | None) -> tuple[bool, ...]:
    """Return for each input whether the outputs are taken to be computed from it: whether it is no target.

    A target is what changes a loss and no output that has samples, when its own are exchanged. What changes nothing at all may be a part that is
    dead. The weights are moved a little meanwhile: a branch that is multiplied with zero at the start is a branch.

    Args:
        push: the model and what it returned.
        loss: the user's, from the model's output to a scalar; the model may return others, as outputs without samples.
    """
    probed, given = push.probed, push.probed.inputs()
    everything = (True,) * len(given)
    asked = [on_all(varies(x, probed.batch)) for x in given]
    if sum(asked) < 2 or (loss is None and all(_has_samples(push, o) for o in probed.outputs)):
        return everything
    try:
        with torch.no_grad():
            _open(push)
            start = _told(push, loss, {})
            return tuple(not (one and _is_target(push, loss, start, at)) for at, one in enumerate(asked))
    except Exception as error:  # a loss need not take what other weights make
        if isinstance(error, MemoryError):
            raise
        return everything
    finally:
        push.restore()


def _has_samples(push: Push, output: Tensor) -> bool:
    return sample_dim(output, push.probed.batch) is not None


def _open(push: Push) -> None:
    for i, parameter in enumerate(push.parameters.values()):
        held = local(parameter.data)
        if held.numel():
            # One for each: on ranks that hold parts of other sizes, what they hold in common is to stay the same.
            generator = torch.Generator().manual_seed(push.seed + 5 + i)
            size = max(_OPENED * float(held.abs().max()), _AT_LEAST)
            noise = torch.randn(held.shape, generator=generator, dtype=torch.float32)
            held.add_((size * noise).to(held.device, held.dtype))


def _told(
    push: Push, loss: Callable[[Any], Tensor] | None, swap: dict[int, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs that have samples, and the losses, with some inputs exchanged."""
    probed = push.probed
    args, kwargs = (replaced(part, swap) for part in (probed.call.args, probed.call.kwargs))
    raw = probed.rerun_raw(args, kwargs)
    outputs = probed.select(raw)
    rest = [o for o in outputs if not _has_samples(push, o)]
    return [o for o in outputs if _has_samples(push, o)], rest if loss is None else [*rest, loss(raw)]


def _is_target(
    push: Push, loss: Callable[[Any], Tensor] | None, start: tuple[list[Tensor], list[Tensor]], at: int
) -> bool:
    if push.probed.budget.left <= 0:
        return False
    tensor = push.probed.inputs()[at]
    dim = sample_dim(tensor, push.probed.batch)
    assert dim is not None
    try:
        now = _told(push, loss, {id(tensor): tensor.detach().roll(1, dim)})
    except ProbeError:  # inputs that belong together
        return False
    same = [
        len(before) == len(after)
        and all(a.shape == b.shape for a, b in zip(before, after, strict=True))
        and all(unchanged(list(zip(before, after, strict=True))))
        for before, after in zip(start, now, strict=True)
    ]
    return same[0] and not same[1]
