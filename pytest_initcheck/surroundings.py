"""What a forward pass can reach outside its module: variables around it, globals, attributes of classes, put back.

Tests count calls there. The guard of :mod:`~pytest_initcheck.state` knows the module alone.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from torch import nn

_CONTAINERS = frozenset((list, dict, set, deque, OrderedDict, defaultdict, Counter))


@contextlib.contextmanager
def surroundings_kept(model: nn.Module) -> Iterator[None]:
    """Bind what the methods of ``model`` and of its parts can reach by name as before, and refill plain containers.

    Followed: methods of all classes but torch's, the variables around them and the globals they name, and from there
    the functions of the same file. What an object found there holds is not followed.
    """
    with contextlib.ExitStack() as undo:
        seen: set[int] = set()
        for kind in {base for module in model.modules() for base in type(module).__mro__}:
            if kind is object or kind.__module__.partition(".")[0] == "torch":
                continue
            for name, value in list(vars(kind).items()):
                undo.callback(_rebind, partial(vars, kind), partial(setattr, kind), name, value)
                _keep(value, undo, seen, None)
        yield


def _keep(value: Any, undo: contextlib.ExitStack, seen: set[int], file: Any) -> None:
    """Keep ``value`` if it is a container, and what it can reach if it is a function of ``file`` (``None``: any)."""
    value = getattr(value, "__func__", value)
    if id(value) in seen:
        return
    if type(value) in _CONTAINERS:
        seen.add(id(value))
        undo.callback(_refill, value, value.copy())
    if not isinstance(value, FunctionType) or file not in (None, value.__code__.co_filename):
        return
    seen.add(id(value))
    for cell in value.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # not bound yet
            continue
        undo.callback(setattr, cell, "cell_contents", held)
        _keep(held, undo, seen, None)
    variables = value.__globals__
    for name in _names(value.__code__):
        if name in variables:
            held = variables[name]
            undo.callback(_rebind, lambda: variables, variables.__setitem__, name, held)
            _keep(held, undo, seen, value.__code__.co_filename)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _rebind(read: Callable[[], Any], bind: Callable[[str, Any], Any], name: str, value: Any) -> None:
    if read().get(name) is not value:
        bind(name, value)


def _refill(container: Any, copy: Any) -> None:
    changed = list(container) != list(copy) if isinstance(container, set) else _ids(container) != _ids(copy)
    if changed:
        container.clear()
        (container.extend if isinstance(container, list | deque) else container.update)(copy)


def _ids(container: Any) -> list[int]:
    values = [*container, *container.values()] if isinstance(container, dict) else container
    return [id(value) for value in values]
