"""How the function answers when it is pushed: one step, a disturbed input, a few steps towards targets.

The verdict's backbone. No statistic of a layer enters here: every number is about what the function does, so that a gate
that looks dead and trains, or a bias that looks ordinary and kills, are both judged by what happens. What decides how hard
to look, and which of these numbers is a fault, stands in :mod:`~pytest_initcheck.thresholds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from . import statistics, thresholds
from .memory import storage_key
from .modules import sample_dim
from .probe import OutputChanged, centred, gradients
from .push import Push
from .records import Response

#: What Adam adds to the size of a gradient before it divides by it; a gradient far below moves nothing.
EPSILON = 1e-8
#: Mean size of a gradient from which on that is no longer felt.
LOUD_GRADIENT = 1e3 * EPSILON
#: Token scores are asked to tell this many classes apart, whatever the vocabulary: the task is as hard for every model.
TOKEN_CLASSES = 12
#: Elements that are taken to double precision at a time.
BLOCK = 1 << 20
#: Rank of the random functions of the input that serve as targets.
TARGET_RANK = 32


def ask(push: Push, *, suspicious: bool = False, oversized: bool = True) -> Response:
    """Return how the function answers, looking harder only where the first, cheap look is not clear.

    Args:
        push: the model and what the probe saw; its parameters are restored before this returns. ``push.wakes`` is
            filled: for every parameter whose gradient was exactly zero, whether a step or three bring one.
        suspicious: whether a scale in the model is off; only then is a step that went astray looked into. (Large healthy
            networks at tiny batches go astray at these rates, too.)
        oversized: whether the weights as a whole are larger than theory asks for; only then is it asked whether smaller
            ones would calm a chaotic network.
    """
    start = push.outputs[push.primary]
    if not bool(torch.isfinite(start).all()):
        return Response()
    size, varying, unit = rms(start), rms(centred(start, push.batch)), natural_unit(start)
    smaller = residual = fit_steps = token_fit = None
    sensitivity = _sensitivity(push, start)
    if oversized and sensitivity is not None and sensitivity > thresholds.CHAOTIC:
        smaller = _calmed(push, sensitivity)
    deaf = sensitivity is not None and sensitivity < thresholds.DEAF
    movement, predicted, alignment, later = _steps(push, start, unit, deaf=deaf)
    if start.ndim > 0 and not _calm(size, varying, movement, None if not suspicious else alignment, unit):
        ids = token_ids(push, start)
        try:
            residual, fit_steps = _fit(push, start, unit, ids)
            token_fit = ids is not None
        except OutputChanged as error:
            push.unseen = [*push.unseen, f"{error}: whether it can be fitted was not judged"]
    push.restore()
    return Response(
        movement=tuple(m / unit for m in movement),
        predicted=None if predicted is None else predicted / unit,
        alignment=alignment,
        residual=residual,
        sensitivity=sensitivity,
        output_rms=size,
        output_centred_rms=varying,
        unit=unit,
        sensitivity_if_smaller=smaller,
        sensitivity_later=later,
        fit_steps=fit_steps,
        token_fit=token_fit,
    )


def rms(x: Tensor) -> float:
    """Return the root mean square of ``x`` in double precision (0.0 for an empty tensor)."""
    return float(statistics.rms(x))


def natural_unit(output: Tensor) -> float:
    """Return the scale on which changes of ``output`` are judged: 1, but its own RMS for a softmax over many classes.

    Probabilities over C classes are 1/C on average; that they move by 1e-3/C is not silence.
    """
    if output.ndim >= 2 and output.numel() and bool((output >= 0).all()):
        for dim in (-1, 1):
            total = output.sum(dim)
            if output.shape[dim] > 1 and bool(torch.allclose(total, torch.ones_like(total), atol=1e-3)):
                return rms(output)
    return 1.0


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


def _sensitivity(push: Push, start: Tensor) -> float | None:
    """Relative change of the output over relative change of the input."""
    if push.disturbed is None or start.ndim == 0:
        return None
    with torch.no_grad():
        moved = push.disturbed(thresholds.DISTURBANCE)[push.primary]
    scale = rms(centred(start, push.batch))
    if scale == 0 or moved.shape != start.shape:
        return None
    return rms(centred(moved, push.batch) - centred(start, push.batch)) / scale / thresholds.DISTURBANCE


def _calmed(push: Push, sensitivity: float) -> float:
    """The smallest sensitivity that the same network has with its weights scaled down.

    Chaos that another init would cure is a fault of the init; chaos that survives any scale (a stack of batch norms) is
    the architecture's, and those train.
    """
    best = sensitivity
    weights = [p for p in push.parameters.values() if p.ndim > 1]
    with torch.no_grad():
        for _ in range(5):
            torch._foreach_mul_([w.data for w in weights], 0.5)
            start = push.forward()[push.primary]
            now = _sensitivity(push, start)
            if now is not None and math.isfinite(now):
                best = min(best, now)
            if best < thresholds.CURED * sensitivity:
                break
    push.restore()
    return best


def _grad(push: Push, outputs: list[Tensor]) -> list[Tensor | None]:
    pairs = [common(o, c.to(o.dtype)) for o, c in zip(outputs, push.cotangents, strict=True) if o.requires_grad]
    if not pairs:
        return [None] * len(push.parameters)
    signals = [c.clone() for _, c in pairs]  # a function of the user's may write to what it is given
    return gradients([o for o, _ in pairs], list(push.parameters.values()), signals, retain_graph=push.holds_graph)


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
    return {n for n, g in named if g is not None and g.numel() and _all_zero(g)}


def _all_zero(gradient: Tensor) -> bool:
    # Nearly always the first unit's gradient tells, and the rest need not be read.
    first = gradient[0] if gradient.ndim > 1 else gradient
    return not bool(first.any()) and not bool(gradient.any())


def _step(push: Push, gradients: Sequence[Tensor | None]) -> float:
    """Move every parameter as Adam's first step does, by ``STEP`` along its gradient; return the gradients' L1 norm.

    The gradients are overwritten: a second copy of the parameters would not fit the budget.
    """
    present = [(p.data, g) for p, g in zip(push.parameters.values(), gradients, strict=True) if g is not None]
    if not present:
        return 0.0
    slopes = _writable([g for _, g in present])
    present = [(p, g) for (p, _), g in zip(present, slopes, strict=True)]
    with torch.no_grad():
        norms = [float(n) for n in torch._foreach_norm(slopes, 1)]
        for (parameter, slope), norm in zip(present, norms, strict=True):
            loud = not norm < LOUD_GRADIENT * slope.numel()
            step = slope.sgn_() if loud else slope.div_(slope.abs().add_(EPSILON))
            parameter.add_(step.to(parameter.dtype), alpha=thresholds.STEP)
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


def _steps(
    push: Push, start: Tensor, unit: float, *, deaf: bool
) -> tuple[list[float], float | None, float | None, float | None]:
    """Step along the sign of the gradient, again where a gradient was exactly zero, nothing moved, or no input is heard.

    Returns the movement after each step, the first one as the gradient predicts it, its correlation with the direction
    that was asked for, and, for a ``deaf`` network, the sensitivity after the steps.
    """
    slopes: list[Tensor | None] = [push.gradients[name] for name in push.parameters]
    push.gradients.clear()  # the probe holds the same dict; a second copy of the parameters would not fit the budget
    silent = _silent(zip(push.parameters, slopes, strict=True))
    push.wakes = dict.fromkeys(silent, False)
    direction, origin = push.cotangents[push.primary], centred(start, push.batch)
    movement: list[float] = []
    predicted = alignment = None
    for look in range(thresholds.LOOKS):
        total = _step(push, slopes)
        slopes = []
        more = look + 1 < thresholds.LOOKS
        outputs = _forward(push, graph=more and bool(silent))
        now = outputs[push.primary].detach()
        if now.shape == start.shape:
            change = centred(now, push.batch) - origin
        else:
            now, was = common(now, start)
            change = centred(now, push.batch) - centred(was, push.batch)
            told = f"the size of the output depends on the weights ({list(start.shape)}): how it moves was judged on what is common"
            push.unseen = [*push.unseen, told] if told not in push.unseen else push.unseen
        movement.append(rms(change))
        if look == 0:
            predicted, alignment = thresholds.STEP * total, _correlation(*common(change, direction))
        quiet = movement[-1] < thresholds.SILENT * unit
        if not more or not math.isfinite(movement[-1]) or not (silent or quiet or deaf):
            break
        if not any(o.requires_grad for o in outputs):
            outputs = _forward(push, graph=True)
        slopes = _grad(push, outputs)
        del outputs
        left = _silent((n, g) for n, g in zip(push.parameters, slopes, strict=True) if n in silent)
        push.wakes.update(dict.fromkeys(silent - left, True))
        settled = not left or (left == silent and look > 0)
        silent = left
        if settled and not quiet and not deaf:
            break
    later = None
    if deaf and math.isfinite(movement[-1]):
        later = _sensitivity(push, _forward(push, graph=False)[push.primary])
    push.restore()
    return movement, predicted, alignment, later


def _forward(push: Push, *, graph: bool) -> list[Tensor]:
    with torch.set_grad_enabled(graph):
        return push.forward()


def _calm(size: float, varying: float, movement: list[float], alignment: float | None, unit: float) -> bool:
    """Whether the first look is so far from every fault that none needs a second one."""
    return bool(
        movement
        and movement[-1] >= thresholds.SILENT * unit
        and varying <= thresholds.AMPLE
        and size <= thresholds.FAR
        and (alignment is None or abs(alignment) >= thresholds.ASTRAY)
    )


def token_ids(push: Push, output: Tensor) -> Tensor | None:
    """Return the ids that ``output`` has a row of scores for, one row a token; ``None`` if it is no such output."""
    if output.ndim < 3 or output.shape[-1] < 3:
        return None
    for x in push.inputs():
        integers = not x.is_floating_point() and not x.is_complex() and x.dtype is not torch.bool
        if integers and x.ndim == 2 and x.shape == output.shape[:2]:
            return x.detach()
    return None


def labels(ids: Tensor, classes: int, seed: int) -> Tensor:
    """Return a fixed class for every id, each class as often as the others: what a network that tells ids apart learns."""
    generator = torch.Generator().manual_seed(seed + 1)
    known, codes = torch.unique(ids.cpu(), return_inverse=True)
    table = torch.randperm(len(known), generator=generator) % classes
    return table[codes].to(ids.device)


def targets(push: Push, output: Tensor) -> Tensor:
    """Return centred unit-RMS targets that are random smooth functions of the input.

    Functions of the input, not noise: what memorises noise is still not near to learning (AUC 0.98 against 0.96 on
    the trainability pairs).
    """
    generator = torch.Generator().manual_seed(push.seed + 1)
    dim = sample_dim(output, push.batch)
    if dim is None:
        target = torch.randn(output.shape, generator=generator)
    else:
        features = torch.tanh(_features(push, generator))
        rest = [s for d, s in enumerate(output.shape) if d != dim]
        mix = torch.randn(TARGET_RANK, math.prod(rest), generator=generator)
        target = (features @ mix).reshape([output.shape[dim], *rest]).movedim(0, dim)
    target = centred(target, push.batch)
    size = rms(target)
    if size == 0 or not math.isfinite(size):
        target = centred(torch.randn(output.shape, generator=generator), push.batch)
        size = max(rms(target), 1e-12)
    return (target / size).to(output.device, torch.float32)


def _features(push: Push, generator: torch.Generator) -> Tensor:
    """``[batch, rank]`` random projections of the inputs, of about unit variance over the samples."""
    batch = push.batch or 1
    total = torch.zeros(batch, TARGET_RANK)
    for x in push.inputs():
        dim = sample_dim(x, batch)
        if dim is None or x.is_complex():
            continue
        flat = x.detach().movedim(dim, 0).reshape(batch, -1).to("cpu", torch.float32)
        if not x.is_floating_point():
            # Ids have no order: hash each to a phase, so that different tokens are unrelated.
            flat = torch.cos(flat * 12.9898 + torch.arange(flat.shape[1]) * 78.233)
        flat = torch.nan_to_num(flat, 0.0, 0.0, 0.0)
        total += flat @ torch.randn(flat.shape[1], TARGET_RANK, generator=generator)
    total = total - total.mean(0)
    spread = rms(total)
    if spread == 0:
        return torch.randn(batch, TARGET_RANK, generator=generator)
    return 2 * total / spread


def _fit(push: Push, start: Tensor, unit: float, ids: Tensor | None) -> tuple[float, int | None]:
    """Return the smallest share of the error that is left within ``FIT_STEPS`` Adam steps at the best rate, and the steps taken.

    The error is the centred squared distance to :func:`targets`; where the output scores classes for every token of the
    input (``ids``), it is the cross-entropy of :func:`labels` over that of a uniform guess, which forgives large scores as
    the loss of such models does.
    """
    score = _squares(push, start, unit) if ids is None else _entropy(push, start, ids)
    enough = thresholds.FIT_ENOUGH if ids is None else thresholds.TOKEN_FIT_ENOUGH
    taken: int | None = None
    parameters = list(push.parameters.values())
    best = math.inf
    for rate in thresholds.FIT_RATES:
        push.restore()
        adam = _Adam([p.data for p in parameters], rate)
        for step in range(thresholds.FIT_STEPS + 1):
            output = _forward(push, graph=True)[push.primary].float()
            if output.shape != start.shape:
                raise OutputChanged("the size of the output depends on the weights, so no target fits it")
            left, loss = score(output)
            if not math.isfinite(left):
                break
            best = min(best, left)
            if best < enough or step == thresholds.FIT_STEPS or not output.requires_grad:
                taken = step
                break
            adam.step(gradients([loss], parameters, None, retain_graph=push.holds_graph))
        if best < enough:
            break
    push.restore()
    return best, taken


Score = Callable[[Tensor], tuple[float, Tensor]]


def _squares(push: Push, start: Tensor, unit: float) -> Score:
    target = targets(push, start) * unit

    def score(output: Tensor) -> tuple[float, Tensor]:
        left = (centred(output.detach(), push.batch) - target).square().mean() / unit**2
        return float(left), (output - target).square().mean() / unit**2

    return score


def _entropy(push: Push, start: Tensor, ids: Tensor) -> Score:
    classes = min(TOKEN_CLASSES, start.shape[-1])
    generator = torch.Generator().manual_seed(push.seed + 2)
    columns = torch.randperm(start.shape[-1], generator=generator)[:classes].to(start.device)
    wanted = labels(ids, classes, push.seed).reshape(-1)

    def score(output: Tensor) -> tuple[float, Tensor]:
        loss = torch.nn.functional.cross_entropy(output[..., columns].reshape(-1, classes), wanted)
        return float(loss.detach()) / math.log(classes), loss

    return score


class _Adam:
    """Adam (Kingma and Ba 2015) at its default betas; ``torch.optim`` would import torch's compiler, seconds in a fresh process."""

    def __init__(self, values: list[Tensor], rate: float) -> None:
        self._rate, self._steps = rate, 0
        self._values = values
        self._first: list[Tensor | None] = [None] * len(values)
        self._second: list[Tensor | None] = [None] * len(values)

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        self._steps += 1
        low, high = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        for i, (value, gradient) in enumerate(zip(self._values, gradients, strict=True)):
            if gradient is None:
                continue
            g = gradient.detach()
            size = (g * g.conj()).real if g.is_complex() else g * g
            first, second = self._first[i], self._second[i]
            first = g * 0.1 if first is None else first.lerp_(g, 0.1)
            second = size * 0.001 if second is None else second.lerp_(size, 0.001)
            self._first[i], self._second[i] = first, second
            value.addcdiv_(first, (second / high).sqrt_().add_(1e-8).to(value.dtype), value=-self._rate / low)
