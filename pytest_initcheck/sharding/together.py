"""What ranks must do alike although clocks and memory are each one's own: stop in time, and break off together."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

from ..budget import TimeBudget
from .world import current


class Parted(Exception):
    """Some ranks broke off where others did not."""


class SharedBudget(TimeBudget):
    """A budget of several ranks, asked by all of them at the same points: who has least left speaks for all."""

    @property
    def left(self) -> float:
        """As :attr:`TimeBudget.left`."""
        mine, world = super().left, current()
        return mine if world is None else min(left for (left,) in world.rows([mine]))

    def halfway(self) -> Callable[[], bool]:
        """As :meth:`TimeBudget.halfway`."""
        mine = super().halfway()

        def theirs() -> bool:
            world = current()
            return mine() if world is None else not world.every([not mine()])[0]

        return theirs


def on_all(flag: bool) -> bool:
    """Return whether ``flag`` is set on every rank."""
    world = current()
    return flag if world is None else world.every([flag])[0]


def same(value: float | None) -> float | None:
    """Return what a step came to, the same on every rank; ``None`` where it broke off.

    Args:
        value: what it came to on this rank.

    Raises:
        Parted: it broke off on some ranks alone.
    """
    if (world := current()) is None:
        return value
    told = world.rows([math.nan if value is None else value, float(value is not None)])
    went = [bool(flag) for _, flag in told]
    if any(went) and not all(went):
        raise Parted
    first = told[0][0]
    return None if not went[0] else first if all(v == first for v, _ in told) else fmean(v for v, _ in told)
