"""Rules on values: what is not finite, and what was never written."""

from __future__ import annotations

from collections.abc import Iterator

from .. import thresholds
from ..records import Finding
from ..words import number
from .registry import Case, finding, rule

#: No initialization writes weights this large; memory that was never written often holds them.
GARBAGE = 1e8


@rule(
    "non-finite-parameter",
    family="values",
    severity="error",
    threshold="any NaN or infinity in a parameter",
    evidence="36 of 36 injected cases end with a non-finite loss; none of 239 published models has one at init",
    limits="a parameter that is masked to -inf on purpose is reported too: silence it by name",
)
def non_finite_parameter(case: Case) -> Iterator[Finding]:
    """A parameter holds NaN or an infinity before the first step, so every output it touches does."""
    for p in case.trace.parameters.values():
        if p.value is not None and not p.value.finite and p.name not in case.unwritten:
            yield finding(
                "non-finite-parameter",
                "error",
                [p.name],
                f"{p.name} holds values that are not finite",
                evidence={"min": p.value.min, "max": p.value.max, "shape": list(p.shape)},
                cause="an init formula that divides by zero or overflows, or memory that was never written (torch.empty)",
            )


@rule(
    "uninitialized-parameter",
    family="values",
    severity="error",
    threshold=f"never written during construction (factory given), or a magnitude above {GARBAGE:.0e}",
    evidence="all 36 injected cases of finite garbage; the largest weight in 239 published models at init is below 1e5",
    limits="given a module instead of a factory, garbage that looks like ordinary numbers cannot be told from them",
)
def uninitialized_parameter(case: Case) -> Iterator[Finding]:
    """A parameter or buffer still holds what was in memory before the model was built."""
    for fault in case.unwritten.values():
        if fault.kind != "unwritten":
            continue
        yield finding(
            "uninitialized-parameter",
            "error",
            [fault.label],
            f"{fault.label} was never written: {fault.found}",
            evidence={"found": fault.found},
            cause=f"nothing writes to it after to_empty(): the init function leaves it out ({case.settings.deferred})"
            if fault.deferred
            else "allocated with torch.empty, torch.Tensor(n) or to_empty() and not initialized afterwards",
        )
    for p in case.trace.parameters.values():
        if p.value is None or not p.value.finite or p.name in case.unwritten:
            continue
        top = max(abs(p.value.min), abs(p.value.max), p.peak or 0.0)
        if top > GARBAGE:
            yield finding(
                "uninitialized-parameter",
                "error",
                [p.name],
                f"{p.name} holds values up to {number(top)} (at most {number(GARBAGE)} at any sane init)",
                evidence={"max": top, "allowed": GARBAGE, "rms": p.value.rms},
                cause="the values look like memory that was never written: allocated with torch.empty and left as it was",
            )


@rule(
    "deferred-mismatch",
    family="values",
    severity="error",
    threshold="mean or std of a parameter differs between eager and deferred construction by more than "
    f"{thresholds.STANDARD_ERRORS:g} standard errors",
    evidence="transformers #45050, torchtitan #312, lightning #17627 are this bug; sampling error alone exceeds it once in 10^9",
    limits="needs a factory and deferred=METHOD; two distributions with equal mean and std are not told apart",
)
def deferred_mismatch(case: Case) -> Iterator[Finding]:
    """Deferred construction (meta device, to_empty, init function) gives other weights than the constructor does."""
    for fault in case.unwritten.values():
        if fault.kind == "differs":
            yield finding(
                "deferred-mismatch",
                "error",
                [fault.label],
                f"{fault.label} differs: {fault.found}",
                evidence={"found": fault.found},
                cause=f"the constructor and {case.settings.deferred} do not give this parameter the same distribution",
            )


