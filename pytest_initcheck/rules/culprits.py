"""Where it starts: every parameter's own factor against what its fan, and the nonlinearity behind it, ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from .. import thresholds
from ..gain_table import weight_gain
from ..records import ParameterRecord, Trace
from ..words import number

#: A factor this far (in decades) from what theory and its peers say stands out. Between schemes in use (Xavier, Kaiming,
#: LeCun, PyTorch's default, orthogonal) the factors differ by up to 0.4.
STANDS_OUT = 0.45

#: Nonlinearities that a large negative offset shuts.
_SHUTTING = frozenset(("relu", "gelu", "silu", "mish", "sigmoid", "softplus"))


@dataclass(frozen=True, slots=True)
class Suspect:
    """A parameter or layer whose own factor is off.

    Attributes:
        name: parameter (or layer) name.
        kind: ``"weight"``, ``"bias"``, ``"norm-scale"``, ``"embedding"`` or ``"zero"``; where an output is too large also
            ``"factor"`` (a raw scalar or vector), ``"head"`` (an embedding that is the output layer) or ``"input"``.
        decades: how far off, in powers of ten; negative is too small. Of a bias, what ranks it among scales.
        common: whether most of the model's weights are off by as much: the scheme's fault, not this layer's.
        cause: in the field's terms, with numbers.
        absorbed: whether the scale makes no difference to what the network does with its inputs: a norm layer rescales it,
            or nothing reads it any more (a head).
        expected: the std that theory asks for, where it says.
        rms: root mean square of its values.
    """

    name: str
    kind: str
    decades: float
    common: bool
    cause: str
    expected: float | None = None
    absorbed: bool = False
    rms: float = 0.0

    @property
    def factor(self) -> float:
        """How many times too large or too small a scale is."""
        return float(10 ** abs(self.decades))

    @property
    def loud(self) -> bool:
        """Whether it amplifies, or drowns, what the network says about its inputs."""
        return self.kind == "bias" or (self.decades > 0 and not self.absorbed)


def suspects(trace: Trace) -> tuple[Suspect, ...]:
    """Return what stands out, most suspicious first; what starts earlier wins a tie."""
    parameters = [p for p in trace.parameters.values() if p.value is not None and p.value.finite]
    deviations = {p.name: d for p in parameters if (d := weight_deviation(p)) is not None and math.isfinite(d)}
    typical = median(deviations.values()) if deviations else 0.0
    trend = growth(trace)
    compounds = (
        trend is not None and trend.steadiness > 0.8 and abs(trend.decades) * trend.steps > 3 and abs(typical) > 0.05
    )
    shared = (abs(typical) > STANDS_OUT or compounds) and sum(
        abs(d - typical) < STANDS_OUT for d in deviations.values()
    ) * 2 > len(deviations)
    found: list[Suspect] = []
    for p in parameters:
        suspect = _bias(p) or _norm(p) or _embedding(p) or _zero(p)
        if suspect is None and p.name in deviations:
            own = _least(deviations[p.name], deviations[p.name] - (typical if len(deviations) > 3 else 0.0))
            if abs(own) > STANDS_OUT and (not shared or abs(own) > 2 * STANDS_OUT):
                suspect = Suspect(p.name, "weight", own, False, _weight_cause(p), expected_std(p))
        if suspect is not None:
            found.append(suspect)
    unread = _unread(trace)
    followed = {p.name: p.followed_by for p in parameters}
    found = [
        replace(s, absorbed=followed[s.name] == "norm" or s.name in unread) if s.kind == "weight" else s for s in found
    ]
    found.sort(key=lambda s: -round(abs(s.decades), 1))
    if shared:
        worst = next(p for p in parameters if p.name in deviations)
        common = Suspect(worst.name, "weight", typical, True, _weight_cause(worst), expected_std(worst))
        found = (
            [s for s in found if abs(s.decades) > abs(typical)]
            + [common]
            + [s for s in found if abs(s.decades) <= abs(typical)]
        )
    return tuple(found)


def _unread(trace: Trace) -> set[str]:
    """Parameters of the layers that the graph shows and whose output no other layer reads.

    A layer that is not in the graph by its first output (an RNN whose state is used) is not known to be unread.
    """
    read = {name for sources in trace.edges.values() for name in sources}
    leaves = [x for x in trace.layers.values() if x.leaf and not x.functional]
    return {n for x in leaves if x.name in trace.edges and x.name not in read for n in x.parameters}


@dataclass(frozen=True, slots=True)
class Growth:
    """The constant rate at which log10 RMS changes over depth.

    Attributes:
        decades: change for each weight layer, in the direction in which the signal travels.
        steps: number of weight layers travelled.
        steadiness: share of the steps that follow it (within 0.15 decades, or half of it).
        first: layer where the signal starts.
        last: layer where it ends.
    """

    decades: float
    steps: int
    steadiness: float
    first: str
    last: str

    @property
    def factor(self) -> float:
        """What each layer multiplies the signal by."""
        return float(10.0**self.decades)


def growth(trace: Trace, kind: str = "activation") -> Growth | None:
    """Return how the RMS of ``kind`` (``"activation"`` or ``"gradient"``) changes over the longest run without a norm layer.

    Layers that have weights count as steps. ``None`` where there are fewer than five of them in a row.
    """
    runs: list[list[tuple[str, float]]] = [[]]
    for layer in trace.layers.values():
        roles = {trace.parameters[n].role for n in layer.parameters if n in trace.parameters}
        stats = layer.activation if kind == "activation" else layer.gradient
        if "norm-scale" in roles or "norm-shift" in roles:
            runs.append([])
        elif layer.leaf and "weight" in roles and stats is not None and stats.finite and stats.rms > 0:
            runs[-1].append((layer.name, math.log10(stats.rms)))
    run = max(runs, key=len)
    if kind == "gradient":
        run = run[::-1]
    if len(run) < 5:
        return None
    slopes = [b - a for (_, a), (_, b) in pairwise(run)]
    slope = median(slopes)
    # The median, not a least-squares line: a last layer whose bias is all that is left does not bend it.
    steady = sum(abs(d - slope) < max(0.15, abs(slope) / 2) for d in slopes) / len(slopes)
    return Growth(slope, len(slopes), steady, run[0][0], run[-1][0])


def _least(theory: float, peers: float) -> float:
    """The smaller of the two distances; 0 where theory and the peers disagree on the side."""
    return 0.0 if theory * peers <= 0 else min(theory, peers, key=abs)


def typical_deviation(trace: Trace) -> float:
    """Return the median of :func:`weight_deviation` over the weights whose scale no norm layer absorbs, in decades."""
    free = [p for p in trace.parameters.values() if p.followed_by != "norm"]
    found = [d for p in free if (d := weight_deviation(p)) is not None and math.isfinite(d)]
    return median(found) if found else 0.0


def expected_std(p: ParameterRecord) -> float | None:
    """Return the weight std that carries a unit signal through ``p`` and what follows, or ``None``."""
    if p.fan_in is None or p.fan_in == 0 or p.role != "weight" or len(p.shape) < 2:
        return None
    return weight_gain(p.followed_by).value / math.sqrt(p.fan_in) / p.factor


def weight_deviation(p: ParameterRecord) -> float | None:
    """Return log10 of the weight's RMS over :func:`expected_std`; ``None`` for what is no weight, or is all zero."""
    expected = expected_std(p)
    if expected is None or p.value is None or not p.value.finite or p.value.rms == 0 or p.value.count < 8:
        return None
    return math.log10(p.value.rms / expected)


