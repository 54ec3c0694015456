"""Attributes of an object that belongs to the user, put back after somebody else's code has run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Containers that are refilled; what is in them is theirs.
_CONTAINERS = (list, dict, set)


@contextmanager
def attributes_kept(thing: Any) -> Iterator[None]:
    """Bind every attribute of ``thing`` to the same object again, and refill its lists, dicts and sets."""
    attributes = getattr(thing, "__dict__", None)
    if not isinstance(attributes, dict):
        yield
        return
    were = dict(attributes)
    filled = [(held, held.copy()) for held in were.values() if type(held) in _CONTAINERS]
    try:
        yield
    finally:
        attributes.clear()
        attributes.update(were)
        for held, was in filled:
            held.clear()
            held.extend(was) if isinstance(held, list) else held.update(was)
