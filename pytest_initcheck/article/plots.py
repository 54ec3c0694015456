"""The pictures: a signal through the stacks, the gradients of row 16, the learning curves of rows 17 to 19."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .outcome import Outcome, Row
from .rows import stacks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"kaiming": "#2a6fbb", "xavier": "#2a6fbb", "standard": "#b5651d"}
#: Stacks that one picture compares, with the words of the legend.
_JOURNEY = {
    "linear": {"unit": "N(0, 1)", "small": "0.01 N(0, 1)", "scaled": "N(0, 1) / sqrt(512)"},
    "tanh": {"heuristic": "U(-1, 1) / sqrt(512)", "tanh": "N(0, 1) / sqrt(512)", "xavier": "Xavier uniform"},
    "relu": {"xavier relu": "Xavier uniform", "kaiming": "Kaiming normal"},
}


def save_plots(found: Sequence[tuple[Row, Outcome]], folder: Path, *, seeds: int = 6) -> list[Path]:
    """Write a picture of each kind of stack, and of each row that has curves, and return their paths.

    Args:
        found: rows and what was measured.
        folder: where to; made if it is not there.
        seeds: initializations of each stack.

    Raises:
        ImportError: matplotlib is not installed (``pip install 'pytest-initcheck[plot]'``).
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError("plots need matplotlib: pip install 'pytest-initcheck[plot]'") from e
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw, data in _pictures(found, seeds):
        figure = Figure(figsize=(7, 3.6), dpi=110, layout="constrained")
        draw(figure.add_subplot(), data)
        path = folder / f"journey-{name}.png"
        # Without the version of matplotlib in it, the same picture is the same file.
        figure.savefig(path, metadata={"Software": None})
        paths.append(path)
    return paths


def _pictures(found: Sequence[tuple[Row, Outcome]], seeds: int) -> Iterator[tuple[str, Any, Any]]:
    for name, lines in _JOURNEY.items():
        yield name, _signal, {words: stacks(stack, seeds)[0] for stack, words in lines.items()}
    for row, outcome in found:
        if "variances" in outcome.data:
            yield "gradients", _variances, outcome.data["variances"]
        elif "curves" in outcome.data:
            yield f"row{row.number}", _curves, outcome.data["curves"]


def _signal(ax: Axes, lines: Mapping[str, Any]) -> None:
    for words, layers in lines.items():
        sizes = [r.activation.rms if r.activation.finite and r.activation.rms else math.nan for r in layers]
        ax.plot(range(1, len(layers) + 1), sizes, linewidth=1.5, label=words)
    ax.set_yscale("log")
    ax.set_xlabel("layer")
    ax.set_ylabel("RMS of its output")
    ax.legend()


def _variances(ax: Axes, found: Mapping[str, Sequence[Sequence[float]]]) -> None:
    for init, runs in found.items():
        for i, layers in enumerate(runs):
            ax.plot(
                range(1, len(layers) + 1),
                layers,
                color=_COLORS[init],
                marker="o",
                markersize=4,
                label=None if i else init,
            )
    ax.set_yscale("log")
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("hidden layer, the lowest first")
    ax.set_ylabel("variance of its weight gradient")
    ax.legend()


def _curves(ax: Axes, found: Mapping[str, Sequence[Any]]) -> None:
    for init, curves in found.items():
        color = _COLORS[init] if init != "xavier" or "kaiming" not in found else _COLORS["standard"]
        for i, curve in enumerate(curves):
            ax.plot(curve.steps, curve.accuracies, color=color, linewidth=1.3, label=None if i else init)
    ax.set_ylim(0, 1)
    ax.set_xlabel("step")
    ax.set_ylabel("accuracy on held-out images")
    ax.legend()
