"""Reading the autograd graph: what the output depends on, which operation uses which weight, what follows it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def nodes(outputs: Iterable[Tensor]) -> list[Any]:
    """Return every node that ``outputs`` depend on, each once."""
    todo = [t.grad_fn for t in outputs if t.grad_fn is not None]
    seen = set(todo)
    found = list(seen)
    while todo:
        for parent, _ in todo.pop().next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                found.append(parent)
                todo.append(parent)
    return found


def leaves(found: Iterable[Any]) -> set[int]:
    """Return the ids of the leaf tensors that ``found`` accumulates gradients into."""
    return {id(node.variable) for node in found if hasattr(node, "variable")}
