"""Watching layers while a model runs: one entry for each module call and each functional operation that matters."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from ..records import Histogram
from ..sharding.layout import kind_of
from ..sharding.world import current
from ..words import some
from .apart import Apart
from .entrances import Entrances
from .memory import holds_values
from .modules import (
    layer_modules,
    made_by,
    made_by_hooks,
    measurable,
    own_parameters,
    parameter_names,
    sample_dim,
    tensors,
)
from .operands import Use, uses
from .statistics import Pending, histogram, measure, rms, saturated_share
from .whereabouts import name_of

#: Name of an operation -> range whose two ends are flat, for those that have one.
RANGES: Mapping[str, tuple[float, float]] = {
    "tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "hardtanh": (-1.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "softsign": (-1.0, 1.0),
    "erf": (-1.0, 1.0),
}

#: Nonlinearities that leave a unit at zero once its input is far enough on the wrong side.
RECTIFYING = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "threshold",
        "hardshrink",
        "softshrink",
        "prelu",
        "rrelu",
        "glu",
    ]
)
# Operations that are layers wherever they are called, under the name that records carry.
_NONLINEAR = [
    *RECTIFYING,
    "tanh",
    "sigmoid",
    "softplus",
    "softsign",
    "logsigmoid",
    "hardtanh",
    "hardsigmoid",
    "softmax",
    "log_softmax",
    "softmin",
    "gumbel_softmax",
    "tanhshrink",
    "layer_norm",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "rms_norm",
    "normalize",
    "local_response_norm",
    "sin",
    "cos",
    "erf",
    "scaled_dot_product_attention",
]
# Operations that are layers where one of their operands is a parameter.
_LINEAR = [
    "linear",
    "bilinear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "matmul",
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "mv",
    "addmv",
    "einsum",
    "tensordot",
    "embedding",
    "embedding_bag",
    "__matmul__",
    "__rmatmul__",
]
#: Operations whose output has its units in the last dimension (a convolution's are in dimension 1).
WEIGHTED = frozenset(("linear", "bilinear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "embedding"))


def _functions(names: list[str]) -> dict[Any, str]:
    table: dict[Any, str] = {}
    for name in names:
        label = "matmul" if name in ("__matmul__", "__rmatmul__") else name
        for holder in (torch, F, Tensor, torch.special, torch._C._nn):
            for spelling in (name, name + "_"):
                if callable(function := getattr(holder, spelling, None)):
                    table.setdefault(function, label)
    return table


_NONLINEAR_FUNCTIONS = _functions(_NONLINEAR)
_LINEAR_FUNCTIONS = _functions(_LINEAR)


@dataclass(slots=True, eq=False)
class Entry:
    """One layer call while it is being watched; what :class:`~pytest_initcheck.records.LayerRecord` is made of."""

    name: str
    module: str
    kind: str
    functional: bool
    leaf: bool
    shape: tuple[int, ...]
    dtype: torch.dtype
    activation: Pending | None
    parameters: tuple[str, ...] = ()
    operation: str | None = None
    input_rms: Tensor | Pending | None = None
    given: Pending | None = None
    saturated: Tensor | None = None
    node: Any = None
    port: int = 0
    gradient: list[Pending | None] = field(default_factory=list)
    opaque: str | None = None


def _as_function(method: Callable[[Any, Any, Any], None]) -> Callable[[nn.Module, Any, Any], None]:
    """``method`` as a hook that a copy of the module keeps as it is: of a bound method, deepcopy copies what it is bound to."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        method(module, args, output)

    return hook


def looks_up(module: nn.Module, args: Any, output: Any) -> bool:
    """Return whether a module without parts was given ids and returned numbers."""
    ids = args and isinstance(args[0], Tensor) and not args[0].is_floating_point() and not args[0].is_complex()
    if not ids or next(module.children(), None) is not None:
        return False
    return isinstance(output, Tensor) and output.is_floating_point() and output.numel() > 1


@dataclass(slots=True, eq=False)
class _Frame:
    module: nn.Module
    path: str
    parameters: tuple[str, ...]
    input_rms: Tensor | Pending | None = None
    given: Pending | None = None
    inside: list[Entry] = field(default_factory=list)
    last: weakref.ref[Tensor] | None = None


