"""Rules on gradients: parameters that no gradient reaches, and whether that is meant."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fnmatch import fnmatchcase

from .. import thresholds
from ..records import Finding, ParameterRecord, Severity, Stray
from ..words import number, some, spelled
from .function import silent
from .registry import Case, finding, rule

#: What multiplies a signal, or is looked up in its place: without a gradient it is a dead part and no mere offset.
_FACTORS = ("weight", "embedding")


@rule(
    "frozen-parameter",
    family="gradients",
    severity="warning",
    threshold="requires_grad=False on a parameter of a model that otherwise trains, unless `frozen` names it",
    evidence="all 33 injected cases; a weight and its bias frozen alone are the accident that users report",
    limits="it cannot know what you meant: declare a frozen backbone once with frozen=['backbone.*']",
)
def frozen_parameter(case: Case) -> Iterator[Finding]:
    """A parameter is excluded from training."""
    frozen = [
        p for p in case.trace.parameters.values() if not p.requires_grad and p.dtype.startswith(("float", "bfloat"))
    ]
    frozen = [p for p in frozen if not any(fnmatchcase(n, g) for g in case.settings.frozen for n in (p.name, p.layer))]
    if not frozen or len(frozen) == len(case.trace.parameters):
        return
    names = [p.name for p in frozen]
    yield finding(
        "frozen-parameter",
        "warning",
        names,
        f"{len(names)} of {len(case.trace.parameters)} parameters will not be trained: {some(names)}",
        evidence={"frozen": len(names), "parameters": len(case.trace.parameters)},
        cause="requires_grad is False; nothing else about them keeps them from training",
    )


@rule(
    "no-gradient",
    family="gradients",
    severity="error where the value is used but its gradient is cut (warning where that is an offset of a layer that learns), or where "
    "no code of its class reads it; else a note",
    threshold="no path of the autograd graph leads from the outputs to the parameter",
    evidence="all 45 injected detached and unused layers; 8 % of published models have parameters that this very call does not "
    "use (poolers, mask tokens, LayerDrop), which is why use elsewhere in the code makes it a note",
    limits="what only code outside of the model reads (a penalty in the training loop) counts as never read",
)
def no_gradient(case: Case) -> Iterator[Finding]:
    """A trainable parameter gets no gradient at all."""
    for reason, names in _by_reason(case).items():
        if reason == "blocked":
            names = _nearest_the_cut(case, names)
            yield finding(
                "no-gradient",
                "warning" if _only_offsets(case, names) else "error",
                names,
                f"the output depends on {some(names)}, but no gradient comes back",
                evidence={"parameters": len(names), "reason": reason},
                cause="the graph is cut behind it: .detach(), .data, .item(), torch.no_grad() or a non-differentiable operation",
                advice=f"find the cut behind {names[0]!r} and remove it, or declare it: model.get_parameter({names[0]!r}).requires_grad_(False)",
            )
        elif reason == "unmentioned":
            yield finding(
                "no-gradient",
                "error",
                names,
                f"{some(names)} {'is' if len(names) == 1 else 'are'} never used: no method of the classes that hold "
                f"{'it' if len(names) == 1 else 'them'} reads the attribute but to initialize or show it",
                evidence={"parameters": len(names), "reason": reason},
                cause="built and given values, but not used: a forgotten term or call in forward(), or a leftover",
                advice=f"use it in forward(), or delete it: del model.{_owner(case, names[0])}",
            )
        else:
            yield finding(
                "no-gradient",
                "note",
                names,
                f"this call does not use {some(names)}",
                evidence={"parameters": len(names), "reason": reason},
                cause="the forward pass takes another branch with these inputs, or drops the layer at random",
            )


@rule(
    "blocked-gradient",
    family="gradients",
    severity="error where both factors of a product are zero and the rest does not learn without them; warning for any other part that "
    "stays silent; note where other inputs reach it",
    threshold=f"gradient exactly zero at the start and after {spelled(thresholds.LOOKS)} optimizer-sized steps",
    evidence="zero-init gates leave 30 to 95 % of the parameters of 75 published models with exactly zero gradients on step one, and "
    "none on step four",
    limits="a branch that its ReLU shuts for these samples and that others open is a note, as an expert that no token was sent to is",
)
def blocked_gradient(case: Case) -> Iterator[Finding]:
    """A gradient is exactly zero: behind a gate it arrives after a step or two, in a dead branch never."""
    frozen = [p for p in case.trace.parameters.values() if _is_alive_weight(p) and not p.requires_grad]
    quiet = silent(case)
    if quiet and not frozen:
        return
    asked = [p for p in case.trace.parameters.values() if p.wakes is not None]
    dead = [p for p in asked if not p.wakes and p.gradient is not None and p.gradient.count]
    unfed = {x.module for x in case.trace.layers.values() if not x.functional and x.activation.count == 0}
    shut = [p for p in dead if p.name not in case.absent and p.layer not in unfed]
    names = [p.name for p in dead if p not in shut]
    if not quiet and any(case.trace.parameters[n].role == "weight" for n in names):
        yield finding(
            "blocked-gradient",
            "note",
            names,
            f"these inputs send nothing through {some(names)}",
            evidence={"parameters": len(names)},
            cause="an expert that no token is routed to, or a layer that is dropped at random: with other inputs a gradient arrives, or the "
            "layer got an empty batch",
        )
    zero = [p for p in shut if p.role in _FACTORS and p.value is not None and p.value.rms == 0]
    weights = [p for p in case.trace.parameters.values() if p.role in _FACTORS and p.requires_grad]
    # A pair of factors hangs on one weight of a frozen base.
    if len(zero) > 1 and (2 * len(zero) < len(weights) or len(zero) <= 2 * len(frozen)):
        names = [p.name for p in zero] + [p.name for p in shut if p not in zero]
        yield finding(
            "blocked-gradient",
            "error",
            names,
            f"{some([p.name for p in zero])} are zero and nothing can open them: no gradient after {spelled(thresholds.LOOKS)} steps",
            evidence={"parameters": len(shut)},
            cause="both factors of a product are zero (a zero gate behind a zero gate, both halves of a low-rank pair), so each "
            "keeps the other's gradient at zero",
        )
    elif not quiet and (zero or any(p.role == "weight" for p in shut)):
        names = [s.name for s in case.culprits if s.name in {p.name for p in shut}] + [p.name for p in shut]
        yield finding(
            "blocked-gradient",
            "warning",
            names,
            f"{len(shut)} parameters get no gradient at all, also after {spelled(thresholds.LOOKS)} steps: {some(list(dict.fromkeys(names)))}",
            evidence={"parameters": len(shut)},
            cause=_culprit(case, names)
            or "a branch whose units are shut for every sample, or a part that these inputs do not use",
        )


@rule(
    "rounding-gradient",
    family="gradients",
    severity="warning",
    threshold="a weight that moves the output by less than 64 roundings of what the strongest parameter does, and whose gradient points "
    "elsewhere once all weights are changed by 0.1 %",
    evidence="a top-1 router divided by its own sum: 1e-9, as good as independent after the change; gradients behind a LayerScale of 1e-6, "
    "or at the far end of 30 tanh layers, keep a cosine of 0.99",
    limits="asked of weights in float32 and float64; offsets and scales whose effect a norm or a softmax takes away are healthy, and not asked",
)
def rounding_gradient(case: Case) -> Iterator[Finding]:
    """A weight's gradient is nothing but rounding, because what it computes cancels: no step trains it."""
    if case.rounding:
        names = list(case.rounding)
        share = max(case.rounding.values())
        yield finding(
            "rounding-gradient",
            "warning",
            names,
            f"the gradient of {some(names)} is rounding: {number(share)} of the strongest parameter's, in another direction after a change of 0.1 %",
            evidence={"share": share, "parameters": len(names)},
            cause="what it computes cancels before the output: divided by itself (the weight of the one best expert over the sum of the chosen), "
            "summed over a softmax, or taken away by a norm; so it stays as it is",
        )


