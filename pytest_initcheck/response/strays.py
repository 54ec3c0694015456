"""Tensors that the output depends on and that no optimizer is given: they are not among ``model.parameters()``."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from ..probing.graph import Graph
from ..probing.modules import clean
from ..records import Stray
from .perturb import Push

#: How far containers and objects are looked into.
DEEP = 5
#: What torch itself keeps in a module; registered parameters and modules are not what is looked for.
_TORCHS = frozenset(vars(nn.Module())) - {"_buffers"}


def strays(push: Push) -> tuple[Stray, ...]:
    """Return what was found outside of ``model.parameters()``, and where it lives; costs a pass only where something was.

    Args:
        push: runs the model; its attributes are as they were before the first pass when this returns.
    """
    found = push.probed.strays
    if not found:
        return ()
    push.guard.rewind()  # what the pass itself has put into attributes is not held by the model
    held = {id(t): (name, holder) for t, name, holder in _held(push.probed.model)}
    elsewhere = [t for t, _, _ in found if id(t) not in held]
    again: set[int] = set()
    if elsewhere:
        outputs = push.forward(graph=True)
        again = {id(t) for t in Graph([o for o in outputs if o.requires_grad]).leaves()}
        del outputs
    order = {key: position for position, key in enumerate(held)}
    records: dict[str, Stray] = {}
    for tensor, place, weighs in sorted(found, key=lambda one: order.get(id(one[0]), -1)):
        shape, varied = tuple(tensor.shape), bool((tensor != tensor.reshape(-1)[:1]).any())
        if id(tensor) in held:
            name, holder = held[id(tensor)]
            stray = Stray(name, "held", holder, shape, varied)
        elif not isinstance(tensor, nn.Parameter) and not weighs:
            continue  # data that the pass differentiates by: x.detach().requires_grad_()
        elif id(tensor) in again:
            stray = Stray(place or "(model)", "outside", "", shape, varied)
        else:
            stray = Stray(place or "(model)", "made", "", shape, varied)
        # Of several at one place the one that varies speaks: a weight, not its bias.
        if stray.name not in records or (stray.varied and not records[stray.name].varied):
            records[stray.name] = stray
    return tuple(records.values())


def _held(model: nn.Module) -> Iterator[tuple[Tensor, str, str]]:
    """Tensors that the model's attributes lead to past its registers: ``(tensor, name, what holds it)``."""
    seen: set[int] = {id(m) for m in model.modules()}
    for path, module in model.named_modules():
        prefix = f"{clean(path)}." if path else ""
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield buffer, prefix + name, "a buffer"
        for name, value in list(vars(module).items()):
            if name not in _TORCHS and name != "_buffers":
                yield from _within(value, prefix + name, "an attribute", seen, DEEP)
        for cls in type(module).__mro__:
            if cls is nn.Module:
                break
            for name, value in list(vars(cls).items()):
                if isinstance(value, Tensor | nn.Module | list | tuple | Mapping):
                    yield from _within(value, prefix + name, "an attribute of the class", seen, DEEP)


def _within(value: Any, name: str, holder: str, seen: set[int], deep: int) -> Iterator[tuple[Tensor, str, str]]:
    if isinstance(value, Tensor):
        yield value, name, holder
        return
    if value is None or isinstance(value, str | bytes | int | float | complex | type | ModuleType) or deep == 0:
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    inside: list[tuple[str, Any]] = []
    if isinstance(value, nn.Module):
        yield from ((p, f"{name}.{own}", holder) for own, p in value.named_parameters())
        inside = [(n, v) for n, v in vars(value).items() if n not in _TORCHS]
    elif isinstance(value, Mapping):
        holder, inside = "a plain dict", [(str(k), v) for k, v in list(value.items())]
    elif isinstance(value, list | tuple | set | frozenset):
        kind = "list" if isinstance(value, list) else "tuple" if isinstance(value, tuple) else "set"
        holder, inside = f"a plain {kind}", [(str(i), v) for i, v in enumerate(value)]
    elif isinstance(value, functools.partial):
        holder, inside = "a function", [(str(i), v) for i, v in enumerate((value.func, *value.args))]
        inside += list(value.keywords.items())
    elif isinstance(value, MethodType):
        inside = [("__self__", value.__self__)]
    elif isinstance(value, FunctionType):
        holder = "a function"
        for free, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                inside.append((free, cell.cell_contents))
            except ValueError:  # not filled yet
                continue
    elif hasattr(value, "__dict__") and not type(value).__module__.startswith("torch"):
        holder, inside = f"a {type(value).__name__}, which is no nn.Module", list(vars(value).items())
    for own, part in inside:
        yield from _within(part, f"{name}.{own}", holder, seen, deep - 1)
