"""Where an operation leaves the samples of what it is given: the table of those that are known to keep them apart.

What is not in it, or is called in another form, leaves them nowhere that is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: Where the samples of a tensor lie: dimension d, in which (index // inner) % batch is the sample.
Whereabout = tuple[int, int]
#: The place of values that no sample went into.
FIXED: Whereabout = (-1, 0)
#: The place of a result, or of each of several; ``None`` where it is not known.
Places = Whereabout | list[Whereabout | None] | None


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Attributes and methods that tell about a tensor without its values.
ABOUT = _names(
    "shape size dim ndim ndimension numel nelement stride device dtype layout is_cuda is_contiguous is_floating_point is_complex is_leaf "
    "requires_grad grad_fn names is_nested is_sparse is_quantized is_meta element_size itemsize nbytes get_device _version output_nr "
    "storage_offset is_same_size is_inference __hash__ __len__ _set_grad_enabled is_mkldnn is_mps is_xpu is_cpu _is_view is_conj is_neg "
    "promote_types result_type requires_grad_ retain_grad"
)
#: What makes a tensor like another one takes its shape alone.
ALIKE = _names(
    "zeros_like ones_like empty_like full_like rand_like randn_like randint_like new_zeros new_ones new_empty new_full"
)
_ELEMENTWISE = _names(
    "abs add sub subtract mul multiply div divide true_divide floor_divide neg negative pow square sqrt rsqrt exp expm1 log log1p log2 sin "
    "cos tan tanh sinh cosh asinh atan atan2 sigmoid logit erf relu relu6 gelu silu elu celu selu mish hardtanh hardswish hardsigmoid leaky_relu "
    "softplus softsign tanhshrink logsigmoid log_sigmoid hardshrink softshrink threshold rrelu sign sgn reciprocal clamp clip "
    "clamp_min clamp_max maximum minimum fmin fmax where masked_fill lerp addcmul addcdiv round floor ceil trunc fmod remainder nan_to_num eq ne lt le gt "
    "ge isnan isfinite isinf logical_not logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_not __and__ __or__ __invert__ "
    "__rsub__ __rdiv__ __rtruediv__ __rpow__ __add__ __radd__ __sub__ __mul__ __rmul__ __truediv__ __pow__ __eq__ __ne__ __lt__ __le__ __gt__ "
    "__ge__ __neg__ __iadd__ __isub__ __imul__ __itruediv__ rsub dropout alpha_dropout dropout1d dropout2d dropout3d"
)
#: The first operand alone has samples, and every element stays where it is.
_SAME = _names("to type float double half bfloat16 long int bool contiguous clone detach data type_as prelu")
_REFLATTENED = _names("view reshape flatten unflatten view_as reshape_as squeeze unsqueeze")
_PERMUTED = _names("transpose permute t T mT swapaxes swapdims movedim moveaxis")
_SELECTED = _names("__getitem__ chunk split unbind select narrow")
#: Along a dimension that goes: name -> position of the argument that says which.
_REDUCED = dict.fromkeys(
    _names("sum mean amax amin max min argmax argmin prod logsumexp any all var std median count_nonzero"), 1
) | {"norm": 2}
#: Along a dimension that stays.
_ALONG = dict.fromkeys(_names("softmax log_softmax softmin cumsum cumprod sort argsort glu logcumsumexp"), 1) | {
    "normalize": 2,
    "topk": 2,
}
_CONV = {f"{kind}{n}d": n for kind in ("conv", "conv_transpose") for n in (1, 2, 3)}
_POOL = {
    f"{kind}{n}d{end}": n
    for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool")
    for n in (1, 2, 3)
    for end in ("", "_with_indices")
}
_MISSING: Any = object()


def name_of(func: Any) -> str:
    """Return the name of a function or method as a torch-function mode is given it; of an attribute, that of the attribute."""
    name = getattr(func, "__name__", "")
    return getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else name


def writes(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Return whether an operation of this name changes one of its operands."""
    if name.startswith("__"):
        return (name.startswith("__i") and name != "__invert__") or name in ("__setitem__", "__set__")
    return name.endswith("_") or kwargs.get("out") is not None or bool(kwargs.get("inplace"))


def tells_about(name: str) -> bool:
    """Return whether an operation of this name reads no values."""
    return name in ABOUT or name in ALIKE


def moves_only(name: str) -> bool:
    """Return whether what comes out are values of the first operand, each at most once."""
    return name in _REFLATTENED or name in _PERMUTED or name in _SELECTED or (name in _SAME and name != "prelu")


