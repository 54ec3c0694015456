"""Reading the autograd graph: what the outputs depend on, how they use each weight, and what follows each layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..sharding.layout import HANDED_ON
from ..sharding.world import current

#: Node -> name of the nonlinearity, for nodes that are one whatever their attributes.
_NONLINEAR: Mapping[str, str] = {
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "PreluKernel": "leaky_relu",
    "RreluWithNoise": "leaky_relu",
    "Gelu": "gelu",
    "Silu": "silu",
    "Mish": "mish",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "LogSigmoid": "softplus",
    "Sin": "sin",
    "Cos": "sin",
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    "SafeSoftmax": "softmax",
    "Hardswish": "silu",
    "Hardsigmoid": "sigmoid",
    "Glu": "glu",
    "Erf": "erf",
    "Exp": "exp",
    **dict.fromkeys(("NativeLayerNorm", "NativeBatchNorm", "NativeGroupNorm", "CudnnBatchNorm"), "norm"),
    **dict.fromkeys(("MiopenBatchNorm", "FusedRmsNorm", "RmsNorm", "BatchNormImpl"), "norm"),
}
#: Nodes that hand on the same numbers in another arrangement or precision.
_VIEWS = frozenset(
    [
        "View",
        "UnsafeView",
        "Reshape",
        "ReshapeAlias",
        "Alias",
        "T",
        "Transpose",
        "Permute",
        "Expand",
        "Squeeze",
        "Unsqueeze",
        "Select",
        "Slice",
        "Split",
        "SplitWithSizes",
        "SafeSplit",
        "UnsafeSplit",
        "Chunk",
        "Unbind",
        "Narrow",
        "AsStrided",
        "Clone",
        "ToCopy",
        "Contiguous",
        "Copy",
        "CopySlices",
        "Cat",
        "Stack",
        "Index",
        "IndexSelect",
        "Gather",
        "Roll",
        "Flip",
        "Repeat",
        "Unfold",
        "Im2Col",
        "ConstantPadNd",
        "PixelShuffle",
        "Diagonal",
        "Movedim",
        *HANDED_ON,
    ]
)
#: Nodes behind which a signal is still the same signal: views, sums, and averages of its own values.
_TRANSPARENT = _VIEWS | frozenset(
    [
        "Mean",
        "Sum",
        "AvgPool1D",
        "AvgPool2D",
        "AvgPool3D",
        "AdaptiveAvgPool1D",
        "AdaptiveAvgPool2D",
        "AdaptiveAvgPool3D",
        "MkldnnAdaptiveAvgPool2D",
        "MaxPool1D",
        "MaxPool2DWithIndices",
        "MaxPool3DWithIndices",
        "AdaptiveMaxPool1D",
        "AdaptiveMaxPool2D",
        "Neg",
        "Div",
        "NativeDropout",
        "FeatureDropout",
        "UpsampleNearest2D",
        "UpsampleBilinear2D",
        "MaskedFill",
        "Where",
        "ReflectionPad1D",
        "ReflectionPad2D",
    ]
)
#: Products -> operand that is the weight, where signals are on the left.
_WEIGHS: Mapping[str, int] = {"Mm": 1, "Addmm": 2, "Bmm": 1, "Baddbmm": 2, "Convolution": 1}
_ROOTS = frozenset(["Rsqrt", "Sqrt", "Reciprocal", "LinalgVectorNorm", "Std", "Var"])


@dataclass(frozen=True, slots=True)
class NodeUse:
    """One way in which a weight enters the forward pass.

    Attributes:
        operation: the node, without ``Backward``: ``"Addmm"``, ``"Convolution"``, ``"NativeLayerNorm"``.
        position: which differentiable operand of the node it is.
        transposed: whether its last two dimensions were exchanged on the way.
        node: the node itself.
    """

    operation: str
    position: int
    transposed: bool
    node: Any


class Graph:
    """The autograd graph behind some tensors, walked once.

    Args:
        roots: the tensors; what does not lead to any of them is not seen.
        made: id of a parameter -> the weight that was computed from it.
    """

    def __init__(self, roots: Iterable[Tensor], made: Mapping[int, Tensor] | None = None) -> None:
        self._made = {} if made is None else made
        self.nodes: list[Any] = []
        self.consumers: dict[Any, list[tuple[Any, int]]] = {}
        self._leaves: dict[int, Any] = {}
        self._labels: dict[Any, str] = {}
        todo: list[Any] = list(dict.fromkeys(t.grad_fn for t in roots if t.grad_fn is not None))
        for node in todo:
            self.consumers[node] = []
        world = current()
        while todo:
            node = todo.pop()
            self.nodes.append(node)
            if (leaf := getattr(node, "variable", None)) is not None:
                self._leaves[id(leaf)] = node
                if world is not None and id(leaf) in world.standing:
                    self._leaves[id(world.standing[id(leaf)][1])] = node
            for position, (parent, _) in enumerate(node.next_functions):
                if parent is None:
                    continue
                if parent not in self.consumers:
                    self.consumers[parent] = []
                    todo.append(parent)
                self.consumers[parent].append((node, position))
        #: nodes between parameters and the weights made of them
        self._making: set[Any] = {w.grad_fn for w in self._made.values() if w.grad_fn in self.consumers}
        todo = list(self._making)
        while todo:
            for parent, _ in todo.pop().next_functions:
                if parent is not None and parent not in self._making:
                    self._making.add(parent)
                    todo.append(parent)

    def reaches(self, leaf: Tensor) -> bool:
        """Return whether the roots depend on ``leaf``."""
        return id(leaf) in self._leaves

    def leaves(self) -> Iterator[Tensor]:
        """Yield the tensors that gradients of the roots arrive at."""
        for node in self._leaves.values():
            yield node.variable

    def weighs(self, leaf: Tensor) -> bool:
        """Return whether ``leaf`` enters a product in the place of a weight."""
        return any(_WEIGHS.get(use.operation) == use.position for use in self.uses(leaf))

    def only_scales(self, leaf: Tensor) -> bool:
        """Return whether ``leaf`` goes into a weight that is made of another parameter: the norm of a normed weight."""
        if id(leaf) in self._made or (node := self._leaves.get(id(leaf))) is None:
            return False
        return any(consumer in self._making for consumer, _ in self.consumers[node])

    def uses(self, leaf: Tensor) -> list[NodeUse]:
        """Return how the roots use ``leaf``, looking through views and casts of it, and through parametrizations."""
        start = self._leaves.get(id(leaf))
        found: list[NodeUse] = []
        seen = set()
        todo = [(start, False)] if start is not None else []
        while todo:
            node, transposed = todo.pop()
            for consumer, position in self.consumers[node]:
                if (consumer, position) in seen:
                    continue
                seen.add((consumer, position))
                name = operation(consumer)
                if consumer in self._making:
                    todo.append((consumer, transposed))
                elif name in _VIEWS:
                    todo.append((consumer, transposed ^ _exchanges(name, consumer)))
                else:
                    found.append(NodeUse(name, position, transposed, consumer))
        return found

    def followed_by(self, node: Any) -> str:
        """Return the nonlinearity that the output of ``node`` goes through before the next weight.

        Views, biases, dropout and pooling are looked through. ``"none"`` where a weight, a product, a residual stream
        or the output comes first, ``"mixed"`` where it goes several ways.
        """
        if node not in self._labels:
            self._labels[node] = self._search(node)
        return self._labels[node]

    def factor(self, node: Any) -> float:
        """Return the product of the constants between ``node`` and the nonlinearity behind it: the omega of a SIREN."""
        product = 1.0
        for _ in range(16):
            ways = self.consumers.get(node, [])
            if len({c for c, _ in ways}) != 1:
                break
            node = ways[0][0]
            if nonlinearity(node) is not None:
                return product
            name = operation(node)
            if name == "Mul":
                product *= constant(node)
            elif name == "Div":
                product /= constant(node)
        return 1.0

    def _search(self, start: Any) -> str:
        joined = False
        node = start
        for _ in range(64):
            ways = self.consumers.get(node, [])
            consumers = list(dict.fromkeys(c for c, _ in ways))
            if not consumers:
                return "none"
            if len(consumers) > 1:
                return "none" if joined else self._several(consumers)
            (node,) = consumers
            label = self._label(node, ways[0][1])
            if label is not None:
                return label
            joined = joined or self._joins(node)
        return "none"

    def _label(self, node: Any, position: int) -> str | None:
        """What ``node`` is to the signal that enters it at ``position``; ``None`` where the search goes on."""
        name = operation(node)
        if (label := nonlinearity(node)) is not None:
            return label
        if name.startswith("ScaledDotProduct"):
            return "softmax" if position < 2 else "none"
        if name in _TRANSPARENT or name in ("Add", "Sub", "Rsub"):
            return None
        if name == "Mul":
            others = [p for i, (p, _) in enumerate(node.next_functions) if i != position and p is not None]
            # A constant, a mask or a learned scale leaves the signal what it is; another signal does not.
            return None if all(hasattr(p, "variable") for p in others) else "none"
        if name == "Bmm":
            # queries times keys
            return "softmax" if self.followed_by(node) == "softmax" else "none"
        return "none"

    def _several(self, consumers: list[Any]) -> str:
        names = {operation(c) for c in consumers}
        # x * sigmoid(x), written out
        sigmoid = next((c for c in consumers if operation(c) == "Sigmoid"), None)
        if sigmoid is not None and names == {"Sigmoid", "Mul"}:
            product = next(c for c in consumers if operation(c) == "Mul")
            if any(p is sigmoid for p, _ in product.next_functions):
                return "silu"
        if any(self._normalizes(c) for c in consumers):
            return "norm"
        labels = set()
        for consumer in consumers:
            label = self._label(consumer, 0)
            labels.add(self.followed_by(consumer) if label is None and operation(consumer) in _VIEWS else label)
        labels.discard(None)
        if len(labels) == 1:
            (label,) = labels
            return label or "none"
        return "mixed" if labels - {"none"} else "none"

    def _normalizes(self, start: Any) -> bool:
        """Whether a root of something summed from ``start`` is taken soon: a norm that is written out."""
        if operation(start) not in ("Pow", "Square", "Mean", "Sub", "Mul", "LinalgVectorNorm", "Std", "Var", "ToCopy"):
            return False
        level = [start]
        for _ in range(8):
            if any(operation(n) in _ROOTS for n in level):
                return True
            level = [
                c
                for n in level
                for c, _ in self.consumers.get(n, [])
                if operation(c) in _ROOTS
                or operation(c) in ("Pow", "Square", "Mean", "Add", "Sub", "ToCopy", "ClampMin")
            ]
        return False

    def _joins(self, node: Any) -> bool:
        """Whether ``node`` adds two signals, rather than a bias to one."""
        parents = [p for p, _ in node.next_functions if p is not None]
        return operation(node) in ("Add", "Sub") and sum(not hasattr(p, "variable") for p in parents) > 1

    def sources(self, node: Any, stops: Mapping[Any, str]) -> list[str]:
        """Return the names in ``stops`` that ``node`` reads, directly or through nodes that are not in ``stops``."""
        found: dict[str, None] = {}
        seen = {node}
        todo = [node]
        while todo:
            for parent, _ in todo.pop().next_functions:
                if parent is None or parent in seen:
                    continue
                seen.add(parent)
                if parent in stops:
                    found[stops[parent]] = None
                else:
                    todo.append(parent)
        return list(found)

    def opaque(self) -> Iterator[str]:
        """Yield, once each, the names of custom functions: what they do inside is not in the graph."""
        names = dict.fromkeys(
            type(n).__name__ for n in self.nodes if isinstance(n, torch.autograd.function.BackwardCFunction)
        )
        yield from (n for n in names if n.removesuffix("Backward") not in HANDED_ON)


def constant(node: Any) -> float:
    """Return the size of the constant that a product multiplies by; 1 where both factors are signals, or it is 0."""
    for saved in ("_saved_other", "_saved_self"):
        value = getattr(node, saved, None)
        if isinstance(value, Tensor) and value.numel() == 1 and not value.requires_grad:
            value = value.item()
        if isinstance(value, int | float | complex):
            return float(abs(value)) or 1.0
    return 1.0


def operation(node: Any) -> str:
    """Return the name of a node without ``Backward`` and its number: ``"Addmm"``."""
    return _operation(node.name())


_OPERATIONS: dict[str, str] = {}


def _operation(name: str) -> str:
    if name not in _OPERATIONS:
        _OPERATIONS[name] = re.sub(r"Backward\d*$", "", name.rpartition("::")[2])
    return _OPERATIONS[name]


def nonlinearity(node: Any) -> str | None:
    """Return the name of the nonlinearity that ``node`` is, where its kind and its constants tell."""
    name = operation(node)
    if name == "Elu":
        # elu, selu and celu are one node; only selu scales
        return "selu" if abs(float(node._saved_scale) - 1.0507) < 1e-3 else "elu"
    if name in ("Hardtanh", "Clamp"):
        low = node._saved_min_val if name == "Hardtanh" else node._saved_min
        return "relu" if low == 0 else "tanh"
    if name == "ClampMin":
        return "relu" if node._saved_min == 0 else None
    if name == "Threshold":
        return "relu" if node._saved_threshold == 0 else None
    return _NONLINEAR.get(name)


def _exchanges(name: str, node: Any) -> bool:
    if name == "T":
        return True
    if name == "Transpose":
        return {_signed(node._saved_dim0), _signed(node._saved_dim1)} in ({0, 1}, {1, 2}, {-1, -2})
    if name == "Permute":
        dims = [_signed(d) for d in node._saved_dims]
        return dims in ([1, 0], [-1, -2])
    return False


def _signed(value: int) -> int:
    """Saved dimensions are unsigned 64-bit in Python; small negative ones come out huge."""
    return value - 2**64 if value >= 2**63 else value
