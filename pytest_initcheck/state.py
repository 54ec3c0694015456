"""Leave no trace: everything that running a model may change, put back bit for bit."""

from __future__ import annotations

import contextlib
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

# Containers whose contents a forward pass may change and that can be refilled without knowing what they hold.
_CONTAINERS = frozenset((dict, OrderedDict, list, set, deque))
# Attributes that cannot change from within; most are of these types, and asking for more costs time.
_PLAIN = frozenset((bool, int, float, str, tuple, type(None), type, torch.dtype, torch.device))


def untouched(model: nn.Module, *, tensors: Iterable[Tensor] = ()) -> Guard:
    """Return a context in which ``model`` may be run, stepped and broken; on exit everything is as it was.

    Covered: parameters (identity, values, ``requires_grad``, ``.grad``), buffers and plain tensor attributes, every
    attribute and every hook of every submodule, ``training``, generators (torch on every device used, numpy, Python,
    and those held by modules), torch's global switches, and ``tensors`` (values, ``requires_grad``, ``.grad``).

    Args:
        model: the module; wrappers count with what they wrap.
        tensors: input tensors, whose values a model with in-place operations may overwrite.
    """
    return Guard(model, tensors)


class Guard:
    """See :func:`untouched`; :meth:`mark` and :meth:`rewind` give every pass in between the same start."""

    def __init__(self, model: nn.Module, tensors: Iterable[Tensor] = ()) -> None:
        self._models = [model]
        self._tensors = list(tensors)
        self._exit = contextlib.ExitStack()
        self._mark: _Snapshot | None = None
        self._parameters: dict[int, _Kept] = {}
        self._backed_up = False

    def __enter__(self) -> Guard:
        with self._exit:
            # Undone in reverse order, each step whatever became of the others.
            self._exit.callback(_switches())
            for tensor in self._tensors:
                self._exit.callback(_leaf(tensor))
            self._shelter(self._models[0])
            self._exit.callback(torch.set_grad_enabled, torch.is_grad_enabled())
            self._exit = self._exit.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mark = None
        self._exit.close()
        self._parameters.clear()

    def adopt(self, model: nn.Module) -> None:
        """Guard a further module: the copy that is probed in place of a model that cannot be."""
        self._models.append(model)
        self._shelter(model)

    def _shelter(self, model: nn.Module) -> None:
        for module in model.modules():
            # Weights that a forward pass is known to write to: averages of other weights, tables with a largest norm.
            written = getattr(module, "max_norm", None) is not None
            for parameter in module.parameters(recurse=False):
                if isinstance(parameter, UninitializedParameter) or id(parameter) in self._parameters:
                    continue
                self._parameters[id(parameter)] = kept = _Kept(parameter)
                self._exit.callback(_leaf(parameter))
                parameter.grad = None
                if self._backed_up or written or not parameter.requires_grad:
                    kept.back_up()
        self._exit.callback(self.restore_parameters)
        self._exit.callback(_Snapshot([model], self._tensors).restore)

    def backup_parameters(self) -> None:
        """Copy all parameters, before they are written to: their values then go back on exit, too.

        Called before the first pass, it also covers models whose forward pass writes to trained weights in place.
        """
        self._backed_up = True
        for kept in self._parameters.values():
            kept.back_up()

    def restore_parameters(self) -> None:
        """Put the values of the parameters that were copied back to what they were then."""
        with torch.no_grad():
            for kept in self._parameters.values():
                kept.restore()
        torch.clear_autocast_cache()

    def mark(self) -> None:
        """Let :meth:`rewind` return to here."""
        self._mark = _Snapshot(self._models, self._tensors)

    def rewind(self) -> None:
        """Put generators, buffers, attributes and inputs back to the mark, so that the next pass starts like the last.

        Trained parameters keep the values they have now; frozen ones that a forward pass wrote to (the averages of a
        momentum encoder) go back as well.

        Raises:
            RuntimeError: no mark was set, or the context is over.
        """
        if self._mark is None:
            raise RuntimeError("rewind() needs a mark; call mark() inside the guard's with-block first")
        self._mark.restore()
        with torch.no_grad():
            for kept in self._parameters.values():
                if not kept.parameter.requires_grad and kept.written:
                    kept.restore()
        torch.clear_autocast_cache()  # it would hand the next pass the weights as they were cast for this one


