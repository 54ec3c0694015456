"""How the function answers when it is pushed: one step, a disturbed input, a few steps towards targets.

The verdict's backbone. No statistic of a layer enters here: every number is about what the function does, so that a gate
that looks dead and trains, or a bias that looks ordinary and kills, are both judged by what happens. What decides how hard
to look, and which of these numbers is a fault, stands in :mod:`~pytest_initcheck.thresholds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .. import thresholds
from ..errors import ProbeError
from ..probing.memory import storage_key
from ..probing.probe import OutputChanged, centred, gradients
from ..probing.statistics import read_back
from ..records import Response
from ..sharding.layout import gathered, local
from ..sharding.world import current
from .adam import blocks
from .drawn import given_draws, samples
from .exchange import Disturbed
from .fit import fit, token_ids
from .mixing import Mixing, mixing
from .perturb import Push, rms

#: What Adam adds to the size of a gradient before it divides by it; a gradient far below moves nothing.
EPSILON = 1e-8
#: Mean size of a gradient from which on that is no longer felt.
LOUD_GRADIENT = 1e3 * EPSILON
#: What is said where it is not known that any disturbance of the inputs arrived.
UNHEARD = "no disturbance of the inputs is known to arrive: whether the output follows them was not judged"
#: Other inputs of the size of the given ones that are tried where there are no samples to exchange.
AFAR = 3
#: Elements that are taken to double precision at a time.
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What :func:`ask` found.

    Attributes:
        response: how the function answers.
        wakes: for every parameter whose gradient was exactly zero, whether a step or three bring one.
        unseen: what could not be asked, one sentence each.
    """

    response: Response
    wakes: Mapping[str, bool] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Steps:
    """What a few optimizer-sized steps did: see the fields of the same names in Response and Answer."""

    movement: tuple[float, ...]
    predicted: float | None
    alignment: float | None
    sensitivity_later: float | None
    wakes: Mapping[str, bool]
    unseen: tuple[str, ...]


def ask(push: Push, *, suspicious: bool = False, oversized: bool = True) -> Answer:
    """Return how the function answers, looking harder only where the first, cheap look is not clear.

    Args:
        push: the model and what the probe saw; its parameters are restored before this returns.
        suspicious: whether a scale in the model is off; only then is a step that went astray looked into, and no answer read off the
            gradient. (Large healthy networks at tiny batches go astray at these rates, too.)
        oversized: whether the weights as a whole are larger than theory asks for; only then is it asked whether smaller
            ones would calm a chaotic network.
    """
    start, batch = push.start, push.probed.batch
    if not bool(torch.isfinite(start).all()):
        return Answer(Response())
    size, varying, unit = rms(start), rms(centred(start, batch)), natural_unit(start)
    reach = _reach(push, size / unit, varying / unit)
    smaller = residual = fit_steps = token_fit = cut = None
    plain = not suspicious and varying >= thresholds.VARIED * size
    mixed, heard, stepped = _first_look(
        push, lambda: (_read_off(push, oversized=oversized) if plain else None) or _heard(push, start)
    )
    sensitivity = heard.sensitivity
    if oversized and sensitivity is not None and sensitivity > thresholds.CHAOTIC:
        if push.streamed is not None:
            push.restore()
        smaller = _calmed(push, sensitivity)
        if push.streamed is not None:
            push.streamed.step()
    deaf = sensitivity is not None and sensitivity < thresholds.DEAF
    steps = _steps(push, unit, quiet=thresholds.SILENT * reach, deaf=deaf, first=stepped)
    drawn = False
    if deaf or not _moves(steps, thresholds.SILENT * reach * unit):
        heard, steps, drawn = _drawn(push, unit, heard, steps, thresholds.SILENT * reach)
        sensitivity = heard.sensitivity
    unseen = (*heard.unseen, *steps.unseen)
    calm = _calm(size, varying, steps.movement, steps.alignment if suspicious else None, unit, reach)
    if start.ndim > 0 and not drawn and not calm and push.streamed is not None:
        unseen = (
            *unseen,
            "streamed: whether the model can be fitted was not asked; it takes its weights several times over",
        )
        token_fit = token_ids(push, start) is not None
    elif start.ndim > 0 and not drawn and not calm:
        ids = token_ids(push, start)
        try:
            fitted = fit(push, start, unit, ids)
            token_fit, fit_steps = ids is not None, fitted.steps
            strict = (
                not _moves(steps, thresholds.SILENT * reach * unit) or not (steps.alignment or 0.0) >= thresholds.ASTRAY
            )
            if fitted.cut and not fitted.left < _enough(strict, token_fit):
                cut = fitted.left
                spent = f"the time budget ({push.probed.budget}) is spent"
                unseen = (*unseen, f"{spent}: whether it can be fitted was not decided")
            else:
                residual = fitted.left
        except OutputChanged as error:
            push.restore()
            unseen = (*unseen, f"{error}: whether it can be fitted was not judged")
    response = Response(
        movement=tuple(m / unit for m in steps.movement),
        reach=reach,
        mixing=mixed.change,
        mixed_at=mixed.layer,
        mixed_by_softmax=mixed.softmax,
        predicted=None if steps.predicted is None else steps.predicted / unit,
        alignment=steps.alignment,
        residual=residual,
        sensitivity=sensitivity,
        disturbance=heard.disturbance,
        output_rms=size,
        output_centred_rms=varying,
        unit=unit,
        sensitivity_if_smaller=smaller,
        sensitivity_later=steps.sensitivity_later,
        fit_steps=fit_steps,
        token_fit=token_fit,
        cut=cut,
    )
    return Answer(response, steps.wakes, unseen)


