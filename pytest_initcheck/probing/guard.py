"""Leave no trace: everything that running a model may change, put back bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ..sharding.layout import local, resharded
from .memory import Kept, kept, parts, writable
from .surroundings import Surroundings
from .switches import switches_kept, uninterrupted


def untouched(
    model: nn.Module,
    *,
    tensors: Iterable[Tensor] = (),
    also: Iterable[Any] = (),
    refill: Callable[[], None] | None = None,
) -> Guard:
    """Return a context in which ``model`` may be run, stepped and broken; on exit everything is as it was.

    Covered: parameters (identity, values, ``requires_grad``, ``.grad``), buffers and every tensor that the model holds, with
    the memory behind them; every attribute and every hook of every submodule, ``training``; generators (torch on every
    device used, numpy, Python, and those held by modules and closures); what
    :class:`~pytest_initcheck.probing.surroundings.Surroundings` can reach; torch's global switches; and ``tensors`` (values,
    ``requires_grad``, ``.grad``).

    Args:
        model: the module; wrappers count with what they wrap.
        tensors: input tensors, whose values a model with in-place operations may overwrite.
        also: what else a pass can change: inputs with the containers they are in, a loss.
        refill: gives trained parameters the values that they have now once more, so that no copy of them is kept.
    """
    return Guard(model, tensors, also, refill)


#: Called before anything is guarded: what somebody of ours has switched for a while must not be what is put back.
BEFORE: list[Callable[[], object]] = []


class Guard:
    """See :func:`untouched`; :meth:`mark` and :meth:`rewind` give every pass in between the same start.

    Attributes:
        holds_graph: whether the model or an input holds a tensor with a graph behind it, which a backward pass must leave
            to its owner.
    """

    def __init__(
        self,
        model: nn.Module,
        tensors: Iterable[Tensor] = (),
        also: Iterable[Any] = (),
        refill: Callable[[], None] | None = None,
    ) -> None:
        self._models = [model]
        self._refill = refill
        self._tensors = list(tensors)
        self._also = list(also)
        self._exit = contextlib.ExitStack()
        self._mark: _Snapshot | None = None
        self._parameters: dict[int, Kept] = {}
        self._blocks: dict[int, Any] = {}
        self._backed_up = False
        self.holds_graph = False

    def __enter__(self) -> Guard:
        for ready in list(BEFORE):
            ready()
        with self._exit:
            # Undone in reverse order, each step whatever became of the others.
            self._exit.callback(switches_kept())
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
        try:
            with uninterrupted():
                self._exit.close()
        finally:
            self._exit.close()  # an interruption before the line above took hold
            self._parameters.clear()

    def adopt(self, model: nn.Module) -> None:
        """Guard a further module: the copy that is probed in place of a model that cannot be."""
        self._models.append(model)
        self._refill = None  # it knows nothing of the copy
        self._shelter(model)

    def _shelter(self, model: nn.Module) -> None:
        self._make_writable(model)
        for module in model.modules():
            # Weights that a forward pass is known to write to: averages of other weights, tables with a largest norm.
            written = getattr(module, "max_norm", None) is not None
            for parameter in module.parameters(recurse=False):
                self._keep(parameter, written=written)
        self._exit.callback(self.restore_parameters)
        snapshot = self._snapshot([model])
        for outside in snapshot.parameters:  # of a module in a list or a closure, of a loss
            self._keep(outside, written=True)
        self.holds_graph = self.holds_graph or snapshot.holds_graph
        self._exit.callback(snapshot.restore)
        self._exit.callback(resharded, model)

    def _keep(self, parameter: Tensor, *, written: bool) -> None:
        if isinstance(parameter, UninitializedParameter) or id(parameter) in self._parameters:
            return
        self._parameters[id(parameter)] = one = Kept(local(parameter), self._blocks, parameter)
        if parameter.is_leaf:
            self._exit.callback(_leaf(parameter))
            parameter.grad = None
        if (self._backed_up and self._refill is None) or written or not parameter.requires_grad:
            one.back_up()

    def _make_writable(self, model: nn.Module) -> None:
        """Have what stands in memory that cannot be written to stand elsewhere meanwhile."""
        held = [t for t in (*model.parameters(), *model.buffers()) if not isinstance(t, UninitializedParameter)]
        held = [t for t in held if holds_memory(t) and not t.is_inference()]
        for tensor, fine in zip(held, writable(held), strict=True):
            if not fine:
                self._exit.callback(setattr, tensor, "data", tensor.data)
                tensor.data = tensor.data.clone()

    def _snapshot(self, models: list[nn.Module]) -> _Snapshot:
        weights = [one.key for one in self._parameters.values()]
        return _Snapshot([*models, *self._also], self._tensors, apart_from=weights)

    def backup_parameters(self) -> None:
        """Copy all parameters, before they are written to: their values then go back on exit, too.

        Called before the first pass, it also covers models whose forward pass writes to trained weights in place.
        """
        self._backed_up = True
        for one in self._parameters.values() if self._refill is None else ():
            one.back_up()

    def restore_parameters(self) -> None:
        """Put the values of the parameters that were copied back to what they were then."""
        with torch.no_grad(), uninterrupted():
            for one in self._parameters.values():
                one.restore()
            if self._refill is not None and self._backed_up:
                self._refill()
        torch.clear_autocast_cache()

    def mark(self) -> None:
        """Let :meth:`rewind` return to here."""
        self._mark = self._snapshot(self._models)

    def rewind(self) -> None:
        """Put generators, buffers, attributes and inputs back to the mark, so that the next pass starts like the last.

        Trained parameters keep the values they have now; frozen ones that a forward pass wrote to (the averages of a
        momentum encoder) go back as well.

        Raises:
            RuntimeError: no mark was set, or the context is over.
        """
        if self._mark is None:
            raise RuntimeError("rewind() needs a mark; call mark() inside the guard's with-block first")
        resharded(*self._models)
        self._mark.restore()
        with torch.no_grad():
            for one in self._parameters.values():
                if one.owner.requires_grad != one.trained:
                    one.owner.requires_grad_(one.trained)
                if not one.trained and one.written:
                    one.restore()
        torch.clear_autocast_cache()  # it would hand the next pass the weights as they were cast for this one


class _Snapshot:
    """Generators, tensors and attributes at one moment.

    Every attribute of every submodule is bound to the same object again, and containers among them are refilled:
    buffers, hooks, submodules and ``training`` are attributes, too. Tensors get their memory back.

    Args:
        roots: modules, and whatever else can be reached.
        tensors: inputs.
        apart_from: memory of parameters, which is put back on its own.
    """

    def __init__(self, roots: Iterable[Any], tensors: Iterable[Tensor], *, apart_from: Iterable[int | None]) -> None:
        self._surroundings = Surroundings(roots)
        self.parameters = [p for p in self._surroundings.parameters if holds_memory(p)]
        found = [local(t) for t in (*tensors, *self._surroundings.tensors) if holds_memory(t)]
        held = {id(t): t for t in (*found, *(part for t in found for part in parts(t)))}
        self.holds_graph = any(t.grad_fn is not None for t in held.values())
        self._leaves = [_leaf(t) for t in held.values() if t.is_leaf and not t.is_inference()]
        self._tensors = kept(held.values(), apart_from=[key for key in apart_from if key is not None])

    def restore(self) -> None:
        with uninterrupted():
            try:
                self._surroundings.restore()
            finally:
                with torch.no_grad():
                    for one in self._tensors:
                        one.restore(compare=True)
                for step in self._leaves:
                    step()


def holds_memory(value: Any) -> bool:
    """Whether ``value`` is a tensor whose memory can be copied."""
    return isinstance(value, Tensor) and not isinstance(value, UninitializedBuffer) and not value.is_meta


def has_lazy(model: nn.Module) -> bool:
    """Return whether any parameter or buffer of ``model`` waits for its first input to get a shape."""
    lazy = UninitializedParameter | UninitializedBuffer
    return any(
        isinstance(t, lazy)
        for module in model.modules()
        for t in (*module._parameters.values(), *module._buffers.values())
    )


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
