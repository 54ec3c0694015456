"""The race: would another initialization of the same model learn better?

The model as it is and repaired copies of it are trained on the same tasks, from the same inputs, with the same randomness, each
at the best of a few rates. Every step has inputs of its own and noise of its own (dropout, samplers), the same for all: what was
learned by heart, or from one draw, does not count, and a network for which near inputs have nothing in common cannot keep up.

Most models acquit themselves: half of the error is gone within a dozen steps, and no copy could come twice as far. Only for the
others copies are run. Harm is half: a model loses where the best copy comes more than twice as far, on every task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..race_records import Heat, Race
from ..response.perturb import Push, rms
from ..sharding.together import Parted
from ..sharding.world import current
from .copies import Copies, Repair, unchanged
from .course import LAST_HEAT, LEARNED, RATES, STEPS, Course, Spent, StartValues, TooLong, out_of_memory
from .tasks import Asked, Task, taught

#: A copy does clearly better when the model comes less than this share of its way, which is what harm means.
CLEAR = 0.5
#: An accused model that comes less than this share of the copy's way on one task is not asked about others.
FAR_BEHIND = 0.25
#: A model that leaves this much of the error of the best constant, where a copy leaves no more than that constant does, is beaten as well.
FAR_OFF, NO_WORSE = 2.0, 1.1
#: The same on samples that nothing was learned from: what is right about most of a thousand samples, and confident, leaves up to 6 times that error.
RUINED = 10.0
#: Of the copies that do clearly better, the smallest edit that comes this far on the way of the best is the fix.
NEARLY = 0.85
#: Small edits that are tried besides the whole of the model.
EDITS = 2
#: Parameters whose RMS differs by this factor are named.
APART = 1.5


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
        return max(self.own, self.copy()) >= self.course.informative or self._far_off

    @property
    def lost(self) -> bool:
        return (self.copy() >= self.course.informative and self.own < CLEAR * self.copy()) or self._far_off

    def out_of_reach(self, gone: float) -> bool:
        """Whether a copy that comes so far is so far ahead that it decides, however much further another rate brings it."""
        return gone >= self.course.informative and self.own < FAR_BEHIND * gone

    @property
    def _far_off(self) -> bool:
        return self.course.task.unit is not None and 1 - self.own >= FAR_OFF and 1 - self.copy() <= NO_WORSE

    def heat(self, repaired: float | None = None) -> Heat:
        ran = max(self.copies.values(), default=None) if repaired is None else repaired
        return Heat(self.course.task.name, self.course.steps, self.own, ran, self.course.task.unit is not None)


def race(
    push: Push,
    whole: Repair,
    edits: Iterable[Repair],
    asked: Asked,
    *,
    accused: bool,
    stands: bool = False,
    steps: int = STEPS,
    limit: float = math.inf,
    teacher: Repair | None = None,
) -> Race:
    """Return whether a repaired copy of a model learns clearly better than the model as it is, on every task.

    Args:
        push: the model, its call and its parameters; they are put back before this returns, whatever happens.
        whole: initializes all of a copy.
        edits: what may repair a copy with less, the smallest first.
        asked: what is to be learned.
        accused: whether the model fails unless the race takes that back, for which it must master a task or keep up on
            every one; a model that is only in doubt must be beaten on every one.
        stands: whether it does so even where no copy learns: then only its own progress can still clear it in the further steps.
        steps: optimizer steps of a heat.
        limit: passes that may be spent.
        teacher: initializes all of a copy to other values than ``whole``: what it says is to be learned where nothing else decided.
    """
    budget = push.probed.budget
    spent = Spent(limit, budget)
    copies = Copies(push, [whole, *list(edits)[:EDITS]])
    found: Race | None = None

    def over(which: Iterable[Task], *, steps: int = steps, accused: bool = accused, stands: bool = False) -> Race:
        courses = [Course(push, task, spent, steps) for task in which]
        return _raced(push, courses, copies, spent, accused=accused, stands=stands)

    try:
        found = over(asked.first)
        if asked.instead and found.outcome == "open":
            asked = replace(asked, first=asked.instead)
            found = over(asked.first)
        if asked.convicting and (found.unbeaten or (accused and not asked.first)):
            again = over(asked.convicting)
            if again.outcome == "held":  # a bias does it, whatever is dead behind it
                name = asked.convicting[0].name
                told = (
                    f"race: repaired copies learn {name} no better, and no task that its output admits could clear it"
                )
                again = Race("open", told=told, unbeaten=True)
            found = again if again.outcome == "lost" or not found.unbeaten else found
        if asked.first and found.unbeaten and accused and steps >= STEPS:
            again = over(asked.first, steps=LAST_HEAT, stands=stands)
            found = found if stands and again.outcome == "open" else again
        if accused and found.outcome == "held":
            found = _taken_back(found, push, asked, spent, over, stands=stands)
        # What follows no input can say the same as another one that follows none.
        if asked.first and found.unbeaten and not stands and teacher is not None and (values := copies.other(teacher)):
            lesson = replace(taught(push), own_losses=asked.first[0].own_losses)
            again = _raced(push, [Course(push, lesson, spent, steps, teacher=values)], copies, spent, accused=accused)
            found = found if again.outcome == "open" else again
        return replace(found, passes=spent.passes, runs=spent.runs)
    except TooLong:
        short = spent.passes <= limit
        why = f"the time budget ({budget}) is spent" if short else "given up"
        cut_off = f"{why} after {spent.passes - 1} training steps"
        if found is not None:  # what was found before the further steps
            told = f"{found.told}; {cut_off}"
            return replace(found, passes=spent.passes, runs=spent.runs, told=told, cut=short and not accused)
        told = f"race: {cut_off}, so the first look decides"
        return Race("open", passes=spent.passes, runs=spent.runs, told=told, cut=short and not accused)
    except Parted:
        told = "race: a training step broke off on some ranks alone, so the first look decides"
        return Race("open", passes=spent.passes, runs=spent.runs, told=told)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or current() is not None:  # a rank that goes its own way leaves the others waiting
            raise
        return Race("open", passes=spent.passes, runs=spent.runs, told="race: out of memory, so the first look decides")
    finally:
        push.restore()


def _by_heart(push: Push, task: Task, held: Heat, spent: Spent) -> bool:
    """Whether the model learns the task that it held also where every sample gets the targets of another: then by heart."""
    if task.fresh or task.unit is None:
        return False
    course = Course(push, replace(task, shuffled=True), spent, held.steps)
    course.begin([])
    return course.own() >= CLEAR * held.gone


def _taken_back(
    found: Race, push: Push, asked: Asked, spent: Spent, over: Callable[..., Race], *, stands: bool
) -> Race:
    """``found``, or what takes it back: a model that learned the user's loss by heart fails on what it did not learn from."""
    if asked.kept_back is not None and _ruins(push, asked.kept_back, spent):
        again = over([asked.kept_back], accused=False)
        # From a few samples a sound model may learn nothing of the others: the copy must have.
        if again.outcome == "lost" and all(
            h.gone <= 1 - RUINED and (h.repaired or 0.0) >= LEARNED for h in again.heats
        ):
            return replace(again, by_heart=found.heats[0].gone)
    if asked.afresh and _by_heart(push, asked.first[0], found.heats[0], spent):
        again = over(asked.afresh, accused=False)
        if again.outcome == "lost" and (stands or all(h.gone <= 1 - FAR_OFF for h in again.heats)):
            return replace(again, by_heart=found.heats[0].gone)
    return found


