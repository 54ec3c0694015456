"""What would cure it: the smallest edit of the weights after which the model passes, tried in place and taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from .budget import TimeBudget
from .probing.guard import untouched
from .race.course import out_of_memory
from .records import Finding, ParameterRecord, Trace
from .rules.culprits import Suspect, expected_std
from .rules.named import layer_of
from .rules.registry import finding
from .sharding.layout import whole_to_fill
from .sharding.world import current

#: Rules whose findings are about values that other values cure.
ABOUT_VALUES = frozenset(
    (
        "non-finite-parameter",
        "uninitialized-parameter",
        "non-finite-activation",
        "non-finite-gradient",
        "unresponsive",
        "input-blind",
        "unreachable-targets",
        "offset-output",
        "chaotic-response",
        "blocked-gradient",
        "duplicate-units",
        "cut-recurrence",
        "saturated-state",
        "frozen-parameter",
    )
)
#: Rules whose findings follow what cures them: they see that the function fails, and conclude where from statistics.
FOLLOW = frozenset(("unresponsive", "input-blind", "unreachable-targets", "chaotic-response", "outperformed"))
#: Suspects that are repaired alone before several are at once.
ALONE = 4
#: More edits than this are given as the one call that makes them.
LISTED = 8


@dataclass(frozen=True, slots=True)
class Edit:
    """One parameter's new values: ``normal`` (with ``std``), ``constant`` (``std`` is the value) or ``train``."""

    name: str
    kind: str
    std: float = 0.0

    def apply(self, model: nn.Module, generator: torch.Generator) -> None:
        """Change the parameter in place."""
        parameter = model.get_parameter(self.name)
        if self.kind == "train":
            parameter.requires_grad_(True)
            return
        with torch.no_grad():
            if self.kind == "normal":
                with whole_to_fill(parameter) as whole:
                    whole.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float32).mul_(self.std))
            else:
                parameter.fill_(self.std)

    def code(self, called: str = "model") -> str:
        """Return the line that does the same to the model that it knows as ``called``."""
        target = f"{called}.get_parameter({self.name!r})"
        if self.kind == "train":
            return f"{target}.requires_grad_(True)"
        if self.kind == "normal":
            return f"torch.nn.init.normal_({target}, std={self.std:.4g})"
        if self.std in (0.0, 1.0):
            return f"torch.nn.init.{'ones_' if self.std else 'zeros_'}({target})"
        return f"torch.nn.init.constant_({target}, {self.std:g})"


#: Checks a model, and is given what brings it back to the values that it is to be checked with.
Recheck = Callable[[nn.Module, Callable[[], None]], Iterable[Finding]]
#: Initializes all of a model, each time to the same values, and returns the line that does the same.
Whole = Callable[[nn.Module], str]


def mend(
    model: nn.Module,
    trace: Trace,
    findings: Iterable[Finding],
    suspects: Iterable[Suspect],
    judge: Recheck,
    *,
    whole: Whole | None = None,
    seed: int = 0,
    called: str = "model",
    budget: TimeBudget | None = None,
    proven: str = "",
    alone: str = "",
) -> list[Finding]:
    """Return the findings with fixes that were tried on ``model``, and without fixes that did not help.

    Args:
        model: the model that was probed; every edit is taken back.
        trace: what was measured.
        findings: what was found.
        suspects: what stands out, most suspicious first.
        judge: checks a model and returns its findings.
        whole: what to try in place of more than a few edits.
        seed: seed of new values.
        called: what the fixes call the model.
        budget: nothing more is tried once it is spent.
        proven: a fix that a race was won with, which needs no trial.
        alone: the only parameter that it changes.
    """
    findings = list(findings)
    known = {*trace.parameters, *trace.layers}
    errors = [
        f
        for f in findings
        if f.severity == "error"
        and f.rule in ABOUT_VALUES
        and known.issuperset(f.layers[:1])
        and not (proven and f.fix == proven)
    ]
    others = [f for f in findings if f.rule == "frozen-parameter"]
    suspects = list(suspects)
    cured: dict[str, str] = {}
    if errors:
        others_stand = {f.rule for f in findings if f.severity == "error" and f.rule not in ABOUT_VALUES}
        for plan in plans(trace, errors, suspects):
            if budget is not None and budget.left <= 0:
                break
            if whole is not None and len(plan) > LISTED:
                text = _tried(model, whole, judge, others_stand)
                whole = None
            else:
                text = _tried(model, partial(_edit, plan, seed, called), judge, others_stand)
            if text:
                cured = dict.fromkeys((f.rule for f in errors), text)
                alone = plan[0].name if len(plan) == 1 else ""
                break
    for f in others:
        plan = [Edit(n, "train") for n in f.layers]
        cured[f.rule] = _text(plan, called)
    mended = [
        replace(f, fix=cured.get(f.rule, "")) if f.rule in ABOUT_VALUES and not (proven and f.fix == proven) else f
        for f in findings
    ]
    return [_following(f, alone, trace, suspects) if alone and f.rule in FOLLOW else f for f in mended]


