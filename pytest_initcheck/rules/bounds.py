"""Rules on the user's own bounds: nothing is judged here that was not asked for."""

from __future__ import annotations

from collections.abc import Iterator

from ..records import Finding, Stats
from ..settings import Bounds, bound_for
from ..words import number
from .registry import Case, finding, rule

_WHY = "the bound is yours; no default exists, because any per-layer bound fails healthy models ([0.01, 100] fails 38 % of 829)"


@rule(
    "activation-std",
    family="bounds",
    severity="error",
    threshold="activation_std, per layer glob; no default",
    evidence=_WHY,
    limits="judges the std around the mean, not the RMS: they differ by 1.2 behind a ReLU",
)
def activation_std(case: Case) -> Iterator[Finding]:
    """A layer's activation std is outside the bound that you set."""
    yield from _outside(case, "activation", case.settings.activation_std)


@rule(
    "gradient-std",
    family="bounds",
    severity="error",
    threshold="gradient_std, per layer glob; no default",
    evidence=_WHY,
    limits="without a loss the scale of the backward signal is that of a unit-RMS direction over the number of outputs",
)
def gradient_std(case: Case) -> Iterator[Finding]:
    """The std of the gradient at a layer's output is outside the bound that you set."""
    yield from _outside(case, "gradient", case.settings.gradient_std)


def _outside(case: Case, kind: str, bounds: Bounds) -> Iterator[Finding]:
    if not bounds:
        return
    for layer in case.trace.layers.values():
        stats: Stats | None = layer.activation if kind == "activation" else layer.gradient
        low, high = bound_for(bounds, layer.name)
        if stats is None or stats.count < 2 or (low is None and high is None):
            continue
        below = low is not None and not stats.std >= low
        above = high is not None and not stats.std <= high
        if below or above:
            side = f"at least {number(low)}" if below and stats.std == stats.std else f"at most {number(high)}"
            yield finding(
                f"{kind}-std",
                "error",
                [layer.name],
                f"{kind} std {number(stats.std)} at {layer.name} ({side} asked for)",
                evidence={"std": stats.std, "low": low, "high": high, "rms": stats.rms},
                cause=f"{kind}_std asks for {number(low) if low is not None else '-inf'} to {number(high) if high is not None else 'inf'} here",
            )
