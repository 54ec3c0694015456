"""What a finding names first, and why: a culprit pushes the way of the symptom.

An output that is far too large is not the fault of a layer that makes the signal smaller, and a signal that died died at
one operation. :mod:`.culprits` says which weights are off, by themselves; this says which of them, or what else, explains
what the function does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .. import thresholds
from ..gain_table import weight_gain
from ..records import LayerRecord, Trace
from ..words import number
from .culprits import STANDS_OUT, Suspect, growth
from .death import before, death
from .registry import Case

#: Names that a finding lists at most.
LISTED = 5
#: A parameter that pulls more than this does not multiply: it goes through a power or an exponential.
_MULTIPLIES = (0.5, 2.0)
#: How far, in powers of ten, inputs are off unit scale before they are blamed.
_INPUTS_OFF = 0.8


@dataclass(frozen=True, slots=True)
class Blame:
    """What a finding names, the first first, and why (``""`` where nothing is known)."""

    names: tuple[str, ...]
    cause: str = ""


def for_silence(case: Case) -> Blame:
    """Return what keeps the output from moving: where the signal dies, else what is too quiet, or off at all."""
    suspects = case.culprits
    end = death(case.trace, suspects)
    scheme = bool(suspects) and suspects[0].common
    quiet = sorted([*(s for s in suspects if too_quiet(s)), *_faint_norms(case)], key=lambda s: round(s.decades, 1))
    if end is not None and end.how == "faded":
        if scheme and suspects[0].decades < 0:  # every layer takes its share, and the last one only shows it
            return _of(case, suspects)
        # What is off must account for what is lost.
        enough = [s for s in quiet if end.left > 0 and s.decades <= math.log10(end.left) / 2]
        return _of(case, [*enough, *suspects]) if enough else Blame(_listed(end.names), end.cause)
    if end is not None:
        others = suspects if end.how == "by-itself" else [s for s in suspects if s.loud and not s.common]
        if not (scheme and end.how == "pushed" and suspects[0].decades > 0 and abs(suspects[0].decades) > STANDS_OUT):
            return Blame(_listed([*end.names, *(s.name for s in others)]), end.cause)
    faint = (case.response.output_centred_rms or 0.0) < thresholds.SILENT
    if faint and quiet:
        return _of(case, [*quiet, *(s for s in suspects if s not in quiet)])
    return _of(case, suspects)


def for_size(case: Case) -> Blame:
    """Return what makes the output, or what a step does to it, too large: loud scales, raw parameters, the inputs."""
    found = [s for s in case.culprits if _adds(case.trace, s)]
    for extra in sorted([*_raw(case), *_heads(case), *_inputs(case)], key=lambda s: -s.decades):
        place = next((i for i, s in enumerate(found) if abs(s.decades) < extra.decades), len(found))
        found = [s for s in found if s.name != extra.name]
        found.insert(min(place, len(found)), extra)
    if found:
        return _of(case, found)
    layer, cause = _amplifier(case)
    return Blame((layer.name,) if layer is not None else (), cause)


def candidates(case: Case) -> tuple[Suspect, ...]:
    """Return what a repair may start with: everything that pushes the way of a symptom, then all that stands out."""
    found = {s.name: s for s in (*_raw(case), *_heads(case), *case.culprits, *_faint_norms(case))}
    return tuple(found.values())


def too_quiet(s: Suspect) -> bool:
    """Whether a suspect makes the signal smaller."""
    return s.decades < 0 and s.kind != "bias"


def too_loud(s: Suspect) -> bool:
    """Whether a suspect makes the signal, or an offset, larger."""
    return s.decades > 0 or s.kind == "bias"


def behind(case: Case, layer: LayerRecord) -> str:
    """Return why the units of ``layer`` are shut or flat: the first loud suspect before it; ``""`` where there is none."""
    upstream = before(case.trace, layer.name)
    names = {n for name in upstream if name in case.trace.layers for n in case.trace.layers[name].parameters}
    return next((s.cause for s in case.culprits if too_loud(s) and (s.common or s.name in names)), "")


def _of(case: Case, suspects: Iterable[Suspect]) -> Blame:
    listed = list(suspects)
    if not listed:
        first = next((x.name for x in case.trace.layers.values() if x.leaf), None)
        return Blame(() if first is None else (first,))
    return Blame(_listed(x.name for x in listed), cause_of(case, listed[0]))


def cause_of(case: Case, s: Suspect) -> str:
    """Return why ``s`` is suspect; where most layers are off by as much, that it is the scheme."""
    if not s.common:
        return s.cause
    fitted = growth(case.trace)
    over = "" if fitted is None else f"; fitted over {fitted.steps + 1} layers: x{number(fitted.factor)} a layer"
    return f"{s.cause}; most layers are off by as much, so it is the scheme{over}"


def _listed(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))[:LISTED]


def _adds(trace: Trace, s: Suspect) -> bool:
    """Whether a suspect makes the output larger; what a norm layer rescales does not."""
    record = trace.parameters.get(s.name)
    return too_loud(s) and not (s.kind == "weight" and record is not None and record.followed_by == "norm")


# -- what no fan-in judges


def _raw(case: Case) -> list[Suspect]:
    """Scalars and vectors of the model's own that scale the output: a temperature, a gain, an exponent."""
    found = []
    for p in case.trace.parameters.values():
        value, pull = p.value, p.pull
        if p.role != "other" or value is None or pull is None or value.count != max(p.shape, default=1):
            continue
        if pull >= _MULTIPLIES[1] and value.mean > 0:
            decades, start = pull / math.log(10), number(value.mean)
            cause = f"{p.name} starts at {start}, and 1 % more of it makes the output {number(pull)} % larger"
            if abs(pull - value.mean) < 0.2 * value.mean:
                cause = f"{p.name} starts at {start} and goes through an exponential: exp({start}) = {number(_exp(value.mean))}"
                if value.mean > 1:
                    cause += (
                        f"; if {start} is the factor that was meant, its logarithm is {number(math.log(value.mean))}"
                    )
            expected = math.log(value.mean) if value.mean > 1 else 0.0
        elif pull >= _MULTIPLIES[0] and value.rms > 0:
            decades, expected = math.log10(value.rms), 1.0
            cause = f"{p.name} starts at {number(value.rms)} and multiplies the output by it"
        else:
            continue
        if decades > STANDS_OUT:
            found.append(Suspect(p.name, "factor", decades, False, cause, expected, rms=value.rms))
    return found


