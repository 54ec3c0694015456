"""Does anything drift with size? The coordinate check of muP as an assertion: exponents of scale against width or depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist, fmean
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from ..errors import ProbeError, SettingsError, UnstableScaling
from ..models.inputs import resolve_inputs
from ..probing.guard import untouched
from ..probing.modules import layer_modules, measurable, tensors
from ..probing.randomness import seed_torch, seeded
from ..probing.subject import Subject, subject_of

Make = Callable[..., nn.Module]
Optimizer = Callable[[nn.Module], torch.optim.Optimizer]

#: What is looked at, of every layer that all sizes have and of the model's output.
QUANTITIES = {
    "activation": "RMS of what a layer puts out at the start",
    "update": "RMS of how far that moves in the first optimizer steps",
}
OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class SizeDrift:
    """How one quantity of one layer goes with the size.

    Attributes:
        layer: name of the layer; ``"output"`` for the output of the model.
        quantity: ``"activation"`` or ``"update"``.
        exponent: fitted k of scale = c * size^k.
        low: lower end of the confidence interval of the exponent.
        high: its upper end.
        scales: size -> geometric mean over seeds.
        drifts: whether the whole interval lies beyond the tolerance.
    """

    layer: str
    quantity: str
    exponent: float
    low: float
    high: float
    scales: Mapping[int, float]
    drifts: bool


@dataclass(frozen=True, slots=True)
class ScalingReport:
    """What was found over the sizes.

    Attributes:
        over: what was varied: ``"width"``.
        sizes: its values.
        seeds: initializations of each size.
        steps: optimizer steps behind the updates.
        tolerance: exponents up to this, either way, count as stable.
        confidence: of the intervals.
        drifts: one entry for each layer and quantity, in the order in which the model runs; the output last.
        skipped: what could not be fitted, and why.
    """

    over: str
    sizes: tuple[int, ...]
    seeds: int
    steps: int
    tolerance: float
    confidence: float
    drifts: tuple[SizeDrift, ...]
    skipped: tuple[str, ...] = field(default=())

    @property
    def unstable(self) -> tuple[SizeDrift, ...]:
        """What drifts."""
        return tuple(d for d in self.drifts if d.drifts)

    @property
    def ok(self) -> bool:
        """Whether nothing drifts."""
        return not self.unstable

    def __str__(self) -> str:
        bad = self.unstable
        if bad:
            first = bad[0]  # where it starts, in the order in which the model runs
            head = (
                f"{len(bad)} of {len(self.drifts)} scales drift with {self.over}: {first.layer} {first.quantity} "
                f"goes as {self.over}^{first.exponent:+.2f} ({self.confidence:.0%} interval {first.low:+.2f} to {first.high:+.2f}, "
                f"allowed +-{self.tolerance:g})"
            )
        else:
            head = f"stable over {self.over} {self.sizes[0]} to {self.sizes[-1]}: {len(self.drifts)} scales within the allowance"
        rows = [
            [
                "drifts" if d.drifts else "",
                d.layer,
                d.quantity,
                *(f"{d.scales[s]:.3g}" for s in self.sizes),
                f"{d.exponent:+.2f}",
                f"{d.low:+.2f} to {d.high:+.2f}",
            ]
            for d in self.drifts
        ]
        heads = [
            "",
            "layer",
            "of",
            *(f"{self.over} {s}" for s in self.sizes),
            "exponent",
            f"{self.confidence:.0%} interval",
        ]
        table = tabulate(rows, heads, tablefmt="simple", disable_numparse=True)
        told = [f"not fitted: {s}" for s in self.skipped]
        foot = (
            f"{self.seeds} seeds a size; updates after {self.steps} steps"
            if self.steps
            else f"{self.seeds} seeds a size"
        )
        return "\n".join(["", head, "", table, "", *told, foot]).strip()

    def plot(self) -> Any:
        """Return a matplotlib figure: scale against size on log axes, one panel a quantity. Needs the extra ``plot``."""
        from matplotlib.figure import Figure

        shown = [q for q in QUANTITIES if any(d.quantity == q for d in self.drifts)]
        figure = Figure(figsize=(5 * len(shown), 4), layout="constrained")
        for axes, quantity in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            for d in self.drifts:
                if d.quantity == quantity:
                    style = {"linewidth": 2.0} if d.drifts else {"linewidth": 1.0, "alpha": 0.6}
                    label = f"{d.layer} ({d.exponent:+.2f})"
                    axes.plot(list(self.sizes), [d.scales[s] for s in self.sizes], marker="o", label=label, **style)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel(self.over)
            axes.set_title(f"{quantity}: {QUANTITIES[quantity]}", fontsize=9)
            axes.legend(fontsize=6)
        return figure


def assert_stable_scaling(
    make: Make, over: Mapping[str, Sequence[int]], inputs: Any = None, **options: Any
) -> ScalingReport:
    """Raise :class:`UnstableScaling` unless :func:`check_scaling` finds every scale stable.

    Args, Raises:
        As :func:`check_scaling`, and :class:`UnstableScaling` (an ``AssertionError``) with the table.
    """
    __tracebackhide__ = True
    report = check_scaling(make, over, inputs, **options)
    if not report.ok:
        raise UnstableScaling(str(report), report=report)
    return report


def check_scaling(
    make: Make,
    over: Mapping[str, Sequence[int]],
    inputs: Any = None,
    *,
    optimizer: Optimizer | None = None,
    loss: Callable[[Any], Tensor] | None = None,
    steps: int = 3,
    seeds: int = 4,
    tolerance: float = 0.25,
    confidence: float = 0.99,
) -> ScalingReport:
    """Build a model in several sizes, and fit how its activations and their first updates go with the size.

    Args:
        make: called with the size by keyword (``make(width=128)``); returns a module. It is called ``seeds`` times a size,
            each time under another seed.
        over: the one keyword and at least three sizes, ``{"width": [64, 128, 256, 512]}``.
        inputs: as :func:`~pytest_initcheck.check_init`; the same for all sizes.
        optimizer: called with each model; by default Adam with the same learning rate for every weight, for which
            updates grow with the width unless the parametrization prevents it (Yang et al. 2021). The rate is 1e-4, so
            that no size gets to where it has learned the targets.
        loss: of the model's output; by default the distance to fixed random targets.
        steps: optimizer steps; 0 looks at the start only.
        seeds: initializations of each size.
        tolerance: exponents up to this, either way, count as stable.
        confidence: of the interval of each exponent.

    Returns:
        The report. Layers are compared by name; those that only some sizes have are left out. An output that is smaller in
        larger models at the start (muP: as width^-1/2) counts as stable if its updates do not shrink.

    Raises:
        SettingsError: an argument cannot be used.
        ProbeError: a model could not be run.
    """
    keyword, sizes = _sizes(over)
    for name, value, least in (("steps", steps, 0), ("seeds", seeds, 2)):
        if not isinstance(value, int) or value < least:
            raise SettingsError(f"{name} must be a whole number of at least {least} (got {value!r})")
    if not tolerance > 0 or not 0.5 <= confidence < 1:
        raise SettingsError(
            f"tolerance must be above 0 and confidence from 0.5 to below 1 (got {tolerance!r} and {confidence!r})"
        )
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for size in sizes:
        for seed in range(seeds):
            try:
                with seeded(seed):
                    model = make(**{keyword: size})
            except Exception as e:
                raise ProbeError(f"make({keyword}={size}) raised {type(e).__name__}: {e}") from e
            if not isinstance(model, nn.Module):
                raise SettingsError(f"make must return an nn.Module (it returned {type(model).__name__})")
            call = resolve_inputs(model, inputs, seed=0)
            with seeded(seed), untouched(model, tensors=call.tensors) as guard:
                guard.backup_parameters()  # make may return the same module again
                for key, scale in _measured(subject_of(model, call, guard, seed=seed), optimizer, loss, steps):
                    found.setdefault(key, {}).setdefault(size, []).append(scale)
    drifts, skipped = [], []
    for (layer, quantity), scales in found.items():
        values = [v for draws in scales.values() for v in draws]
        if set(scales) != set(sizes):
            continue
        if not all(0 < v < math.inf for v in values):
            what = "zero" if any(v == 0 for v in values) else "not finite"
            skipped.append(f"{layer} {quantity}: {what} at {keyword} {_first_bad(scales)}")
            continue
        k, low, high = _fit(scales, confidence)
        means = {size: math.exp(fmean(map(math.log, draws))) for size, draws in scales.items()}
        drifts.append(SizeDrift(layer, quantity, k, low, high, means, low > tolerance or high < -tolerance))
    if not drifts:
        raise ProbeError(
            "no layer could be compared over the sizes: " + ("; ".join(skipped) or "no name is in all of them")
        )
    drifts = _vanishing_output_allowed(drifts)
    return ScalingReport(keyword, tuple(sizes), seeds, steps, tolerance, confidence, tuple(drifts), tuple(skipped))


def _sizes(over: Mapping[str, Sequence[int]]) -> tuple[str, list[int]]:
    if not isinstance(over, Mapping) or len(over) != 1:
        raise SettingsError(
            f"over must name one keyword of make and its sizes, {{'width': [64, 128, 256]}} (got {over!r})"
        )
    ((keyword, values),) = over.items()
    sizes = sorted(set(values))
    if len(sizes) < 3 or not all(isinstance(s, int) and s > 0 for s in sizes):
        raise SettingsError(f"over[{keyword!r}] must have at least three different sizes above 0 (got {values!r})")
    return keyword, sizes


def _measured(
    subject: Subject, optimizer: Optimizer | None, loss: Callable[[Any], Tensor] | None, steps: int
) -> Iterator[tuple[tuple[str, str], float]]:
    with torch.enable_grad():
        seed = torch.initial_seed()
        _, before = _outputs(subject, seed)
        yield from (((name, "activation"), _rms(t)) for name, t in before.items())
        if not steps:
            return
        chosen = (
            torch.optim.Adam(subject.model.parameters(), lr=1e-4) if optimizer is None else optimizer(subject.model)
        )
        target = torch.randn(before[OUTPUT].shape, generator=torch.Generator().manual_seed(0)).to(before[OUTPUT])
        for _ in range(steps):
            raw, now = _outputs(subject, seed, grad=True)
            cost = (now[OUTPUT] - target).square().mean() if loss is None else loss(raw)
            chosen.zero_grad()
            cost.backward()
            chosen.step()
        _, after = _outputs(subject, seed)
        yield from (((name, "update"), _rms(after[name] - t)) for name, t in before.items() if name in after)


def _outputs(subject: Subject, seed: int, *, grad: bool = False) -> tuple[Any, dict[str, Tensor]]:
    """What every module puts out, under its name; the model's own output last."""
    found: dict[str, Tensor] = {}
    handles = []

    def hook(path: str) -> Callable[..., None]:
        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            out = next((t for t in tensors(output) if measurable(t)), None)
            if out is not None and path not in found and not grad:
                found[path] = out.detach().clone()

        return note

    for path, module in layer_modules(subject.model):
        if path and any(True for _ in module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(hook(path)))
    try:
        seed_torch(seed)
        with torch.set_grad_enabled(grad):
            raw = subject.run()
    except Exception as e:
        raise subject.failed("forward", e) from e
    finally:
        for handle in handles:
            handle.remove()
    out = next((t for t in tensors(raw) if measurable(t)), None)
    if out is None:
        raise ProbeError(f"the model returned no floating tensor (it returned {type(raw).__name__})")
    # The module that computes the output has the same values under its own name: once is enough.
    found = {n: t for n, t in found.items() if n != OUTPUT and not torch.equal(t, out)}
    found[OUTPUT] = out if grad else out.detach().clone()
    return raw, found


