"""What a forward pass can reach and write to apart from parameters: attributes, containers, closures, globals, generators.

A walk over the model (and the inputs, a loss) finds it; :meth:`Surroundings.restore` puts it back. Tensors found on the way
are only collected: :mod:`~pytest_initcheck.probing.memory` copies them.
"""

from __future__ import annotations

import array
import contextlib
import dis
import io
import queue
import sys
import threading
from collections import Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from operator import is_
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any
from weakref import ProxyTypes

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
#: The same for entries of containers; what a module registers is followed in any case.
_MOST_ENTRIES = 50_000
#: Where a module keeps what it registers.
_REGISTERS = tuple(name for name, held in vars(nn.Module()).items() if type(held) in (dict, OrderedDict, set))
#: Arrays from this many bytes on are not copied: a data set, which a forward pass reads.
_LARGE = 1 << 26
#: What functools.lru_cache makes of a function.
_Cached: Any = type(lru_cache(len))
#: What remembers that it was used, and offers no way back.
_LASTING = (
    Iterator,
    io.IOBase,
    queue.Queue,
    queue.SimpleQueue,
    threading.Event,
    threading.Semaphore,
    threading.Barrier,
)
#: Where an attribute is not set.
_UNSET = object()
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
        lasting: what keeps a trace of every pass and cannot be put back: iterators, open files, queues, locks that count, mocks.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.tensors: list[Tensor] = []
        self.parameters: list[Tensor] = []
        self.lasting: list[Any] = []
        self._seen: dict[int, Any] = {}  # with the objects, or their ids might be given to others
        self._empty: list[Any] = []
        self._filled: list[tuple[Any, Any]] = []
        self._bound: list[tuple[Mapping[str, Any], Callable[[str, Any], None], dict[str, Any]]] = []
        self._closed: list[tuple[type, frozenset[str]]] = []
        self._unbound: list[tuple[Mapping[str, Any], Callable[[str], None], frozenset[str]]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._slots: list[tuple[Any, str, Any]] = []
        self._hooked: list[tuple[Tensor, Any, Any]] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._generators: list[Callable[[], Any]] = []
        self._uncached: list[Any] = []
        self._scripted: list[tuple[Any, str, Any]] = []
        self._entries = 0
        self._todo: list[tuple[Any, int]] = [(root, 0) for root in roots]
        self._walk()
        self._generators += global_generators({t.device for t in (*self.tensors, *self.parameters)})
        self._seen.clear()

    def restore(self) -> None:
        """Refill containers, rebind names, and set generators back; tensors keep the values they have."""
        with contextlib.ExitStack() as steps:  # in reverse order, each whatever became of the others
            for generator in reversed(self._generators):
                steps.callback(generator)
            for step in (self._restore_arrays, self._restore_hooks, self._restore_names, self._restore_objects):
                steps.callback(step)
            steps.callback(self._restore_scripts)
            steps.callback(self._restore_containers)

    def _restore_containers(self) -> None:
        for container in self._empty:
            if container:
                container.clear()
        for container, was in self._filled:
            if not _same(container, was):
                _refill(container, was)
        for cached in self._uncached:
            if cached.cache_info().currsize:
                cached.cache_clear()

    def _restore_objects(self) -> None:
        for thing, name, value in self._slots:
            if (now := _own(thing, name)) is value:
                continue
            if value is not _UNSET:
                object.__setattr__(thing, name, value)
            elif now is not _UNSET:
                object.__delattr__(thing, name)
        for cell, value in self._cells:
            cell.cell_contents = value

    def _restore_names(self) -> None:
        for names, bind, values in self._bound:
            for name, value in values.items():
                if names.get(name, _UNSET) is not value:
                    bind(name, value)
        for kind, known in self._closed:
            for name in vars(kind).keys() - known:
                type.__delattr__(kind, name)
        for names, unbind, absent in self._unbound:
            for name in absent & names.keys():
                unbind(name)

    def _restore_hooks(self) -> None:
        for tensor, hooks, late in self._hooked:
            if tensor._backward_hooks is not hooks:
                tensor._backward_hooks = hooks
            if getattr(tensor, "_post_accumulate_grad_hooks", None) is not late:
                tensor._post_accumulate_grad_hooks = late

    def _restore_scripts(self) -> None:
        for module, name, value in self._scripted:
            now = getattr(module, name)
            if now is not value and (isinstance(value, Tensor) or now != value):
                setattr(module, name, value)

    def _restore_arrays(self) -> None:
        for array_, copy in self._arrays:
            if isinstance(array_, bytearray | array.array):
                if array_ != copy:
                    array_[:] = copy
            elif array_.shape != copy.shape:  # resized in place: a reshaping assignment would not do
                array_.resize(copy.shape, refcheck=False)
                array_[...] = copy
            elif array_.flags.writeable and array_.tobytes() != copy.tobytes():
                array_[...] = copy

    # -- the walk

    def _walk(self) -> None:
        seen, todo = self._seen, self._todo
        for root, _ in todo[:]:
            for module in root.modules() if issubclass(type(root), nn.Module) else ():
                self._registers(module)
        while todo:
            value, depth = todo.pop()
            kind = type(value)
            if kind in _PLAIN or id(value) in seen:
                continue
            seen[id(value)] = value
            # By type, not isinstance(): mocks and proxies say that they are of a class that they are not of.
            if kind in _CONTAINERS:
                self._contents(value, depth)
            elif issubclass(kind, Tensor):
                self._tensor(value)
            elif issubclass(kind, nn.Module):
                attributes = vars(value)
                self._filled.append((attributes, attributes.copy()))
                todo += [(v, depth) for v in attributes.values() if type(v) not in _PLAIN]
                if isinstance(value, torch.jit.ScriptModule):
                    self._script(value, depth)
                self._class(kind)
            elif issubclass(kind, FunctionType):
                self._function(value, depth)
            elif issubclass(kind, MethodType):
                todo += [(value.__func__, depth), (value.__self__, depth)]
            elif issubclass(kind, partial):
                todo += [(value.func, depth), (value.args, depth), (value.keywords, depth)]
            elif issubclass(kind, tuple):
                self._follow(tuple.__iter__(value), depth)
            elif kind is _Cached:
                self._todo.append((value.__wrapped__, depth))
                if value.cache_info().currsize == 0:  # entries cannot be taken out one by one
                    self._uncached.append(value)
            elif kind in ProxyTypes:
                with contextlib.suppress(ReferenceError):  # gone
                    todo.append((value.__init__.__self__, depth))
            elif not issubclass(kind, _CLOSED):
                self._object(value, depth)

    def _follow(self, values: Iterable[Any], depth: int) -> None:
        if self._entries < _MOST_ENTRIES:
            todo = [(v, depth) for v in values if type(v) not in _PLAIN][:_LONGEST]
            self._entries += len(todo)
            self._todo += todo

    def _registers(self, module: nn.Module) -> None:
        """What a module registers comes first, so that no data beside it uses up what is followed."""
        for name in _REGISTERS:
            held = vars(module).get(name)
            if type(held) in _CONTAINERS and id(held) not in self._seen:
                self._seen[id(held)] = held
                self._contents(held, 0)
        self._entries = 0

    def _contents(self, container: Any, depth: int) -> None:
        if not container:
            self._empty.append(container)
            return
        if self._entries < _MOST_ENTRIES:
            self._filled.append((container, _plain_copy(container)))
            self._follow(container.values() if isinstance(container, dict) else container, depth)

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
        if tensor.is_leaf and tensor.grad is not None:
            self._todo.append((tensor.grad, 0))

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if id(base) in self._seen or base.__module__.partition(".")[0] in ("torch", "builtins"):
                continue
            self._seen[id(base)] = base
            names = dict(vars(base))
            # Past what a metaclass does on access.
            self._bound.append((vars(base), partial(type.__setattr__, base), names))
            self._closed.append((base, frozenset(names)))
            for value in names.values():
                value = getattr(value, "fget", None) or getattr(value, "__func__", value)
                if (
                    type(value) in _CONTAINERS
                    or isinstance(value, FunctionType | Tensor | _Cached)
                    or is_generator(value)
                ):
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
        self._contents(vars(function), depth + 1)
        for held in (function.__defaults__, function.__kwdefaults__):
            if held:
                self._todo.append((held, depth + 1))
        variables, file = function.__globals__, function.__code__.co_filename
        names = _names(function.__code__)
        named = {name: variables[name] for name in names if name in variables}
        if named:
            self._bound.append((variables, variables.__setitem__, named))
        if absent := _set_in(function.__code__).difference(variables):
            self._unbound.append((variables, variables.__delitem__, absent))
        for held in named.values():
            plain = type(held) in _CONTAINERS or isinstance(held, Tensor) or is_generator(held) or _is_array(held)
            code = getattr(getattr(held, "__wrapped__", None), "__code__", None) if type(held) is _Cached else None
            code = held.__code__ if isinstance(held, FunctionType) else code
            if plain or (code is not None and code.co_filename == file):
                self._todo.append((held, depth + 1))

    def _object(self, value: Any, depth: int) -> None:
        if issubclass(type(value), _LASTING) or type(value).__module__ == "unittest.mock":
            self.lasting.append(value)
        if (step := generator_kept(value)) is not None:
            self._generators.append(step)
        elif issubclass(type(value), bytearray | array.array):
            if len(value) < _LARGE:
                self._arrays.append((value, value[:]))
        elif _is_array(value):
            if value.nbytes < _LARGE:
                self._arrays.append((value, value.copy()))
                if value.dtype.hasobject:
                    self._follow(value.ravel().tolist(), depth + 1)
        elif depth < _DEEPEST and len(self._seen) < _MOST and _is_open(value):
            if issubclass(type(value), dict | list | set | deque):  # a subclass, which may do as it likes on access
                self._follow(_values(value), depth + 1)
                self._filled.append((value, _plain_copy(value)))
            attributes = _own(value, "__dict__")
            if type(attributes) is dict:
                self._contents(attributes, depth + 1)
            for name in _slots(type(value)):  # type: ignore[arg-type]
                held = _own(value, name)
                self._slots.append((value, name, held))
                self._follow((held,), depth + 1)

    def _script(self, module: torch.jit.ScriptModule, depth: int) -> None:
        """Attributes of a scripted module, which live outside of Python."""
        self._follow(module.buffers(recurse=False), depth)
        concrete = vars(module).get("_concrete_type")
        for name in concrete.get_attributes() if concrete is not None else ():
            value = getattr(module, name)
            self._scripted.append((module, name, value))
            self._follow((value,), depth)


def _is_open(value: Any) -> bool:
    """Whether an object's attributes are the model's business."""
    home = type(value).__module__
    return (
        home.partition(".")[0] not in _FOREIGN
        or home.startswith("torch.optim")
        or issubclass(type(value), SimpleNamespace | UserDict | UserList)
    )


def _own(value: Any, name: str) -> Any:
    """An attribute, past whatever the class does on access; ``_UNSET`` where it has none."""
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return _UNSET


@lru_cache(maxsize=1024)
def _slots(kind: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in kind.__mro__:
        own = base.__dict__.get("__slots__", ())
        names += [n for n, held in vars(base).items() if type(held) is MemberDescriptorType] if own else []
    return tuple(names)


@lru_cache(maxsize=8192)
def _names(code: CodeType) -> tuple[str, ...]:
    return tuple(_names_in(code))


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


@lru_cache(maxsize=8192)
def _set_in(code: CodeType) -> frozenset[str]:
    """Names of global variables that a function assigns to."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL"}
    return frozenset(names.union(*(_set_in(c) for c in code.co_consts if isinstance(c, CodeType))))


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and issubclass(type(value), numpy.ndarray)


def _values(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return _kind(container).values(container)  # type: ignore[no-any-return]
    return _kind(container).__iter__(container)  # type: ignore[no-any-return]


def _kind(container: Any) -> Any:
    return next(kind for kind in (OrderedDict, dict, list, set, deque) if isinstance(container, kind))


def _plain_copy(container: Any) -> Any:
    if isinstance(container, OrderedDict):
        return dict(OrderedDict.items(container))
    if isinstance(container, dict):
        return dict.copy(container)  # asks no key for its hash
    if isinstance(container, set):
        return tuple(set.__iter__(container))  # its order is kept while it is not written to
    return _kind(container)(_values(container))


def _same(container: Any, was: Any) -> bool:
    """Whether a container holds the same objects in the same order."""
    if type(container) is dict:  # nearly all are, and this is asked of each before every pass
        if len(container) != len(was) or not all(map(is_, container, was)):
            return False
        return all(map(is_, container.values(), was.values()))
    if isinstance(container, dict):
        if dict.__len__(container) != len(was) or not all(map(is_, _kind(container).keys(container), was)):
            return False
        return all(map(is_, _values(container), was.values()))
    return _kind(container).__len__(container) == len(was) and all(map(is_, _values(container), was))


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
