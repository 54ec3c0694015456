"""Leave no trace: everything that running a model may change, put back bit for bit."""

from __future__ import annotations

import contextlib
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

# Containers whose contents a forward pass may change and that can be refilled without knowing what they hold.
_CONTAINERS = (dict, OrderedDict, list, set, deque)


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
        self._mark: Callable[[], None] | None = None
        self._backups: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __enter__(self) -> Guard:
        with self._exit:
            # Undone in reverse order: what could disturb the rest (hooks, modes) comes first here, so last there.
            self._exit.callback(_generators(self._devices(), self._models))
            self._exit.callback(_switches())
            self._exit.callback(_values(self._tensors))
            for tensor in self._tensors:
                self._exit.callback(_leaf(tensor))
            self._shelter(self._models[0])
            self._exit.callback(torch.set_grad_enabled, torch.is_grad_enabled())
            self._exit = self._exit.pop_all()
        self.mark()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mark = None
        self._exit.close()
        self._backups.clear()

    def adopt(self, model: nn.Module) -> None:
        """Guard a further module: the copy that is probed in place of a model that cannot be."""
        self._models.append(model)
        self._shelter(model)
        self.mark()

    def _shelter(self, model: nn.Module) -> None:
        parameters = [p for p in _parameters(model) if not isinstance(p, UninitializedParameter)]
        for parameter in parameters:
            # A forward pass may write to weights without a sign of it (max_norm, .data, momentum encoders), so there is
            # a copy of them from the start: the one copy of the parameters that the check is allowed.
            alias = parameter.data
            self._backups[id(parameter)] = (parameter, alias, alias.clone())
            self._exit.callback(_leaf(parameter))
            parameter.grad = None
        self._exit.callback(self.restore_parameters)
        self._exit.callback(_attributes([model]))
        self._exit.callback(_values(_held_tensors(model)))

    def backup_parameters(self) -> None:
        """Promise that parameters may be written to from now on (they are copied on entry, so nothing is left to do)."""

    def restore_parameters(self) -> None:
        """Put the values of all parameters back to what they were on entry."""
        with torch.no_grad():
            for parameter, alias, copy in self._backups.values():
                if not _same_memory(parameter.data, alias):
                    parameter.data = alias
                _write(alias, copy)
        torch.clear_autocast_cache()

    def mark(self) -> None:
        """Let :meth:`rewind` return to here."""
        undo = [
            _generators(self._devices(), self._models),
            _values(self._tensors),
            _attributes(self._models),
            *(_values(_held_tensors(model)) for model in self._models),
        ]

        def rewind() -> None:
            for step in reversed(undo):
                step()
            torch.clear_autocast_cache()  # it would hand the next pass the weights as they were cast for this one

        self._mark = rewind

    def rewind(self) -> None:
        """Put generators, buffers, attributes and inputs back to the mark, so that the next pass starts like the last.

        Parameters keep the values they have now.

        Raises:
            RuntimeError: outside the context.
        """
        if self._mark is None:
            raise RuntimeError("rewind() was called outside the guard's with-block; call it inside")
        self._mark()

    def _devices(self) -> set[torch.device]:
        tensors: list[Tensor] = list(self._tensors)
        for model in self._models:
            tensors += _parameters(model)
            tensors += model.buffers()
        return {t.device for t in tensors}


def has_lazy(model: nn.Module) -> bool:
    """Return whether any parameter or buffer of ``model`` waits for its first input to get a shape."""
    return any(isinstance(p, UninitializedParameter) for p in _parameters(model)) or any(
        isinstance(b, UninitializedBuffer) for b in model.buffers()
    )


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    return list(model.parameters())


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


def _values(tensors: Iterable[Tensor]) -> Callable[[], None]:
    """Values of tensors, wherever their memory is reachable; their version counters are not touched."""
    kept = [
        (t, alias := t.detach() if t.is_inference() else t.data, alias.clone())
        for t in {id(t): t for t in tensors}.values()
        if not isinstance(t, UninitializedBuffer | UninitializedParameter) and t.device.type != "meta"
    ]

    def undo() -> None:
        with torch.no_grad():
            for tensor, alias, copy in kept:
                if not tensor.is_inference() and not _same_memory(tensor.data, alias):
                    tensor.data = alias
                _write(alias, copy)

    return undo


def _held_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Buffers, and tensors that modules keep as plain attributes or in containers."""
    for module in model.modules():
        yield from (b for b in module._buffers.values() if b is not None)
        for name, value in module.__dict__.items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            for item in _contents(value):
                if isinstance(item, Tensor) and not isinstance(item, nn.Parameter) and item.layout is torch.strided:
                    yield item


def _contents(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set | deque):
        return list(value)
    return (value,)


def _attributes(models: Iterable[nn.Module]) -> Callable[[], None]:
    """Every attribute of every submodule: the same names bound to the same objects, plain containers refilled.

    Hooks, buffers, parameters, submodules, ``training`` and the persistence of buffers are attributes, too.
    """
    kept: list[tuple[nn.Module, dict[str, Any], list[tuple[Any, Any]]]] = []
    for model in models:
        for module in model.modules():
            attributes = dict(module.__dict__)
            containers = [(v, v.copy()) for v in attributes.values() if type(v) in _CONTAINERS]
            kept.append((module, attributes, containers))

    def undo() -> None:
        for module, attributes, containers in kept:
            for container, copy in containers:
                if not _same(container, copy):
                    _refill(container, copy)
            now = module.__dict__
            if not _same(now, attributes):
                _refill(now, attributes)

    return undo


def _same(container: Any, copy: Any) -> bool:
    if len(container) != len(copy):
        return False
    if isinstance(container, dict):
        return all(k is k0 and v is v0 for (k, v), (k0, v0) in zip(container.items(), copy.items(), strict=True))
    if isinstance(container, set):
        return {id(v) for v in container} == {id(v) for v in copy}
    return all(v is v0 for v, v0 in zip(container, copy, strict=True))


def _refill(container: Any, copy: Any) -> None:
    container.clear()
    if isinstance(container, list | deque):
        container.extend(copy)
    else:
        container.update(copy)


def _generators(devices: Iterable[torch.device], models: Iterable[nn.Module]) -> Callable[[], None]:
    """State of torch's, numpy's and Python's generators, and of those that modules hold."""
    undo: list[Callable[[], Any]] = []
    cpu = torch.get_rng_state()
    undo.append(lambda: torch.set_rng_state(cpu))
    for device in devices:
        backend = getattr(torch, device.type, None)
        if device.type not in ("cpu", "meta") and hasattr(backend, "get_rng_state"):
            undo.append(_accelerator_generator(backend, device))
    python = random.getstate()
    undo.append(lambda: random.setstate(python))
    if (numpy := sys.modules.get("numpy")) is not None:
        state = numpy.random.get_state()
        undo.append(lambda: numpy.random.set_state(state))
    seen: set[int] = set()
    for model in models:
        for module in model.modules():
            for value in module.__dict__.values():
                if id(value) not in seen and (step := _held_generator(value)) is not None:
                    seen.add(id(value))
                    undo.append(step)

    def restore() -> None:
        for step in undo:
            step()

    return restore


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