def unanswered(response: Response) -> bool:
    """Return whether the output hardly moves with the parameters, or does not follow the input."""
    still = bool(response.movement) and max(response.movement) < thresholds.SILENT
    return still or (response.sensitivity is not None and response.sensitivity < thresholds.DEAF)


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


def _reach(push: Push, size: float, varying: float) -> float:
    """Return what part of an ordinary movement this architecture is capable of.

    A movement is a sum over the weights that add up in a unit: two of them move it less than a hundred do. And an output that differs over the
    samples as much as it is large, but is small by its nature (a probability shared by many samples), moves in proportion.
    """
    sizes = [
        (p.fan_in or 1, p.value.count)
        for p in push.probed.trace.parameters.values()
        if p.requires_grad and p.value is not None and (p.fan_in is not None or p.role == "embedding")
    ]
    count = sum(n for _, n in sizes)
    narrow = min(1.0, sum(f * n for f, n in sizes) / count / thresholds.WIDE) if count else 1.0
    small = min(1.0, varying) if varying > 0 and varying >= thresholds.VARIED * size else 1.0
    return max(narrow * small, thresholds.FAINT)


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


def _sensitivity(push: Push, start: Tensor, moved: Disturbed | None) -> float | None:
    """Relative change of the output over relative change of the input; ``None`` where no change arrived, or nothing varies."""
    if moved is None or moved.size == 0:
        return None
    now, batch = moved.outputs[push.probed.primary], push.probed.batch
    scale = rms(centred(start, batch))
    if scale == 0 or now.shape != start.shape:
        return None
    return rms(centred(now, batch) - centred(start, batch)) / scale / moved.size


@dataclass(frozen=True, slots=True)
class _Heard:
    """What the output makes of other inputs: see the fields of the same names in Response and Answer."""

    sensitivity: float | None = None
    disturbance: float | None = None
    unseen: tuple[str, ...] = ()


def _read_off(push: Push, *, oversized: bool) -> _Heard | None:
    """What the probe's own gradient tells, where that is far from every bound; a pass is spent on all others.

    It knows nothing of rounding, nor of how far its slope holds: so it is not asked about outputs that hardly vary, nor where a scale is off.
    """
    followed = push.probed.followed
    if followed is None or push.start.ndim == 0:
        return None
    low, high = thresholds.DEAF * thresholds.PLAINLY, thresholds.CHAOTIC / thresholds.PLAINLY
    # Chaos of weights that are no larger than theory asks for is the architecture's, however much of it there is.
    chaotic = followed > thresholds.CHAOTIC * thresholds.PLAINLY and not oversized
    return _Heard(followed, 0.0) if chaotic or low < followed < high else None


def _heard(push: Push, start: Tensor) -> _Heard:
    """Disturb the inputs a little, and where that changes nothing (integers; a choice of the largest), exchange samples.

    Where there are none to exchange, the inputs are disturbed as much as they are large. A stimulus that did not arrive is not a
    response of zero: then nothing is said of the response.
    """
    if start.ndim == 0 or rms(centred(start, push.probed.batch)) == 0:
        return _Heard()
    with torch.no_grad():
        little = None if push.disturbed is None else push.disturbed(thresholds.DISTURBANCE)
        heard = _sensitivity(push, start, little)
        known = _Heard(heard, None if little is None or heard is None else little.size)
        if heard is not None and not heard < thresholds.DEAF:
            return known
        try:
            if push.swapped is not None:
                much = push.swapped()
            elif push.disturbed is None or heard is None:
                return known if heard is not None or little is None else _Heard(unseen=(UNHEARD,))
            else:
                # What rounds, or looks up the nearest of a few entries, may return the same for one of them.
                draws = [push.disturbed(1.0, draw) for draw in range(AFAR)]
                much = max(draws, key=lambda other: _heard_at_all(push, start, other))
        except ProbeError as error:
            return _Heard(unseen=(f"{UNHEARD}: {error}",))
    heard = _sensitivity(push, start, much)
    return _Heard(unseen=(UNHEARD,)) if heard is None or not math.isfinite(heard) else _Heard(heard, much.size)