class Watch(TorchFunctionMode):
    """Context in which a forward pass leaves :attr:`entries`.

    Module calls are seen by forward hooks, functional operations by a torch-function mode: it sees values under
    ``no_grad`` and in-place results that the graph has lost, knows the module it is in, and costs about a microsecond
    for each call. Gradients are seen by prehooks on the autograd nodes of the outputs, because module backward hooks
    refuse in-place operations.

    Args:
        model: the module that will be called.
        batch: number of samples, to find the sample dimension of each output.
        inputs: tensors that it will be called with; they are followed through the model.
        spread: names of the entries that get a histogram.
        exact: whether every element of large activations and gradients is read.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: int | None,
        *,
        inputs: Collection[Tensor] = (),
        spread: Collection[str] = (),
        exact: bool = True,
    ) -> None:
        super().__init__()
        self._exact = exact
        self.apart, self.entrances = Apart(model, batch if inputs else None), Entrances(inputs)
        self.apart.begin(inputs)
        #: What layers made of ids: signals enter there where no input is one.
        self.looked_up: list[Entry] = []
        #: By name of the entry.
        self.histograms: dict[str, Histogram] = {}
        self._spread = spread
        self.entries: list[Entry] = []
        self.unseen: list[str] = []
        self._batch = batch
        self._model = model
        self._names = parameter_names(model)
        world = current()
        if world is not None:
            self._names |= {i: self._names[id(was)] for i, (_, was) in world.standing.items() if id(was) in self._names}
        #: Of a module that a plan parallelizes, what it computes is seen, not what its hooks make of that for this rank.
        self._first = world is not None
        self._stack: list[_Frame] = []
        self._handles: list[Any] = []
        self._calls: dict[str, int] = {}
        self._measured: dict[int, tuple[weakref.ref[Tensor], int, Pending | None]] = {}
        self._listening: dict[tuple[int, int], list[Pending | None]] = {}
        self._recording = False
        self._scripted: list[str] = []
        self.uses: dict[str, Use] = {}
        #: id of a parameter -> the weight that a parametrization made of it
        self.made: dict[int, Tensor] = {}
        #: id of a parameter that is none of the model's -> path of the module that multiplied by it
        self.foreign: dict[int, str] = {}

    # -- the forward pass

    def __enter__(self) -> Watch:
        for path, module in layer_modules(self._model):
            if isinstance(module, torch.jit.ScriptModule):
                self._scripted.append(path)
                self.apart.lose()
                self.entrances.known = False
                continue
            own = tuple(dict.fromkeys(self._names[id(p)] for p in own_parameters(module) if id(p) in self._names))
            self._handles.append(
                module.register_forward_pre_hook(self._entering(path, own), with_kwargs=True, prepend=True)
            )
            self._handles.append(module.register_forward_hook(_as_function(self._leaving), prepend=self._first))
        for module in self._model.modules():
            if isinstance(module, ParametrizationList):
                self._handles.append(module.register_forward_hook(_as_function(self._making)))
        self._recording = True
        super().__enter__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._recording = False
        self._measured.clear()

    def finish(self, output: Any) -> None:
        """Say what was not seen, and record ``output`` itself if the model takes no hooks."""
        if not self._scripted:
            return
        names = some(path or "the model" for path in self._scripted)
        self.unseen.append(f"TorchScript: {names} ran compiled, so the layers inside were not seen")
        out = next((t for t in tensors(output) if measurable(t)), None)
        if isinstance(self._model, torch.jit.ScriptModule) and out is not None:
            self._entry("", type(self._model).__name__, out, functional=False)

    def close(self) -> None:
        """Remove every hook; the entries stay."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stack.clear()
        self.made.clear()
        for entry in self.entries:
            entry.node = None

    @property
    def innermost(self) -> str | None:
        """Path of the module that was running when the forward pass stopped, ``None`` before the first one."""
        return (self._stack[-1].path or type(self._model).__name__) if self._stack else None

    def _entering(self, path: str, own: tuple[str, ...]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._recording:
                return
            frame = _Frame(module, path, own)
            if own:
                with torch._C.DisableTorchFunction():
                    first = next((t for t in tensors((args, kwargs)) if measurable(t)), None)
                    if first is not None:
                        known = self._known(first)
                        if known is None and not first.requires_grad:
                            frame.given = known = measure(first, batch_dim=sample_dim(first, self._batch))
                        frame.input_rms = known or rms(first)
            self._stack.append(frame)

        return hook

    def _making(self, module: ParametrizationList, _args: Any, weight: Any) -> None:
        if self._recording and isinstance(weight, Tensor) and (made := made_by(module, weight)) is not None:
            self.made[id(made[0])] = weight

    def _leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._recording:
            return
        self.made.update((id(p), weight) for p, weight in made_by_hooks(module))
        # A module whose exception was caught by its caller never left.
        while self._stack and self._stack[-1].module is not module:
            self._stack.pop()
        if not self._stack:
            return
        frame = self._stack.pop()
        with torch._C.DisableTorchFunction():
            out = next((t for t in tensors(output) if measurable(t)), None)
            if out is None:
                self._within(frame.inside)
                return
            operation, saturated = None, None
            if len(frame.inside) == 1 and frame.inside[0].functional and frame.last is not None and frame.last() is out:
                # The module is this one operation: one layer, not two.
                merged = frame.inside.pop()
                del self.entries[-1 - self.entries[::-1].index(merged)]
                self._calls[self._base(frame.path, merged.kind)] -= 1
                operation, saturated = merged.operation, merged.saturated
            if isinstance(module, nn.RNNBase) and module.mode != "RNN_RELU":
                saturated = saturated_share(out, -1.0, 1.0)
            entry = self._entry(frame.path, kind_of(module), out, functional=False)
            entry.operation, entry.saturated = operation, saturated
            entry.leaf = not frame.inside
            entry.parameters = frame.parameters
            entry.input_rms, entry.given = frame.input_rms, frame.given
            if looks_up(module, args, output):
                self.looked_up.append(entry)
            self._within([entry])

    def _within(self, entries: list[Entry]) -> None:
        if self._stack:
            self._stack[-1].inside += entries

    # -- functional operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._recording:
            return func(*args, **(kwargs or {}))
        name = name_of(func)
        out = func(*self.entrances.opened(name, args, kwargs or {}), **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            self.entrances.passed(name, args, out)
            self.apart.saw(name, args, kwargs or {}, func, out)
        label = _NONLINEAR_FUNCTIONS.get(func)
        used: tuple[str, ...] = ()
        if label is None:
            if (label := _LINEAR_FUNCTIONS.get(func)) is None:
                return out
            with torch._C.DisableTorchFunction():
                used = self._used(label, args, kwargs)
            if not used:
                return out
        result = out[0] if isinstance(out, tuple) and out else out
        if isinstance(result, Tensor) and measurable(result):
            with torch._C.DisableTorchFunction():
                self._operation(label, result, used or self._used(label, args, kwargs))
        return out

    def _used(self, label: str, args: Any, kwargs: Any) -> tuple[str, ...]:
        """Names of the parameters among the operands; how each is used is noted where the operation tells."""
        names = []
        for tensor in tensors((args, kwargs or {})):
            source = tensor if tensor._base is None else tensor._base
            if (name := self._names.get(id(source))) is not None:
                names.append(name)
            elif isinstance(source, nn.Parameter):
                self.foreign.setdefault(id(source), self._stack[-1].path if self._stack else "")
        if names:
            for source, use in uses(label, args, kwargs or {}):
                if (name := self._names.get(id(source))) is not None:
                    self.uses.setdefault(name, use)
        return tuple(dict.fromkeys(names))

    def _operation(self, label: str, out: Tensor, used: tuple[str, ...]) -> None:
        path = self._stack[-1].path if self._stack else ""
        entry = self._entry(path, label, out, functional=True)
        entry.operation, entry.parameters, entry.leaf = label, used, True
        if label in RANGES:
            entry.saturated = saturated_share(out, *RANGES[label])
        if self._stack:
            frame = self._stack[-1]
            frame.inside.append(entry)
            frame.last = weakref.ref(out)

    # -- one entry

    def _base(self, path: str, operation: str | None) -> str:
        return f"{path}:{operation}" if operation else path or "(model)"

    def _entry(self, path: str, kind: str, out: Tensor, *, functional: bool) -> Entry:
        base = self._base(path, kind if functional else None)
        count = self._calls[base] = self._calls.get(base, 0) + 1
        entry = Entry(
            name=base if count == 1 else f"{base}#{count}",
            module=path,
            kind=kind,
            functional=functional,
            leaf=True,
            shape=tuple(out.shape),
            dtype=out.dtype,
            activation=self._known(out) or self._measure(out, units=functional and kind in RECTIFYING),
        )
        if entry.name in self._spread and (spread := histogram(out)) is not None:
            self.histograms[entry.name] = spread
        node = out.grad_fn
        if node is None and not out.requires_grad:
            entry.opaque = "no gradient path"
        else:
            self._listen(entry, out, node)
        self.entries.append(entry)
        return entry

    def _listen(self, entry: Entry, out: Tensor, node: Any) -> None:
        entry.node, entry.port = node, out.output_nr
        key = (id(node) if node is not None else id(out), out.output_nr)
        if key in self._listening:
            entry.gradient = self._listening[key]
            return
        heard: list[Pending | None] = self._listening.setdefault(key, entry.gradient)
        port = out.output_nr

        def arrived(gradients: Any) -> None:
            gradient = gradients[port] if isinstance(gradients, tuple) else gradients
            if gradient is not None and not heard and holds_values(gradient):
                heard.append(measure(gradient, exact=self._exact))

        if node is not None:
            self._handles.append(node.register_prehook(arrived))
        else:
            self._handles.append(out.register_hook(arrived))

    def _measure(self, out: Tensor, *, units: bool) -> Pending | None:
        # A pass for histograms needs nothing else of the many layers that get none.
        batch_dim = sample_dim(out, self._batch)
        pending = None if self._spread else measure(out, batch_dim=batch_dim, units=units, exact=self._exact)
        self._measured[id(out)] = (weakref.ref(out), out._version if not out.is_inference() else 0, pending)
        return pending

    def _known(self, tensor: Tensor) -> Pending | None:
        """What was measured of this very tensor, if nothing wrote to it since."""
        found = self._measured.get(id(tensor))
        if found is None or found[0]() is not tensor:
            return None
        version = tensor._version if not tensor.is_inference() else 0
        return found[2] if found[1] == version else None
