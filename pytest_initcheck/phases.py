"""What a check is doing, for whoever wants to show it: ``doing("forward")`` is heard by :func:`told_to`'s callback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

#: What is done at present, for messages.
_NOW: ContextVar[str] = ContextVar("initcheck_phase", default="starting")
_HEARS: ContextVar[Callable[[str], None] | None] = ContextVar("initcheck_phases", default=None)


def doing(phase: str) -> None:
    """Say what is done from here on."""
    _NOW.set(phase)
    hears = _HEARS.get()
    if hears is not None:
        hears(phase)


def done_last() -> str:
    """Return the phase that was entered last."""
    return _NOW.get()


@contextlib.contextmanager
def told_to(hears: Callable[[str], None] | None) -> Iterator[None]:
    """Have ``hears`` called with every phase that is entered inside; ``None``: nobody."""
    token = _HEARS.set(hears)
    try:
        yield
    finally:
        _HEARS.reset(token)