def _heard_at_all(push: Push, start: Tensor, other: Disturbed) -> float:
    found = _sensitivity(push, start, other)
    return found if found is not None and math.isfinite(found) else -1.0


def _calmed(push: Push, sensitivity: float) -> float:
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


def _grad(push: Push, outputs: list[Tensor]) -> list[Tensor | None]:
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


@dataclass(frozen=True, slots=True)
class _Stepped:
    """The first step, taken: L1 norm of the gradients, which of them were exactly zero, and the outputs."""

    total: float
    silent: set[str]
    outputs: list[Tensor]


def _first_look(push: Push, hear: Callable[[], _Heard]) -> tuple[Mixing, _Heard, _Stepped | None]:
    """Samples exchanged and the inputs disturbed; of weights that come and go also the first step, in the same pass."""
    if push.streamed is None:
        return mixing(push), hear(), None
    mixed, heard, stepped = push.streamed.together(lambda: mixing(push), hear, lambda: _first_step(push))
    assert isinstance(mixed, Mixing)
    assert isinstance(heard, _Heard)
    assert isinstance(stepped, _Stepped)
    return mixed, heard, stepped


def _first_step(push: Push) -> _Stepped:
    slopes: list[Tensor | None] = [push.probed.gradients[name] for name in push.parameters]
    push.probed.gradients.clear()  # a second copy of the parameters would not fit the budget
    silent = _silent(zip(push.parameters, slopes, strict=True))
    total = _step(push, slopes)
    del slopes
    return _Stepped(total, silent, push.forward(graph=bool(silent)))


def _steps(push: Push, unit: float, *, quiet: float, deaf: bool, first: _Stepped | None = None) -> _Steps:
    """Step along the gradient, again where a gradient was exactly zero, nothing moved (``quiet``), or no input is heard (``deaf``)."""
    probed, start = push.probed, push.start
    first = first or _first_step(push)
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
        slopes = _grad(push, outputs)
        del outputs
        left = _silent((n, g) for n, g in zip(push.parameters, slopes, strict=True) if n in silent)
        wakes.update(dict.fromkeys(silent - left, True))
        settled = not left or (left == silent and look > 0)
        silent = left
        if settled and not still and not deaf:
            break
    if deaf and math.isfinite(movement[-1]):
        later = _heard(push, push.forward(graph=False)[probed.primary]).sensitivity
    push.restore()
    return _Steps(tuple(movement), predicted, alignment, later, wakes, tuple(unseen))


def _moves(steps: _Steps, least: float) -> bool:
    return bool(steps.movement) and not max(steps.movement) < least


def _drawn(push: Push, unit: float, heard: _Heard, steps: _Steps, quiet: float) -> tuple[_Heard, _Steps, bool]:
    """Ask again, with what the model draws taken as given, then by what it drew; and whether that told more."""
    for other in (given_draws, samples):
        try:
            asked = other(push)
            if asked is None:
                continue
            outputs = asked.forward(graph=True)
            asked.probed.gradients.update(zip(asked.parameters, _grad(asked, outputs), strict=True))
            del outputs
            again = _heard(asked, asked.start)
            deaf = again.sensitivity is not None and again.sensitivity < thresholds.DEAF
            moved = _steps(asked, unit, quiet=quiet, deaf=deaf)
        except ProbeError:  # what is drawn decides how much is returned
            push.restore()
            continue
        if not deaf and _moves(moved, quiet * unit):
            alignment = None if other is samples else moved.alignment
            return again, replace(moved, alignment=alignment, wakes=steps.wakes, unseen=steps.unseen), True
        if deaf:
            heard = again
            steps = replace(steps, sensitivity_later=moved.sensitivity_later)
    return heard, steps, False


def _enough(strict: bool, tokens: bool) -> float:
    """The share of a fit's error below which no rule finds a fault, whatever more steps would have reached.

    Only what hardly moves, or moves elsewhere (``strict``), must come nearer to its targets than zeros are.
    """
    if tokens:
        return thresholds.TOKENS_UNREACHED
    return thresholds.UNREACHED if strict else thresholds.STRAYED


def _calm(
    size: float, varying: float, movement: Sequence[float], alignment: float | None, unit: float, reach: float
) -> bool:
    """Whether the first look is so far from every fault that none needs a second one."""
    return bool(
        movement
        and movement[-1] >= thresholds.SILENT * reach * unit
        and varying <= thresholds.AMPLE
        and size <= thresholds.FAR
        and (alignment is None or abs(alignment) >= thresholds.ASTRAY)
    )
