"""Which inputs the output is computed from: the others are what a training step, or a model that computes its own loss, compares it with."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ProbeError
from ..probing.apart import varies
from ..probing.modules import sample_dim
from ..response.exchange import replaced
from ..response.perturb import Push
from ..sharding.layout import local
from .copies import unchanged

#: What every weight is moved by, as a share of its largest: enough to open what starts closed, as a gate of zeros; and of weights that are all
#: zero, that much.
_OPENED, _AT_LEAST = 0.01, 1e-3


def followed(push: Push) -> tuple[bool, ...]:
    """Return for each input whether the judged output is computed from it; of inputs that cannot be told apart, that it is.

    The samples of one input at a time are exchanged, with weights that are moved a little: a branch that is multiplied with zero at the
    start is a branch.
    """
    probed = push.probed
    given = probed.inputs()
    asked = [varies(x, probed.batch) for x in given]
    if sum(asked) < 2:
        return (True,) * len(given)
    try:
        with torch.no_grad():
            _open(push)
            start = push.forward(graph=False)[probed.primary]
            found = [not one or _changes(push, start, at) for at, one in enumerate(asked)]
    except ProbeError:
        return (True,) * len(given)
    finally:
        push.restore()
    # One that is deaf is asked with all that it is given.
    return tuple(found) if any(f and one for f, one in zip(found, asked, strict=True)) else (True,) * len(given)


def _open(push: Push) -> None:
    for i, parameter in enumerate(push.parameters.values()):
        held = local(parameter.data)
        if held.numel():
            # One for each: on ranks that hold parts of other sizes, what they hold in common is to stay the same.
            generator = torch.Generator().manual_seed(push.seed + 5 + i)
            size = max(_OPENED * float(held.abs().max()), _AT_LEAST)
            noise = torch.randn(held.shape, generator=generator, dtype=torch.float32)
            held.add_((size * noise).to(held.device, held.dtype))


def _changes(push: Push, start: Tensor, at: int) -> bool:
    probed = push.probed
    tensor = probed.inputs()[at]
    dim = sample_dim(tensor, probed.batch)
    assert dim is not None
    swap = {id(tensor): tensor.detach().roll(1, dim)}
    args, kwargs = (replaced(part, swap) for part in (probed.call.args, probed.call.kwargs))
    try:
        now = probed.select(probed.rerun_raw(args, kwargs, rewound=True))[probed.primary]
    except ProbeError:  # inputs that belong together
        return True
    return now.shape != start.shape or not unchanged([(start, now)])[0]