@rule(
    "non-finite-activation",
    family="values",
    severity="error",
    threshold="any NaN or infinity in the output while the inputs and the parameters are finite",
    evidence="the 100-layer N(0,1) stack of the source article overflows at layer 29 exactly; the operation is found by one more pass, of sick models alone",
    limits="an output that is -inf on purpose (a masked logit) is reported when it is the output of a layer",
)
def non_finite_activation(case: Case) -> Iterator[Finding]:
    """The output is not finite; the operation that made it so is named, or the first such layer."""
    layers = list(case.trace.layers.values())
    bad = [x for x in layers if not x.activation.finite and x.activation.count]
    if case.trace.output is not None and case.trace.output.finite:
        return
    first = next((x for x in bad if x.leaf), bad[0] if bad else None)
    made = case.not_finite
    if made is not None and made.operation and not (made.overflow and first is not None and made.layer == first.name):
        where = made.layer.rpartition(":")[0] or made.layer.replace(":", "the forward pass of the model itself: ", 1)
        yield finding(
            "non-finite-activation",
            "error",
            [made.layer, *([first.name] if first else [])],
            f"{made.what}, in {where}: the output is not finite",
            evidence={"operation": made.operation},
            cause=f"{made.what}: the first operation whose inputs are finite and whose result is not",
        )
        return
    if first is None:
        return
    before = [x for x in layers if x.index < first.index and x.leaf and x.activation.finite and x.activation.rms > 0]
    growth = ""
    if len(before) >= 3:
        factor = (before[-1].activation.rms / before[0].activation.rms) ** (1 / (len(before) - 1))
        growth = (
            f"; the signal grew x{number(factor)} a layer, from RMS {number(before[0].activation.rms)} at {before[0].name} "
            f"to {number(before[-1].activation.rms)} at {before[-1].name}"
        )
    culprit = [p.name for p in case.trace.parameters.values() if p.value is not None and not p.value.finite]
    names = [n for n in culprit if n.rpartition(".")[0] == first.module] + [first.name] + culprit
    yield finding(
        "non-finite-activation",
        "error",
        names,
        f"the output of {first.name} is not finite in {first.dtype} (layer {first.index + 1} of {len(layers)})",
        evidence={"layer": first.index + 1, "of": len(layers), "input_rms": first.input_rms},
        cause=f"a parameter that is not finite: {culprit[0]}"
        if culprit
        else f"the forward signal overflows {first.dtype}{growth}",
    )


@rule(
    "non-finite-gradient",
    family="values",
    severity="error",
    threshold="any NaN or infinity in a parameter's gradient while the output is finite",
    evidence="no clean or harmless trainability model and no published model has one",
    limits="a loss of the user's own that is singular at the start is blamed on the model",
)
def non_finite_gradient(case: Case) -> Iterator[Finding]:
    """The forward pass is finite but the backward pass is not."""
    if case.trace.output is None or not case.trace.output.finite:
        return
    bad = [p for p in case.trace.parameters.values() if p.gradient is not None and not p.gradient.finite]
    if not bad:
        return
    layers = [x for x in case.trace.layers.values() if x.gradient is not None and not x.gradient.finite]
    names = [layers[-1].name] if layers else []
    yield finding(
        "non-finite-gradient",
        "error",
        [*names, *(p.name for p in reversed(bad))],
        f"{len(bad)} of {len(case.trace.parameters)} parameters get gradients that are not finite",
        evidence={"parameters": len(bad)},
        cause=case.not_finite.what
        if case.not_finite is not None
        else "an operation whose derivative is singular here (sqrt or norm at 0, log of 0, division by 0) or a backward signal that overflows",
    )


@rule(
    "init-drift",
    family="values",
    severity="error for what has changed, warning for a model that the baseline does not know",
    threshold="a std or a mean that two draws of one initialization would differ by once in 10,000 runs at most "
    "(`--initcheck-baseline-alpha`, shared among all comparisons with the baseline); any change of a constant, a shape, "
    "a dtype, or of which parameters there are",
    evidence="the sampling error of two draws, with the kurtosis of each; simulated for five kinds of distributions, see the "
    "how-to on baselines",
    limits="needs a baseline; given by the plugin alone, after the rules have judged, and not to models that are watched. Assumes values that are drawn "
    "independently: an init that divides by a norm of its own draw may vary more. A change of the distribution that keeps "
    "mean and std is not seen, nor is one of what a parametrization makes of a parameter",
)
def init_drift(_case: Case) -> Iterator[Finding]:
    """The initialization is not that of the baseline, by more than chance explains."""
    return iter(())
