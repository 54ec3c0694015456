"""What each parameter is to the operation that uses it: role, fans, units, and units that are twins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .graph import Graph, NodeUse, operation
from .modules import held_by

#: Operands by position, for functions that name them.
_OPERANDS: Mapping[str, tuple[str, ...]] = {
    "linear": ("input", "weight", "bias"),
    "bilinear": ("input1", "input2", "weight", "bias"),
    **{f"conv{d}d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups") for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": ("input", "weight", "bias", "stride") for d in (1, 2, 3)},
    "layer_norm": ("input", "normalized_shape", "weight", "bias"),
    "rms_norm": ("input", "normalized_shape", "weight"),
    "group_norm": ("input", "num_groups", "weight", "bias"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias"),
    "instance_norm": ("input", "running_mean", "running_var", "weight", "bias"),
    "embedding": ("input", "weight"),
    "embedding_bag": ("input", "weight"),
    "matmul": ("left", "right"),
    "mm": ("left", "right"),
    "bmm": ("left", "right"),
    "mv": ("left", "right"),
    "addmm": ("bias", "left", "right"),
    "addmv": ("bias", "left", "right"),
    "baddbmm": ("bias", "left", "right"),
}
#: Columns that are enough to tell most rows apart.
_SCREEN = 64
#: Elements of a weight that are copied at a time.
_AT_ONCE = 1 << 24
_NORMS = frozenset(("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm"))


Cell = Literal["", "LSTM", "GRU", "RNN"]
Reads = Literal["", "input", "state", "output"]
#: Second part of the names of torch's recurrent parameters (weight_ih_l0, bias_hh, weight_hr_l1_reverse) -> what they are for.
_READS: Mapping[str, Reads] = {"ih": "input", "hh": "state", "hr": "output"}


@dataclass(frozen=True, slots=True)
class Use:
    """How a parameter is used.

    Attributes:
        role: as in :class:`~pytest_initcheck.records.ParameterRecord`.
        out_dim: dimension that runs over output units, for a weight.
        in_dim: dimension that runs over the inputs of one unit, for a weight.
        groups: number of blocks of units that read different inputs (a grouped convolution) or that are of different
            kinds (the gates of a recurrent layer).
        batch: whether further dimensions, wherever they stand, count matrices of their own (frequencies, experts), and are no kernel.
        stride: how many times fewer inputs meet in one output than the kernel has positions (transposed convolution).
        cell: of torch's recurrent layers and cells, ``"LSTM"``, ``"GRU"`` or ``"RNN"``; ``""`` elsewhere.
        reads: what a parameter of these is for: ``"input"``, ``"state"``, or ``"output"`` (a projection of the state).
    """

    role: str
    out_dim: int = 0
    in_dim: int = 1
    groups: int = 1
    batch: bool = False
    stride: int = 1
    cell: Cell = ""
    reads: Reads = ""


def uses(label: str, args: Any, kwargs: Mapping[str, Any]) -> Iterator[tuple[Tensor, Use]]:
    """Yield ``(tensor, use)`` for the operands of a call of the function ``label`` whose part in it is known.

    A tensor that is a view of another stands for that one, with its dimensions.
    """
    if label == "einsum":
        yield from _einsum(args)
        return
    names = _OPERANDS.get(label)
    if names is None:
        return
    given: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
    weight, bias = given.get("weight"), given.get("bias")
    if isinstance(bias, Tensor):
        yield _plain(bias, Use("norm-shift" if label in _NORMS else "bias"))
    if isinstance(weight, Tensor):
        if label in _NORMS:
            yield _plain(weight, Use("norm-scale"))
        elif label.startswith("embedding"):
            # torch.embedding takes the table first, F.embedding the ids
            table = weight if weight.is_floating_point() else given.get("input")
            if isinstance(table, Tensor):
                yield _plain(table, Use("embedding"))
        elif label.startswith("conv_transpose"):
            stride = given.get("stride", 1)
            volume = stride ** (weight.dim() - 2) if isinstance(stride, int) else math.prod(stride)
            yield _turned(weight, Use("weight", out_dim=1, in_dim=0, stride=volume))
        elif label.startswith("conv"):
            groups = given.get("groups", 1)
            yield _turned(weight, Use("weight", groups=groups if isinstance(groups, int) else 1))
        else:
            yield _turned(weight, Use("weight"))
    left, right = given.get("left"), given.get("right")
    if isinstance(right, Tensor) and right.dim() >= 2:
        yield _turned(right, Use("weight", out_dim=right.dim() - 1, in_dim=right.dim() - 2))
    if isinstance(left, Tensor) and left.dim() >= 2:
        yield _turned(left, Use("weight", out_dim=left.dim() - 2, in_dim=left.dim() - 1))


def _plain(tensor: Tensor, use: Use) -> tuple[Tensor, Use]:
    return (tensor if tensor._base is None else tensor._base), use


def _turned(tensor: Tensor, use: Use) -> tuple[Tensor, Use]:
    """The parameter behind a view, with the dimensions of ``use`` as they are in the parameter."""
    base = tensor._base
    if base is None:
        return tensor, use
    dims = []
    for dim in (use.out_dim, use.in_dim):
        size, stride = tensor.shape[dim], tensor.stride(dim)
        same = [d for d in range(base.dim()) if base.shape[d] == size and base.stride(d) == stride]
        dims.append(same[0] if same else dim)
    if dims[0] == dims[1] or max(dims) >= base.dim():
        return base, Use("other")
    return base, replace(use, out_dim=dims[0], in_dim=dims[1])


def _einsum(args: Any) -> Iterator[tuple[Tensor, Use]]:
    """A two-operand einsum: the letters that both share and the result lacks are summed over."""
    if not args or not isinstance(args[0], str):
        return
    operands = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
    terms, arrow, result = args[0].replace(" ", "").partition("->")
    letters = terms.split(",")
    if len(letters) != 2 or len(operands) != 2 or not arrow or "." in terms:
        return
    for mine, other, tensor in ((letters[0], letters[1], operands[0]), (letters[1], letters[0], operands[1])):
        summed = [i for i, c in enumerate(mine) if c in other and c not in result]
        kept = [i for i, c in enumerate(mine) if c in result and c not in other]
        if isinstance(tensor, Tensor) and tensor.dim() == len(mine) and len(summed) == 1 and len(kept) == 1:
            yield _turned(tensor, Use("weight", out_dim=kept[0], in_dim=summed[0], batch=len(mine) > 2))


def use_of(name: str, parameter: Tensor, owner: nn.Module | None, seen: Mapping[str, Use], graph: Graph) -> Use:
    """Return how ``parameter`` is used: as its call showed, else as its module's kind or the graph tells.

    Args:
        name: name of the parameter.
        parameter: the parameter.
        owner: the module that has it.
        seen: uses that calls showed, by name.
        graph: the graph of the forward pass.
    """
    held = None if owner is None else next((h for h in held_by(owner) if h.direction is parameter), None)
    if owner is not None and held is not None and isinstance(owner, nn.RNNBase | nn.RNNCellBase):
        return use_in(owner, held.attribute, parameter)
    if name in seen:
        return seen[name]
    if owner is not None and held is not None and held.made_by:
        known = use_in(owner, held.attribute, parameter)
        if known.role != "other":
            return known
        if parameter.dim() > 1:
            return Use("weight")
    if graph.only_scales(parameter):
        return Use("other")
    for use in graph.uses(parameter):
        if (found := _from_graph(parameter, use)) is not None:
            return found
        if use.operation == "Mul" and parameter.dim() <= 1 and _scales_a_norm(use.node, use.position):
            return Use("norm-scale")
        if use.operation == "Add" and parameter.dim() == 1:
            return Use("bias")
    return Use("other")


def use_in(module: nn.Module, attribute: str, parameter: Tensor) -> Use:
    """Return what the class of ``module`` says about its tensor called ``attribute``, whose shape is that of ``parameter``."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return _recurrent(module, attribute, parameter)
    if isinstance(module, nn.MultiheadAttention):
        weights = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return Use("weight" if attribute in weights else "bias" if attribute == "in_proj_bias" else "other")
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return Use("embedding")
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
        return Use("norm-shift" if attribute == "bias" else "norm-scale")
    if isinstance(module, nn.Linear | nn.Bilinear | nn.modules.conv._ConvNd):
        if attribute == "bias":
            return Use("bias")
        if attribute == "weight":
            if getattr(module, "transposed", False):
                return Use("weight", out_dim=1, in_dim=0, stride=math.prod(getattr(module, "stride", (1,))))
            return Use("weight", groups=int(getattr(module, "groups", 1)))
    return Use("other")


