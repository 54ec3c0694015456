"""torch's global switches, and signals that must wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch

#: What stops a run from outside: Ctrl-C, a timeout (pytest-timeout's alarm), an order to end.
_STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name))


def switches_kept() -> Callable[[], None]:
    """Return what writes torch's global switches back, each only if it changed (some setters have effects of their own)."""
    cudnn: Any = torch.backends.cudnn
    table: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
        (torch.get_default_dtype, torch.set_default_dtype),
        (
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            lambda was: torch.use_deterministic_algorithms(was[0], warn_only=was[1]),
        ),
        (
            lambda: torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
            lambda was: setattr(torch.utils.deterministic, "fill_uninitialized_memory", was),
        ),
        (
            lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            lambda was: torch.autograd.set_detect_anomaly(was[0], check_nan=was[1]),
        ),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.get_num_threads, torch.set_num_threads),
        (lambda: cudnn.benchmark, lambda was: setattr(cudnn, "benchmark", was)),
        (lambda: cudnn.deterministic, lambda was: setattr(cudnn, "deterministic", was)),
        (lambda: cudnn.enabled, lambda was: setattr(cudnn, "enabled", was)),
        (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
        *(_autocast(kind) for kind in ("cpu", "cuda")),
    ]
    device = torch.get_default_device()
    saved = [(get, put, get()) for get, put in table]

    def undo() -> None:
        for get, put, was in saved:
            if get() != was:
                put(was)
        if torch.get_default_device() != device:
            torch.set_default_device(device)

    return undo


def _autocast(kind: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    def put(was: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(kind, was[0])
        torch.set_autocast_dtype(kind, was[1])

    return lambda: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)), put


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals that would stop the run wait until the end of the context: what is put back is put back whole."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread runs handlers
        return
    waiting: list[tuple[int, FrameType | None]] = []
    handlers = {one: found for one in _STOPPING if callable(found := signal.getsignal(one))}

    def note(number: int, frame: FrameType | None) -> None:
        waiting.append((number, frame))

    for one in handlers:
        signal.signal(one, note)
    try:
        yield
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
        for number, frame in waiting:
            handlers[signal.Signals(number)](number, frame)
