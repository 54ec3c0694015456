"""A few optimizer-sized steps, and what each moves the output by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import thresholds
from ..probing.memory import storage_key
from ..probing.probe import OutputChanged, centred, gradients
from ..probing.statistics import read_back
from ..sharding.layout import gathered, local
from ..sharding.world import current
from .adam import blocks
from .hearing import heard_of
from .perturb import Push, rms

#: What Adam adds to the size of a gradient before it divides by it; a gradient far below moves nothing.
EPSILON = 1e-8
#: Mean size of a gradient from which on that is no longer felt.
LOUD_GRADIENT = 1e3 * EPSILON
#: Elements that are taken to double precision at a time.
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Steps:
    """What a few optimizer-sized steps did: see the fields of the same names in Response and Answer."""

    movement: tuple[float, ...]
    predicted: float | None
    alignment: float | None
    sensitivity_later: float | None
    wakes: Mapping[str, bool]
    unseen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stepped:
    """The first step, taken: L1 norm of the gradients, which of them were exactly zero, and the outputs."""

    total: float
    silent: set[str]
    outputs: list[Tensor]


def first_step(push: Push) -> Stepped:
    """Take the first step, along the probe's own gradients, which are used up."""
    silent = silent_of(push)
    slopes: list[Tensor | None] = [push.probed.gradients[name] for name in push.parameters]
    push.probed.gradients.clear()  # a second copy of the parameters would not fit the budget
    total = _step(push, slopes)
    del slopes
    return Stepped(total, silent, push.forward(graph=bool(silent)))


def silent_of(push: Push) -> set[str]:
    """Return the names of the parameters whose gradient the probe found to be exactly zero."""
    return _silent((name, push.probed.gradients[name]) for name in push.parameters)


def steps_of(push: Push, unit: float, *, quiet: float, deaf: bool, first: Stepped | None = None) -> Steps:
    """Step along the gradient, again where a gradient was exactly zero, nothing moved (``quiet``), or no input is heard (``deaf``)."""
    probed, start = push.probed, push.start
    first = first or first_step(push)
    silent, total, outputs = first.silent, first.total, first.outputs
    del first  # a graph hangs on its outputs
    wakes = dict.fromkeys(silent, False)
    direction = probed.cotangents[probed.primary]
    movement: list[float] = []
    unseen: dict[str, None] = {}
    slopes: list[Tensor | None] = []
    predicted = alignment = later = None
    for look in range(thresholds.LOOKS):
        more = look + 1 < thresholds.LOOKS
        if look > 0:
            total = _step(push, slopes)
            slopes = []
            outputs = push.forward(graph=more and bool(silent))
        output = outputs[probed.primary].detach()
        now, was = common(output, start)
        if output.shape != start.shape:
            sizes = f"{list(start.shape)} before, {list(output.shape)} after a step"
            unseen[
                f"the size of the output depends on the weights ({sizes}): its movement was judged on what is common"
            ] = None
        change = centred(now, probed.batch) - centred(was, probed.batch)
        movement.append(rms(change))
        if look == 0:
            predicted, alignment = thresholds.STEP * total, _correlation(*common(change, direction))
        still = movement[-1] < quiet * unit
        if not more or not math.isfinite(movement[-1]) or not (silent or still or deaf):
            break
        if not any(o.requires_grad for o in outputs):
            outputs = push.forward(graph=True)
        slopes = slopes_of(push, outputs)
        del outputs
        left = _silent((n, g) for n, g in zip(push.parameters, slopes, strict=True) if n in silent)
        wakes.update(dict.fromkeys(silent - left, True))
        settled = not left or (left == silent and look > 0)
        silent = left
        if settled and not still and not deaf:
            break
    if deaf and math.isfinite(movement[-1]):
        later = heard_of(push, push.forward(graph=False)[probed.primary]).sensitivity
    push.restore()
    return Steps(tuple(movement), predicted, alignment, later, wakes, tuple(unseen))


def slopes_of(push: Push, outputs: list[Tensor]) -> list[Tensor | None]:
    """Return the gradient of every trainable parameter, in their order, along the probe's own directions at the ``outputs``."""
    pairs = [common(o, c.to(o.dtype)) for o, c in zip(outputs, push.probed.cotangents, strict=True) if o.requires_grad]
    if not pairs:
        return [None] * len(push.parameters)
    signals = [c.clone() for _, c in pairs]  # a function of the user's may write to what it is given
    if push.streamed is not None:
        return push.streamed.slopes([o for o, _ in pairs], signals, push.probed.holds_graph)
    return gradients(
        [o for o, _ in pairs], list(push.parameters.values()), signals, retain_graph=push.probed.holds_graph
    )


