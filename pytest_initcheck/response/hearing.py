"""What the output makes of other inputs: disturbed a little, exchanged, or others of their size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import thresholds
from ..errors import ProbeError
from ..probing.probe import centred
from ..sharding.layout import local
from .exchange import Disturbed
from .perturb import Push, rms

#: What is said where it is not known that any disturbance of the inputs arrived.
UNHEARD = "no disturbance of the inputs is known to arrive: whether the output follows them was not judged"
#: Other inputs of the size of the given ones that are tried where there are no samples to exchange.
AFAR = 3


@dataclass(frozen=True, slots=True)
class Heard:
    """What the output makes of other inputs: see the fields of the same names in Response and Answer."""

    sensitivity: float | None = None
    disturbance: float | None = None
    unseen: tuple[str, ...] = ()


def _sensitivity(push: Push, start: Tensor, moved: Disturbed | None) -> float | None:
    """Relative change of the output over relative change of the input; ``None`` where no change arrived, or nothing varies."""
    if moved is None or moved.size == 0:
        return None
    now, batch = moved.outputs[push.probed.primary], push.probed.batch
    scale = rms(centred(start, batch))
    if scale == 0 or now.shape != start.shape:
        return None
    return rms(centred(now, batch) - centred(start, batch)) / scale / moved.size


def read_off(push: Push, *, oversized: bool) -> Heard | None:
    """What the probe's own gradient tells, where that is far from every bound; a pass is spent on all others.

    It knows nothing of rounding, nor of how far its slope holds: so it is not asked about outputs that hardly vary, nor where a scale is off.
    """
    followed = push.probed.followed
    if followed is None or push.start.ndim == 0:
        return None
    low, high = thresholds.DEAF * thresholds.PLAINLY, thresholds.CHAOTIC / thresholds.PLAINLY
    # Chaos of weights that are no larger than theory asks for is the architecture's, however much of it there is.
    chaotic = followed > thresholds.CHAOTIC * thresholds.PLAINLY and not oversized
    return Heard(followed, 0.0) if chaotic or low < followed < high else None


def heard_of(push: Push, start: Tensor) -> Heard:
    """Disturb the inputs a little, and where that changes nothing (integers; a choice of the largest), exchange samples.

    Where there are none to exchange, the inputs are disturbed as much as they are large. A stimulus that did not arrive is not a
    response of zero: then nothing is said of the response.
    """
    if start.ndim == 0 or rms(centred(start, push.probed.batch)) == 0:
        return Heard()
    with torch.no_grad():
        little = None if push.disturbed is None else push.disturbed(thresholds.DISTURBANCE)
        heard = _sensitivity(push, start, little)
        known = Heard(heard, None if little is None or heard is None else little.size)
        if heard is not None and not heard < thresholds.DEAF:
            return known
        if push.swapped is None:
            if heard is None:
                return known if little is None else Heard(unseen=(UNHEARD,))
            return _elsewhere(push, start, known)
        try:
            much = push.swapped()
        except ProbeError as error:
            return Heard(unseen=(f"{UNHEARD}: {error}",))
    heard = _sensitivity(push, start, much)
    return Heard(unseen=(UNHEARD,)) if heard is None else Heard(heard, much.size)


def _elsewhere(push: Push, start: Tensor, known: Heard) -> Heard:
    """What other inputs of the size of the given ones tell; ``known`` where the model takes none of them.

    What rounds, or looks up the nearest of a few entries, may return the same for one of them.
    """
    assert push.disturbed is not None
    for draw in range(AFAR):
        try:
            other = push.disturbed(1.0, draw)
        except ProbeError:
            continue
        heard = _sensitivity(push, start, other)
        if heard is not None and math.isfinite(heard):
            known = Heard(heard, other.size)
            if heard >= thresholds.DEAF:
                break
    return known


def calmed(push: Push, sensitivity: float) -> float:
    """The smallest sensitivity that the same network has with its weights scaled down.

    Chaos that another init would cure is a fault of the init; chaos that survives any scale (a stack of batch norms) is
    the architecture's, and those train.
    """
    best = sensitivity
    weights = [p for p in push.parameters.values() if p.ndim > 1]
    if not weights:  # those that are too large are frozen, or none is trained but vectors
        return best
    with torch.no_grad():
        for _ in range(5):
            if push.streamed is not None:
                push.streamed.shrink(0.5)
            else:
                torch._foreach_mul_([local(w.data) for w in weights], 0.5)
            start = push.forward(graph=False)[push.probed.primary]
            now = None if push.disturbed is None else _sensitivity(push, start, push.disturbed(thresholds.DISTURBANCE))
            if now is not None and math.isfinite(now):
                best = min(best, now)
            if best < thresholds.CURED * sensitivity:
                break
    push.restore()
    return best
