"""What an optimizer-sized step does at the least, read off the probe's own gradients: where that is plain, none is made.

The direction c that was pulled back is random over the output and of such a length that no change of the output, around its mean over the
samples, has a smaller RMS than its part along c (Cauchy and Schwarz). To first order, that part is the sum of each weight's step times its
gradient: for steps of Adam's, the sum of |g| times how far a weight goes. How far this holds no gradient knows, so it is believed only
of outputs on an ordinary scale, in models none of whose scales is off, and at some distance from what leaves a doubt. A network that
is not plainly calm may lose the slope within a step: what comes out is then as if it had been drawn anew, and as far from what was as
samples are from each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import thresholds
from ..probing.sampled import LARGE, spread_out
from .hearing import Heard
from .perturb import Push
from .stepping import EPSILON, Steps, silent_of

#: Share of the elements that are seen of a gradient that must not be zero, or all are read.
_FILLED = 0.9


def foretold(push: Push, unit: float, varying: float, read: Heard | None) -> Steps | None:
    """Return what a step does at the least, to first order; ``None`` where it has to be made to know.

    Args:
        push: the model and what the probe saw; nothing is done to it.
        unit: scale on which changes of the output are judged.
        varying: RMS of the output over the samples.
        read: what the gradient tells of other inputs.
    """
    probed = push.probed
    if not probed.one_direction or silent_of(push):
        return None
    if push.streamed is not None:
        total = push.streamed.total()
    else:
        total = sum(l1_norm(g) for g in probed.gradients.values() if g is not None)
    # A gradient below Adam's epsilon moves its weight by less: by at least as much as if each one were smaller by epsilon.
    count = sum(push.parameters[name].numel() for name, g in probed.gradients.items() if g is not None)
    least = thresholds.STEP * (total - count * EPSILON)
    low, high = thresholds.FORETOLD[0] * unit, thresholds.FORETOLD[1] * unit
    chaotic = read is not None and (read.sensitivity or 0.0) > thresholds.CHAOTIC
    told = least if read is not None and not chaotic else min(least, varying)
    if not low <= told <= high or (least > high and not chaotic):
        return None
    return Steps((told,), thresholds.STEP * total, None, None, {}, ())


def l1_norm(gradient: Tensor) -> float:
    """Return the L1 norm of a gradient; of a large one that is nowhere empty, from elements at equal distances."""
    if gradient.numel() >= LARGE and gradient.device.type == "cpu":
        part = spread_out(gradient)
        if int(part.count_nonzero()) > _FILLED * part.numel():  # not so a table, of which few rows were looked up
            return float(part.abs().mean(dtype=torch.float64)) * gradient.numel()
    return float(torch._foreach_norm([gradient], 1)[0])