def _following(f: Finding, cured: str, trace: Trace, suspects: list[Suspect]) -> Finding:
    """The finding with the parameter first that, repaired alone, cures; an operation that is to blame itself stays."""
    layer = layer_of(trace, cured)
    if not f.layers or f.severity != "error" or f.layers[0] in (cured, layer.name if layer is not None else cured):
        return f
    cause = next((s.cause for s in suspects if s.name == cured and not s.common), "")
    cause = cause or f"the model passes once {cured} alone has its usual values"
    names = tuple(dict.fromkeys((cured, *f.layers)))
    return finding(f.rule, f.severity, names, f.summary, evidence=f.evidence, cause=cause, fix=f.fix, advice=f.advice)


def _edit(plan: list[Edit], seed: int, called: str, model: nn.Module) -> str:
    generator = torch.Generator().manual_seed(seed)
    for edit in plan:
        edit.apply(model, generator)
    return _text(plan, called)


def _tried(model: nn.Module, change: Whole, judge: Recheck, others: set[str]) -> str:
    """What ``change`` says of itself, if the model that it changed fails no rules but ``others``; ``""`` if it does.

    In place, and taken back: of the weights there is one copy, whatever is tried.
    """
    cured = ""
    try:
        with untouched(model) as guard:
            guard.backup_parameters()

            def changed() -> str:
                # A graph that the user holds must not take its weights for changed once they are put back.
                with ExitStack() as versions:
                    for parameter in model.parameters():
                        versions.enter_context(_unsafe_preserve_version_counter(parameter))
                    return change(model)

            def again() -> None:
                guard.restore_parameters()
                changed()

            text = changed()
            # What was not decided of it is no cure.
            left = {f.rule for f in judge(model, again) if f.severity == "error" or f.rule == "undecided"}
            cured = text if left <= others else ""
    except Exception as error:
        # What cannot be given other weights (a lazy layer), or run with them, cannot be cured by them.
        if current() is not None and out_of_memory(error):  # a rank that goes its own way leaves the others waiting
            raise
    if (world := current()) is not None and len(set(world.told(cured))) > 1:
        return ""
    return cured


def plans(trace: Trace, errors: list[Finding], suspects: list[Suspect]) -> list[list[Edit]]:
    """Return what may cure a model, the fewest edits first."""
    return sorted(_plans(trace, errors, suspects), key=len)


def edits_of(
    trace: Trace, errors: Iterable[Finding], suspects: Iterable[Suspect], *, seed: int = 0, called: str = "model"
) -> list[Whole]:
    """Return what may cure a model with few edits, the fewest first: each changes a model and returns the lines that do the same.

    Args:
        trace, errors, suspects, seed, called: as :func:`mend`.
    """
    found: list[list[Edit]] = []
    for plan in plans(trace, [f for f in errors if f.rule in ABOUT_VALUES], list(suspects)):
        if 0 < len(plan) <= LISTED and plan not in found:
            found.append(plan)
    return [partial(_edit, plan, seed, called) for plan in found]


