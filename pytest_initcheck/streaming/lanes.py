"""Several passes through weights that come and go, side by side: each part is drawn once for all of them.

Every pass runs in a thread of its own, and one thread runs at a time: where it needs a part that is not in memory, the others
go on until they need one, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context

from ..probing.randomness import global_generators
from .changes import Alteration
from .parts import Part
from .weights import Weights


class _Lane:
    """One pass: what it runs, where it stands, and what became of it."""

    def __init__(self, index: int, run: Callable[[], object]) -> None:
        self.index, self.run = index, run
        self.go = threading.Event()
        self.needs: Part | None = None
        self.stops = 0
        self.done = False
        self.result: object = None
        self.error: BaseException | None = None
        self.changes: list[Alteration] = []


def together(weights: Weights, questions: Iterable[Callable[[], object]]) -> list[object]:
    """Return what each question returns; what the last one does to the weights stays.

    Raises:
        Exception: the first that one of them raised.
    """
    lanes = [_Lane(i, question) for i, question in enumerate(questions)]
    turns = _Turns(weights, lanes)
    weights.take_turns(turns.needs)
    try:
        turns.run()
    finally:
        weights.take_turns(None)
    for lane in lanes:
        if lane.error is not None:
            raise lane.error
    weights.adopt(lanes[-1].changes)
    return [lane.result for lane in lanes]


class _Turns:
    """Who runs: the pass that is furthest behind, and of several the one that changed least."""

    def __init__(self, weights: Weights, lanes: Sequence[_Lane]) -> None:
        self._weights, self._lanes = weights, lanes
        self._mine = threading.local()
        self._over = threading.Event()

    def run(self) -> None:
        """Run every lane to its end."""
        before = global_generators([])
        threads = []
        for lane in self._lanes:
            context = copy_context()
            threads.append(threading.Thread(target=context.run, args=(self._live, lane, before), daemon=True))
        for thread in threads:
            thread.start()
        self._next()
        for thread in threads:
            thread.join()
        for undo in before:
            undo()

    def needs(self, part: Part) -> None:
        """Wait until it is this lane's turn to have ``part`` drawn."""
        lane: _Lane = self._mine.lane
        lane.needs = part
        lane.stops += 1
        lane.changes = self._weights.changes
        generators = global_generators([])
        lane.go.clear()
        if self._next() is not lane:
            lane.go.wait()
            for undo in generators:
                undo()
        lane.needs = None

    def _next(self) -> _Lane | None:
        waiting = [lane for lane in self._lanes if not lane.done]
        if not waiting:
            return None
        chosen = min(waiting, key=lambda lane: (lane.stops, len(lane.changes), lane.index))
        chosen.go.set()
        return chosen

    def _live(self, lane: _Lane, generators: list[Callable[[], object]]) -> None:
        self._mine.lane = lane
        lane.go.wait()
        for undo in generators:
            undo()
        try:
            with self._weights.lane():
                try:
                    lane.result = lane.run()
                finally:
                    lane.changes = list(self._weights.changes)
        except BaseException as error:
            lane.error = error
        finally:
            lane.done = True
            self._next()
