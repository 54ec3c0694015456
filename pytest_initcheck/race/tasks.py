"""What a model may be asked to learn: the user's loss, or the tasks that the form of its output admits.

Targets are functions of the inputs, and can be told for inputs that were not given: memorising is not learning. What is asked
for is smooth and of low rank, so that a few steps suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import ProbeError
from ..probing.graph import Graph
from ..probing.modules import sample_dim
from ..probing.probe import centred
from ..race_records import YOURS
from ..response.ask import natural_unit
from ..response.fit import token_ids
from ..response.offset import starting
from ..response.perturb import Push, rms
from ..sharding.layout import is_sharded
from .constant import Constant, best_constant
from .wanted import Features, Wanted, target_of

#: Classes that samples, and tokens, are told apart in at most, whatever the number of scores: as hard for every model.
CLASSES = 4
TOKEN_CLASSES = 12
#: Targets for outputs that are bounded lie well inside of the bounds.
INSIDE = 0.25
#: What all samples of an output have in common at the start, in units of the output, beyond which a model in doubt is asked to lose that, too: what
#: sound models start with is 5.1 at most.
AWAY = 5.0
#: The same of a model that an error stands against, beyond which it need not lose what is meant: the logit of a rare class is -4.6 at one in a hundred.
PRIOR = 1.0
#: Samples from which on half of them are enough to judge by, and how near to its parts' sum a loss must be that adds up.
ENOUGH_SAMPLES, ADDS_UP = 16, 1e-3
#: What it is called to learn from half of the samples.
KEPT_BACK = "half of the samples, with your loss on the other half,"

Loss = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Task:
    """Something to learn.

    Attributes:
        name: what it is, in words.
        loss: from what the model returned, as it is, its floating outputs, and the inputs, to a scalar.
        unit: the loss of the best constant; ``None`` where it has no end, or nobody knows.
        fresh: whether it can be told what to learn for other inputs than the given ones.
        taught: whether what is to be learned is what the model itself says from other start values, which ``loss`` is given in place of
            the inputs.
        shuffled: whether every sample comes in the place of another one, so that what is to be learned has nothing to do with it.
        own_losses: outputs of one number that are made small along with it, and are no part of the progress.
        trained: what is made smaller in place of ``loss``, from what the model returned to a scalar: where progress is judged on samples
            that nothing is learned from.
    """

    name: str
    loss: Callable[[Any, Sequence[Tensor], Sequence[Tensor]], Tensor]
    unit: float | None
    fresh: bool = True
    taught: bool = False
    shuffled: bool = False
    own_losses: tuple[int, ...] = ()
    trained: Callable[[Any], Tensor] | None = None


@dataclass(frozen=True)
class Asked:
    """What a model is asked to learn, by what that may decide.

    Attributes:
        first: what is asked first, which may convict and clear.
        instead: what is asked where nobody learned that.
        convicting: what can convict, but clear of nothing, for where there is nothing else or nobody learned it.
        afresh: functions of inputs never seen, which can take back that the user's loss was learned, by heart.
        kept_back: the user's loss of samples that nothing is learned from, which can do the same; ``None`` where it cannot be had.
    """

    first: Sequence[Task]
    instead: Sequence[Task] = ()
    convicting: Sequence[Task] = ()
    afresh: Sequence[Task] = ()
    kept_back: Task | None = None


def asked(push: Push, loss: Loss | None = None, *, accused: bool = False) -> Asked:
    """Return all that the model of ``push`` may be asked to learn.

    Args:
        push: the model and what it returned.
        loss: the user's, from the model's output to a scalar; what else is asked then can only take back that it was learned.
        accused: whether an error stands that what it learns may take back.
    """
    if loss is not None:
        with torch.no_grad():
            raw = push.probed.rerun_raw()
        constant = best_constant(loss, raw, push.probed.batch)
        unit = None if constant is None else constant.loss
        yours = Task(YOURS, lambda raw, _outputs, _inputs: loss(raw), unit, fresh=False)
        held = kept_back(push, loss, raw, constant) if accused and constant is not None else None
        return Asked([yours], afresh=tasks(push), kept_back=held)
    primary = push.probed.primary
    if accused:
        meant = starting(push, PRIOR) == "meant"
        offsets = [i for i in range(len(push.probed.outputs)) if i != primary or not meant]
        return Asked(tasks(push, offsets=offsets), convicting=convicting(push))
    if may_be_scores(push) or starting(push, AWAY) != "away":
        return Asked(tasks(push), convicting=convicting(push))
    return Asked(tasks(push, offsets=[primary]), instead=tasks(push), convicting=convicting(push))


def tasks(push: Push, *, offsets: Collection[int] = ()) -> list[Task]:
    """Return what the model of ``push`` may be asked to learn without a loss.

    Args:
        push: the model and what it returned.
        offsets: outputs of which what all samples have in common has to be learned as well.
    """
    scored = [
        i for i, o in enumerate(push.probed.outputs) if o.ndim > 0 and sample_dim(o, push.probed.batch) is not None
    ]
    if not scored or (push.probed.batch or 0) < 2:
        return []
    start = push.start
    if push.probed.primary in scored and (ids := token_ids(push, start)) is not None:
        return [replace(_tokens(push, start, ids), own_losses=_own_losses(push, scored))]
    found = []
    if (
        push.probed.primary in scored
        and start.ndim == 2
        and sample_dim(start, push.probed.batch) == 0
        and start.shape[1] > 1
    ):
        found.append(_classes(push, start))
    if not found or _form(start) == "scores":
        found.append(_regression(push, scored, offsets=offsets))
    own = _own_losses(push, scored)
    return [replace(task, own_losses=own) for task in found]


def may_be_scores(push: Push) -> bool:
    """Return whether the judged output could be scores of classes, for which a cross-entropy forgives much of what they have in common.

    It could not with one number for each sample or place, nor where it has the shape of an input that is reconstructed.
    """
    output = push.start
    dim = sample_dim(output, push.probed.batch)
    channels = [s for d, s in enumerate(output.shape) if d != dim and d in (1, output.ndim - 1)]
    if not channels or 1 in (channels[0], channels[-1]):
        return False
    return not any(
        x.is_floating_point() and x.shape == output.shape and push.follows(i)
        for i, x in enumerate(push.probed.inputs())
    )


def kept_back(push: Push, loss: Loss, raw: Any, constant: Constant) -> Task | None:
    """Return the user's loss of half of the samples, while the other half is learned from; ``None`` where it cannot be had.

    In the place of samples that do not count stands the best constant, which needs a loss that adds up over the samples, and samples enough.

    Args:
        push, loss: as :func:`asked`.
        raw: what the model returned.
        constant: the best constant output.
    """
    batch = push.probed.batch or 0
    if batch < ENOUGH_SAMPLES or not constant.loss > 0 or any(is_sharded(o) for o in push.probed.outputs):
        return None
    seen = torch.zeros(batch, dtype=torch.bool)
    seen[torch.randperm(batch, generator=torch.Generator().manual_seed(push.seed + 6))[: batch // 2]] = True
    unit, share = constant.loss, 1 - batch // 2 / batch
    with torch.no_grad():
        try:
            whole, *halves = (float(loss(x)) for x in (raw, constant.beside(raw, seen), constant.beside(raw, ~seen)))
        except Exception:  # it need not take what stands beside a constant
            return None
    if not abs(sum(halves) - whole - unit) <= ADDS_UP * max(abs(whole), unit):
        return None

    def unseen(raw: Any, _outputs: Sequence[Tensor], _inputs: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return unit - (unit - loss(constant.beside(raw, ~seen))) / share

    return Task(KEPT_BACK, unseen, unit, fresh=False, trained=lambda raw: loss(constant.beside(raw, seen)))


def _own_losses(push: Push, scored: Sequence[int]) -> tuple[int, ...]:
    """Outputs of one number that parameters learn from which learn from no samples: losses that the model makes itself, as of a codebook.

    A loss of what the other outputs say would pull them elsewhere than the task.
    """
    lone = [i for i, o in enumerate(push.probed.outputs) if o.numel() == 1 and i not in scored]
    if not lone:
        return ()
    try:
        outputs = push.forward(graph=True)
    except ProbeError:
        return ()

    def reached(which: Sequence[int]) -> set[str]:
        graph = Graph([outputs[i] for i in which])
        return {name for name, p in push.parameters.items() if graph.reaches(p)}

    known = reached(scored)
    return tuple(i for i in lone if reached([i]) - known)


def convicting(push: Push) -> list[Task]:
    """Return tasks for where no others are there, or nobody learns them: they can convict a model, but clear none.

    One number for each sample may be the logarithm of a likelihood, and is raised. Such a number cannot follow any target, since
    densities add up to one; but a constant raises most numbers. Where the output has no samples that functions of the input could
    be told for, fixed numbers are learned by heart; of few of them, a bias alone learns much.
    """
    output, batch = push.start, push.probed.batch
    if batch is None or batch < 2 or sample_dim(output, batch) is None:
        return [_by_heart(push)]
    if output.numel() != batch:
        return []

    def loss(_raw: Any, outputs: Sequence[Tensor], _inputs: Sequence[Tensor]) -> Tensor:
        return -outputs[push.probed.primary].float().mean()

    return [Task("minus the mean output (as of a log-likelihood)", loss, None)]


def taught(push: Push) -> Task:
    """Return what every architecture can learn: what it says itself, from other start values; for where nobody learns anything else.

    What all samples have in common is not asked for: a bias of 10 takes longer than the race to lose, and does no harm by itself.
    """
    at, batch = push.probed.primary, push.probed.batch

    def loss(_raw: Any, outputs: Sequence[Tensor], lesson: Sequence[Tensor]) -> Tensor:
        said, goal = outputs[at].float(), lesson[0]
        said, goal = centred(said, batch), centred(goal, batch)
        return (said - goal).square().mean() / goal.square().mean()

    return Task("what the model says from other start values", loss, 1.0, taught=True)


def lessons(push: Push, said: Sequence[Tensor]) -> list[Tensor]:
    """Return what a teacher ``said`` at every step, on the scale of an ordinary output; nothing where it always says the same."""
    first, dim = said[0], sample_dim(said[0], push.probed.batch)
    middle = first.mean(dim, keepdim=True) if dim is not None else first.mean()
    size, unit = rms(first - middle), natural_unit(push.start)
    if not 1e-4 * unit < size < math.inf:
        return []
    low, high = (float(v) for v in torch.aminmax(push.start))
    scale = 1.0 if unit != 1.0 or (low >= 0 and high <= 1) else unit / size
    return [middle + scale * (each - middle) for each in said]


def _by_heart(push: Push) -> Task:
    at, unit = push.probed.primary, natural_unit(push.start)
    goal = unit * torch.randn(
        push.start.shape, generator=torch.Generator().manual_seed(push.seed + 3), dtype=torch.float32
    )
    if push.start.numel() and float(push.start.min()) >= 0:
        goal = goal.abs()
    goal = goal.to(push.start.device)

    def loss(_raw: Any, outputs: Sequence[Tensor], _inputs: Sequence[Tensor]) -> Tensor:
        return (outputs[at].float() - goal).square().mean() / goal.square().mean().clamp_min((0.1 * unit) ** 2)

    return Task("fixed numbers", loss, 1.0, fresh=False)


def _form(output: Tensor) -> str:
    """``"probabilities"`` or ``"log-probabilities"`` over the last dimension, or ``"scores"`` (anything)."""
    if output.ndim < 2 or output.shape[-1] < 2:
        return "scores"
    o = output.detach().float()
    for form, values in (("probabilities", o), ("log-probabilities", o.exp())):
        total = values.sum(-1)
        if bool((values >= 0).all()) and bool(torch.allclose(total, torch.ones_like(total), atol=1e-3)):
            return form
    return "scores"


def _entropy(output: Tensor, form: str, columns: Tensor, wanted: Tensor) -> Tensor:
    scores = output.float()
    scores = (scores.clamp_min(1e-12).log() if form == "probabilities" else scores)[..., columns]
    return torch.nn.functional.cross_entropy(scores.reshape(-1, len(columns)), wanted.reshape(-1))


def _columns(push: Push, start: Tensor, classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(push.seed + 2)
    return torch.randperm(start.shape[-1], generator=generator)[:classes].to(start.device)


def _tokens(push: Push, start: Tensor, ids: Tensor) -> Task:
    """A fixed class for every id: what a network that tells ids apart learns."""
    classes, form = min(TOKEN_CLASSES, start.shape[-1]), _form(start)
    columns = _columns(push, start, classes)
    known = torch.unique(ids)
    table = (torch.randperm(len(known), generator=torch.Generator().manual_seed(push.seed + 1)) % classes).to(
        ids.device
    )
    at = next(
        i
        for i, x in enumerate(push.probed.inputs())
        if push.follows(i) and x.shape == ids.shape and torch.equal(x, ids)
    )

    def loss(_raw: Any, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
        wanted = table[torch.searchsorted(known, inputs[at]).clamp_max(len(known) - 1)]
        return _entropy(outputs[push.probed.primary], form, columns, wanted)

    return Task("a fixed class for every token", loss, math.log(classes))


def _classes(push: Push, start: Tensor) -> Task:
    """Classes of the samples: which of a few functions of the inputs is largest."""
    classes, form = min(CLASSES, start.shape[1]), _form(start)
    columns, which = _columns(push, start, classes), Features(push, classes)

    def loss(_raw: Any, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
        wanted = which(inputs).argmax(1).to(start.device)
        return _entropy(outputs[push.probed.primary], form, columns, wanted)

    wanted = which(push.probed.inputs()).argmax(1)
    share = torch.bincount(wanted, minlength=classes).double() / len(wanted)
    share = share[share > 0]
    return Task("classes of the samples", loss, max(float(-(share * share.log()).sum()), 0.1))


def _regression(push: Push, scored: Sequence[int], *, offsets: Collection[int]) -> Task:
    """Random smooth functions of the inputs, for all outputs jointly; for bounded outputs, small enough to stay inside.

    Of other outputs than ``offsets``, what all samples have in common is not asked for: an output may start anywhere on purpose (a
    log-variance at -4).
    """
    wanted: dict[int, tuple[Wanted, float, float]] = {}
    for i in scored:
        output = push.probed.outputs[i]
        unit, middle = natural_unit(output), 0.0
        low, high = (float(v) for v in torch.aminmax(output)) if output.numel() else (0.0, 0.0)
        if unit != 1.0:
            middle = float(output.float().mean())
        elif low >= 0 and high <= 1:
            unit, middle = INSIDE, min(max(float(output.float().mean()), INSIDE), 1 - INSIDE)
        wanted[i] = (target_of(push, output), unit, middle)
    batch = push.probed.batch

    def loss(_raw: Any, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
        parts = []
        for i, (target, unit, middle) in wanted.items():
            goal, said = target(inputs).to(outputs[i].device) * unit, outputs[i].float() - middle
            if i not in offsets:
                goal, said = centred(goal, batch), centred(said, batch)
            nothing = goal.square().mean().clamp_min((0.1 * unit) ** 2)
            parts.append((said - goal).square().mean() / nothing)
        return torch.stack(parts).mean()

    return Task("smooth functions of the input" + (" around zero" if offsets else ""), loss, 1.0)