def _weight_cause(p: ParameterRecord) -> str:
    expected = expected_std(p)
    assert p.value is not None
    if expected is None:
        return f"{p.name} has std {number(p.value.rms)}"
    behind = f" in front of {p.followed_by}" if p.followed_by and p.followed_by != "none" else ""
    return (
        f"{p.name} has std {number(p.value.rms)} on fan_in {p.fan_in}{behind}, where {number(expected)} carries the signal: "
        f"this layer multiplies it by {number(p.value.rms / expected)}"
    )


def _bias(p: ParameterRecord) -> Suspect | None:
    if p.role not in ("bias", "norm-shift") or p.value is None or p.value.rms < thresholds.LARGE_BIAS:
        return None
    mean = p.value.mean
    shut = " and shuts every unit behind it" if mean <= -thresholds.LARGE_BIAS and p.followed_by in _SHUTTING else ""
    start = f"{number(mean)} on average" if abs(mean) > p.value.rms / 2 else f"RMS {number(p.value.rms)}"
    cause = f"{p.name} starts at {start} (0 is usual): the offset drowns the signal{shut}"
    # A bias counts against a unit signal, a weight against its own theory: an offset of 10 is as far off as a factor of 10,
    # and, unlike the factor, no norm layer or optimizer makes up for it.
    rank = math.copysign(math.log10(p.value.rms) + 1, p.value.mean or 1)
    return Suspect(p.name, "bias", rank, False, cause, 0.0, rms=p.value.rms)


def _norm(p: ParameterRecord) -> Suspect | None:
    if p.role != "norm-scale" or p.value is None or p.value.rms == 0:
        return None
    decades = math.log10(p.value.rms)
    if decades < STANDS_OUT:
        return None
    return Suspect(p.name, "norm-scale", decades, False, f"{p.name} starts at {number(p.value.rms)} (1 is usual)", 1.0)


def _embedding(p: ParameterRecord) -> Suspect | None:
    if p.role != "embedding" or p.value is None or p.value.rms <= 10**STANDS_OUT:
        return None
    cause = f"{p.name} has std {number(p.value.rms)} (0.02 to 1 is usual)"
    return Suspect(p.name, "embedding", math.log10(p.value.rms), False, cause, 1.0)


def _zero(p: ParameterRecord) -> Suspect | None:
    """A weight that is all zero, and shuts what lies behind it: a step does not open it."""
    if p.value is None or p.value.rms != 0 or p.role in ("bias", "norm-shift"):
        return None
    if p.wakes is False or (p.gradient is not None and p.gradient.rms == 0 and p.wakes is not True):
        return Suspect(p.name, "zero", -20.0, False, f"{p.name} is all zero, and no gradient reaches it to change that")
    return None