class _Kept:
    """One parameter: the memory it had, and a copy of its values once one was made."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self._alias = parameter.data
        self._copy: Tensor | None = None
        self._version = parameter._version

    def back_up(self) -> None:
        if self._copy is None:
            self._copy = self._alias.clone()

    @property
    def written(self) -> bool:
        return self.parameter._version != self._version or not _same_memory(self.parameter.data, self._alias)

    def restore(self) -> None:
        if not _same_memory(self.parameter.data, self._alias):
            self.parameter.data = self._alias
        if self._copy is not None:
            _write(self._alias, self._copy)
        self._version = self.parameter._version


class _Snapshot:
    """Generators, tensors and attributes at one moment.

    Every attribute of every submodule is bound to the same object again, and plain containers among them are refilled:
    buffers, hooks, submodules and ``training`` are attributes, too. Tensors get their values back.
    """

    def __init__(self, models: Iterable[nn.Module], tensors: Iterable[Tensor]) -> None:
        self._modules: list[tuple[dict[str, Any], dict[str, Any], list[int]]] = []
        self._filled: list[tuple[Any, Any, list[int]]] = []
        self._empty: list[Any] = []
        self._generators: list[Callable[[], Any]] = []
        held: dict[int, Tensor] = {id(t): t for t in tensors}
        devices: set[torch.device] = set()
        seen: set[int] = set()
        for model in models:
            for module in model.modules():
                attributes = module.__dict__
                for name, value in attributes.items():
                    kind = type(value)
                    if kind in _PLAIN:
                        continue
                    if kind in _CONTAINERS:
                        if not value:
                            self._empty.append(value)
                            continue
                        self._filled.append((value, value.copy(), _ids(value)))
                        contents = value.values() if isinstance(value, dict) else value
                        if name == "_parameters":
                            devices.update(p.device for p in contents if p is not None)
                        elif name != "_modules":
                            held.update((id(t), t) for t in contents if _has_values(t))
                    elif _has_values(value):
                        held[id(value)] = value
                    elif id(value) not in seen and (step := _held_generator(value)) is not None:
                        seen.add(id(value))
                        self._generators.append(step)
                self._modules.append((attributes, attributes.copy(), _ids(attributes)))
                if isinstance(module, torch.jit.ScriptModule):
                    held.update((id(b), b) for b in module.buffers(recurse=False))
        devices.update(t.device for t in held.values())
        self._generators += _generators(devices)
        self._values = [(t, alias := _alias(t), alias.clone()) for t in held.values()]

    def restore(self) -> None:
        for container in self._empty:
            if container:
                container.clear()
        for container, was, ids in (*self._filled, *self._modules):
            if _ids(container) != ids:
                _refill(container, was)
        with torch.no_grad():
            for tensor, alias, copy in self._values:
                if not tensor.is_inference() and not _same_memory(tensor.data, alias):
                    tensor.data = alias
                _write(alias, copy)
        for step in self._generators:
            step()


def has_lazy(model: nn.Module) -> bool:
    """Return whether any parameter or buffer of ``model`` waits for its first input to get a shape."""
    lazy = UninitializedParameter | UninitializedBuffer
    return any(
        isinstance(t, lazy)
        for module in model.modules()
        for t in (*module._parameters.values(), *module._buffers.values())
    )


def _same_memory(one: Tensor, other: Tensor) -> bool:
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return one is other
    same_view = one.shape == other.shape and one.stride() == other.stride() and one.dtype == other.dtype
    return same_view and one.data_ptr() == other.data_ptr()


def _write(target: Tensor, source: Tensor) -> None:
    if target.layout is torch.strided:
        for dim, stride in enumerate(target.stride()):
            if stride == 0 and target.shape[dim] > 1:  # an expanded tensor: one write for all that share the memory
                target, source = target.narrow(dim, 0, 1), source.narrow(dim, 0, 1)
    with torch.inference_mode() if target.is_inference() else contextlib.nullcontext():
        target.copy_(source)


def _leaf(tensor: Tensor) -> Callable[[], None]:
    """``.grad`` (the object) and ``requires_grad`` of a leaf."""
    grad, wanted = (tensor.grad if tensor.is_leaf else None), tensor.requires_grad

    def undo() -> None:
        if tensor.is_leaf:
            if tensor.requires_grad != wanted:
                tensor.requires_grad_(wanted)
            if tensor.grad is not grad:
                tensor.grad = grad

    return undo


def _alias(tensor: Tensor) -> Tensor:
    """The same memory as another object, so that writing to it is no in-place operation on ``tensor``."""
    return tensor.detach() if tensor.is_inference() else tensor.data


def _has_values(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and not isinstance(value, nn.Parameter | UninitializedBuffer)
        and value.layout is torch.strided
        and value.device.type != "meta"
    )


def _ids(container: Any) -> list[int]:
    """What a container holds, in order, as identities (a set's order is kept while it is not written to)."""
    if isinstance(container, dict):
        return [*map(id, container), *map(id, container.values())]
    return [*map(id, container)]


def _refill(container: Any, copy: Any) -> None:
    container.clear()
    if isinstance(container, list | deque):
        container.extend(copy)
    else:
        container.update(copy)


def _generators(devices: Iterable[torch.device]) -> list[Callable[[], Any]]:
    """State of torch's generator on each device, of numpy's and of Python's."""
    cpu, python = torch.get_rng_state(), random.getstate()
    undo: list[Callable[[], Any]] = [lambda: torch.set_rng_state(cpu), lambda: random.setstate(python)]
    for device in devices:
        backend = getattr(torch, device.type, None)
        if device.type not in ("cpu", "meta") and hasattr(backend, "get_rng_state"):
            undo.append(_accelerator_generator(backend, device))
    if (numpy := sys.modules.get("numpy")) is not None:
        state = numpy.random.get_state()
        undo.append(lambda: numpy.random.set_state(state))
    return undo


def _accelerator_generator(backend: Any, device: torch.device) -> Callable[[], Any]:
    if device.type == "mps":
        state = backend.get_rng_state()
        return lambda: backend.set_rng_state(state)
    state = backend.get_rng_state(device)
    return lambda: backend.set_rng_state(state, device)


def _held_generator(value: Any) -> Callable[[], Any] | None:
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, random.Random):
        python = value.getstate()
        return lambda: value.setstate(python)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.random.RandomState):
        legacy = value.get_state()
        return lambda: value.set_state(legacy)
    if numpy is not None and isinstance(value, numpy.random.Generator):
        bits = value.bit_generator.state
        return lambda: setattr(value.bit_generator, "state", bits)
    return None


def _switches() -> Callable[[], None]:
    """torch's global switches, each written back only if it changed (some setters have effects of their own)."""
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
