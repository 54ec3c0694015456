"""Which attributes the code of a model's classes reads: a parameter that none reads is built and never used."""

from __future__ import annotations

import dis
import functools
import re
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

#: What hands out its members by position or by a computed name.
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.ParameterList, nn.ParameterDict)
#: Functions that give a parameter its values, or show it: what only they read takes no part in what the model computes.
_NOT_A_USE = re.compile(r"init|reset|repr|no_weight_decay|state_dict")
#: With these, a name that is built or passed as a string reads an attribute.
_BY_NAME = frozenset(["getattr", "get_parameter", "get_submodule", "attrgetter", "_parameters", "_modules", "__dict__"])


class AttributesRead:
    """Attributes that classes read, each class looked at once."""

    def __init__(self) -> None:
        self._by_owner: dict[Any, tuple[set[str], set[str]]] = {}

    def read(self, model: nn.Module, name: str) -> bool:
        """Whether every attribute on the way to ``name`` is read by its owner's class, or by that of a module around it.

        A parameter that several paths lead to has several names: reading it by one of them will do.
        """
        named = dict(model.named_parameters(remove_duplicate=False))
        names = [n for n, p in named.items() if p is named[name]] if name in named else [name]
        return any(self._read_as(model, n) for n in names)

    def _read_as(self, model: nn.Module, name: str) -> bool:
        owners: list[nn.Module] = [model]
        for part in name.split("."):
            owner = owners[-1]
            known = isinstance(owner, _CONTAINERS) or _made_by_torch(owner, part)
            if not known and not part.isdigit() and not any(self._reads(o, part) for o in owners):
                return False
            below = getattr(owner, part, None)
            if not isinstance(below, nn.Module):
                return True
            owners.append(below)
        return True

    def _reads(self, owner: nn.Module, attribute: str) -> bool:
        attributes, pieces = self._of(owner)
        return attribute in attributes or any(attribute.startswith(p) or attribute.endswith(p) for p in pieces)

    def _of(self, owner: nn.Module) -> tuple[set[str], set[str]]:
        cls = getattr(type(owner), "stands_for", type(owner))  # a training step stands for the model that it trains
        if cls not in self._by_owner:
            members = [
                (name, member)
                for base in cls.__mro__
                if base not in (nn.Module, object)
                for name, member in list(vars(base).items())
            ]
            self._by_owner[cls] = _read_by(members)
        attributes, pieces = self._by_owner[cls]
        own = [(n, m) for n, m in vars(owner).items() if isinstance(m, FunctionType | MethodType | functools.partial)]
        if own:
            more, further = _read_by(own)
            return attributes | more, pieces | further
        return attributes, pieces


def _made_by_torch(owner: nn.Module, attribute: str) -> bool:
    """Whether a class of torch's makes the attribute itself: it then reads it, in C++ and by computed names, too."""
    cls = type(owner)
    if not cls.__module__.startswith("torch."):
        return False
    if cls.__module__.startswith("torch.jit") or attribute == "parametrizations":
        return True
    mentioned: set[str] = set()
    for base in cls.__mro__:
        if base not in (nn.Module, object):
            for member in vars(base).values():
                for function in _functions(member):
                    mentioned |= _mentioned(function.__code__)
    # weight_ih_l0 is built from a piece, weight_g made from a weight.
    return any(attribute.startswith(name) for name in mentioned if len(name) > 3)


def _mentioned(code: CodeType) -> set[str]:
    names = {*code.co_names, *code.co_varnames}
    for constant in code.co_consts:
        if isinstance(constant, str):
            names.add(constant)
        elif isinstance(constant, CodeType):
            names |= _mentioned(constant)
    return names


def _read_by(members: list[tuple[str, Any]]) -> tuple[set[str], set[str]]:
    """Attributes that functions read, and pieces of names that they build."""
    attributes: set[str] = set()
    pieces: set[str] = set()
    seen: set[CodeType] = set()
    todo: list[FunctionType] = []
    for name, member in members:
        for function in _functions(member):
            if _NOT_A_USE.search(name):
                # A lambda that a constructor makes runs later.
                inner = [c for c in function.__code__.co_consts if isinstance(c, CodeType)]
                todo += [FunctionType(c, function.__globals__) for c in inner if not c.co_freevars]
                for code in inner:
                    _collect(code, attributes, pieces)
            else:
                todo.append(function)
    while todo:
        function = todo.pop()
        if function.__code__ in seen:
            continue
        seen.add(function.__code__)
        names = _collect(function.__code__, attributes, pieces)
        todo += [f for f in _called(function.__globals__, names) if not _NOT_A_USE.search(f.__name__)]
    return attributes, pieces


def _functions(member: Any) -> Iterator[FunctionType]:
    """Python functions behind a member of a class: through properties, static methods, decorators."""
    member = (
        getattr(member, "fget", None) or getattr(member, "__func__", None) or getattr(member, "func", None) or member
    )
    if not isinstance(member, FunctionType):
        return
    yield member
    if (wrapped := getattr(member, "__wrapped__", None)) is not None:
        yield from _functions(wrapped)
    for cell in member.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if isinstance(held, FunctionType) and held is not wrapped and held is not member:
            yield held


def _called(scope: dict[str, Any], names: set[str]) -> Iterator[FunctionType]:
    """Functions of the user's that ``names`` mention, by themselves or in a module."""
    for name in names:
        value = scope.get(name)
        if isinstance(value, FunctionType):
            found = [value]
        elif isinstance(value, ModuleType) and not value.__name__.startswith("torch"):
            found = [f for n in names if isinstance(f := vars(value).get(n), FunctionType)]
        else:
            continue
        yield from (f for f in found if not (f.__module__ or "").startswith("torch"))


def _collect(code: CodeType, attributes: set[str], pieces: set[str]) -> set[str]:
    """Add what ``code`` and the code inside it read; return every name that it mentions."""
    names = set(code.co_names)
    strings = {c for c in code.co_consts if isinstance(c, str)}
    strings |= {s for c in code.co_consts if isinstance(c, tuple | frozenset) for s in c if isinstance(s, str)}
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            attributes.add(step.argval)
    if names & _BY_NAME:
        attributes |= strings
        pieces |= {s for s in strings if len(s) > 1}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _collect(constant, attributes, pieces)
    return names