class Known:
    """One operation, its arguments by position or by name."""

    def __init__(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        func: Any,
        out: Any,
        operands: list[Tensor],
        places: Sequence[Whereabout | None],
        batch: int,
    ) -> None:
        self.name, self.args, self.kwargs, self.func, self.out, self.batch = name, args, kwargs, func, out, batch
        self.operands, self.places = operands, [p for p in places if p is not None]

    def arg(self, position: int, name: str, default: Any = _MISSING) -> Any:
        """One argument; raises where it is not given and has no default."""
        found = self.args[position] if len(self.args) > position else self.kwargs.get(name, default)
        if found is _MISSING:
            raise ValueError(name)
        return found

    @property
    def x(self) -> Tensor:
        return self.operands[0]

    @property
    def at(self) -> Whereabout:
        """Whereabout of the first operand; raises where that is fixed."""
        if self.places[0] == FIXED:
            raise ValueError("fixed")
        return self.places[0]

    def rest_fixed(self) -> bool:
        return all(p == FIXED for p in self.places[1:])

    def dims(self, position: int) -> set[int]:
        """The dimensions along which it goes; raises where all of them are meant."""
        given = self.arg(position, "dim")
        if given is None or isinstance(given, Tensor) or (isinstance(given, list | tuple) and not given):
            raise ValueError("dim")
        every = given if isinstance(given, list | tuple) else [given]
        if any(isinstance(d, bool) for d in every):
            raise ValueError("dim")
        return {int(d) % self.x.dim() for d in every}


def place_after(seen: Known) -> Places:
    """Where the samples of the result lie, or of each of several results."""
    name = seen.name
    base = name[:-1] if name.endswith("_") and not name.startswith("__") else name
    if "axis" in seen.kwargs or "dims" in seen.kwargs:
        return None
    if base in ("max", "min") and isinstance(seen.arg(1, "other", None), Tensor):
        return _elementwise(seen)
    if base in _ELEMENTWISE:
        return _elementwise(seen)
    if base in _SAME:
        return seen.at if base == "type_as" or seen.rest_fixed() else None
    if base in _REFLATTENED:
        return _reflattened(seen)
    if base in _PERMUTED:
        return _permuted(seen)
    if base in _REDUCED:
        return _reduced(seen)
    if base in _ALONG:
        return seen.at if seen.rest_fixed() and seen.at[0] not in seen.dims(_ALONG[base]) else None
    if base in _CONV or base in _POOL:
        n = _CONV.get(base) or _POOL[base]
        lies_before = seen.at[0] < seen.x.dim() - n - (base in _CONV)
        return seen.at if lies_before and seen.rest_fixed() else None
    handler = _OTHERS.get(base)
    return None if handler is None else handler(seen)


def _elementwise(seen: Known) -> Whereabout | None:
    out: Tensor = seen.out
    found: set[Whereabout] = set()
    for tensor, place in zip(seen.operands, seen.places, strict=True):
        if place != FIXED:
            dim = place[0] + out.dim() - tensor.dim()
            if dim < 0 or out.shape[dim] != tensor.shape[place[0]]:
                return None
            found.add((dim, place[1]))
    return found.pop() if len(found) == 1 else None


