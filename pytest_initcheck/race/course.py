"""The race: would another initialization of the same model learn better?

The model as it is and repaired copies of it are trained on the same tasks, from the same inputs, with the same randomness, each
at the best of a few rates. Every step has inputs of its own and noise of its own (dropout, samplers), the same for all: what was
learned by heart, or from one draw, does not count, and a network for which near inputs have nothing in common cannot keep up.

Most models acquit themselves: half of the error is gone within a dozen steps, and no copy could come twice as far. Only for the
others copies are run. Harm is half: a model loses where the best copy comes more than twice as far, on every task.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor, nn

from ..errors import InitcheckError, ProbeError
from ..probing.probe import gradients
from ..race_records import Heat, Race
from ..response.exchange import replaced
from ..response.fit import Adam
from ..response.perturb import Push, rms
from .fresh import jittered, mixed
from .tasks import Task

#: Adam's rates, the range in common use; the best counts. Copies, which have ordinary scales, do without the gentlest.
RATES = (3e-3, 1e-3, 3e-4)
COPY_RATES = (3e-3, 1e-3)
#: Jitter of the inputs, relative to their RMS, where a loss fixes what they belong to.
JITTER = 0.1
#: Optimizer steps of a heat; and of the last one, which a model runs that nothing but the race speaks against.
STEPS, LAST_HEAT = 40, 100
#: Losses whose mean is what a run has come to: every step has other inputs.
LAST = 5
#: As it is, it has learned enough when this share of the error is gone: nothing comes twice as far.
ENOUGH = 0.5
#: A task says something once a copy, or the model, has lost this share of the error.
LEARNED = 0.15
#: The same of a loss without end, as a share of its size at the start.
FELL = 0.05
#: A copy does clearly better when the model comes less than this share of its way, which is what harm means.
CLEAR = 0.5
#: A model that comes this far on the copy's way in the last heat was only late, and is harmless by the measure of what harm is.
ARRIVED = 0.85
#: Of the copies that do clearly better, the smallest edit that comes this far on the way of the best is the fix.
NEARLY = 0.85
#: A copy that has lost all but this share of the error need not run on.
DONE = 0.05
#: Small edits that are tried besides the whole of the model.
EDITS = 2
#: Parameters whose RMS differs by this factor are named.
APART = 1.5

#: Changes a model in place, and returns the lines that do the same.
Repair = Callable[[nn.Module], str]
#: Start values by name of parameter; what is not there starts as it is.
Values = Mapping[str, Tensor]


@dataclass
class _Spent:
    """What it cost so far, and may at most."""

    limit: float
    passes: int = 0
    runs: int = 0

    def one(self) -> None:
        self.passes += 1
        if self.passes > self.limit:
            raise _TooLong


class _TooLong(Exception):
    """More passes than may be spent."""


@dataclass(frozen=True)
class _Copy:
    """A repair: the lines that do it, and the start values that it gives."""

    text: str
    values: Values


@dataclass
class Course:
    """One model on one task: the same for all that run it.

    Attributes:
        push: the model, its call and its parameters, and what puts them back.
        task: what is to be learned.
        spent: what counts passes.
        base: the loss from which progress is counted.
        suits: progress at each rate that was tried, by the number of the copy (-1: as it is).
    """

    push: Push
    task: Task
    spent: _Spent
    base: float = math.nan
    suits: dict[int, dict[float, float]] = field(default_factory=dict)

    def run(self, values: Values, rate: float, steps: int) -> Iterator[float]:
        """Train from ``values`` and yield the loss before each step, and after the last one; ends where it breaks off.

        The parameters are put back when the iterator is closed or used up.
        """
        push, probed = self.push, self.push.probed
        push.restore()
        try:
            with torch.no_grad():
                for name, start in values.items():
                    push.parameters[name].data.copy_(start)
            every = list(push.parameters.values())
            adam = Adam([p.data for p in every], rate)
            for step in range(steps + 1):
                with torch.inference_mode(False), torch.enable_grad():
                    self.spent.one()
                    raw, inputs = self._pass(step)
                    loss = self.task.loss(raw, probed.select(raw), inputs)
                    value = float(loss.detach())
                    if not math.isfinite(value):
                        return
                    yield value
                    if step == steps or not loss.requires_grad:
                        return
                    adam.step(gradients([loss], every, None, retain_graph=probed.holds_graph))
        except ProbeError:  # it ran as it is; with these weights it does not
            return
        finally:
            push.restore()

    def _pass(self, step: int) -> tuple[object, Sequence[Tensor]]:
        """What the model returns for the inputs of this step, and these."""
        probed, given, noise = self.push.probed, self.push.probed.inputs(), step + 1
        generator = torch.Generator().manual_seed(self.push.seed + 3 + noise)
        fresh = self.task.fresh
        inputs = mixed(given, probed.batch, generator) if fresh else jittered(given, JITTER, generator)
        swap = {id(old): new for old, new in zip(given, inputs, strict=True) if new is not old}
        raw = probed.rerun_raw(replaced(probed.call.args, swap), replaced(probed.call.kwargs, swap), noise=noise)
        return raw, inputs

    def gone(self, loss: float) -> float:
        """Share of the error that is gone, negative where there is more of it; of a loss without end, by how much it fell."""
        if self.task.unit is None:
            return self.base - loss
        return (self.base - loss) / max(abs(self.base), 1e-12)

    def begin(self, starts: Iterable[Values]) -> None:
        """Let progress be counted from what a constant pays; where nobody knows, from the best of ``starts``."""
        self.base = math.nan if self.task.unit is None else self.task.unit
        if self.task.unit is None:
            self.base = min((loss for values in starts for loss in self.run(values, 0.0, 0)), default=math.nan)

    @property
    def informative(self) -> float:
        """Progress from which on the task says something."""
        return LEARNED if self.task.unit is not None else FELL * abs(self.base)

    def at_rate(self, values: Values, rate: float, enough: float, steps: int) -> float:
        """Return what progress is made from ``values``; ``-inf`` where the run breaks off at once.

        Args:
            values: where it starts.
            rate: Adam's.
            enough: progress after which no more need be made.
            steps: optimizer steps.
        """
        losses: list[float] = []
        self.spent.runs += 1
        for loss in self.run(values, rate, steps):
            losses.append(loss)
            if len(losses) >= LAST and self.gone(fmean(losses[-LAST:])) >= enough:
                return self.gone(fmean(losses[-LAST:]))
        if len(losses) < steps + 1:  # broke off
            losses = losses[:1]
        return self.gone(fmean(losses[-LAST:])) if losses else -math.inf

    def best(self, who: int, values: Values, rates: Iterable[float], enough: float, steps: int = STEPS) -> float:
        """Return :meth:`at_rate` at the best of ``rates``; ``who`` starts is remembered with what suited it."""
        best = -math.inf
        for rate in rates:
            found = self.at_rate(values, rate, enough, steps)
            self.suits.setdefault(who, {})[rate] = found
            best = max(best, found)
            if best >= enough:
                break
        return best

    def own(self) -> float:
        """Return what progress the model makes as it is."""
        return self.best(-1, {}, RATES, self.enough)

    def of_copy(self, at: int, values: Values) -> float:
        """Return what progress the repaired copy ``at`` makes."""
        return self.best(at, values, COPY_RATES, self.done)

    def arrives(self, at: int, values: Values) -> bool:
        """Whether the model comes nearly as far as the copy ``at`` when both train on, at the rates that suited them."""
        rates = sorted(self.suits[-1], key=lambda rate: -self.suits[-1][rate])[:2]
        copy_rate = max(self.suits[at], key=lambda rate: self.suits[at][rate])
        theirs = self.at_rate(values, copy_rate, self.done, LAST_HEAT)
        return self.best(-1, {}, rates, ARRIVED * theirs, LAST_HEAT) >= ARRIVED * theirs

    @property
    def enough(self) -> float:
        """Progress of the model beyond which no copy could come twice as far."""
        return ENOUGH if self.task.unit is not None else math.inf

    @property
    def done(self) -> float:
        """Progress beyond which a copy need not run on."""
        return 1 - DONE if self.task.unit is not None else math.inf


@dataclass
class _Standing:
    """How far the model came on one task, and every copy that ran."""

    course: Course
    own: float
    copies: dict[int, float] = field(default_factory=dict)

    def copy(self) -> float:
        """Progress of the best copy."""
        return max(self.copies.values(), default=-math.inf)

    @property
    def masters(self) -> bool:
        """Whether the model lost half of the error: no copy could come twice as far."""
        return self.own >= self.course.enough

    @property
    def says(self) -> bool:
        return max(self.own, self.copy()) >= self.course.informative

    @property
    def lost(self) -> bool:
        return self.copy() >= self.course.informative and self.own < CLEAR * self.copy()

    def heat(self, repaired: float | None = None) -> Heat:
        ran = max(self.copies.values(), default=None) if repaired is None else repaired
        return Heat(self.course.task.name, STEPS, self.own, ran, self.course.task.unit is not None)


def race(
    push: Push, whole: Repair, edits: Iterable[Repair], tasks: Sequence[Task], *, accused: bool, limit: float = math.inf
) -> Race:
    """Return whether a repaired copy of a model learns clearly better than the model as it is, on every task.

    Args:
        push: the model, its call and its parameters; they are put back before this returns, whatever happens.
        whole: initializes all of a copy.
        edits: what may repair a copy with less, the smallest first.
        tasks: what is to be learned.
        accused: whether the model fails unless the race takes that back, for which it must master a task or keep up on
            every one; a model that is only in doubt must be beaten on every one.
        limit: passes that may be spent.
    """
    spent = _Spent(limit)
    try:
        return _raced(push, whole, list(edits), tasks, spent, accused=accused)
    except _TooLong:
        told = f"race: given up after {spent.passes - 1} training steps, so the first look decides"
        return Race("open", passes=spent.passes, runs=spent.runs, told=told)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "out of memory" not in str(error).lower():
            raise
        return Race("open", passes=spent.passes, runs=spent.runs, told="race: out of memory, so the first look decides")
    finally:
        push.restore()


def _raced(
    push: Push, whole: Repair, edits: list[Repair], tasks: Sequence[Task], spent: _Spent, *, accused: bool
) -> Race:
    copies = _Copies(push, [whole, *edits[:EDITS]])
    telling: list[_Standing] = []
    for task in tasks:
        one = _standing(Course(push, task, spent), copies)
        if one is None or not one.says:
            continue
        telling.append(one)
        # One task that it masters clears a model of everything; one that it keeps up on clears it of a doubt.
        if not one.lost and (one.masters or not accused):
            return Race("held", (one.heat(),), passes=spent.passes, runs=spent.runs)
    heats = tuple(s.heat() for s in telling)
    if not telling:
        told = (
            "no task that its output admits was learned, neither as it is nor repaired"
            if tasks
            else "its output admits no task"
        )
        return Race("open", passes=spent.passes, runs=spent.runs, told=f"race: {told}, so the first look decides")
    beaten = [s for s in telling if s.lost]
    if not beaten:
        return Race("held", heats, passes=spent.passes, runs=spent.runs)
    won = _smallest(copies, beaten)
    if not accused:
        values = copies.every()[won].values
        late = [s for s in beaten if s.course.arrives(won, values)]
        if late:
            return Race("held", tuple(s.heat(s.copies[won]) for s in late), passes=spent.passes, runs=spent.runs)
    heats, best = tuple(s.heat(s.copies[won]) for s in beaten), copies.every()[won]
    changed = _changed(push, best.values)
    return Race(
        "lost",
        heats,
        best.text,
        _apart(push, changed, best.values),
        changed[0] if len(changed) == 1 else "",
        spent.passes,
        spent.runs,
    )


def _standing(course: Course, copies: _Copies) -> _Standing | None:
    """How the model fares on one task, and where it has not learned enough, the copies, up to the first that does clearly better."""
    course.begin([{}, *(c.values for c in copies.every()[:1])] if course.task.unit is None else [])
    if math.isnan(course.base):
        return None
    one = _Standing(course, course.own())
    if not one.masters:
        for at, each in enumerate(copies.every()):
            one.copies[at] = course.of_copy(at, each.values)
            if one.lost:
                break
    return one


def _smallest(copies: _Copies, standings: Sequence[_Standing]) -> int:
    """Which copy is offered: the smallest edit that comes nearly as far as the best on every task."""
    every = copies.every()
    order: list[int] = [*range(1, len(every)), 0]
    for at in order:
        for s in standings:
            if at not in s.copies:
                s.copies[at] = s.course.of_copy(at, every[at].values)
        if all(s.copies[at] >= NEARLY * s.copy() and s.own < CLEAR * s.copies[at] for s in standings):
            return at
    worst: dict[int, float] = {at: min(s.copies[at] for s in standings) for at in order}
    return max(order, key=worst.__getitem__)


def _changed(push: Push, values: Values) -> list[str]:
    push.restore()
    return [n for n, new in values.items() if not torch.equal(push.parameters[n].detach(), new.to(push.parameters[n]))]


def _apart(push: Push, names: Iterable[str], values: Values) -> tuple[tuple[str, float], ...]:
    found = []
    for name in names:
        own, theirs = rms(push.parameters[name].detach()), rms(values[name])
        if own > 0 and theirs > 0 and max(own / theirs, theirs / own) >= APART:
            found.append((name, own / theirs))
    return tuple(sorted(found, key=lambda entry: -abs(math.log(entry[1]))))


class _Copies:
    """Repaired copies, made when the first one is asked for."""

    def __init__(self, push: Push, repairs: Sequence[Repair]) -> None:
        self._push, self._repairs = push, repairs
        self._made: list[_Copy] | None = None

    def every(self) -> list[_Copy]:
        """The copies, the whole of the model first; those that change nothing, or what another one does, are left out."""
        if self._made is None:
            self._push.restore()
            self._made = []
            for repair in self._repairs:
                if (made := self._repaired(repair)) is not None:
                    self._made.append(made)
        return self._made

    def _repaired(self, repair: Repair) -> _Copy | None:
        parameters = self._push.parameters
        try:
            trial: nn.Module = copy.deepcopy(self._push.probed.model)
            text = repair(trial)
        except InitcheckError:
            return None
        except MemoryError:
            raise
        except Exception:  # a model that cannot be copied, or not initialized anew, cannot be raced
            return None
        new = dict(trial.named_parameters())
        values = {n: new[n].detach() for n, p in parameters.items() if n in new and new[n].shape == p.shape}
        known = [dict(parameters), *(c.values for c in self._made or ())]
        if any(all(torch.equal(v, other[n]) for n, v in values.items() if n in other) for other in known):
            return None
        return _Copy(text, values)
