"""The signal over depth: which layers to show, and where a value lies on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..records import SEVERITIES, Finding, LayerRecord, Severity
from ..report import Report
from ..rules import named

#: Layers that findings name first, marked in a profile; more marks would mark nothing.
MARKS = 5


@dataclass(frozen=True, slots=True)
class Point:
    """One layer of a profile.

    Attributes:
        layer: the record.
        activation: RMS of the output.
        gradient: RMS of the gradient at the output; ``None`` if none arrived.
        mark: severity of the finding that names this layer first, or ``None``.
    """

    layer: LayerRecord
    activation: float
    gradient: float | None
    mark: Severity | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis over whole decades.

    Attributes:
        low: exponent of ten at its start.
        high: exponent of ten at its end.
    """

    low: int
    high: int

    def at(self, value: float) -> float:
        """Return where ``value`` lies, 0 at the start and 1 at the end; zero lies at the start, infinity at the end."""
        if value <= 0 or math.isnan(value):
            return 0.0
        if math.isinf(value):
            return 1.0
        return min(1.0, max(0.0, (math.log10(value) - self.low) / (self.high - self.low)))


def depth(report: Report) -> list[Point]:
    """Return every innermost layer in call order, those marked that a finding names as its culprit."""
    marks = _marks(report)
    layers = [x for x in report.layers.values() if x.leaf and x.activation.count]
    return [
        Point(
            x,
            x.activation.rms,
            x.gradient.rms if x.gradient is not None and x.gradient.count else None,
            marks.get(x.name),
        )
        for x in layers or report.layers.values()
    ]


def axis(values: Iterable[float | None], *, around: Iterable[float] = ()) -> Axis:
    """Return the axis that holds every positive finite value, at least two decades long.

    Args:
        values: what is to be shown.
        around: what the axis must hold as well: a bound, a reference.
    """
    found = [v for v in (*values, *around) if v is not None and v > 0 and math.isfinite(v)]
    if not found:
        return Axis(-1, 1)
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    while high - low < 2:
        low, high = (low - 1, high) if (low + high) % 2 else (low, high + 1)
    return Axis(low, high)


def sample(points: Sequence[Point], limit: int) -> list[Point]:
    """Return at most ``limit`` points, in order: the ends, the marked ones, the extremes, the rest evenly spread."""
    if len(points) <= limit:
        return list(points)
    marked = [i for i, p in enumerate(points) if p.mark][: max(1, limit // 3)]
    wanted = [0, len(points) - 1, *marked, *(i - 1 for i in marked if i), *_extremes(points)]
    chosen = set(list(dict.fromkeys(wanted))[:limit])
    rest = limit - len(chosen)
    step = (len(points) - 1) / max(1, rest + 1)
    for k in range(1, rest + 1):
        near = sorted(set(range(len(points))) - chosen, key=lambda i: abs(i - k * step))
        chosen.update(near[:1])
    return [points[i] for i in sorted(chosen)]


def _extremes(points: Sequence[Point]) -> list[int]:
    """Indices of the first value that is not finite and of the smallest and largest ones, of both signals."""
    found: list[int] = []
    for values in ([p.activation for p in points], [p.gradient for p in points]):
        strange = [i for i, v in enumerate(values) if v is not None and not math.isfinite(v)]
        finite = [(v, i) for i, v in enumerate(values) if v is not None and math.isfinite(v)]
        found += strange[:1]
        if finite:
            found += [min(finite)[1], max(finite)[1]]
    return found


def _marks(report: Report) -> dict[str, Severity]:
    marks: dict[str, Severity] = {}
    findings: list[Finding] = sorted(report.findings, key=lambda f: SEVERITIES.index(f.severity))
    for finding in findings:
        if finding.severity == "note" or not finding.layers or len(marks) >= MARKS:
            continue
        layer = named.layer_of(report.trace, finding.layers[0])
        if layer is not None:
            marks.setdefault(layer.name, finding.severity)
    return marks