def _ruins(push: Push, task: Task, spent: Spent) -> bool:
    """Whether the model leaves many times a constant's error at every rate; it is looked at no longer than it takes to see that it does not."""
    course = Course(push, task, spent)
    course.begin([])
    return course.best(-1, {}, RATES, 1 - RUINED, STEPS) <= 1 - RUINED


def _raced(
    push: Push, courses: Sequence[Course], copies: Copies, spent: Spent, *, accused: bool, stands: bool = False
) -> Race:
    telling: list[_Standing] = []
    unbeaten = False
    for course in courses:
        try:
            one = _standing(course, copies, accused=accused, stands=stands)
        except TooLong:
            if not accused or not (telling or unbeaten):
                raise
            break  # the tasks that it could be asked decide
        if one is None or not one.says:
            unbeaten = unbeaten or (one is not None and bool(course.ended.keys() & one.copies.keys()))
            continue
        telling.append(one)
        # One task that it masters clears a model of everything; one that it keeps up on clears it of a doubt.
        if not one.lost and (one.masters or not accused):
            return Race("held", (one.heat(),), passes=spent.passes, runs=spent.runs)
        if accused and one.lost and one.own < FAR_BEHIND * one.copy():
            break  # what forgives most comes first: who is far behind there masters nothing else
    heats = tuple(s.heat() for s in telling)
    if not telling:
        told = (
            "no task that its output admits was learned, neither as it is nor repaired"
            if courses
            else "its output admits no task"
        )
        told = f"race: {told}" if unbeaten else f"race: {told}, so the first look decides"
        moved = unbeaten and accused and any(course.moved() for course in courses)
        return Race("open", passes=spent.passes, runs=spent.runs, told=told, unbeaten=unbeaten, moved=moved)
    beaten = [s for s in telling if s.lost]
    if not beaten:
        return Race("held", heats, passes=spent.passes, runs=spent.runs)
    won = _smallest(copies, beaten)
    if not accused and (late := _late(beaten, won, copies)):
        return Race("held", tuple(late), passes=spent.passes, runs=spent.runs)
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