def _recurrent(module: nn.RNNBase | nn.RNNCellBase, attribute: str, parameter: Tensor) -> Use:
    cell: Cell = "RNN"
    if isinstance(module, nn.LSTM | nn.LSTMCell):
        cell = "LSTM"
    elif isinstance(module, nn.GRU | nn.GRUCell):
        cell = "GRU"
    what, _, rest = attribute.partition("_")
    reads = _READS.get(rest.partition("_")[0], "") if what in ("weight", "bias") else ""
    if not reads:
        return Use("other")  # a subclass's own
    if parameter.dim() < 2:
        return Use("bias", cell=cell, reads=reads)
    gates = 1 if reads == "output" else max(parameter.shape[0] // module.hidden_size, 1)
    return Use("weight", groups=gates, cell=cell, reads=reads)


def _from_graph(parameter: Tensor, use: NodeUse) -> Use | None:
    name = use.operation
    if name in ("NativeLayerNorm", "NativeBatchNorm", "NativeGroupNorm", "CudnnBatchNorm", "FusedRmsNorm"):
        return Use("norm-scale" if use.position == 1 else "norm-shift")
    if name == "Embedding":
        return Use("embedding")
    if name in ("Convolution", "MkldnnConvolution", "Linear"):
        return Use("weight") if use.position == 1 else Use("bias")
    factor = {"Addmm": 1, "Baddbmm": 1, "Addmv": 1, "Mm": 0, "Bmm": 0, "Mv": 0, "GroupedMm": 0}.get(name)
    if factor is None:
        return None
    if use.position < factor:
        return Use("bias")
    if parameter.dim() < 2:
        return None
    out, inner = parameter.dim() - 2, parameter.dim() - 1
    # The right factor is [in, out] as it stands and [out, in] behind a transposition; the left one the other way round.
    if (use.position == factor) == use.transposed:
        out, inner = inner, out
    return Use("weight", out_dim=out, in_dim=inner)


def _scales_a_norm(node: Any, position: int) -> bool:
    """Whether the other factor was divided by a root just before: a norm that is written out."""
    level = [p for i, (p, _) in enumerate(node.next_functions) if i != position and p is not None]
    for _ in range(3):
        level = [p for n in level for p, _ in n.next_functions if p is not None]
        if any(operation(n) in ("Rsqrt", "Sqrt", "LinalgVectorNorm", "Std", "NativeLayerNorm") for n in level):
            return True
    return False


def fans(parameter: Tensor, use: Use) -> tuple[int | None, int | None]:
    """Return ``(fan_in, fan_out)`` in the convention of torch.nn.init, oriented by how the parameter is used.

    A transposed convolution spreads its kernel over ``stride`` outputs, so fewer inputs meet in each; a recurrent
    weight counts one gate; an embedding looks one row up.
    """
    if use.role == "embedding" and parameter.dim() == 2:
        return 1, parameter.shape[1]
    if parameter.dim() < 2 or use.role != "weight":
        return None, None
    out, inner = parameter.shape[use.out_dim], parameter.shape[use.in_dim]
    rest = math.prod(s for d, s in enumerate(parameter.shape) if d not in (use.out_dim, use.in_dim))
    if use.batch or use.out_dim + use.in_dim > 1:
        rest = 1  # a batch of matrices
    if use.stride > 1:
        return max(inner * rest // use.stride, 1), out * rest
    return inner * rest, out * rest if parameter.dim() > 2 else out // use.groups


def twin_rows(parameter: Tensor, use: Use) -> float:
    """Return the share of output units whose incoming weights are, bit for bit, another unit's and not all zero.

    Such units compute the same and get the same gradient, so they stay one unit until something else separates them.
    Units are only compared with those that read the same inputs. Where any share their first weight, one random
    projection per unit finds the candidates, which are then compared in full.
    """
    if use.role != "weight" or parameter.dim() < 2 or parameter.device.type == "meta" or not parameter.numel():
        return 0.0
    with torch.no_grad():
        w = parameter.detach()
        if not w.is_floating_point():
            return 0.0
        units = w.shape[use.out_dim]
        if use.groups > 1 and units % use.groups:
            return 0.0
        per_group = units // use.groups
        if per_group < 2 or not _meets_again(w, use.out_dim, use.groups):
            return 0.0
        rows = w.movedim(use.out_dim, 0).reshape(units, -1)
        if rows.shape[1] > 4 * _SCREEN and not len(_alike(rows[:, :_SCREEN], use.groups)[0]):
            return 0.0
        twins = torch.zeros(units, dtype=torch.bool, device=rows.device)
        several = max(_AT_ONCE // rows.shape[1], 1)
        for first, second in zip(*(found.split(several) for found in _alike(rows, use.groups)), strict=True):
            own = rows[first]
            equal = (own == rows[second]).all(1) & (own != 0).any(1)
            twins[first[equal]] = True
            twins[second[equal]] = True
        return float(twins.double().mean())


def _meets_again(w: Tensor, out_dim: int, groups: int) -> bool:
    """Whether any two units of a group share their first weight: random ones seldom do, twins always."""
    for dim in reversed(range(w.dim())):
        if dim != out_dim:
            w = w.select(dim, 0)
    keys = w.reshape(groups, -1).sort(dim=1).values
    return bool((keys[:, 1:] == keys[:, :-1]).any())


def _alike(rows: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Indices of pairs of rows of one group that one random projection does not tell apart."""
    per_group = rows.shape[0] // groups
    generator = torch.Generator().manual_seed(0)
    direction = torch.rand(rows.shape[1], generator=generator, dtype=torch.float32, device="cpu")
    half = rows.dtype in (torch.float16, torch.bfloat16)
    direction = direction.to(rows.device) if half else direction.to(rows)
    # Of half-precision rows, which are summed in single precision, a few at a time.
    parts = rows.split(max(_AT_ONCE // rows.shape[1], 1)) if half else [rows]
    summed = torch.cat([(part.float() if half else part) @ direction for part in parts])
    keys, order = summed.view(groups, per_group).sort(dim=1)
    index = order + per_group * torch.arange(groups, device=order.device).view(-1, 1)
    # Rounding may differ between equal rows by where they lie in the matrix, hence not ==.
    near = (keys[:, 1:] - keys[:, :-1]) <= 1e-5 * keys.abs().amax()
    return index[:, :-1][near], index[:, 1:][near]