@rule(
    "closed-gate",
    family="gradients",
    severity="note",
    threshold=f"gradient exactly zero at the start, and not after one to {spelled(thresholds.LOOKS)} optimizer-sized steps",
    evidence="75 of 829 published models start with such gates, and train",
    limits="a weight that was zeroed by accident, and that a step can open, is called a gate, too",
)
def closed_gate(case: Case) -> Iterator[Finding]:
    """A parameter that is zero on purpose keeps what lies behind it silent for the first step."""
    if silent(case):
        return
    opened = [p for p in case.trace.parameters.values() if p.wakes]
    if opened:
        gates = [
            p
            for p in case.trace.parameters.values()
            if p.value is not None and p.value.rms == 0 and len(p.shape) >= 1 and p.requires_grad
        ]
        gates = [
            p for p in gates if p.role not in ("bias", "norm-shift") and not (p.gradient and p.gradient.rms == 0)
        ] or gates
        names = [p.name for p in gates if p.role not in ("bias", "norm-shift")] or [p.name for p in opened]
        yield finding(
            "closed-gate",
            "note",
            names,
            f"{len(opened)} parameters start without gradient behind a gate and get one after a step: {some(names)}",
            evidence={"parameters": len(opened)},
            cause="zero on purpose at the start (zero-init residual, ReZero, LayerScale, LoRA, adaLN-zero, a zero head): it opens by itself",
        )