def _plans(trace: Trace, errors: list[Finding], suspects: list[Suspect]) -> Iterator[list[Edit]]:
    """What the findings name, and with it what stands out: the first of it, the first two, all, another one; or everything."""
    about = ("non-finite-parameter", "uninitialized-parameter", "duplicate-units", "blocked-gradient")
    named = dict.fromkeys(n for f in errors if f.rule in about for n in f.layers)
    base = [e for n in named if (p := trace.parameters.get(n)) is not None and (e := healthy(p)) is not None]
    if base:
        yield base
    known = {s.name: s for s in suspects if not s.common and s.name in trace.parameters}
    first = [n for f in errors for n in f.layers[:1] if n in trace.parameters]
    own = [e for n in dict.fromkeys((*first, *known)) if (e := _usual(trace.parameters[n], known.get(n))) is not None]
    # One alone before several: what a single edit cures was its fault. Those that are off by as much, in the same way, go with it.
    alone = ([e, *(o for o in own if o is not e and _alike(known.get(e.name), known.get(o.name)))] for e in own[:ALONE])
    for some in (*alone, own[:2], own):
        plan = _merged(base, some)
        if some and plan != base:
            yield plan
    weights = [p for p in trace.parameters.values() if p.requires_grad]
    yield _merged(base, [e for p in weights if p.role != "embedding" and (e := healthy(p)) is not None])


def _alike(one: Suspect | None, other: Suspect | None) -> bool:
    """Whether two parameters stand out in the same way, and by about as much: what is wrong with one is wrong with the other."""
    if one is None or other is None or one.kind != other.kind or one.kind == "zero":
        return False
    return abs(one.decades - other.decades) <= 0.1 * abs(one.decades)


def _merged(first: list[Edit], second: list[Edit]) -> list[Edit]:
    return list({e.name: e for e in [*first, *second]}.values())


def _usual(p: ParameterRecord, suspect: Suspect | None) -> Edit | None:
    """What a parameter should be: by its fan-in, or where only what it does to the output tells, by that."""
    if suspect is None or suspect.expected is None or suspect.kind not in ("factor", "head"):
        return healthy(p)
    return Edit(p.name, "constant" if suspect.kind == "factor" else "normal", suspect.expected)


def healthy(p: ParameterRecord) -> Edit | None:
    """Return the textbook value of one parameter, or ``None`` where there is none.

    Weights: normal with std gain / sqrt(fan_in) (He et al. 2015); biases and shifts 0; norm scales 1; embeddings normal,
    std 1 at most.
    """
    expected = expected_std(p)
    if p.role in ("bias", "norm-shift"):
        return Edit(p.name, "constant", 0.0)
    if p.role == "norm-scale":
        return Edit(p.name, "constant", 1.0)
    if p.role == "embedding":
        return Edit(p.name, "normal", 0.5)
    if p.role == "weight" and expected is not None:
        return Edit(p.name, "normal", expected)
    if p.value is not None and len(p.shape) > 1 and expected is not None:
        return Edit(p.name, "normal", expected)
    return None


def _text(plan: list[Edit], called: str) -> str:
    if len(plan) <= LISTED:
        return "\n".join(e.code(called) for e in plan)
    weights = [e for e in plan if e.kind == "normal"]
    lines = []
    for std in dict.fromkeys(f"{e.std:.3g}" for e in weights):
        same = [e for e in weights if f"{e.std:.3g}" == std]
        lines.append(
            f"for name in {[e.name for e in same]!r}:\n    torch.nn.init.normal_({called}.get_parameter(name), std={std})"
        )
    for value, call in ((0.0, "zeros_"), (1.0, "ones_")):
        same = [e for e in plan if e.kind == "constant" and e.std == value]
        if same:
            lines.append(
                f"for name in {[e.name for e in same]!r}:\n    torch.nn.init.{call}({called}.get_parameter(name))"
            )
    if frozen := [e.name for e in plan if e.kind == "train"]:
        lines.append(f"for name in {frozen!r}:\n    {called}.get_parameter(name).requires_grad_(True)")
    return "\n".join(lines)
