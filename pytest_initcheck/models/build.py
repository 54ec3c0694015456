"""Build a model from a factory, eagerly or deferred, and find what construction never wrote to."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import thresholds
from ..errors import InitcheckError, ProbeError
from ..probing.dispatch import Mode
from ..probing.randomness import seeded
from ..probing.statistics import measure, settle
from ..records import ConstructionFault
from ..sharding.layout import gathered
from ..words import first_line

Factory = Callable[[], nn.Module]


def build(factory: Factory, seed: int) -> tuple[nn.Module, dict[str, ConstructionFault]]:
    """Return what ``factory`` builds under ``seed``, and what of it was never written.

    Uninitialized memory is filled while it is built (NaN, the largest integer), so what still holds the filling
    afterwards was allocated and left. Generators and torch's settings are put back.

    Raises:
        ProbeError: the factory raised, or returned no module.
    """
    with seeded(seed), filled_memory():
        try:
            model = factory()
        except InitcheckError:
            raise  # a target that knows better what went wrong
        except (Exception, SystemExit) as error:
            message = first_line(error)
            raise ProbeError(f"the factory raised {type(error).__name__}: {message}") from error
    if not isinstance(model, nn.Module):
        raise ProbeError(f"the factory must return an nn.Module (it returned {type(model).__name__})")
    found = unwritten(model)
    return model, _without_computed(model, factory, seed, found) if found else found


def _without_computed(
    model: nn.Module, factory: Factory, seed: int, found: dict[str, ConstructionFault]
) -> dict[str, ConstructionFault]:
    """``found`` less what the constructor computed: built with another filling, it holds the same NaN again."""
    try:
        with seeded(seed), _OtherFilling():
            again = dict(_tensors_of(factory()))
    except Exception:  # a factory that works once
        return found
    held = dict(_tensors_of(model))

    def computed(name: str) -> bool:
        one, two = gathered(held[name].detach()), gathered(again[name].detach()) if name in again else None
        if two is None or two.shape != one.shape or held[name] is again[name]:
            return False
        return bool((_is_filling(one) & ~_is_filling(two)).sum() == 0)

    return {name: fault for name, fault in found.items() if not computed(name)}


class _OtherFilling(Mode):
    """Uninitialized memory holds a number that nobody would choose."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (
            func.overloadpacket.__name__.startswith(("empty", "new_empty"))
            and isinstance(out, Tensor)
            and not out.is_meta
        ):
            out.fill_(True if out.dtype is torch.bool else 113)
        return out


def build_deferred(factory: Factory, method: str, seed: int, eager: nn.Module) -> dict[str, ConstructionFault]:
    """Build on the meta device, materialise, run the model's init, and return what is wrong with the result.

    Args:
        factory: builds the model.
        method: the init to run: a method of the model (``"init_weights"``), a method that takes a module and is applied
            to each (transformers' ``"_init_weights"``), or ``"reset_parameters"`` of every module that has one.
        seed: seed of the init.
        eager: the same model built the ordinary way.

    Returns:
        Label of a parameter or buffer -> what is wrong: never written, or drawn from another distribution than in ``eager``.

    Raises:
        ProbeError: the model cannot be built on the meta device, or has no such method.
    """
    device = next((p.device for p in eager.parameters()), torch.device("cpu"))
    try:
        with seeded(seed), torch.device("meta"):
            model = factory()
    except Exception as error:
        raise ProbeError(f"the factory cannot be built on the meta device ({type(error).__name__}: {error})") from error
    with seeded(seed), filled_memory():
        model.to_empty(device=device)
        _initialize(model, method)
    left = [replace(fault, deferred=True) for fault in unwritten(model).values()]
    found = [*left, *_differences(eager, model, skip={fault.name for fault in left})]
    return {fault.label: fault for fault in found}


def _initialize(model: nn.Module, method: str) -> None:
    own = getattr(model, method, None)
    modules = [m for m in model.modules() if callable(getattr(m, method, None))]
    if not modules:
        raise ProbeError(f"deferred={method!r} names no method of {type(model).__name__} or of its modules")
    with torch.no_grad():
        if own is None or method == "reset_parameters":
            for module in modules:
                getattr(module, method)()
            return
        try:
            own()
        except TypeError:  # takes the module to initialize, as transformers' _init_weights does
            model.apply(own)