def _rms(t: Tensor) -> float:
    return float(t.detach().double().square().mean().sqrt())


def _first_bad(scales: Mapping[int, list[float]]) -> int:
    return next(s for s, values in scales.items() if not all(0 < v < math.inf for v in values))


def _fit(scales: Mapping[int, list[float]], confidence: float) -> tuple[float, float, float]:
    """Least squares of log scale on log size; the interval takes seeds and what the line misses for its error."""
    points = [(math.log(s), math.log(v)) for s, values in scales.items() for v in values]
    x0, y0 = fmean(x for x, _ in points), fmean(y for _, y in points)
    sxx = sum((x - x0) ** 2 for x, _ in points)
    k = sum((x - x0) * (y - y0) for x, y in points) / sxx
    freedom = len(points) - 2
    residual = sum((y - y0 - k * (x - x0)) ** 2 for x, y in points)
    half = _student(0.5 + confidence / 2, freedom) * math.sqrt(residual / freedom / sxx)
    return k, k - half, k + half


def _student(p: float, freedom: int) -> float:
    """Quantile of Student's t: Abramowitz and Stegun 26.7.5, good to 1 % from four degrees of freedom at 99 %."""
    z = NormalDist().inv_cdf(p)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3 + g4 / freedom**4


def _vanishing_output_allowed(drifts: list[SizeDrift]) -> list[SizeDrift]:
    """An output that starts smaller in larger models costs nothing if training moves it alike (muP; zero heads)."""
    moved = any(d.layer == OUTPUT and d.quantity == "update" and not d.drifts for d in drifts)
    return [
        replace(d, drifts=False) if moved and d.layer == OUTPUT and d.quantity == "activation" and d.exponent < 0 else d
        for d in drifts
    ]
