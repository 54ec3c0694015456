"""One model on one task: trained from any start values, at any rate, and put back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from ..budget import TimeBudget
from ..errors import ProbeError
from ..probing.memory import is_dense
from ..response.adam import Adam
from ..response.exchange import replaced
from ..response.perturb import Push
from ..sharding.layout import gathered, local
from ..sharding.together import same
from .fresh import jittered, mixed, shuffled
from .tasks import Task, lessons

#: Adam's rates, the range in common use; the best counts, and one that does no better than the next bolder one ends the search. Copies,
#: which have ordinary scales, do without the gentlest.
RATES = (3e-3, 1e-3, 3e-4)
COPY_RATES = (3e-3, 1e-3)
#: Jitter of the inputs, relative to their RMS, where a loss fixes what they belong to.
JITTER = 0.1
#: Optimizer steps of a heat; and of the last one, which a model runs that nothing but the race speaks against.
STEPS, LAST_HEAT = 40, 100
#: Inputs of this many bytes at most are kept for the next run on the same course: telling them anew takes an eighth of its time.
KEPT = 1 << 22
#: Losses whose median is what a run has come to: every step has other inputs.
LAST = 5
#: As it is, it has learned enough when this share of the error is gone: nothing comes twice as far.
ENOUGH = 0.5
#: A copy that has lost all but this share of the error need not run on.
DONE = 0.05
#: A task says something once a copy, or the model, has lost this share of the error; of a loss without end, as a share of its
#: size at the start.
LEARNED, FELL = 0.15, 0.05
#: A model that comes this far on the copy's way in the last heat was only late: half, which is the measure of harm; and where the
#: samples are the same in every step, and can be learned by heart in the end, more.
ARRIVED, ARRIVED_BY_HEART = 0.5, 0.6
#: A model moves that comes to pay so much more than untrained, as a share of that or of what a constant pays. (Less is paid where a common
#: offset is learned, which moves no sample against another.)
MOVED = 0.5

#: Start values by name of parameter; what is not there starts as it is.
StartValues = Mapping[str, Tensor]


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that there is no memory left."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


@dataclass
class Spent:
    """What it cost so far, and may at most: so many passes, and what is left of the check's own budget."""

    limit: float
    budget: TimeBudget
    passes: int = 0
    runs: int = 0

    def one(self) -> None:
        self.passes += 1
        if self.passes > self.limit or self.budget.left <= 0:
            raise TooLong


class TooLong(Exception):
    """More passes than may be spent."""