def _late(beaten: Sequence[_Standing], won: int, copies: Copies) -> list[Heat]:
    """The last heats of those in which the model was only late."""
    found = []
    for s in beaten:
        arrived = s.course.arrives(won, copies.every()[won].values)
        if arrived is not None:
            found.append(Heat(s.course.task.name, LAST_HEAT, *arrived, s.course.task.unit is not None))
    return found


def _standing(course: Course, copies: Copies, *, accused: bool, stands: bool) -> _Standing | None:
    """How the model fares on one task, and where it has not learned enough, the copies, up to the first that does clearly better.

    None runs where the model ``stands`` accused whatever they do, and has learned less than half of what says something.
    """
    course.begin([{}, *(c.values for c in copies.every())] if course.task.unit is None else [])
    if math.isnan(course.base):
        return None
    one = _Standing(course, course.own())
    if not one.masters and not (stands and one.own < CLEAR * course.informative):
        for at, each in enumerate(copies.every()):
            try:
                decided = one.out_of_reach if accused else None
                one.copies[at] = course.of_copy(at, each.values, decided=decided)
            except TooLong:
                if not accused or not course.ended.keys() & {at, *one.copies}:
                    raise
                if at in course.ended:  # at one of its rates
                    one.copies[at] = max(course.suits[at].values())
                break  # those that ran decide
            if one.lost:
                break
    return one


def _smallest(copies: Copies, standings: Sequence[_Standing]) -> int:
    """Which copy is offered: the smallest edit that comes nearly as far as the best on every task."""
    every = copies.every()
    order: list[int] = [*range(1, len(every)), 0]
    for at in order:
        for s in standings:
            if at not in s.copies:
                try:
                    s.copies[at] = s.course.of_copy(at, every[at].values, s.course.suited)
                except TooLong:
                    break
            if s.copies[at] < NEARLY * s.copy() or not s.own < CLEAR * s.copies[at]:
                break
        else:
            return at
    known = [at for at in order if all(at in s.copies for s in standings)]
    worst: dict[int, float] = {at: min(s.copies[at] for s in standings) for at in known}
    return max(known, key=worst.__getitem__)


def _changed(push: Push, values: StartValues) -> list[str]:
    push.restore()
    stays = unchanged([(push.parameters[n].detach(), new) for n, new in values.items()])
    return [n for n, as_it_is in zip(values, stays, strict=True) if not as_it_is]


def _apart(push: Push, names: Iterable[str], values: StartValues) -> dict[str, float]:
    found = []
    for name in names:
        own, theirs = rms(push.parameters[name].detach()), rms(values[name])
        if own > 0 and theirs > 0 and max(own / theirs, theirs / own) >= APART:
            found.append((name, own / theirs))
    return dict(sorted(found, key=lambda entry: -abs(math.log(entry[1]))))
