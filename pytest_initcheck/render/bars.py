"""The signal over depth as bars of text."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..report import Report
from .profile import Axis, axis, depth, sample
from .words import brief, cells, cut, pad, shown

#: Rows that a person takes in at a glance.
ROWS = 20
#: A full cell, and one to seven eighths of it.
_BLOCKS = "█▏▎▍▌▋▊▉"
_VALUE = 8


def drawable(encoding: str | None) -> bool:
    """Return whether a stream of this encoding can show the bars; where not, ask for ``ascii=True``."""
    try:
        _BLOCKS.encode(encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def profile(report: Report, *, width: int, ascii: bool, ink: Callable[[str, str], str]) -> str:
    """Return a row for each of at most :data:`ROWS` layers: name, activation and gradient, each as number and bar.

    Args:
        report: what to draw.
        width: columns to fill.
        ascii: draw with ``#`` instead of block characters.
        ink: wraps text in a style.
    """
    points = depth(report)
    if not points:
        return ""
    rows = sample(points, ROWS)
    names = [shown(p.layer.name, ascii=ascii) for p in rows]
    kinds = ["" if p.layer.functional else f" {shown(p.layer.kind, ascii=ascii)}" for p in rows]
    most = min(60, width - 2 - 2 * (_VALUE + 2) - 2 * 12)
    if max(cells(n + k) for n, k in zip(names, kinds, strict=True)) > most:
        kinds = ["" for _ in rows]
    room = max(12, min(most, max(cells(n + k) for n, k in zip(names, kinds, strict=True))))
    bar = max(6, min(40, (width - 2 - room - 2 * (_VALUE + 2) - 1) // 2))
    forward = axis(p.activation for p in points)
    backward = axis(p.gradient for p in points)
    some = f"{len(rows)} of {len(points)} layers" if len(rows) < len(points) else f"{len(points)} layers"
    marked = ", > where findings point" if any(p.mark for p in rows) else ""
    lines = [
        ink(f"signal over depth: RMS on a log scale, {some}{marked}", "bold"),
        " " * room
        + f"{'activation':>{_VALUE + 2}} {_ends(forward, bar)}  {'gradient':>{_VALUE}} {_ends(backward, bar)}",
    ]
    for point, name, kind in zip(rows, names, kinds, strict=True):
        row = "> " if point.mark else "  "
        row += pad(cut(name, room - cells(kind)) + kind, room)
        row += _cell(point.activation, forward, bar, ascii=ascii) + "  "
        row += _cell(point.gradient, backward, bar, ascii=ascii)
        lines.append(ink(row.rstrip(), point.mark) if point.mark else row)
    return "\n".join(lines)


def _ends(scale: Axis, bar: int) -> str:
    low, high = f"1e{scale.low}", f"1e{scale.high}"
    return low + high.rjust(bar - len(low))


def _cell(value: float | None, scale: Axis, bar: int, *, ascii: bool) -> str:
    return f"{brief(value):>{_VALUE}} {_bar(value, scale, bar, ascii=ascii):<{bar}}"


def _bar(value: float | None, scale: Axis, bar: int, *, ascii: bool) -> str:
    if value is None or value == 0:
        return ""
    if not math.isfinite(value):
        return "!" * bar
    eighths = max(1, round(scale.at(value) * bar * 8))
    if ascii:
        return "#" * max(1, round(eighths / 8))
    return _BLOCKS[0] * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")
