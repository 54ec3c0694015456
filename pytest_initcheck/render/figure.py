"""A report as a matplotlib figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..report import Report
from .profile import depth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACTIVATION, _GRADIENT, _ERROR = "#2a6fbb", "#b5651d", "#c62828"


def plot(report: Report, *, ax: Axes | None = None) -> Axes:
    """Draw the RMS of activations and gradients over depth, on a log scale, and return the axes.

    Args:
        report: what to draw.
        ax: axes to draw on; a new figure if not given.

    Raises:
        ImportError: matplotlib is not installed (``pip install 'pytest-initcheck[plot]'``).
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as e:
        raise ImportError("plot needs matplotlib: pip install 'pytest-initcheck[plot]'") from e
    points = depth(report)
    if ax is None:
        ax = plt.subplots(figsize=(8, 4), layout="constrained")[1]
    size = 4 if len(points) <= 120 else 1.5
    for label, color, values in (
        ("activation RMS", _ACTIVATION, [p.activation for p in points]),
        ("gradient RMS", _GRADIENT, [p.gradient for p in points]),
    ):
        # Zero and what is not finite have no place on a log axis: gaps.
        drawn = [v if v is not None and v > 0 and math.isfinite(v) else math.nan for v in values]
        ax.plot(range(len(points)), drawn, color=color, marker=".", markersize=size, linewidth=1.2, label=label)
    if any(p.activation > 0 or (p.gradient or 0) > 0 for p in points):
        ax.set_yscale("log")
    for i, p in enumerate(points):
        if p.mark:
            ax.axvline(i, color=_ERROR, linewidth=0.8, linestyle="--")
            ax.annotate(
                p.layer.name,
                (i, 1),
                xytext=(-2, -4),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                rotation=90,
                va="top",
                ha="right",
                fontsize=7,
                color=_ERROR,
                parse_math=False,
            )
    # The whole depth, also where nothing can be drawn: that is where it broke.
    ax.set_xlim(-0.5 - 0.02 * len(points), max(1, len(points)) - 0.5)
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("layer, in call order")
    ax.set_ylabel("RMS")
    verdict = "healthy" if report.ok else "unhealthy"
    ax.set_title(f"{report.model}: {verdict}", parse_math=False)
    if points:
        ax.legend(loc="best", fontsize=8)
    return ax