def _differences(eager: nn.Module, deferred: nn.Module, *, skip: set[str]) -> Iterator[ConstructionFault]:
    theirs = dict(deferred.named_parameters())
    pairs = [(n, p, theirs[n]) for n, p in eager.named_parameters() if n in theirs and n not in skip]
    stats = settle([measure(p) for _, p, _ in pairs] + [measure(q) for _, _, q in pairs])
    for (name, p, _), a, b in zip(pairs, stats[: len(pairs)], stats[len(pairs) :], strict=True):
        n = p.numel()
        if n < 2 or a is None or b is None:
            continue
        scale = max(a.std, b.std)
        # var(s^2) is (kurtosis - 1) / n of s^4; 6 covers what initializations draw from.
        off_mean = abs(a.mean - b.mean) > thresholds.STANDARD_ERRORS * scale * math.sqrt(2 / n) + 1e-12
        off_std = abs(a.std - b.std) > thresholds.STANDARD_ERRORS * scale * math.sqrt(2 * 5 / (4 * n)) + 1e-12
        if off_mean or off_std:
            after = f"mean {b.mean:.3g}, std {b.std:.3g} after deferred construction, mean {a.mean:.3g}, std {a.std:.3g} after eager"
            yield ConstructionFault(name, "differs", after, deferred=True)


#: How it was before, once for every context of :func:`filled_memory` that lasts.
_BEFORE: list[tuple[bool, bool, bool]] = []
#: The mode while it lasts: deterministic, to warn only.
_OURS = (True, True)
#: What torch says of operations in the mode that fills memory: nobody asked for it.
_SAID = (
    "ignore",
    re.compile(r"[\s\S]*torch\.use_deterministic_algorithms\(True, warn_only=True\)"),
    Warning,
    None,
    0,
)


@contextmanager
def filled_memory() -> Iterator[None]:
    """Fill uninitialized memory (NaN, the largest integer) while the context lasts.

    Contexts may overlap (a suite is watched while a check builds a model in it): what was before the first comes back
    with the end of the last, unless torch was told otherwise meanwhile.
    """
    # torch.use_deterministic_algorithms would import torch's compiler for its own setting: 1.5 s in every fresh process.
    switch = torch._C._set_deterministic_algorithms
    flags: Any = torch.utils.deterministic
    found = (*_mode(), flags.fill_uninitialized_memory)
    _BEFORE.append(_BEFORE[0] if _BEFORE and found[:2] == _OURS else found)
    # Without a context of its own: one that the program enters meanwhile would end after it.
    filters: Any = warnings.filters
    filters.insert(0, _SAID)
    try:
        switch(True, warn_only=True)
        flags.fill_uninitialized_memory = True
        yield
    finally:
        if _SAID in filters:
            filters.remove(_SAID)
        before = _BEFORE.pop()
        told = bool(_BEFORE) and before[:2] != _BEFORE[0][:2]  # since the first context began
        if _mode() == _OURS and (told or not _BEFORE):
            switch(before[0], warn_only=before[1])
        if not _BEFORE:
            flags.fill_uninitialized_memory = before[2]


def _mode() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def unwritten(model: nn.Module) -> dict[str, ConstructionFault]:
    """Return the parameters and buffers that hold the filling of :func:`filled_memory`, and how much of it."""
    return still_filled(_tensors_of(model))


def still_filled(named: Iterable[tuple[str, Tensor]]) -> dict[str, ConstructionFault]:
    """Return which of these tensors hold the filling of :func:`filled_memory`, and how much of it."""
    found: dict[str, ConstructionFault] = {}
    uninitialized = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)
    for name, tensor in named:
        if isinstance(tensor, uninitialized) or tensor.device.type == "meta" or tensor.numel() == 0:
            continue
        share = _filled(tensor.detach())
        if share > 0:
            told = f"{share:.0%} of its values are the filling of uninitialized memory"
            found[name] = ConstructionFault(name, "unwritten", told)
    return found


def _tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _filled(value: Tensor) -> float:
    return float(_is_filling(gathered(value)).float().mean())


def _is_filling(value: Tensor) -> Tensor:
    if value.is_floating_point() or value.is_complex():
        return torch.isnan(value)
    if value.dtype in (torch.int32, torch.int64):
        return value == torch.iinfo(value.dtype).max
    return torch.zeros_like(value, dtype=torch.bool)
