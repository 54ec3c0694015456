"""A factory's model checked one block at a time: the ordinary examination, of weights that come and go."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..errors import ProbeError, SettingsError
from ..examine import examine
from ..measured import Request
from ..phases import doing
from ..probing.probe import named_trainable
from ..report import Report
from .draws import Draws
from .parts import Part, parts_of
from .shells import built_as_shapes, shelled
from .sweeps import Sweeps
from .weights import Weights

#: A block is there with its gradient, the step along it, and what is read of them in single precision.
COPIES = 3
#: Share of the memory at hand that the parameters of a model may take to be checked whole: its check takes three times as much.
FITS = 0.25


def check_streamed(factory: Callable[[], nn.Module], request: Request, *, told: str = "") -> Report:
    """Return the report on what ``factory`` builds, with no more than a block of its weights in memory.

    Args:
        factory: builds the model.
        request: what is asked; ``request.settings.stream`` names the blocks.
        told: said in the report beside what was not asked.

    Raises:
        SettingsError: the blocks named are not there, or another setting needs the whole model.
        ProbeError: the model cannot be streamed, or could not be run.
    """
    settings = request.settings
    if settings.seeds > 1:
        raise SettingsError(f"stream looks at one initialisation (got seeds={settings.seeds}): give one seed at a time")
    doing("building")
    weights, draws, model = streamable(factory, request)
    _refuse_what_does_not_fit(weights.parts)
    sweeps = Sweeps(weights, named_trainable(model))
    plain = replace(settings, device=None, dtype=None) if settings.dtype or settings.device else settings
    try:
        with weights.watched():
            report = examine(model, replace(request, streamed=sweeps, settings=plain, race="none"), draws.faults)
    except ProbeError as error:
        if weights.refusal is not None:
            raise ProbeError(weights.refusal) from error
        raise
    finally:
        weights.free()
    unseen = (*report.trace.unseen, *([told] if told else []), _said(weights.parts), *sweeps.unseen)
    return replace(
        report,
        trace=replace(report.trace, unseen=unseen),
        settings=dict(settings.given),
        reproduce=f"check_init({request.name or 'factory'}, inputs, {_arguments(request)})",
    )


def streamable(factory: Callable[[], nn.Module], request: Request) -> tuple[Weights, Draws, nn.Module]:
    """Return what ``factory`` builds with its weights as they come and go: nothing of it is in memory yet.

    Args, Raises:
        As :func:`check_streamed`.
    """
    settings = request.settings
    pattern = None if settings.stream in (None, "true") else settings.stream
    model = built_as_shapes(factory, settings.seed)
    parts_of(model, pattern)  # refuses before anything is allocated
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    try:
        kept, lost = shelled(model, settings.device or "cpu", dtype)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device {settings.device!r} cannot be used here: {error}") from error
    draws = Draws(model, kept, settings.deferred, settings.seed)
    draws.fill_buffers(lost)
    return Weights(model, parts_of(model, pattern), draws), draws, model


def drawn_whole(factory: Callable[[], nn.Module], request: Request) -> nn.Module:
    """Return the model with all its weights, each block drawn as it is drawn when the model is streamed."""
    weights, draws, model = streamable(factory, request)
    for part in weights.parts:
        for p in part.parameters.values():
            p.untyped_storage().resize_(p.numel() * p.element_size())
        draws.fill(part)
    return model


def outgrows(model: nn.Module) -> str | None:
    """Return why ``model`` is streamed unasked: it was built on the meta device, and is larger than the memory at hand; else ``None``."""
    parameters = list(model.parameters())
    if not any(p.is_meta for p in parameters):
        return None
    size, hand = sum(p.numel() * p.element_size() for p in parameters), at_hand()
    if hand is None or size <= FITS * hand:
        return None
    return (
        f"the model was built on the meta device, and checking its {_in_bytes(size)} of parameters whole takes about "
        f"{_in_bytes(int(size / FITS))}, where {_in_bytes(hand)} are at hand: it was streamed (stream=true)"
    )


def at_hand() -> int | None:
    """Bytes that this process can still have, of the machine and of the container that it runs in."""
    told: list[int] = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                told.append(int(line.split()[1]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            told.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError, IndexError):
        pass
    if not told:
        try:
            told.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, OSError, ValueError):
            return None
    return max(0, min(told))


def _refuse_what_does_not_fit(parts: Sequence[Part]) -> None:
    gc.collect()
    hand = at_hand()
    largest = max(parts, key=lambda part: part.bytes)
    steps = sum(p.numel() for part in parts for p in part.parameters.values()) // 8
    needed = COPIES * largest.bytes + steps
    if hand is not None and needed > hand:
        raise ProbeError(
            f"{largest.name or 'the model itself'} takes {_in_bytes(largest.bytes)} at a time, {_in_bytes(needed)} with its gradient and one bit "
            f"for each weight of the model, and {_in_bytes(hand)} are at hand: name smaller blocks with stream=, or free memory"
        )


def _said(parts: Sequence[Part]) -> str:
    blocks = [part for part in parts if part.block]
    first, last = blocks[0].name, blocks[-1].name
    return f"streamed: {len(blocks)} blocks ({first} to {last}) were drawn one at a time, each from a seed of its own; a race and fixes were not asked"


def _arguments(request: Request) -> str:
    given = {"seed": request.settings.seed, **request.settings.given}
    return ", ".join(f"{k}={v!r}" for k, v in given.items())


def _in_bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{max(number, 1 << 18) / 2**20:.1f} MiB"
