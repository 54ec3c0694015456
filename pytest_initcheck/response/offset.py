"""Whether an output starts far from zero, apart from what biases behind its last weights add to it on purpose."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import ProbeError
from ..probing.graph import nonlinearity, operation
from ..probing.modules import sample_dim
from ..probing.probe import centred
from ..sharding.layout import HANDED_ON, gathered, local
from ..sharding.together import on_all
from ..sharding.world import current
from .ask import natural_unit
from .perturb import Push, rms

#: Where an output starts, see :func:`starting`.
Start = Literal["near", "meant", "away"]
#: Products with a weight -> which differentiable operand is the bias; those of signals go through :data:`_BATCHED`.
_WEIGHS = {"Mm": None, "Addmm": 0, "Convolution": 2}
_BATCHED = frozenset(("Bmm", "Baddbmm"))
#: A row of a table may be added like a bias: a reference energy of each species, a level of each user.
_TABLES = frozenset(("Embedding", "EmbeddingBag", "Index", "IndexSelect"))
#: Sums hand on what either side adds; of products with a vector, the vector is a scale.
_SUMS, _SCALES = frozenset(("Add", "Sub", "Rsub")), frozenset(("Mul", "Div"))
#: What shows the same numbers in another arrangement.
_VIEWS = frozenset(("View", "UnsafeView", "Expand", "T", "Transpose", "Permute", "Unsqueeze", "ToCopy", *HANDED_ON))


def common(output: Tensor, batch: int | None) -> float:
    """Return the RMS of the mean of ``output`` over its samples, without the share that such a mean has of what varies; 0.0 without samples."""
    dim = sample_dim(output, batch)
    if dim is None or output.shape[dim] < 2:
        return 0.0
    varying = rms(centred(output, batch)) ** 2 / (output.shape[dim] - 1)
    return math.sqrt(max(rms(output.mean(dim)) ** 2 - varying, 0.0))


def starting(push: Push, above: float) -> Start:
    """Return where the judged output starts: ``"near"`` zero, or further than ``above`` in its natural unit, ``"meant"`` or ``"away"``.

    A bias behind the last weights is where a prior is put on purpose: the mean of the targets, the logit of a rare class, the logarithm of a
    rate. So the output is looked at without these. What earlier layers put there, or a weight, is nobody's intention.
    """
    unit = natural_unit(push.start)

    def offset(output: Tensor) -> float:
        return common(gathered(output.detach()).float(), push.probed.batch) / unit

    there = offset(push.start)
    if not on_all(above < there < math.inf):
        return "near"
    still = False
    try:
        shifts = last_shifts(push)
        with torch.no_grad():
            for shift in shifts:
                local(shift.data).zero_()
            rest = offset(push.forward(graph=False)[push.probed.primary]) if shifts else there
            # A copy that loses a prior loses most of what is in common with it: then that says nothing of the rest.
            still = max(above, there / 2) < rest < math.inf
    except ProbeError:
        pass
    finally:
        push.restore()
    return "away" if on_all(still) else "meant"


def last_shifts(push: Push) -> list[nn.Parameter]:
    """Return the parameters that are added to the judged output, or to what it is a function of, behind the last weights that multiply signals."""
    held = {id(p): p for p in push.parameters.values()}
    output = push.forward(graph=True)[push.probed.primary]
    return list({id(p): p for leaf in _added(output) if (p := held.get(id(leaf))) is not None}.values())


def _added(output: Tensor) -> Iterator[Tensor]:
    """The leaves of the graph that a walk back from ``output`` meets before weights, scales left out."""
    todo: list[Any] = [output.grad_fn]
    seen = set(todo)
    while todo:
        node = todo.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            yield _standing_for(node.variable)
            continue
        name = operation(node)
        parents = [parent for parent, _ in node.next_functions]
        if name in _WEIGHS:
            at = _WEIGHS[name]
            parents = [] if at is None else parents[at : at + 1]
        elif nonlinearity(node) == "norm":  # takes away what comes in
            parents = parents[2:3]
        elif name in _BATCHED or name in _SCALES:
            parents = [] if name in _BATCHED and any(_is_weight(p) for p in parents) else parents
            parents = [p for p in parents if name in _BATCHED or not hasattr(_behind_views(p), "variable")]
        elif name not in _SUMS | _VIEWS | _TABLES and any(_is_weight(p) for p in parents):
            parents = []  # a recurrent layer in one piece
        for parent in parents:
            if parent not in seen:
                seen.add(parent)
                todo.append(parent)


def _behind_views(node: Any) -> Any:
    """What ``node`` shows in another arrangement."""
    while node is not None and not hasattr(node, "variable") and operation(node) in _VIEWS and node.next_functions:
        node = node.next_functions[0][0]
    return node


def _is_weight(node: Any) -> bool:
    leaf = getattr(_behind_views(node), "variable", None)
    return leaf is not None and leaf.numel() > max(leaf.shape, default=1)


def _standing_for(leaf: Tensor) -> Tensor:
    """The parameter that a leaf is, also where a rank computes with a gathered copy of it."""
    world = current()
    return leaf if world is None or id(leaf) not in world.standing else world.standing[id(leaf)][1]
