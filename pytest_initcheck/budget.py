"""What a check may spend where the first look is not clear: passes are counted, and a clock only ever allows more."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

#: A bare step is one forward and one backward pass; a backward pass takes about as long as two forward passes.
FORWARD, BACKWARD = 1 / 3, 2 / 3


class TimeBudget:
    """So many bare steps, or whatever a machine manages within so many seconds, whichever is more.

    The steps are the same on every machine. The seconds let small models ask everything: they allow more than the steps,
    and never less. Of the processor's time and the wall clock's, the smaller counts, so that a busy machine takes nothing
    away.

    Args:
        steps: bare steps that may be spent in any case.
        seconds: after so many, no more than ``steps`` may be.
    """

    def __init__(self, steps: float = math.inf, seconds: float = 0.0) -> None:
        self.steps, self.seconds = steps, seconds
        self.spent = 0.0
        self._started = time.perf_counter(), time.process_time()

    @classmethod
    def of(cls, limits: str) -> TimeBudget:
        """Return the budget that the setting ``time_budget`` asks for: ``"60x,20s"``, ``"60x"``, ``"20s"`` or ``"none"``."""
        given = {part[-1]: float(part[:-1]) for part in limits.split(",") if part != "none"}
        return cls(given.get("x", 0.0), given.get("s", 0.0)) if given else cls()

    def spend(self, *, forward: int = 0, backward: int = 0) -> None:
        """Count passes that were made, whoever made them."""
        self.spent += FORWARD * forward + BACKWARD * backward

    @property
    def left(self) -> float:
        """Bare steps that may still be spent: those that are counted, or as many as the seconds left are enough for."""
        counted = max(0.0, self.steps - self.spent)
        elapsed = self._elapsed
        if elapsed >= self.seconds:
            return counted
        pace = self.spent / elapsed if elapsed > 0 else math.inf
        return max(counted, (self.seconds - elapsed) * pace) if self.spent else math.inf

    def halfway(self) -> Callable[[], bool]:
        """Return what tells whether half of what is left now is spent: half of the steps, and half of the seconds.

        Not half of :attr:`left`: the pace of a few passes promises thousands, and the next import would take them back.
        """
        steps = self.spent + max(0.0, self.steps - self.spent) / 2
        seconds = self._elapsed + max(0.0, self.seconds - self._elapsed) / 2
        return lambda: self.spent >= steps and self._elapsed >= seconds

    @property
    def _elapsed(self) -> float:
        wall, processor = self._started
        return min(time.perf_counter() - wall, time.process_time() - processor)

    def __str__(self) -> str:
        """The limits in words."""
        steps = f"{self.steps:g} bare steps" if self.steps or not self.seconds else ""
        seconds = f"{self.seconds:g} s" if self.seconds else ""
        return ", ".join(part for part in (steps, seconds) if part)