def common(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of two tensors that both have: sizes may depend on weights or on randomness (durations, key points).

    Raises:
        OutputChanged: they have nothing in common.
    """
    if one.shape == other.shape:
        return one, other
    sizes = [min(a, b) for a, b in zip(one.shape, other.shape, strict=False)]
    if one.dim() != other.dim() or 0 in sizes:
        raise OutputChanged(f"an output of shape {list(one.shape)} cannot be compared with one of {list(other.shape)}")
    part = tuple(slice(size) for size in sizes)
    return one[part], other[part]


def _silent(named: Iterable[tuple[str, Tensor | None]]) -> set[str]:
    """Names of the parameters whose gradient is exactly zero."""
    asked = [(n, local(g)) for n, g in named if g is not None and g.numel()]
    zero = _all_zero([g for _, g in asked])
    if (world := current()) is not None:
        zero = world.every(zero)
    return {n for (n, _), nothing in zip(asked, zero, strict=True) if nothing}


def _all_zero(gradients: Sequence[Tensor]) -> list[bool]:
    found = [not g.numel() for g in gradients]
    near = {i for i, g in enumerate(gradients) if g.device.type == "cpu" or g.layout is not torch.strided}
    far = [i for i, g in enumerate(gradients) if g.numel() and i not in near]
    if far:  # where reading a number is dear, one transfer for all
        norms = torch._foreach_norm([gradients[i] for i in far], math.inf)
        for i, (peak,) in zip(far, read_back([n.reshape(1) for n in norms]), strict=True):
            found[i] = peak == 0
    for i in near:
        if (gradient := gradients[i]).numel():
            # Nearly always the first unit's gradient tells, and the rest need not be read.
            first = gradient[0] if gradient.ndim > 1 else gradient
            found[i] = not bool(first.any()) and not bool(gradient.any())
    return found


def _step(push: Push, gradients: Sequence[Tensor | None]) -> float:
    """Move every parameter as Adam's first step does, by ``STEP`` along its gradient; return the gradients' L1 norm.

    The gradients are overwritten: a second copy of the parameters would not fit the budget.
    """
    if push.streamed is not None:
        return push.streamed.step()
    present = [(p.data, g) for p, g in zip(push.parameters.values(), gradients, strict=True) if g is not None]
    if not present:
        return 0.0
    slopes = _writable([g for _, g in present])
    present = [(p, g) for (p, _), g in zip(present, slopes, strict=True)]
    with torch.no_grad():
        # Of sharded gradients one at a time, whose parts the ranks add up.
        alone = current() is None
        sizes = torch._foreach_norm(slopes, 1) if alone else [gathered(g.abs().sum()) for g in slopes]
        norms = [n for (n,) in read_back([size.reshape(1) for size in sizes])]
        for (parameter, slope), norm in zip(present, norms, strict=True):
            loud = not norm < LOUD_GRADIENT * slope.numel()
            for value, part in zip(blocks(local(parameter)), blocks(local(slope)), strict=True):
                step = part.sgn_() if loud else part.div_(part.abs().add_(EPSILON))
                value.add_(step.to(value.dtype), alpha=thresholds.STEP)
    return sum(norms)


def _writable(gradients: list[Tensor]) -> list[Tensor]:
    """The gradients, those copied that share memory: ``a + b`` has one gradient for both, ``p.sum()`` one number for all."""
    seen: set[int | None] = {None}
    found: list[Tensor] = []
    for gradient in gradients:
        key = storage_key(gradient)
        shared = key in seen or _expanded(gradient)
        found.append(gradient.clone(memory_format=torch.contiguous_format) if shared else gradient)
        seen.add(key)
    return found


def _expanded(tensor: Tensor) -> bool:
    return any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _correlation(a: Tensor, b: Tensor) -> float:
    """Cosine of two tensors of one shape, in double precision block by block; 0.0 where one is zero or not finite."""
    scale = float(a.abs().max()) if a.numel() else 0.0
    if scale == 0 or not math.isfinite(scale):
        return 0.0
    both = left = right = 0.0
    for x, y in zip(a.flatten().split(BLOCK), b.flatten().split(BLOCK), strict=True):
        x, y = x.double() / scale, y.double()
        both += float(torch.dot(x, y))
        left += float(torch.dot(x, x))
        right += float(torch.dot(y, y))
    return both / max(math.sqrt(left * right), 1e-300)