def _reflattened(seen: Known) -> Whereabout | None:
    out: Tensor = seen.out
    dim, inner = seen.at
    if out.dtype != seen.x.dtype:
        return None  # bits read as other numbers
    period = math.prod(seen.x.shape[dim + 1 :]) * inner
    after = 1
    for d in reversed(range(out.dim())):
        if period % after == 0 and out.shape[d] % (period // after * seen.batch) == 0 and out.shape[d] > 1:
            return d, period // after
        after *= out.shape[d]
    return None


def _permuted(seen: Known) -> Whereabout | None:
    sizes = torch.empty([d + 2 for d in range(seen.x.dim())], device="meta")
    moved = seen.func(sizes, *seen.args[1:], **seen.kwargs)
    return list(moved.shape).index(seen.at[0] + 2), seen.at[1]


def _reduced(seen: Known) -> Whereabout | None:
    dims = seen.dims(_REDUCED[seen.name.rstrip("_")])
    dim, inner = seen.at
    if dim in dims or not seen.rest_fixed():
        return None
    out = seen.out if isinstance(seen.out, Tensor) else seen.out[0]
    return (dim if out.dim() == seen.x.dim() else dim - sum(d < dim for d in dims)), inner


def _linear(seen: Known) -> Whereabout | None:
    return seen.at if seen.rest_fixed() and seen.at[0] < seen.x.dim() - 1 else None


def _bilinear(seen: Known) -> Whereabout | None:
    one, other = seen.places[:2]
    return one if one == other and one != FIXED and one[0] < seen.x.dim() - 1 else None


def _matmul(seen: Known) -> Whereabout | None:
    (a, b), (left, right), out = seen.operands, seen.places, seen.out
    if left != FIXED and (left[0] == a.dim() - 1):
        return None  # summed over
    if right != FIXED and (right[0] == b.dim() - 2 or b.dim() < 2 or a.dim() < 2):
        return None
    found: set[Whereabout] = set()
    if left != FIXED:
        found.add((left[0] + (out.dim() - a.dim() if b.dim() > 1 else out.dim() + 1 - a.dim()), left[1]))
    if right != FIXED:
        found.add((right[0] + out.dim() - b.dim(), right[1]))
    place = found.pop() if len(found) == 1 else None
    if place is None or place[0] < 0:
        return None
    # Rows of the one are columns of the other: both at once would be pairs of samples.
    return place if FIXED in (left, right) or place[0] < out.dim() - 2 else None


def _einsum(seen: Known) -> Whereabout | None:
    equation = seen.args[0]
    if not isinstance(equation, str) or "..." in equation or "->" not in equation:
        return None
    terms, result = equation.replace(" ", "").split("->")
    letters = {(t[p[0]], p[1]) for t, p in zip(terms.split(","), seen.places, strict=True) if p != FIXED}
    if len(letters) != 1:
        return None
    ((letter, inner),) = letters
    held = [p for t, p in zip(terms.split(","), seen.places, strict=True) if letter in t]
    return (
        (result.index(letter), inner) if letter in result and all(p == FIXED or p[1] == inner for p in held) else None
    )


def _normed(seen: Known) -> Whereabout | None:
    shape = seen.arg(1, "normalized_shape")
    return seen.at if seen.rest_fixed() and seen.at[0] < seen.x.dim() - len(shape) else None


def _first_dim(seen: Known) -> Whereabout | None:
    """Samples come first, and what is done is done behind them."""
    return seen.at if seen.at[0] == 0 and seen.rest_fixed() else None


def _batch_normed(seen: Known) -> Whereabout | None:
    return seen.at if seen.at[0] != 1 and seen.rest_fixed() else None


def _padded(seen: Known) -> Whereabout | None:
    padded = len(seen.arg(1, "pad")) // 2
    return seen.at if seen.at[0] < seen.x.dim() - padded else None


def _joined(seen: Known) -> Whereabout | None:
    stacked = seen.name == "stack"
    first = seen.operands[0]
    along = int(seen.arg(1, "dim", 0)) % (first.dim() + stacked)
    places = {p for p in seen.places if p != FIXED}
    if len(places) != 1 or len({t.dim() for t in seen.operands}) != 1:
        return None
    ((dim, inner),) = places
    if stacked:
        return dim + (along <= dim), inner
    return (dim, inner) if along != dim else None


def _pieces(seen: Known) -> Places:
    dims = {int(seen.arg(2, "dim", 0)) % seen.x.dim()}
    return [seen.at] * len(flat((seen.out,))) if seen.at[0] not in dims and seen.rest_fixed() else None


def _taken(seen: Known) -> Places:
    """One slice, or every slice, of a dimension that goes."""
    along = int(seen.arg(1, "dim", 0)) % seen.x.dim()
    dim, inner = seen.at
    place = None if along == dim else (dim - (along < dim), inner)
    return [place] * len(seen.out) if isinstance(seen.out, tuple | list) else place


def _cut(seen: Known) -> Whereabout | None:
    along = int(seen.arg(1, "dim")) % seen.x.dim()
    return seen.at if along != seen.at[0] and seen.rest_fixed() else None


def _indexed(seen: Known) -> Whereabout | None:
    index = seen.args[1] if isinstance(seen.args[1], tuple) else (seen.args[1],)
    if len(seen.operands) > 1 or any(i is not None and i is not ... and not isinstance(i, int | slice) for i in index):
        return None
    if any(isinstance(i, bool) or (isinstance(i, slice) and not _plain(i)) for i in index):
        return None
    whole = seen.x.dim() - sum(i is not None and i is not ... for i in index)
    spread: list[Any] = []
    for i in index:
        spread += [slice(None)] * whole if i is ... else [i]
    if not any(i is ... for i in index):
        spread += [slice(None)] * whole
    at = to = 0
    for i in spread:
        if i is None:
            to += 1
            continue
        if at == seen.at[0]:
            return (to, seen.at[1]) if i == slice(None) else None
        at, to = at + 1, to + (not isinstance(i, int))
    return None


def _plain(cut: slice) -> bool:
    return all(end is None or isinstance(end, int) for end in (cut.start, cut.stop, cut.step))


def _expanded(seen: Known) -> Whereabout | None:
    out: Tensor = seen.out
    dim = seen.at[0] + out.dim() - seen.x.dim()
    return (dim, seen.at[1]) if out.shape[dim] == seen.x.shape[seen.at[0]] else None


def _looked_up(seen: Known) -> Whereabout | None:
    """Ids into a table that is fixed; ids may come first (``F.embedding``)."""
    plain = seen.arg(3, "max_norm", None) is None  # with one, looking up writes
    return seen.at if seen.rest_fixed() and plain and seen.out.dim() == seen.x.dim() + 1 else None


def _one_hot(seen: Known) -> Whereabout | None:
    return seen.at if int(seen.arg(1, "num_classes", -1)) > 0 else None  # else as many as the largest id of any sample


def _attended(seen: Known) -> Whereabout | None:
    places = {p for p in seen.places[:3] if p != FIXED}
    if len(places) != 1 or len({t.dim() for t in seen.operands[:3]}) != 1:
        return None
    (place,) = places
    mask = seen.places[3] if len(seen.places) > 3 else FIXED
    same = mask == FIXED or (mask == place and seen.operands[3].dim() == seen.x.dim())
    return place if same and place[0] < seen.x.dim() - 2 else None


def _multi_head(seen: Known) -> Places:
    """Time first, samples second; the weights of attention have samples first."""
    if seen.x.dim() != 3 or any(p != (1, 1) for p in seen.places[:3]):
        return None
    padding = seen.kwargs.get("key_padding_mask")
    for tensor, place in list(zip(seen.operands, seen.places, strict=True))[3:]:
        if place != FIXED and not (tensor is padding and place == (0, 1)):
            return None
    both: list[Whereabout | None] = [(1, 1), (0, 1)]
    return both[: len(flat((seen.out,)))]


def _recurrent(seen: Known) -> Places:
    hidden = seen.args[1]
    if seen.x.dim() != 3 or not isinstance(seen.args[-1], bool):
        return None
    dim = 0 if seen.args[-1] else 1  # batch_first
    states = flat((hidden,))
    allowed = all(p in (FIXED, (1, 1)) for p in seen.places[1 : 1 + len(states)])
    rest = all(p == FIXED for p in seen.places[1 + len(states) :])
    return [(dim, 1), *[(1, 1)] * len(states)] if seen.at == (dim, 1) and allowed and rest else None


def _cell(seen: Known) -> Places:
    states = flat((seen.args[1],))
    allowed = all(p in (FIXED, (0, 1)) for p in seen.places[: 1 + len(states)])
    rest = all(p == FIXED for p in seen.places[1 + len(states) :])
    return [(0, 1)] * len(states) if seen.x.dim() == 2 and allowed and rest else None


_OTHERS: Mapping[str, Callable[[Known], Places]] = {
    "linear": _linear,
    "bilinear": _bilinear,
    "matmul": _matmul,
    "__matmul__": _matmul,
    "mm": _matmul,
    "bmm": _matmul,
    "einsum": _einsum,
    "layer_norm": _normed,
    "rms_norm": _normed,
    "group_norm": _first_dim,
    "instance_norm": _first_dim,
    "interpolate": _first_dim,
    "pixel_shuffle": _first_dim,
    "pixel_unshuffle": _first_dim,
    "batch_norm": _batch_normed,
    "pad": _padded,
    "cat": _joined,
    "concat": _joined,
    "stack": _joined,
    "chunk": _pieces,
    "split": _pieces,
    "select": _taken,
    "unbind": _taken,
    "narrow": _cut,
    "__getitem__": _indexed,
    "expand": _expanded,
    "expand_as": _expanded,
    "broadcast_to": _expanded,
    "embedding": _looked_up,
    "one_hot": _one_hot,
    "scaled_dot_product_attention": _attended,
    "multi_head_attention_forward": _multi_head,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn_tanh": _recurrent,
    "rnn_relu": _recurrent,
    "lstm_cell": _cell,
    "gru_cell": _cell,
    "rnn_tanh_cell": _cell,
    "rnn_relu_cell": _cell,
}


def flat(value: Any) -> list[Tensor]:
    """The tensors in nested tuples and lists, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [t for item in value for t in flat(item)]
    return []
