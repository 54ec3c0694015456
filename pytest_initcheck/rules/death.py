"""Where a signal dies: the first operation whose input still differs from sample to sample and whose output does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .. import thresholds
from ..records import LayerRecord, ParameterRecord, Trace
from ..words import number
from .culprits import Suspect

#: Operations that are zero wherever their input is negative, or small.
_SHUT = frozenset(("relu", "relu6", "threshold", "hardshrink", "softshrink"))
_FLAT = frozenset(("tanh", "sigmoid", "hardtanh", "hardsigmoid", "softsign", "erf"))
_SOFTMAX = frozenset(("softmax", "log_softmax", "softmin", "gumbel_softmax"))
_NORM = frozenset(("layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm"))
#: What is left of a signal's size behind the layer that is said to have made it vanish.
_FADED = 1e-3

#: ``"by-itself"``: the operation cannot pass anything on; ``"pushed"``: its input is where it is flat; ``"faded"``: what
#: comes in is too small to be seen beside an offset.
How = Literal["by-itself", "pushed", "faded"]


@dataclass(frozen=True, slots=True)
class Death:
    """Where the samples become equal.

    Attributes:
        layer: the operation.
        how: what kind of death it is.
        names: what is to blame, the first first.
        cause: in the field's terms, with numbers.
        left: share of the signal's size that comes out of the operation.
    """

    layer: LayerRecord
    how: How
    names: tuple[str, ...]
    cause: str
    left: float = 0.0


def death(trace: Trace, suspects: Sequence[Suspect] = ()) -> Death | None:
    """Return where the output stopped depending on the sample, or ``None`` where it still does or no layer shows it.

    Args:
        trace: what was measured.
        suspects: parameters whose scale is off; of those, what lies before the operation may have pushed it.
    """
    layer = _dying(trace)
    if layer is None:
        return None
    upstream = before(trace, layer.name)
    source = _alive_before(trace, layer)
    return _by_itself(trace, layer, source) or _pushed(trace, layer, source, suspects, upstream) or _faded(trace, layer)


def alive(layer: LayerRecord) -> bool | None:
    """Whether the output differs between samples; ``None`` where that cannot be said."""
    a = layer.activation
    if not a.count or not a.finite:
        return None
    if a.rms == 0:
        return False
    return None if a.variation is None else a.variation >= thresholds.BLIND


def _dying(trace: Trace) -> LayerRecord | None:
    """Back from the output through what is dead, to the last layer that reads something alive."""
    read = {name for sources in trace.edges.values() for name in sources}
    todo = [name for name in trace.edges if name not in read]
    seen: set[str] = set()
    found: list[LayerRecord] = []
    roots: list[LayerRecord] = []
    while todo:
        name = todo.pop()
        layer = trace.layers.get(name)
        if name in seen or layer is None:
            continue
        seen.add(name)
        sources = [trace.layers[s] for s in trace.edges.get(name, ()) if s in trace.layers]
        if alive(layer):
            continue
        if alive(layer) is False and any(alive(s) for s in sources):
            found.append(layer)
        elif alive(layer) is False and not sources and layer.input is not None and layer.input.variation != 0:
            roots.append(layer)
        todo += [s.name for s in sources]
    # What lies nearest to the output is dead in any case; with a residual around a dead branch only the last one counts.
    return max(found, key=lambda x: x.index, default=None) or min(roots, key=lambda x: x.index, default=None)


def before(trace: Trace, name: str) -> set[str]:
    """Names of all layers that ``name`` depends on, itself included."""
    found: set[str] = set()
    todo = [name]
    while todo:
        if (one := todo.pop()) not in found:
            found.add(one)
            todo += trace.edges.get(one, ())
    return found


def _alive_before(trace: Trace, layer: LayerRecord) -> LayerRecord | None:
    sources = [trace.layers[s] for s in trace.edges.get(layer.name, ()) if s in trace.layers]
    return max((s for s in sources if alive(s)), key=lambda s: s.index, default=None)


def _parameters(trace: Trace, layer: LayerRecord | None, *roles: str) -> list[ParameterRecord]:
    names = () if layer is None else layer.parameters
    return [p for n in names if (p := trace.parameters.get(n)) is not None and p.role in roles and p.value is not None]


# -- what cannot pass anything on, whatever comes in


def _by_itself(trace: Trace, layer: LayerRecord, source: LayerRecord | None) -> Death | None:
    a, operation = layer.activation, layer.operation or ""
    what = f"{layer.name} ({layer.kind})" if layer.kind.lower() not in layer.name else layer.name

    def told(*names: str, cause: str) -> Death:
        return Death(layer, "by-itself", names, cause)

    if operation in _SOFTMAX and a.min == a.max and a.max in (1.0, 0.0):
        return told(
            layer.name, cause=f"{what} is a softmax over one element, which is {number(a.max)} whatever comes in"
        )
    scales = _parameters(trace, layer, "norm-scale")
    if operation in _NORM or scales:
        zero = [p for p in scales if p.value is not None and p.value.rms == 0]
        if zero:
            return told(
                zero[0].name, layer.name, cause=f"{zero[0].name} is all zero, so {layer.name} returns its shift"
            )
        return told(
            layer.name,
            cause=f"{what} normalizes over a group in which nothing differs (one element): x minus its mean is zero",
        )
    zero = [p for p in _parameters(trace, layer, "weight") if p.value is not None and p.value.rms == 0]
    if zero:
        return told(zero[0].name, layer.name, cause=f"{zero[0].name} is all zero: what comes in is multiplied by zero")
    if not layer.leaf or source is None:
        # Zero, and kept there: what stands in another place of the graph gets a gradient, or is reached by none.
        owned = [
            p
            for p in trace.parameters.values()
            if p.role == "other" and p.value is not None and p.value.rms == 0 and p.gradient is not None
        ]
        owned = [p for p in owned if p.gradient is not None and p.gradient.rms == 0 and not p.wakes]
        if a.rms == 0 and owned and source is not None:
            return told(
                owned[0].name,
                layer.name,
                cause=f"what {source.name} returns is multiplied by {owned[0].name}, which is zero",
            )
    return None


# -- what is pushed to where it is flat


def _pushed(
    trace: Trace, layer: LayerRecord, source: LayerRecord | None, suspects: Sequence[Suspect], upstream: set[str]
) -> Death | None:
    operation = layer.operation or ""
    if operation in _SHUT and layer.activation.rms == 0:
        state = "no input of {0} is positive"
        if source is not None and source.activation.max <= 0:
            state = f"all inputs of {{0}} are negative ({number(source.activation.max)} at most)"
    elif operation in _FLAT and (layer.saturated or 0.0) >= 0.5:
        state = "{0} is saturated"
        if source is not None:
            state += f" (its inputs have RMS {number(source.activation.rms)})"
    elif operation in _SOFTMAX:
        state = "{0} gives every sample the same class"
        if source is not None:
            state += f" (its inputs have RMS {number(source.activation.rms)})"
    else:
        return None
    state = state.format(layer.name)
    offsets = _parameters(trace, source, "bias", "norm-shift")
    offset = max(offsets, key=lambda p: p.value.rms if p.value else 0.0, default=None)
    if source is not None and offset is not None and offset.value is not None:
        # Most of what arrives is the offset, so the offset is what pushes.
        most = offset.value.rms >= 0.5 * source.activation.rms
        if most and (operation not in _SHUT or offset.value.mean < 0):
            cause = f"{state}: {offset.name} starts at {number(offset.value.mean)} on average, and the signal that it is added to is smaller"
            return Death(layer, "pushed", (offset.name, layer.name), cause)
    inside = {n for name in upstream if name in trace.layers for n in trace.layers[name].parameters}
    loud = [s for s in suspects if s.loud and not s.common and s.name in inside]
    if loud:
        return Death(layer, "pushed", (loud[0].name, layer.name), f"{state}: {loud[0].cause}")
    if any(s.common for s in suspects):
        return None  # the scheme as a whole: culprits say so
    names = (layer.name,) if source is None else (source.name, layer.name)
    return Death(layer, "pushed", names, f"{state}, so it returns the same values for every sample")


# -- what faded before


def _faded(trace: Trace, layer: LayerRecord) -> Death | None:
    """The operation before which most of the signal was still there, for a layer that has only its offset left."""
    drops: list[tuple[float, LayerRecord, LayerRecord]] = []
    for name in before(trace, layer.name):
        one = trace.layers.get(name)
        if one is None or (source := _alive_before(trace, one)) is None:
            continue
        left = _varying(one) / _varying(source)
        drops.append((left, one, source))
    if not drops:
        return None
    left, one, source = min(drops, key=lambda d: d[0])
    if left > _FADED:
        return None
    what = one.name if one.leaf else f"what {one.kind}.forward() does with {source.name}"
    share = f"leaves {number(left)}" if left > 0 else "leaves nothing"
    cause = (
        f"{what} {share} of the signal that {source.name} hands on (RMS {number(_varying(source))} over the samples)"
    )
    if one is not layer:
        cause += f", and behind it, at {layer.name}, only an offset is left"
    names = (one.name,) if one.leaf else (one.name, source.name)
    return Death(one, "faded", names, cause, left)


def _varying(layer: LayerRecord) -> float:
    a = layer.activation
    return a.rms * (1.0 if a.variation is None else a.variation)
