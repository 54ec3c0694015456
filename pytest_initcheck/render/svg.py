"""Charts for the HTML report: inline SVG that stretches with the page, its labels in HTML so that they do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..records import LayerRecord, Severity, Stats
from ..report import Report
from ..rules.named import worst_layers
from ..settings import bound_for
from .profile import Axis, Point, axis
from .words import brief, shown

#: Units of the drawing; the page stretches them.
WIDTH, HEIGHT = 1000, 200
#: Labels of an axis, at most.
LABELS = 6
#: Variation across samples below which it gets a chart; squeeze-and-excite gates of healthy networks go down to 7e-3.
ALIKE = 1e-3
TITLES = {
    ("activation", False): "activation RMS over depth",
    ("activation", True): "activation std over depth, with your bounds",
    ("gradient", False): "gradient RMS over depth",
    ("gradient", True): "gradient std over depth, with your bounds",
    ("variation", False): "variation across samples, over the activation",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line in a chart.

    Attributes:
        at: place in percent of the width.
        name: layer.
        severity: severity of the finding that points there.
    """

    at: float
    name: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class Chart:
    """One quantity over depth.

    Attributes:
        title: what is drawn.
        kind: ``"activation"``, ``"gradient"`` or ``"variation"``.
        labels: (place from the top in percent, text) of the axis.
        line: path of the values.
        dots: path of the single values.
        strange: path of the values that are not finite, at the top, and of zeros, at the bottom.
        bounds: path of the bounds that the user set.
        marks: layers that findings point at.
        count: number of layers.
    """

    title: str
    kind: str
    labels: tuple[tuple[float, str], ...]
    line: str
    dots: str
    strange: str
    bounds: str
    marks: tuple[Mark, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Strip:
    """Where the values of one layer lie between their extremes, in percent.

    Attributes:
        name: layer.
        text: the numbers in words.
        low: mean minus std.
        mean: mean.
        high: mean plus std.
        zero: zero, or ``None`` where it is outside.
        ends: smallest and largest value as text.
        bins: path of the histogram, 320 wide and 100 high; empty if there is none.
        span: where the histogram begins and ends.
    """

    name: str
    text: str
    low: float
    mean: float
    high: float
    zero: float | None
    ends: tuple[str, str]
    bins: str = ""
    span: tuple[float, float] = (0.0, 100.0)


def charts(report: Report, points: Sequence[Point]) -> list[Chart]:
    """Return the charts of activations and of gradients, with the bounds that the settings ask for.

    Where samples become alike, what varies between them is drawn as well: activations of any size can say nothing.
    """
    if not points:
        return []
    kinds = ["activation", "gradient"]
    if any(p.layer.activation.variation is not None and p.layer.activation.variation < ALIKE for p in points):
        kinds.append("variation")
    return [_chart(report, points, kind) for kind in kinds]


def _chart(report: Report, points: Sequence[Point], kind: str) -> Chart:
    # A report that was read from JSON has "inf" where a setting had an infinity.
    asked = tuple(
        (g, *(None if b is None else float(b) for b in ends)) for g, *ends in report.settings.get(f"{kind}_std", ())
    )
    bounds = [bound_for(asked, p.layer.name) for p in points]
    bounded = any(low is not None or high is not None for low, high in bounds)
    # Bounds are on the std: then that is what must be drawn beside them.
    field = "variation" if kind == "variation" else "std" if bounded else "rms"
    values = [_value(p.layer.gradient if kind == "gradient" else p.layer.activation, field) for p in points]
    scale = axis(values, around=[b for pair in bounds for b in pair if b is not None])
    places = [(_x(i, len(points)), v) for i, v in enumerate(values)]
    drawn = [(x, v) for x, v in places if v is not None and v > 0 and math.isfinite(v)]
    above = [(x, 0.0) for x, v in places if v is not None and not math.isfinite(v)]
    below = [(x, float(HEIGHT)) for x, v in places if v == 0]
    marks = [
        Mark(round(_x(i, len(points)) / WIDTH * 100, 2), shown(p.layer.name), p.mark)
        for i, p in enumerate(points)
        if p.mark
    ]
    return Chart(
        title=TITLES[kind, bounded],
        kind=kind,
        labels=_labels(scale),
        line=_line(places, scale),
        dots="".join(f"M{x:g} {_y(v, scale):g}h0" for x, v in drawn),
        strange="".join(f"M{x:g} {y:g}h0" for x, y in above + below),
        bounds=_steps([low for low, _ in bounds], scale) + _steps([high for _, high in bounds], scale),
        marks=tuple(marks),
        count=len(points),
    )


def _value(stats: Stats | None, field: str) -> float | None:
    value = None if stats is None or not stats.count else getattr(stats, field)
    return None if value is None else float(value)


def _x(i: int, count: int) -> float:
    return round((i + 0.5) / count * WIDTH, 1)


def _y(value: float, scale: Axis) -> float:
    return round((1 - scale.at(value)) * HEIGHT, 1)


def _line(places: Sequence[tuple[float, float | None]], scale: Axis) -> str:
    """A path through the values that a log axis has a place for, broken where one is missing."""
    path, pen = [], "M"
    for x, v in places:
        if v is None or v <= 0 or not math.isfinite(v):
            pen = "M"
            continue
        path.append(f"{pen}{x:g} {_y(v, scale):g}")
        pen = "L"
    return "".join(path)


def _steps(bounds: Sequence[float | None], scale: Axis) -> str:
    """A horizontal path for every run of layers that has the same bound."""
    path, start = [], 0
    for i in range(1, len(bounds) + 1):
        if i == len(bounds) or bounds[i] != bounds[start]:
            bound = bounds[start]
            if bound is not None and bound > 0 and math.isfinite(bound):
                left, right = start / len(bounds) * WIDTH, i / len(bounds) * WIDTH
                path.append(f"M{left:g} {_y(bound, scale):g}H{right:g}")
            start = i
    return "".join(path)


def _labels(scale: Axis) -> tuple[tuple[float, str], ...]:
    span = scale.high - scale.low
    step = max(1, math.ceil(span / (LABELS - 1)))
    return tuple((round((1 - k / span) * 100, 2), f"1e{scale.low + k}") for k in range(0, span + 1, step))


def strips(report: Report, *, most: int = 6) -> list[Strip]:
    """Return where the values of the layers lie that errors and warnings name first."""
    worst = worst_layers(report.trace, report.findings, most=most)
    return [strip for name in worst if (strip := _strip(report.layers[name])) is not None]


def _strip(layer: LayerRecord) -> Strip | None:
    s = layer.activation
    width = s.max - s.min
    if not s.finite or not math.isfinite(width) or width <= 0:
        return None

    def place(value: float) -> float:
        return round(min(1.0, max(0.0, (value - s.min) / width)) * 100, 2)

    text = f"mean {brief(s.mean)}, std {brief(s.std)}, {100 * s.zeros:.0f} % zeros"
    zero = place(0.0) if s.min <= 0 <= s.max else None
    ends = (brief(s.min), brief(s.max))
    box = (place(s.mean - s.std), place(s.mean), place(s.mean + s.std))
    strip = Strip(shown(layer.name), text, *box, zero, ends)
    if layer.histogram is None:
        return strip
    return replace(
        strip,
        bins=_bins(layer.histogram.counts),
        span=(place(layer.histogram.low), place(layer.histogram.high)),
    )


def _bins(counts: Sequence[int]) -> str:
    """Path of a histogram, ten units a bin and 100 high; a bin that holds anything is seen."""
    top = max(counts)
    heights = [max(2, round(100 * n / top)) if n else 0 for n in counts]
    return "".join(f"M{10 * i} 100v-{h}h10v{h}z" for i, h in enumerate(heights) if h)
