"""What a race showed: plain frozen records, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .words import number

#: ``"lost"``: a repaired copy does clearly better; ``"held"``: none does, and the model learned; ``"open"``: neither can be said.
Ending = Literal["lost", "held", "open"]

#: What the task is called that the user's loss sets.
YOURS = "your loss"
#: Share of the error after which a model has learned a task.
LEARNED = 0.5


@dataclass(frozen=True, slots=True)
class Heat:
    """One task, and how far training brought the model on it, as it is and repaired.

    Attributes:
        task: what was to be learned, in words.
        steps: optimizer steps at each rate, at most.
        gone: share of the error that is gone as it is, at the best rate; negative where training makes it worse.
        repaired: the same of the copy that is compared with it; ``None`` where no copy had to run.
        bounded: whether the error has an end, so that shares of it can be told; without one, ``gone`` and ``repaired`` are by
            how much the loss fell.
    """

    task: str
    steps: int
    gone: float
    repaired: float | None = None
    bounded: bool = True


@dataclass(frozen=True, slots=True)
class Race:
    """The model as it is against repaired copies of it, trained alike.

    Attributes:
        outcome: who won.
        heats: one for each task.
        fix: the lines that made the winner, where the model lost.
        apart: parameters whose RMS the winner changed -> the factor by which the model's is larger, the furthest apart first.
        alone: the only parameter that the winner changed; ``""`` where it changed several.
        passes: training steps that were run, of all that ran.
        runs: pairs of a start and a rate that were run.
        told: why it is open, in words.
        cut: whether the time budget was spent before a doubt was settled.
        unbeaten: of an open one, whether a repaired copy ran all its steps, and none learned clearly more than the model did.
        moved: of an open one, whether training made the model as it is pay more by half: it does move then, whatever a few small steps
            showed.
        by_heart: share of the error on the user's loss that the model as it is lost, which speaks for it no longer: the samples are
            always the same there, and on inputs that are mixed from them it lost. ``None`` where nothing was taken back so.
    """

    outcome: Ending
    heats: tuple[Heat, ...] = ()
    fix: str = ""
    apart: Mapping[str, float] = field(default_factory=dict)
    alone: str = ""
    passes: int = 0
    runs: int = 0
    told: str = ""
    cut: bool = False
    unbeaten: bool = False
    moved: bool = False
    by_heart: float | None = None

    @property
    def learned(self) -> bool:
        """Whether the model as it is lost half of the error on every task: what was held against it did not matter."""
        return bool(self.heats) and all(h.bounded and h.gone >= LEARNED for h in self.heats)

    @property
    def closest(self) -> Heat | None:
        """The heat that separates the model and its copy least."""
        heats = [h for h in self.heats if h.repaired is not None] or list(self.heats)
        return min(heats, key=lambda h: (h.repaired or 0.0) - h.gone) if heats else None

    @property
    def words(self) -> str:
        """What the closest heat showed, for a message: ``"40 training steps on your loss take away 4 % of the error, and 91 % ..."``."""
        heat = self.closest
        if heat is None:
            return ""
        other = "with the fix below" if self.fix else "with other start values"
        first = (
            ""
            if self.by_heart is None
            else f"these samples are learned by heart ({_share(self.by_heart)} of the error on {YOURS}), but "
        )
        return first + self._compared(heat, other)

    @staticmethod
    def _compared(heat: Heat, other: str) -> str:
        if heat.bounded and heat.gone <= -1 and heat.repaired is not None:
            left = f"{number(1 - heat.gone)} times the error of the best constant, and {number(1 - heat.repaired)} times it {other}"
            return f"{heat.steps} training steps on {heat.task} leave {left}"
        took = _share if heat.bounded else _fall
        verb, of = ("take away", " of the error") if heat.bounded else ("lower it by", "")
        then = "" if heat.repaired is None else f", and {took(heat.repaired)} {other}"
        return f"{heat.steps} training steps on {heat.task} {verb} {took(heat.gone)}{of}{then}"


def _share(gone: float) -> str:
    return f"{100 * gone:.0f} %" if gone > 0 else "nothing"


def _fall(loss: float) -> str:
    return number(loss) if loss > 0 else "nothing"
