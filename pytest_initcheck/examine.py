"""One model is examined: measured, judged, raced where that leaves a doubt, and what would mend it is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from . import rules
from .budget import TimeBudget
from .errors import ProbeError
from .measured import (
    Measured,
    Request,
    also_told,
    measured_in_any_format,
    refuse,
    split_over_ranks,
    without_values,
)
from .mend import ABOUT_VALUES, Whole, edits_of, mend
from .phases import doing, told_to
from .probing.call import Call
from .probing.guard import untouched
from .probing.probe import histograms, run_probe
from .probing.subject import PARALLEL
from .race.course import STEPS
from .race.followed import followed
from .race.race import race
from .race.tasks import asked
from .records import ConstructionFault, Finding, Trace
from .report import Report
from .response.perturb import push_of
from .rules.blame import candidates
from .rules.named import worst_layers
from .schemes.fill import Planned, carry_out, plan_for
from .settings import Settings, matches
from .sharding.layout import is_distributed, kind_of
from .sharding.together import SharedBudget, on_all
from .sharding.verdict import one_report
from .sharding.world import current


def examine(model: nn.Module, request: Request, faults: Mapping[str, ConstructionFault] | None = None) -> Report:
    """Return the report on ``model``, which is left as it is.

    Args:
        model: the module.
        request: what is asked.
        faults: what construction left undone, by name.

    Raises:
        SettingsError, ProbeError: as :func:`~pytest_initcheck.check_init`.
    """
    if current() is None and is_distributed(model):
        return one_report(model, request.settings.timeout, lambda whole: examine(whole, request, faults))
    refuse(model)
    budget = TimeBudget if current() is None else SharedBudget
    request = replace(request, budget=request.budget or budget.of(request.limits or request.settings.time_budget))
    try:
        measured = measured_in_any_format(model, request, {} if faults is None else faults)
    except ProbeError as error:
        # Parameters without values are refused before; a buffer that nothing reads does no harm.
        if absent := next((n for n, b in model.named_buffers() if b.is_meta), None):
            raise ProbeError(without_values(absent, model)) from error
        raise
    case, settings = measured.case, request.settings
    names = [*case.trace.layers, *case.trace.parameters, *case.unwritten, *(s.name for s in case.spread)]
    names += [
        *([case.not_finite.layer] if case.not_finite and case.not_finite.layer else []),
        *(s.name for s in case.strays),
    ]
    settings = _fitting(settings, names)
    request = replace(request, settings=settings)
    for setting in _WITH_GLOBS:
        patterns = [] if setting in settings.shared else [_pattern(setting, one) for one in getattr(settings, setting)]
        rules.validate(patterns, setting=setting, layers=names, known=request.extra_rules)
    findings, ignored = rules.judge(case, extra=request.extra_rules)
    if _worth_a_race(case, request, findings):
        doing("race")
        measured = replace(measured, case=_raced(measured, request, findings))
        case = measured.case
        findings, ignored = rules.judge(case, extra=request.extra_rules)
    trace = case.trace
    if request.fixes and findings and request.streamed is None:
        findings = _mended(measured, request, findings)
        untried = any(f.severity == "error" and f.rule in ABOUT_VALUES and not f.fix for f in findings)
        if untried and request.budget is not None and request.budget.left <= 0:
            told = f"the time budget ({request.budget}) is spent: not every fix was tried"
            measured = also_told(measured, told)
        trace = trace if split_over_ranks() else _with_histograms(measured, settings, findings)
    return Report(
        model=request.name or kind_of(model),
        ok=rules.passes(findings, settings.fail_on),
        findings=tuple(findings),
        ignored=tuple(ignored),
        trace=trace,
        response=case.response,
        fail_on=settings.fail_on,
        reproduce=_reproduce(request),
        settings=dict(settings.given),
        race=case.race,
    )


# -- explaining


_WITH_GLOBS = ("ignore", "select", "activation_std", "gradient_std", "frozen")


def _pattern(setting: str, entry: Any) -> str:
    """What an entry says of rules and layers, as RULE:GLOB."""
    return str(entry) if setting in ("ignore", "select") else f"*:{entry if isinstance(entry, str) else entry[0]}"


def _fitting(settings: Settings, names: Sequence[str]) -> Settings:
    """The settings; of what holds for other models, too, only what bears on this one is said to have been given."""
    given = dict(settings.given)
    for setting in settings.shared.intersection(_WITH_GLOBS, given):
        patterns = [(entry, _pattern(setting, entry)) for entry in given[setting]]
        given[setting] = tuple(entry for entry, p in patterns if matches([p], p.partition(":")[0], names))
        if not given[setting]:
            del given[setting]
    return replace(settings, given=given)


def _worth_a_race(case: rules.Case, request: Request, findings: Iterable[Finding]) -> bool:
    findings = list(findings)
    if request.race == "none" or (request.race == "accused" and not rules.raced.accused(findings)):
        return False
    return on_all(rules.raced.unclear(case, findings))


def _raced(measured: Measured, request: Request, findings: Iterable[Finding]) -> rules.Case:
    """The case with what a race shows, inside a guard of its own; as it was where the model cannot be run again."""
    case, call, settings, loss = measured.case, measured.call, request.settings, request.loss
    errors = [f for f in findings if f.severity == "error"]
    _, called = _unwrapped(measured.subject)
    edits = edits_of(case.trace, errors, candidates(case), seed=settings.seed, called=called)
    steps = rules.raced.FEW if rules.raced.size(case) > rules.raced.LARGE else STEPS
    with told_to(None), untouched(measured.subject, tensors=call.tensors, also=(call.args, call.kwargs, loss)) as guard:
        guard.backup_parameters()
        try:
            probed = run_probe(
                measured.subject,
                call,
                guard=guard,
                loss=loss,
                seed=settings.seed,
                mode=settings.mode,
                budget=request.budget,
            )
            probed.gradients.clear()
            push = push_of(probed, guard, seed=settings.seed)
            push = replace(push, followed=followed(push, loss))
            accused = rules.raced.accused(errors)
            shown = race(
                push,
                _anew(measured, request),
                edits,
                asked(push, loss, accused=accused),
                accused=accused,
                stands=any(f.rule not in rules.raced.BY_LEARNING for f in errors),
                steps=steps,
                teacher=_anew(measured, request, other=1) if loss is None else None,
            )
        except ProbeError:
            return case
    told = (shown.told,) if shown.told else ()
    if not request.fixes:
        shown = replace(shown, fix="")
    return replace(case, trace=replace(case.trace, unseen=(*case.trace.unseen, *told)), race=shown)


def _unwrapped(subject: nn.Module) -> tuple[nn.Module, str]:
    """The module that ran, whose names the findings use, and what a fix calls it."""
    called = "model"
    while isinstance(subject, PARALLEL):
        subject, called = subject.module, f"{called}.module"
    return subject, called


def _given(call: Call) -> tuple[Any, ...]:
    """The inputs of a call in the form that users give them in."""
    return (*call.args, call.kwargs) if call.kwargs else call.args


def _anew(measured: Measured, request: Request, *, other: int = 0) -> Whole:
    """Initializes all of a model by ``"auto"``, planned once: each time to the same values, and to others for every number."""
    _, called = _unwrapped(measured.subject)
    plans: list[Planned] = []

    def anew(trial: nn.Module) -> str:
        plans[:] = plans or [plan_for(trial, "auto", _given(measured.call), {})]
        carry_out(trial, plans[0], torch.Generator().manual_seed(request.settings.seed + 1000 * other))
        arguments = called if request.inputs is None else f"{called}, inputs=inputs"
        code = f"# without this import: print(pytest_initcheck.recommend_init({arguments}).code())"
        return f"import pytest_initcheck\npytest_initcheck.apply_init({arguments})\n{code}"

    return anew


def _mended(measured: Measured, request: Request, findings: list[Finding]) -> list[Finding]:
    """The findings with fixes that were tried; each trial is a probe again."""
    (subject, called), case = _unwrapped(measured.subject), measured.case
    plain = replace(request.settings, device=None, dtype=None, ignore=(), select=())
    given = _given(measured.call)
    trial_request = replace(request, inputs=given, settings=plain, name=None, fixes=False, race="none")

    def again(trial: nn.Module, refill: Callable[[], None]) -> tuple[Finding, ...]:
        return examine(trial, replace(trial_request, refill=refill)).findings

    doing("trying fixes")
    with told_to(None):
        return mend(
            subject,
            case.trace,
            findings,
            candidates(case),
            again,
            whole=_anew(measured, request),
            seed=request.settings.seed,
            called=called,
            budget=request.budget,
            proven=case.race.fix if case.race is not None else "",
            alone=case.race.alone if case.race is not None else "",
        )


def _with_histograms(measured: Measured, settings: Settings, findings: Iterable[Finding]) -> Trace:
    """The trace with histograms of the layers that errors and warnings name first, from one more forward pass.

    Only once they are known: most models are healthy, and pay nothing.
    """
    subject, call, trace = measured.subject, measured.call, measured.case.trace
    worst = worst_layers(trace, findings)
    if not worst:
        return trace
    doing("histograms")
    try:
        with told_to(None), untouched(subject, tensors=call.tensors, also=(call.args, call.kwargs)) as guard:
            guard.backup_parameters()
            seen = histograms(subject, call, worst, guard=guard, seed=settings.seed, mode=settings.mode)
    except ProbeError:  # it ran once, and what was found then stands
        return trace
    layers = {
        name: replace(layer, histogram=seen[name]) if name in seen else layer for name, layer in trace.layers.items()
    }
    return replace(trace, layers=layers)


def _reproduce(request: Request) -> str:
    given = {"seed": request.settings.seed, **request.settings.given}
    loss = "" if request.loss is None else "loss=loss, "
    return f"check_init({request.name or 'model'}, inputs, {loss}{', '.join(f'{k}={v!r}' for k, v in given.items())})"