@rule(
    "unregistered-parameter",
    family="gradients",
    severity="error where random weights are made anew in every forward pass, or where nothing else is trained; else warning",
    threshold="a leaf of the autograd graph that requires a gradient and is neither among model.parameters() nor an input",
    evidence="no published model at its default init has one; a list or a dict of layers is the classic of them",
    limits="what is kept out of model.parameters() on purpose, for another optimizer, looks the same: silence it by name, or freeze it",
)
def unregistered_parameter(case: Case) -> Iterator[Finding]:
    """Gradients arrive at a tensor that no optimizer is given, because the model has not registered it."""
    for severity, group in _strays(case):
        names = [s.name for s in group]
        first = group[0]
        if first.where == "made":
            told = f"{first.name} computes with parameters (shape {list(first.shape)}) that are made in forward()"
            cause = (
                "a layer or nn.Parameter that is made in forward(): every pass has a new one, which no optimizer knows; make it in __init__() "
                "and assign it to an attribute"
            )
        elif first.where == "outside":
            told = f"{first.name} computes with parameters (shape {list(first.shape)}) that are not among model.parameters()"
            cause = "they belong to something outside of the model (a global, another model): not registered, so not trained with it"
        else:
            told = f"{some(names)} {'gets a gradient but is' if len(names) == 1 else 'get gradients but are'} not among model.parameters()"
            cause = (
                f"not registered: held by {first.holder}, which nn.Module does not look into, so no optimizer gets it and "
                ".to() and state_dict() leave it out; use nn.ModuleList, nn.ModuleDict or nn.Parameter"
            )
        yield finding(
            "unregistered-parameter",
            severity,
            names,
            told,
            evidence={"tensors": len(group), "where": first.where},
            cause=cause,
        )


def _is_alive_weight(p: ParameterRecord) -> bool:
    return p.role == "weight" and p.value is not None and p.value.rms > 0


def _strays(case: Case) -> Iterator[tuple[Severity, list[Stray]]]:
    for where in ("made", "held", "outside"):
        group = [s for s in case.strays if s.where == where]
        # A fixed scale or shift made on the spot does nothing; weights that are drawn on the spot are noise.
        random = where == "made" and any(s.varied for s in group)
        if group:
            nothing = not any(p.requires_grad for p in case.trace.parameters.values())
            yield (
                "error" if random or nothing else "warning",
                sorted(group, key=lambda s: not s.varied) if where == "made" else group,
            )


def _only_offsets(case: Case, names: list[str]) -> bool:
    """Whether each is a vector beside a weight that is trained: it stays what it is, and its layer learns without it."""
    records = case.trace.parameters
    trained = {p.layer for p in records.values() if p.requires_grad and p.reached}
    return all(len(records[n].shape) < 2 and records[n].layer in trained for n in names)


def _owner(case: Case, name: str) -> str:
    """The module to delete if it did not run, else the parameter itself."""
    layer = name.rpartition(".")[0]
    ran = not layer or any(x.module == layer for x in case.trace.layers.values())
    return name if ran else layer


def _by_reason(case: Case) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in case.unreached.items():
        if math.prod(case.trace.parameters[name].shape):  # what is empty has nothing to learn
            found.setdefault(reason, []).append(name)
    return dict(sorted(found.items()))


def _nearest_the_cut(case: Case, names: list[str]) -> list[str]:
    """Parameters of layers whose own output has left the graph first, then by how late in the pass they are used."""
    at = {x.module: (x.opaque is not None, x.index) for x in case.trace.layers.values() if not x.functional}
    layer_of = {n: case.trace.parameters[n].layer for n in names}
    return sorted(names, key=lambda n: at.get(layer_of[n], (False, -1)), reverse=True)


def _culprit(case: Case, names: list[str]) -> str:
    return next((s.cause for s in case.culprits if s.name in names), "")