def _faint_norms(case: Case) -> list[Suspect]:
    """Norm scales far below one that are not zero: what a norm layer has brought to unit scale leaves it faint."""
    found = []
    for p in case.trace.parameters.values():
        if p.role == "norm-scale" and p.value is not None and 0 < p.value.rms < 10**-STANDS_OUT:
            cause = f"{p.name} has RMS {number(p.value.rms)} (1 is usual): the signal leaves its norm that much smaller"
            found.append(Suspect(p.name, "norm-scale", math.log10(p.value.rms), False, cause, 1.0, rms=p.value.rms))
    return found


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def _heads(case: Case) -> list[Suspect]:
    """Embeddings that are the output layer, too, and are not drawn for that."""
    found = []
    for p in case.trace.parameters.values():
        if p.role != "embedding" or p.value is None or len(p.shape) != 2 or p.value.rms == 0:
            continue
        if not any(p.name in x.parameters and _multiplies(x) for x in case.trace.layers.values()):
            continue
        expected = weight_gain(None).value / math.sqrt(p.shape[1])
        decades = math.log10(p.value.rms / expected)
        if decades > STANDS_OUT:
            cause = (
                f"{p.name} has std {number(p.value.rms)} and is the output layer, too: on fan_in {p.shape[1]} {number(expected)} "
                f"carries the signal, and this multiplies it by {number(10**decades)}"
            )
            found.append(Suspect(p.name, "head", decades, False, cause, expected, rms=p.value.rms))
    return found


def _multiplies(layer: LayerRecord) -> bool:
    return layer.operation is not None and not layer.operation.startswith("embedding")


def _inputs(case: Case) -> list[Suspect]:
    """Inputs that are far off unit scale, where that is what the output's size comes from."""
    r = case.response
    layer = next((x for x in case.trace.layers.values() if x.input is not None and x.input.rms > 10**_INPUTS_OFF), None)
    if layer is None or layer.input is None or not r.with_unit_inputs or not r.output_centred_rms:
        return []
    decades = math.log10(r.output_centred_rms / r.with_unit_inputs)
    if decades < STANDS_OUT:
        return []
    cause = (
        f"{unscaled(layer)}: with mean 0 and std 1 the output would start at RMS {number(r.with_unit_inputs)} "
        f"over the samples"
    )
    return [Suspect(layer.name, "input", decades, False, cause)]


def unscaled(layer: LayerRecord) -> str:
    """Return in words how the input of a first layer is scaled."""
    given = layer.input
    assert given is not None
    return f"the input of {layer.name} has mean {number(given.mean)} and std {number(given.std)} (0 and 1 are usual)"


# -- where nothing stands out


def _amplifier(case: Case) -> tuple[LayerRecord | None, str]:
    """The layer that makes the signal grow most, and that in words."""
    best: tuple[float, LayerRecord | None, str] = (0.0, None, "")
    for layer in case.trace.layers.values():
        sources = [case.trace.layers[s] for s in case.trace.edges.get(layer.name, ()) if s in case.trace.layers]
        read = max((s.activation.rms for s in sources), default=layer.input.rms if layer.input is not None else 0.0)
        if read > 0 and layer.activation.finite and layer.activation.rms / read > best[0]:
            told = ", ".join(s.name for s in sources[:2]) or "the input"
            own = layer.name if layer.leaf else f"what {layer.kind}.forward() does with {told}"
            best = (
                layer.activation.rms / read,
                layer,
                f"{own} makes the signal {number(layer.activation.rms / read)} times larger, "
                f"from RMS {number(read)} to {number(layer.activation.rms)}",
            )
    ratio, loudest, cause = best
    if loudest is None or ratio >= 10**STANDS_OUT:
        return loudest, cause
    fitted = growth(case.trace)
    if fitted is not None and fitted.decades * fitted.steps >= 2:
        return loudest, f"the signal changes x{number(fitted.factor)} a layer over {fitted.steps + 1} layers"
    return loudest, ""
