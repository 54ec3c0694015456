"""How a model is called, and the tensors in nested arguments."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Call:
    """How the model is called.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        described: one entry for each tensor: ``"float32[2, 3, 32, 32]"``, ``"input_ids int64[4, 64]"``.
        batch: number of samples; ``None`` where no input has a dimension.
        source: where the inputs come from: ``"given"``, ``"shape"``, ``"example_input_array"``, ``"dummy_inputs"``,
            ``"input_size"``, ``"first layer NAME"``.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    described: tuple[str, ...]
    batch: int | None
    source: str

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor among the arguments."""
        return tuple(t for _, t in walk((self.args, self.kwargs)))


def walk(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield ``(keyword, tensor)`` for every tensor in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from walk(item, str(key))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from walk(item, name)


def with_items(container: Any, change: Callable[[Any], Any]) -> Any:
    """Return a dict, list or tuple of any kind with ``change`` of each of its items in their place, of the same kind."""
    if isinstance(container, Mapping):
        changed = {k: change(v) for k, v in container.items()}
        if type(container) is dict:
            return changed
        try:
            other: Any = copy.copy(container)
            for key, item in changed.items():
                other[key] = item
        except Exception:  # one that cannot be written to
            return changed
        return other
    kind: Any = type(container)
    items = [change(v) for v in container]
    if kind is not list and all(new is old for new, old in zip(items, container, strict=True)):
        return container  # what holds no tensors may be of a kind that is not built from its items
    return kind._make(items) if hasattr(kind, "_make") else kind(items)
