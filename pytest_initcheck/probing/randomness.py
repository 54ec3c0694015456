"""Generators of random numbers: torch's on every device, numpy's, Python's, and those that a model holds."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .numpys import numpy_kept, seed_numpy


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's, Python's and numpy's generators, and put them back afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    python = random.getstate()
    numpy = numpy_kept()
    with torch.random.fork_rng(devices=devices):
        try:
            seed_all(seed)
            yield
        finally:
            random.setstate(python)
            numpy()


def seed_all(seed: int) -> None:
    """Seed torch's, Python's and numpy's generators."""
    seed_torch(seed)
    random.seed(seed)
    seed_numpy(seed)


def seed_torch(seed: int) -> None:
    """Seed torch's generators on the CPU and on every device that is in use.

    ``torch.manual_seed`` also decides what a device that wakes up later starts from, which is the user's to decide, and writes
    down three call stacks to do so, which takes longer than the pass of a small model.
    """
    torch.default_generator.manual_seed(seed)
    for backend in _awake():
        (getattr(backend, "manual_seed_all", None) or backend.manual_seed)(seed)


def _awake() -> Iterator[Any]:
    """The modules of the accelerators that are in use."""
    for name in ("cuda", "xpu", "mtia", torch._C._get_privateuse1_backend_name()):
        backend = getattr(torch, name, None)
        if backend is not None and getattr(backend, "is_initialized", bool)():
            yield backend
    if torch.backends.mps.is_available():
        yield torch.mps


def is_generator(value: Any) -> bool:
    """Whether ``value`` is a generator of random numbers."""
    numpy = sys.modules.get("numpy.random")
    kinds: tuple[type, ...] = (torch.Generator, random.Random)
    if numpy is not None:
        kinds = (*kinds, numpy.RandomState, numpy.Generator)
    return issubclass(type(value), kinds)  # a mock says that it is of a class that it is not of


def generator_kept(value: Any) -> Callable[[], Any] | None:
    """Return what sets a generator that the model holds back to where it is now, ``None`` if it is none."""
    if not is_generator(value):
        return None
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, random.Random):
        python = value.getstate()
        return lambda: value.setstate(python)
    if hasattr(value, "bit_generator"):
        bits = value.bit_generator.state
        return lambda: setattr(value.bit_generator, "state", bits)
    legacy = value.get_state()
    return lambda: value.set_state(legacy)


def global_generators(devices: Iterable[torch.device]) -> list[Callable[[], Any]]:
    """What sets back torch's generator on each device, and on those that :func:`seed_torch` seeds, numpy's and Python's."""
    cpu, python = torch.get_rng_state(), random.getstate()
    undo: list[Callable[[], Any]] = [lambda: torch.set_rng_state(cpu), lambda: random.setstate(python)]
    awake = {torch.device(b.__name__.rpartition(".")[2], i) for b in _awake() for i in range(b.device_count())}
    for device in awake.union(devices):
        backend = getattr(torch, device.type, None)
        if device.type not in ("cpu", "meta") and hasattr(backend, "get_rng_state"):
            undo.append(_accelerator_generator(backend, device))
    return [*undo, numpy_kept()]


def _accelerator_generator(backend: Any, device: torch.device) -> Callable[[], Any]:
    if device.type == "mps":
        state = backend.get_rng_state()
        return lambda: backend.set_rng_state(state)
    state = backend.get_rng_state(device)
    return lambda: backend.set_rng_state(state, device)
