"""Residual branches in the autograd graph: where a stream forks and is joined again, and which weights end a branch."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..probing.graph import Graph, nonlinearity, operation

#: Products of two signals: what goes in is no longer the same signal behind them.
_PRODUCTS = frozenset(("Bmm", "Mm", "Baddbmm"))
#: Functions whose output, times a signal, lets that signal through or not.
_GATES = frozenset(("sigmoid", "softmax"))


class Branches:
    """Residual joins, and what stands before and behind the weights of one graph.

    Args:
        graph: the graph of the model's outputs.
        parameters: by name.
        roles: role of each, as in :class:`~pytest_initcheck.ParameterRecord`.
    """

    def __init__(self, graph: Graph, parameters: Mapping[str, Tensor], roles: Mapping[str, str]) -> None:
        self.graph = graph
        self.weighted = {u.node for n, p in parameters.items() if roles[n] == "weight" for u in graph.uses(p)}
        tables = {u.node for n, p in parameters.items() if roles[n] == "embedding" for u in graph.uses(p)}
        self.order = self._ordered()
        self.computed = self._downstream(self.weighted | tables)
        #: nodes that some weight, directly or not, reads
        self.read = self._upstream(self.weighted)
        self.branch_sides: dict[Any, int] = {}
        #: weighted node -> weights in a row on the residual branch that it stands on, the innermost one
        self.inside: dict[Any, int] = {}
        #: joins whose branch ends in a weight that was asked for
        self.closed: set[Any] = set()
        for node in graph.nodes:
            if operation(node) in ("Add", "Sub"):
                self._join(node)
        behind = [[c for c, _ in graph.consumers[n]] for n in self.branch_sides]
        #: whether it is the rule that a norm reads the stream behind every join, and nothing else does
        self.post_norm = 2 * sum(bool(b) and all(nonlinearity(c) == "norm" for c in b) for b in behind) > len(behind)

    def _parents(self, node: Any) -> list[Any]:
        return [p for p, _ in node.next_functions if p is not None]

    def _ordered(self) -> dict[Any, int]:
        """Node -> rank; a node comes behind everything that uses it, and else the one that was made last comes first.

        So the two sides of a sum are followed back at one pace: what an unrolled recurrence reads at a step ends there, and
        is not waited for until its states are followed to the first.
        """
        waiting = {n: len(self.graph.consumers[n]) for n in self.graph.nodes}
        turn = itertools.count()
        ready = [(-_made(n), next(turn), n) for n in self.graph.nodes if waiting[n] == 0]
        heapq.heapify(ready)
        order: dict[Any, int] = {}
        while ready:
            _, _, node = heapq.heappop(ready)
            order[node] = len(order)
            for parent in self._parents(node):
                waiting[parent] -= 1
                if waiting[parent] == 0:
                    heapq.heappush(ready, (-_made(parent), next(turn), parent))
        return order

    def _downstream(self, start: set[Any]) -> set[Any]:
        found, todo = set(start), list(start)
        while todo:
            for consumer, _ in self.graph.consumers[todo.pop()]:
                if consumer not in found:
                    found.add(consumer)
                    todo.append(consumer)
        return found

    def _upstream(self, start: set[Any]) -> set[Any]:
        found: set[Any] = set()
        todo = list(start)
        while todo:
            for parent in self._parents(todo.pop()):
                if parent not in found:
                    found.add(parent)
                    todo.append(parent)
        return found

    def reads_weights(self, node: Any) -> bool:
        return any(p in self.computed for p in self._parents(node))

    def _join(self, node: Any) -> None:
        """Note which operand of a sum is a residual branch: the one with more weights between here and the fork."""
        sides = [(i, p) for i, (p, _) in enumerate(node.next_functions) if p is not None and not hasattr(p, "variable")]
        if len(sides) != 2 or sides[0][1] is sides[1][1]:
            return
        # Backwards from both sides, latest node first; the first that both come to is where they forked.
        weights: dict[Any, list[int | None]] = {}
        heap: list[tuple[int, int, Any]] = []
        waiting = [0, 0]  # nodes still to be looked at from either side: once one has none left, they never meet

        def reach(parent: Any, side: int, count: int) -> None:
            entry = weights.setdefault(parent, [None, None])
            if entry == [None, None]:
                heapq.heappush(heap, (self.order[parent], len(weights), parent))
            known = entry[side]
            waiting[side] += known is None
            entry[side] = count if known is None else min(known, count)

        for side, (_, parent) in enumerate(sides):
            reach(parent, side, 0)
        while heap and all(waiting):
            _, _, current = heapq.heappop(heap)
            first, second = weights[current]
            waiting[0] -= first is not None
            waiting[1] -= second is not None
            if first is not None and second is not None:
                if first != second:
                    position, end = sides[0] if first > second else sides[1]
                    self.branch_sides[node] = position
                    self._inside(end, current)
                return
            for parent in self._parents(current):
                if hasattr(parent, "variable"):
                    continue
                for side, count in enumerate((first, second)):
                    if count is not None:
                        reach(parent, side, count + (current in self.weighted))

    def _inside(self, end: Any, fork: Any) -> None:
        """Note for every weight between ``fork`` and ``end`` how many there are in a row."""
        branch, todo = {end}, [end]
        while todo:
            for parent in self._parents(todo.pop()):
                if parent is not fork and parent not in branch and parent in self.computed:
                    branch.add(parent)
                    todo.append(parent)
        depth: dict[Any, int] = {}
        for node in sorted(branch, key=self.order.__getitem__, reverse=True):
            depth[node] = (node in self.weighted) + max((depth.get(p, 0) for p in self._parents(node)), default=0)
        for node in branch & self.weighted:
            self.inside[node] = min(self.inside.get(node, depth[end]), depth[end])

    def closing(self, nodes: list[Any]) -> tuple[bool, bool]:
        """Whether the branch side of a join comes before another weight, and whether a norm does, or follows at once."""
        for start in nodes:
            todo = [(start, nonlinearity(start) == "norm")]
            seen: set[Any] = set()
            while todo and len(seen) < 64:
                node, normed = todo.pop()
                for consumer, position in self.graph.consumers[node]:
                    if consumer in seen:
                        continue
                    seen.add(consumer)
                    if self.branch_sides.get(consumer) == position:
                        if start in self.weighted:
                            self.closed.add(consumer)
                        return True, normed or self.post_norm
                    kind = nonlinearity(consumer)
                    if consumer in self.weighted or operation(consumer) in _PRODUCTS or kind in _GATES:
                        continue
                    if operation(consumer) in ("Add", "Sub") and consumer in self.branch_sides:
                        continue  # the stream itself
                    todo.append((consumer, normed or kind == "norm"))
        return False, False

    def gates(self, nodes: list[Any]) -> bool:
        """Whether a sigmoid behind makes factors for other signals."""
        for start in nodes:
            node = start
            for _ in range(16):
                ways = self.graph.consumers[node]
                if not ways:
                    break
                node = ways[0][0]
                if nonlinearity(node) == "sigmoid":
                    return any(operation(c) == "Mul" for c in self._next(node))
        return False

    def _next(self, node: Any) -> list[Any]:
        """Consumers, through views."""
        found = [c for c, _ in self.graph.consumers[node]]
        for _ in range(4):
            if any(operation(c) == "Mul" for c in found):
                break
            found = [c for n in found for c, _ in self.graph.consumers[n]]
        return found


def _made(node: Any) -> int:
    """A number that grows with the time at which a node was made."""
    number = getattr(node, "_sequence_nr", None)
    return number() if number is not None else 0