@dataclass
class Course:
    """One model on one task: the same for all that run it.

    Attributes:
        push: the model, its call and its parameters, and what puts them back.
        task: what is to be learned.
        spent: what counts passes.
        steps: optimizer steps of a heat.
        base: the loss from which progress is counted.
        suits: progress at each rate that was tried, by the number of the copy (-1: as it is).
        ended: the rates at which each ran to an end.
        most: the largest loss that the model as it is has come to.
        teacher: start values from which the model says what is to be learned, if it is taught.
    """

    push: Push
    task: Task
    spent: Spent
    steps: int = STEPS
    base: float = math.nan
    suits: dict[int, dict[float, float]] = field(default_factory=dict)
    ended: dict[int, set[float]] = field(default_factory=dict)
    most: float = -math.inf
    teacher: StartValues = field(default_factory=dict)
    _lessons: list[Tensor] = field(default_factory=list)
    _seen_at: dict[int, list[Tensor]] = field(default_factory=dict)

    def run(self, values: StartValues, rate: float, steps: int) -> Iterator[float]:
        """Train from ``values`` and yield the loss before each step, and after the last one; ends where it breaks off.

        The parameters are put back when the iterator is closed or used up.
        """
        push, probed = self.push, self.push.probed
        push.restore()
        try:
            self._start(values)
            every = list(push.parameters.values())
            adam = Adam(every, rate)
            for step in range(steps + 1):
                with torch.inference_mode(False), torch.enable_grad():
                    outputs, loss, trained = self._paid(step)
                    value = same(None if loss is None else float(gathered(loss.detach())))
                    if loss is None or trained is None or value is None or not math.isfinite(value):
                        return
                    yield value
                    if step == steps or not trained.requires_grad:
                        return
                    adam.step(self._and_own(trained, outputs), retain_graph=probed.holds_graph)
        finally:
            push.restore()

    def _paid(self, step: int) -> tuple[Sequence[Tensor], Tensor | None, Tensor | None]:
        """The outputs of one pass, what is paid for them, and what is trained on; ``None`` where these weights do not let it come to that."""
        passed = self._passed(step)
        if passed is None:
            return (), None, None
        raw, inputs = passed
        inputs = [self._lessons[step]] if self.task.taught else inputs
        outputs = self.push.probed.select(raw)
        try:
            loss = self.task.loss(raw, outputs, inputs)
            return outputs, loss, loss if self.task.trained is None else self.task.trained(raw)
        except Exception as error:  # it had a value as it is; a distribution may refuse what these weights make
            if out_of_memory(error):
                raise
            return outputs, None, None

    def _start(self, values: StartValues) -> None:
        """Give the parameters ``values``."""
        with torch.no_grad():
            for name, start in values.items():
                local(self.push.parameters[name].data).copy_(local(start))

    def _and_own(self, loss: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """``loss`` and the losses that the model makes itself, none of them larger at the start than 1."""
        for i in self.task.own_losses:
            size = max(1.0, abs(float(self.push.probed.outputs[i])))
            loss = loss + outputs[i].float().sum().to(loss.device) / size
        return loss

    def _learn(self, steps: int) -> None:
        """Have the teacher say what is to be learned in so many steps."""
        push = self.push
        said: list[Tensor] = []
        push.restore()
        try:
            self._start(self.teacher)
            with torch.no_grad():
                for step in range(steps + 1):
                    passed = self._passed(step)
                    if same(None if passed is None else 0.0) is None or passed is None:
                        said = []
                        break
                    said.append(push.probed.select(passed[0])[push.probed.primary].detach().float().clone())
        finally:
            push.restore()
        self._lessons = lessons(push, said) if said else []

    def _passed(self, step: int) -> tuple[object, Sequence[Tensor]] | None:
        """As :meth:`_pass`, counted; ``None`` where the model, which ran as it is, does not run with these weights."""
        self.spent.one()
        try:
            return self._pass(step)
        except ProbeError as error:
            if error.__cause__ is not None and out_of_memory(error.__cause__):
                raise error.__cause__ from None
            return None

    def _pass(self, step: int) -> tuple[object, Sequence[Tensor]]:
        """What the model returns for the inputs of this step, and these."""
        probed, given, noise = self.push.probed, self.push.probed.inputs(), step + 1
        seen = self._inputs(step, given)
        swap = {id(old): new.detach().clone() for old, new in zip(given, seen, strict=True) if new is not old}
        seen = [x.detach().clone() if x is old and is_dense(x) else x for old, x in zip(given, seen, strict=True)]
        raw = probed.rerun_raw(
            replaced(probed.call.args, swap), replaced(probed.call.kwargs, swap), noise=noise, rewound=True
        )
        return raw, seen  # the model may free what it is given, and gets a copy

    def _inputs(self, step: int, given: Sequence[Tensor]) -> list[Tensor]:
        """What stands in the place of the ``given`` inputs in this step, the same in every run."""
        if step in self._seen_at:
            return self._seen_at[step]
        generator = torch.Generator().manual_seed(self.push.seed + 4 + step)
        came = shuffled(given, self.push.probed.batch, self.push.seed) if self.task.shuffled else given
        inputs = (
            mixed(came, self.push.probed.batch, generator) if self.task.fresh else jittered(came, JITTER, generator)
        )
        # What the output is not computed from is what a loss compares it with: that stays.
        inputs = [
            x.detach() if x is not old and self.push.follows(i) else old
            for i, (old, x) in enumerate(zip(given, inputs, strict=True))
        ]
        if (len(self._seen_at) + 1) * sum(x.numel() * x.element_size() for x in inputs) <= KEPT:
            self._seen_at[step] = inputs
        return inputs

    def moved(self) -> bool:
        """Whether training as it is made the model pay clearly more than it pays untrained for the same inputs."""
        push = self.push
        if self.task.unit is None or self.task.taught or self.most == -math.inf:
            return False
        push.restore()
        losses = []
        try:
            with torch.no_grad():
                for step in range(self.steps + 1 - LAST, self.steps + 1):
                    _, loss, _ = self._paid(step)
                    paid = same(None if loss is None else float(gathered(loss.detach())))
                    if paid is None:
                        return False
                    losses.append(paid)
        except TooLong:
            return False
        finally:
            push.restore()
        return self.most - median(losses) > MOVED * max(abs(median(losses)), abs(self.base))

    def gone(self, loss: float) -> float:
        """Share of the error that is gone, negative where there is more of it; of a loss without end, by how much it fell."""
        if self.task.unit is None:
            return self.base - loss
        return (self.base - loss) / max(abs(self.base), 1e-12)

    def begin(self, starts: Iterable[StartValues]) -> None:
        """Let progress be counted from what a constant pays; where nobody knows, from the best of ``starts``."""
        unit = None if self.task.unit is None else same(self.task.unit)
        self.base = math.nan if unit is None else unit
        if self.task.unit is None:
            self.base = min((loss for values in starts for loss in self.run(values, 0.0, 0)), default=math.nan)
        if self.task.taught:
            self._learn(self.steps)
            self.base = self.base if self._lessons else math.nan

    @property
    def informative(self) -> float:
        """Progress from which on the task says something."""
        return LEARNED if self.task.unit is not None else max(FELL * abs(self.base), 1e-12)

    def at_rate(self, who: int, values: StartValues, rate: float, enough: float, steps: int) -> float:
        """Return what progress is made from ``values``; ``-inf`` where the run breaks off at once.

        Args:
            who: who starts.
            values: where it starts.
            rate: Adam's.
            enough: progress after which no more need be made.
            steps: optimizer steps.
        """
        losses: list[float] = []
        self.spent.runs += 1
        if self.task.taught and len(self._lessons) <= steps:
            self._learn(steps)
        for loss in self.run(values, rate, steps):
            losses.append(loss)
            if len(losses) >= LAST and self.gone(median(losses[-LAST:])) >= enough:
                break
        else:
            if len(losses) < steps + 1:  # broke off
                return self.gone(losses[0]) if losses else -math.inf
            if who < 0 and steps == self.steps:
                self.most = max(self.most, median(losses[-LAST:]))
        self.ended.setdefault(who, set()).add(rate)
        return self.gone(median(losses[-LAST:]))

    def best(
        self,
        who: int,
        values: StartValues,
        rates: Iterable[float],
        enough: float,
        steps: int,
        decided: Callable[[float], bool] | None = None,
    ) -> float:
        """Return :meth:`at_rate` at the best of ``rates``, in this order; ``who`` starts is remembered with what suited it.

        Where one does no better than the one before, the gentler ones are left out, and where progress is ``decided`` all further ones.
        """
        best, before = -math.inf, math.inf
        for rate in rates:
            found = self.at_rate(who, values, rate, enough, steps)
            self.suits.setdefault(who, {})[rate] = found
            worse = found <= before < math.inf
            best = max(best, found)
            if best >= enough or worse or (decided is not None and decided(best)):
                break
            before = found if rate in self.ended.get(who, ()) else math.inf
        return best

    def own(self) -> float:
        """Return what progress the model makes as it is."""
        return self.best(-1, {}, RATES, self.enough, self.steps)

    def of_copy(
        self,
        at: int,
        values: StartValues,
        rates: Iterable[float] = COPY_RATES,
        decided: Callable[[float], bool] | None = None,
    ) -> float:
        """Return what progress the repaired copy ``at`` makes at the best of ``rates``, or at the first that is ``decided``."""
        return self.best(at, values, rates, self.done, self.steps, decided)

    @property
    def suited(self) -> tuple[float, ...]:
        """The rate at which a copy did best so far; all of them where none ran."""
        tried = [(gone, rate) for at, runs in self.suits.items() if at >= 0 for rate, gone in runs.items()]
        return (max(tried)[1],) if tried else COPY_RATES

    def arrives(self, at: int, values: StartValues) -> tuple[float, float] | None:
        """How far the model and the copy ``at`` come when both train on, at the rates that suited them.

        ``None`` where the copy still comes clearly further.
        """
        rates = sorted(self.suits[-1], key=lambda rate: -self.suits[-1][rate])[:2]
        copy_rate = max(self.suits[at], key=lambda rate: self.suits[at][rate])
        theirs = self.at_rate(at, values, copy_rate, self.done, LAST_HEAT)
        there = (ARRIVED if self.task.fresh else ARRIVED_BY_HEART) * theirs
        # What is learned by heart comes and goes: there the end counts, not the best on the way.
        own = self.best(-1, {}, rates, there if self.task.fresh else math.inf, LAST_HEAT)
        return (own, theirs) if own >= there else None

    @property
    def enough(self) -> float:
        """Progress of the model beyond which no copy could come twice as far."""
        return ENOUGH if self.task.unit is not None else math.inf

    @property
    def done(self) -> float:
        """Progress beyond which a copy need not run on."""
        return 1 - DONE if self.task.unit is not None else math.inf
