"""What watching may cost: a share of the CPU time that the suite itself takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import process_time

#: CPU seconds that watching may take in any suite: a share of a suite of three tests is not worth a name.
LEAST = 2.0
#: Of these, what one look may spend on questions that the first pass leaves open, at least and at most.
LEAST_LOOK, MOST_LOOK = 5.0, 20.0


class Budget:
    """CPU time that looks at models may take, as a share of what the process spends on anything else.

    CPU time, so that a busy machine does not use it up; and without the first look, which imports and warms up what every
    further one needs.

    Args:
        share: of the suite's own CPU time: 0.15 is 15 %.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._spent = self._taken = 0.0
        self._warm = False

    def allows(self, part: float = 1.0) -> bool:
        """Return whether less than ``part`` of what is allowed by now is spent; a budget of 0 allows nothing."""
        if self._share == 0:
            return False
        return self._spent < part * max(LEAST, self._share * (process_time() - self._taken))

    @property
    def seconds(self) -> float:
        """CPU seconds that one look may take for what it is not bound to ask: what is left, within bounds."""
        left = max(LEAST, self._share * (process_time() - self._taken)) - self._spent
        return min(max(left, LEAST_LOOK), MOST_LOOK)

    @contextmanager
    def spending(self, *, warms: bool = False) -> Iterator[None]:
        """Count what the context takes; the first of those that ``warms`` is free."""
        started = process_time()
        try:
            yield
        finally:
            took = process_time() - started
            self._taken += took
            if self._warm or not warms:
                self._spent += took
            self._warm = self._warm or warms
