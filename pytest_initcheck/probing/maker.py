"""Where the first number that is not finite was made: one more pass, in which every operation is seen; sick models alone pay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ..errors import ProbeError
from ..records import NotFinite
from ..words import number
from .dispatch import Mode
from .graph import Graph, operation
from .memory import holds_values, storage_key
from .modules import clean, tensors
from .probe import Probed, gradients

#: Operation -> where its domain begins: NaN below, and of some an infinity there.
_ABOVE: dict[str, float] = {
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt", "lgamma", "digamma"), 0.0),
    "log1p": -1.0,
    "acosh": 1.0,
}
#: Operation -> both ends of its domain.
_WITHIN: dict[str, tuple[float, float]] = {
    "acos": (-1.0, 1.0),
    "asin": (-1.0, 1.0),
    "atanh": (-1.0, 1.0),
    "erfinv": (-1.0, 1.0),
    "special_erfinv": (-1.0, 1.0),
    "logit": (0.0, 1.0),
}
_QUOTIENTS = frozenset(["div", "divide", "true_divide", "reciprocal", "fmod", "remainder", "addcdiv"])
_DIFFERENCES = frozenset(["sub", "add", "rsub", "sum", "mean", "cumsum", "logsumexp"])
#: Node of the autograd graph -> where its derivative is not finite.
_DERIVATIVES: dict[str, str] = {
    "Sqrt": "the derivative of sqrt is infinite at 0",
    "Rsqrt": "the derivative of rsqrt is infinite at 0",
    "Pow": "the derivative of a power below 1 is infinite at 0",
    "Log": "the derivative of log is infinite at 0",
    "Div": "the derivative of a quotient is infinite where it divides by 0, or overflows near it",
    "Reciprocal": "the derivative of 1 / x is infinite at 0",
    "Std": "the derivative of std is 0 / 0 where all values are equal",
    "Acos": "the derivative of acos is infinite at -1 and 1",
    "Asin": "the derivative of asin is infinite at -1 and 1",
    **dict.fromkeys(("Norm", "LinalgVectorNorm", "Cdist", "EuclideanDist"), "the derivative of a norm is 0 / 0 at 0"),
}
#: Operations that write what they are given: an infinity in their result is meant (a mask), or was there before.
_WRITES: tuple[str, ...] = (
    "empty",
    "new_empty",
    "full",
    "new_full",
    "fill",
    "masked_fill",
    "scalar_tensor",
    "where",
    "copy",
    "_to_copy",
)
_WRITES += ("clone", "lift", "constant_pad_nd", "detach", "index_put", "_index_put_impl", "masked_scatter", "scatter")
#: Operations whose result is in a state that nobody has written yet.
_UNWRITTEN = ("empty", "new_empty", "empty_like", "empty_strided", "empty_permuted", "new_empty_strided", "resize")


@dataclass(slots=True)
class _Event:
    """A tensor that is not finite: what made it so first, and whether that was meant (a mask of -inf)."""

    root: NotFinite | None
    nan: bool


class _Seeing(Mode):
    """Sees every operation, below autograd and inside functions that are written in C++."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._paths = {id(m): clean(path) for path, m in model.named_modules()}
        self._leaves = {id(m) for m in model.modules() if next(m.children(), None) is None}
        self._stack: list[nn.Module] = []
        self.bad: dict[int | None, _Event] = {}
        self.held: list[Tensor] = []  # memory that is let go would be given to the next tensor, and with it the event
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not _finite(tensor):
                root = NotFinite(clean(name), "", f"{name} is not finite", overflow=False)
                nan = bool(torch.isnan(tensor).any())
                self.bad[storage_key(tensor)] = _Event(root if nan else None, nan)

    def __enter__(self) -> _Seeing:
        # Not the model's own hooks: those are put back to what they were before every pass.
        self._handles = [
            register_module_forward_pre_hook(lambda module, _args: self._stack.append(module)),
            register_module_forward_hook(lambda module, _args, _output: self._left(module)),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def _left(self, module: nn.Module) -> None:
        while self._stack and self._stack.pop() is not module:
            pass

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__.rstrip("_")
        before = [self._event(t) for t in tensors((args, kwargs)) if not _finite(t)]
        before += [
            _Event(None, a != a) for a in (*args, *kwargs.values()) if isinstance(a, float) and not math.isfinite(a)
        ]
        # What an operation in place takes is gone afterwards.
        told = None if before else _Operands.of(args)
        out = func(*args, **kwargs)
        for result in tensors(out):
            if name in _UNWRITTEN or _finite(result):
                continue
            nan = bool(torch.isnan(result).any())
            root = next((e.root for e in before if e.root is not None), None)
            if root is None and (nan or (not before and not name.startswith(_WRITES))):
                root = self._made(name, told, result, nan=nan, masked=bool(before))
            self.bad[storage_key(result)] = _Event(root, nan)
            self.held.append(result)
        return out

    def _event(self, tensor: Tensor) -> _Event:
        """What is known of a tensor that is not finite; one that no operation made was so before."""
        found = self.bad.get(storage_key(tensor))
        if found is None:
            nan = bool(torch.isnan(tensor).any())
            root = NotFinite("", "", "a tensor that the model holds or is given is not finite", overflow=False)
            found = _Event(root if nan else None, nan)
        return found

    def _made(self, name: str, told: _Operands | None, out: Tensor, *, nan: bool, masked: bool) -> NotFinite:
        module = self._stack[-1] if self._stack else None
        path = self._paths.get(id(module), "")
        layer = path if module is not None and id(module) in self._leaves and path else f"{path}:{name.strip('_')}"
        return _masked(layer, name) if masked or told is None else _told(layer, name, told, out, nan=nan)


@dataclass(slots=True)
class _Operands:
    """The numbers an operation was given: the extremes of its first tensor, its second operand's, and how many there were."""

    low: float
    high: float
    other_low: float | None
    other_high: float | None
    zero_over_zero: bool
    divides_by_zero: bool
    elements: int

    @classmethod
    def of(cls, args: Any) -> _Operands | None:
        given = [a for a in args if isinstance(a, int | float | Tensor) and not isinstance(a, bool)]
        first = given[0] if given else next(tensors(args), None)
        if first is None or (isinstance(first, Tensor) and first.is_complex()):
            return None
        one = first if isinstance(first, Tensor) else torch.tensor(float(first))
        other = given[1] if len(given) > 1 else None
        two = other if isinstance(other, Tensor) else None if other is None else torch.tensor(float(other))
        if two is not None and (two.is_complex() or two.numel() == 0):
            two = None
        nothing = two is not None and bool((two == 0).any())
        low, high = _extremes(one)
        both = two is not None and nothing and _broadcast(one, two)
        other_low, other_high = _extremes(two) if two is not None else (None, None)
        return cls(low, high, other_low, other_high, both, nothing, one.numel())


def _broadcast(one: Tensor, two: Tensor) -> bool:
    """Whether somewhere both are zero."""
    try:
        return bool(((one == 0) & (two == 0)).any())
    except RuntimeError:  # not an operation element by element
        return False


def _extremes(tensor: Tensor) -> tuple[float, float]:
    if tensor.numel() == 0:
        return math.nan, math.nan
    low, high = torch.aminmax(tensor.detach().float())
    return float(low), float(high)


def _finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or not holds_values(tensor):
        return True
    return bool(torch.isfinite(tensor).all())


def _masked(layer: str, name: str) -> NotFinite:
    if "softmax" in name or "attention" in name:
        what = "softmax over a row that is -inf everywhere (all of it is masked)"
    elif name in _DIFFERENCES:
        what = f"inf - inf in {name}"
    elif name in ("mul", "mm", "bmm", "addmm", "matmul"):
        what = f"0 * inf in {name}"
    elif name in _QUOTIENTS:
        what = "inf / inf"
    else:
        what = f"{name} of an infinity"
    return NotFinite(layer, name, what, overflow=False)


def _told(layer: str, name: str, told: _Operands, out: Tensor, *, nan: bool) -> NotFinite:
    short = name.strip("_").removeprefix("linalg_")
    dtype = str(out.dtype).removeprefix("torch.")
    if name in _ABOVE and told.low <= _ABOVE[name]:
        edge = _ABOVE[name]
        if told.low < edge:
            limit = "a negative number" if edge == 0 else f"a number below {edge:g}"
            return NotFinite(layer, name, f"{short} of {limit} ({number(told.low)})", overflow=False)
        return NotFinite(layer, name, f"{short} of {'zero' if edge == 0 else f'{edge:g}'}", overflow=False)
    if name in _WITHIN and not (_WITHIN[name][0] < told.low and told.high < _WITHIN[name][1]):
        low, high = _WITHIN[name]
        worst = told.low if told.low <= low else told.high
        where = "outside" if not low <= worst <= high else "at the end of"
        return NotFinite(
            layer, name, f"{short} of a number {where} [{low:g}, {high:g}] ({number(worst)})", overflow=False
        )
    if name == "reciprocal" and told.low <= 0 <= told.high and not nan:
        return NotFinite(layer, name, "division by zero", overflow=False)
    if name in _QUOTIENTS and told.divides_by_zero:
        return NotFinite(layer, name, "0 / 0" if nan and told.zero_over_zero else "division by zero", overflow=False)
    if name in ("pow", "float_power") and told.low <= 0:
        exponent = told.other_low
        if nan:
            return NotFinite(
                layer, name, f"a negative number ({number(told.low)}) to a power that is no integer", overflow=False
            )
        if exponent is not None and exponent < 0:
            return NotFinite(layer, name, f"zero to the power of {exponent:g}", overflow=False)
    if told.elements == 0:
        return NotFinite(layer, name, f"{short} over no elements (its input is empty)", overflow=False)
    if name in ("std", "var", "var_mean", "std_mean") and nan:
        return NotFinite(layer, name, f"{short} over a single element (0 / 0)", overflow=False)
    if nan and ("softmax" in name or name in _DIFFERENCES):
        return _masked(layer, name)
    largest = max(abs(told.low), abs(told.high))
    if name in ("exp", "exp2", "expm1", "sinh", "cosh"):
        return NotFinite(layer, name, f"{short} overflows {dtype} at {number(told.high)}", overflow=False)
    if nan:
        return NotFinite(
            layer, name, f"{short} of finite numbers up to {number(largest)} is not a number", overflow=False
        )
    return NotFinite(layer, name, f"{short} of numbers up to {number(largest)} overflows {dtype}", overflow=True)


def maker_of(probed: Probed) -> NotFinite | None:
    """Return what first made a number that is not finite, of those that reach the outputs; ``None`` where that cannot be seen.

    Args:
        probed: what the probe saw; the model runs once more.
    """
    seeing = _Seeing(probed.model)
    try:
        with torch.enable_grad(), seeing:
            output = probed.rerun_raw()
    except RuntimeError:  # a tensor subclass, a compiled part: then it cannot be seen
        return None
    return _first(seeing, tensors(output))


def singular_of(probed: Probed, loss: Callable[[Any], Tensor] | None) -> NotFinite | None:
    """Return the operation whose derivative is the first that is not finite; ``None`` where that cannot be seen.

    Args:
        probed: what the probe saw; the model runs forward and backward once more.
        loss: as the probe was given it.
    """
    found: list[NotFinite] = []

    def hook(node: Any) -> Callable[[Any, Any], None]:
        def passed(sent: Any, taken: Any) -> None:
            if not found and all(map(_finite, tensors(taken))) and not all(map(_finite, tensors(sent))):
                name = operation(node)
                what = _DERIVATIVES.get(name, f"{name} has a derivative that is not finite here")
                found.append(NotFinite("", name, what))

        return passed

    handles = []
    try:
        with torch.enable_grad():
            raw = probed.rerun_raw()
            if loss is None:
                pairs = list(zip(probed.select(raw), probed.cotangents, strict=True))
            else:
                pairs = [(value := loss(raw), torch.ones_like(value))]
            graph = Graph([o for o, _ in pairs])
            handles = [node.register_hook(hook(node)) for node in graph.nodes]
            leaves = [t for t in graph.leaves() if t.requires_grad]
            signals = [c.clone().to(o.dtype) for o, c in pairs]
            gradients([o for o, _ in pairs], leaves, signals, retain_graph=probed.holds_graph)
    except (ProbeError, RuntimeError, ValueError):
        return None
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _first(seeing: _Seeing, outputs: Iterable[Tensor]) -> NotFinite | None:
    for tensor in outputs:
        event = seeing.bad.get(storage_key(tensor)) if holds_values(tensor) else None
        if event is not None and event.root is not None:
            return event.root
    return None
