"""How the function answers when it is pushed: one step, a disturbed input, a few steps towards targets.

The verdict's backbone. No statistic of a layer enters here: every number is about what the function does, so that a gate
that looks dead and trains, or a bias that looks ordinary and kills, are both judged by what happens. What decides how hard
to look, and which of these numbers is a fault, stands in :mod:`~pytest_initcheck.thresholds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .. import thresholds
from ..errors import ProbeError
from ..probing.probe import OutputChanged, centred
from ..records import Response
from .drawn import given_draws, samples
from .fit import fit, token_ids
from .foretold import foretold
from .hearing import Heard, calmed, heard_of, read_off
from .mixing import Mixing, mixing
from .perturb import Push, rms
from .stepping import Stepped, Steps, first_step, slopes_of, steps_of


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
    read = read_off(push, oversized=oversized) if plain else None
    told = foretold(push, unit, varying, read) if plain and _near(size, varying) else None
    mixed, heard, stepped = _first_look(push, lambda: read or heard_of(push, start), steps=told is None)
    sensitivity = heard.sensitivity
    if oversized and sensitivity is not None and sensitivity > thresholds.CHAOTIC:
        if stepped is not None:
            push.restore()
        smaller = calmed(push, sensitivity)
        if stepped is not None and push.streamed is not None:
            push.streamed.step()
    deaf = sensitivity is not None and sensitivity < thresholds.DEAF
    if told is None or deaf:
        told, steps = None, steps_of(push, unit, quiet=thresholds.SILENT * reach, deaf=deaf, first=stepped)
    else:
        steps = told
        push.probed.gradients.clear()
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
        foretold=told is not None,
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


def _first_look(push: Push, hear: Callable[[], Heard], *, steps: bool) -> tuple[Mixing, Heard, Stepped | None]:
    """Samples exchanged and the inputs disturbed; of weights that come and go also the first step, in the same pass."""
    if push.streamed is None or not steps:
        return mixing(push), hear(), None
    mixed, heard, stepped = push.streamed.together(lambda: mixing(push), hear, lambda: first_step(push))
    assert isinstance(mixed, Mixing)
    assert isinstance(heard, Heard)
    assert isinstance(stepped, Stepped)
    return mixed, heard, stepped


def _moves(steps: Steps, least: float) -> bool:
    return bool(steps.movement) and not max(steps.movement) < least


def _drawn(push: Push, unit: float, heard: Heard, steps: Steps, quiet: float) -> tuple[Heard, Steps, bool]:
    """Ask again, with what the model draws taken as given, then by what it drew; and whether that told more."""
    for other in (given_draws, samples):
        try:
            asked = other(push)
            if asked is None:
                continue
            outputs = asked.forward(graph=True)
            asked.probed.gradients.update(zip(asked.parameters, slopes_of(asked, outputs), strict=True))
            del outputs
            again = heard_of(asked, asked.start)
            deaf = again.sensitivity is not None and again.sensitivity < thresholds.DEAF
            moved = steps_of(asked, unit, quiet=quiet, deaf=deaf)
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
        and _near(size, varying)
        and (alignment is None or abs(alignment) >= thresholds.ASTRAY)
    )


def _near(size: float, varying: float) -> bool:
    """Whether the output is on the scale of ordinary targets."""
    return varying <= thresholds.AMPLE and size <= thresholds.FAR
