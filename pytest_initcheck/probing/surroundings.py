"""What a forward pass can reach and write to apart from parameters: attributes, containers, closures, globals, generators.

A walk over the model (and the inputs, a loss) finds it; :meth:`Surroundings.restore` puts it back. Tensors found on the way
are only collected: :mod:`~pytest_initcheck.probing.memory` copies them.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from .randomness import generator_kept, global_generators, is_generator

#: Attributes that cannot change from within; most are of these types, and asking for more costs time.
_PLAIN = frozenset((bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size))
_CONTAINERS = frozenset((list, dict, set, deque, OrderedDict, defaultdict, Counter))
#: What is not followed: code, and what belongs to the interpreter.
_CLOSED = (type, ModuleType, BuiltinFunctionType, CodeType, MappingProxyType, property, staticmethod, classmethod)
#: Objects of these packages are not followed into: their own business (loggers, locks, threads, compiled graphs).
_FOREIGN = frozenset((*sys.stdlib_module_names, "torch", "numpy", "pytest_initcheck", "_pytest", "pytest", "pluggy"))
#: A model that holds more objects than this holds a whole program (a trainer, a data set): the rest is not followed.
_MOST = 20_000
#: Arrays from this many bytes on are not copied: a data set, which a forward pass reads.
_LARGE = 1 << 26
#: Objects inside objects are followed this deep.
_DEEPEST = 6
#: Of a longer container the first entries are followed (all are put back).
_LONGEST = 10_000


class Surroundings:
    """Everything that can be reached from ``roots`` now.

    Followed: submodules; attributes of objects; lists, dicts, sets, tuples and deques in them; functions (methods of all
    classes but torch's, hooks, partials) with the variables around them and the globals they name, and from there the
    functions of the same file. What an object found in a global variable holds is not followed.

    Args:
        roots: modules, functions, inputs.

    Attributes:
        tensors: every tensor met that holds values and is no parameter.
        parameters: every parameter met.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.tensors: list[Tensor] = []
        self.parameters: list[Tensor] = []
        self._seen: dict[int, Any] = {}  # with the objects, or their ids might be given to others
        self._empty: list[Any] = []
        self._filled: list[tuple[Any, Any, list[int]]] = []
        self._bound: list[tuple[Mapping[str, Any], Callable[[str, Any], None], dict[str, Any]]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._slots: list[tuple[Any, str, Any]] = []
        self._hooked: list[tuple[Tensor, Any, Any]] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._generators: list[Callable[[], Any]] = []
        self._todo: list[tuple[Any, int]] = [(root, 0) for root in roots]
        self._walk()
        self._generators += global_generators({t.device for t in (*self.tensors, *self.parameters)})
        self._seen.clear()

    def restore(self) -> None:
        """Refill containers, rebind names, and set generators back; tensors keep the values they have."""
        for container in self._empty:
            if container:
                container.clear()
        for container, was, ids in self._filled:
            if _ids(container) != ids:
                _refill(container, was)
        for thing, name, value in self._slots:
            if _own(thing, name) is not value:
                object.__setattr__(thing, name, value)
        for cell, value in self._cells:
            cell.cell_contents = value
        for names, bind, values in self._bound:
            for name, value in values.items():
                if names.get(name) is not value:
                    bind(name, value)
        for tensor, hooks, late in self._hooked:
            if tensor._backward_hooks is not hooks:
                tensor._backward_hooks = hooks
            if getattr(tensor, "_post_accumulate_grad_hooks", None) is not late:
                tensor._post_accumulate_grad_hooks = late
        for array, copy in self._arrays:
            if array.flags.writeable and array.tobytes() != copy.tobytes():
                array[...] = copy
        for step in self._generators:
            step()

    # -- the walk

    def _walk(self) -> None:
        seen, todo = self._seen, self._todo
        while todo:
            value, depth = todo.pop()
            kind = type(value)
            if kind in _PLAIN or id(value) in seen:
                continue
            seen[id(value)] = value
            if kind in _CONTAINERS:
                self._contents(value, depth)
            elif isinstance(value, Tensor):
                self._tensor(value)
            elif isinstance(value, nn.Module):
                self._contents(vars(value), depth)
                if isinstance(value, torch.jit.ScriptModule):
                    todo += [(b, depth) for b in value.buffers(recurse=False)]
                self._class(kind)
            elif isinstance(value, FunctionType):
                self._function(value, depth)
            elif isinstance(value, MethodType):
                todo += [(value.__func__, depth), (value.__self__, depth)]
            elif isinstance(value, partial):
                todo += [(value.func, depth), (value.args, depth), (value.keywords, depth)]
            elif isinstance(value, tuple):
                todo += [(v, depth) for v in value]
            elif not isinstance(value, _CLOSED):
                self._object(value, depth)

    def _contents(self, container: Any, depth: int) -> None:
        if not container:
            self._empty.append(container)
            return
        self._filled.append((container, container.copy(), _ids(container)))
        values = container.values() if isinstance(container, dict) else container
        todo = [(v, depth) for v in values if type(v) not in _PLAIN]
        self._todo += todo[:_LONGEST]

    def _tensor(self, tensor: Tensor) -> None:
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            return
        if isinstance(tensor, nn.Parameter):
            self.parameters.append(tensor)
        else:
            self.tensors.append(tensor)
        hooks, late = tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)
        self._hooked.append((tensor, hooks, late))
        self._todo += [(held, 0) for held in (tensor.__dict__, hooks, late) if isinstance(held, dict)]

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if id(base) in self._seen or base.__module__.partition(".")[0] in ("torch", "builtins"):
                continue
            self._seen[id(base)] = base
            names = dict(vars(base))
            self._bound.append((vars(base), partial(setattr, base), names))
            for value in names.values():
                value = getattr(value, "fget", None) or getattr(value, "__func__", value)
                if type(value) in _CONTAINERS or isinstance(value, FunctionType | Tensor) or is_generator(value):
                    self._todo.append((value, 0))

    def _function(self, function: FunctionType, depth: int) -> None:
        if function.__module__ is not None and function.__module__.partition(".")[0] in _FOREIGN:
            return
        for cell in function.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:  # not bound yet
                continue
            self._cells.append((cell, held))
            self._todo.append((held, depth + 1))
        for held in (function.__defaults__, function.__kwdefaults__, vars(function)):
            if held:
                self._todo.append((held, depth + 1))
        variables, file = function.__globals__, function.__code__.co_filename
        named = {name: variables[name] for name in _names(function.__code__) if name in variables}
        if named:
            self._bound.append((variables, variables.__setitem__, named))
        for held in named.values():
            plain = type(held) in _CONTAINERS or isinstance(held, Tensor) or is_generator(held) or _is_array(held)
            if plain or (isinstance(held, FunctionType) and held.__code__.co_filename == file):
                self._todo.append((held, depth + 1))

    def _object(self, value: Any, depth: int) -> None:
        if (step := generator_kept(value)) is not None:
            self._generators.append(step)
        elif _is_array(value):
            if value.dtype.kind in "biufc" and value.nbytes < _LARGE:
                self._arrays.append((value, value.copy()))
        elif depth < _DEEPEST and len(self._seen) < _MOST and _is_open(value):
            if isinstance(value, dict | list | set | deque):  # a subclass, which may do as it likes on access
                self._todo += [(v, depth + 1) for v in _values(value)][:_LONGEST]
                self._filled.append((value, _plain_copy(value), _ids(value)))
            attributes = _own(value, "__dict__")
            if isinstance(attributes, dict):
                self._contents(attributes, depth + 1)
            for name in _slots(type(value)):  # type: ignore[arg-type]
                if (held := _own(value, name)) is not None:
                    self._slots.append((value, name, held))
                    self._todo.append((held, depth + 1))


def _is_open(value: Any) -> bool:
    """Whether an object's attributes are the model's business."""
    home = type(value).__module__
    return (
        home.partition(".")[0] not in _FOREIGN or home.startswith("torch.optim") or isinstance(value, SimpleNamespace)
    )


def _own(value: Any, name: str) -> Any:
    """An attribute, past whatever the class does on access; ``None`` where it has none."""
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return None


@lru_cache(maxsize=1024)
def _slots(kind: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in kind.__mro__:
        own = base.__dict__.get("__slots__", ())
        names += [own] if isinstance(own, str) else list(own)
    return tuple(n for n in names if n not in ("__dict__", "__weakref__") and not n.startswith("__"))


@lru_cache(maxsize=8192)
def _names(code: CodeType) -> tuple[str, ...]:
    return tuple(_names_in(code))


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _values(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return dict.values(container)
    return list.__iter__(container) if isinstance(container, list) else iter(container)


def _plain_copy(container: Any) -> Any:
    if isinstance(container, dict):
        return dict(dict.items(container))
    return next(kind for kind in (list, set, deque) if isinstance(container, kind))(_values(container))


def _ids(container: Any) -> list[int]:
    """What a container holds, in order, as identities (a set's order is kept while it is not written to)."""
    if isinstance(container, dict):
        return [*map(id, dict.keys(container)), *map(id, dict.values(container))]
    return [*map(id, _values(container))]


def _refill(container: Any, was: Any) -> None:
    if isinstance(container, OrderedDict):
        OrderedDict.clear(container)
        OrderedDict.update(container, was)
    elif isinstance(container, dict):
        dict.clear(container)
        dict.update(container, was)
    elif isinstance(container, set):
        set.clear(container)
        set.update(container, was)
    elif isinstance(container, list):
        list.__setitem__(container, slice(None), was)
    else:
        deque.clear(container)
        deque.extend(container, was)
