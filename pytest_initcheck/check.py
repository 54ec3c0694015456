"""check_init and assert_healthy_init: build, probe, push, judge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from . import rules, thresholds
from .errors import InitcheckError, ProbeError, SettingsError, UnhealthyInit
from .mend import mend
from .models.build import build, build_deferred
from .models.inputs import resolve_inputs
from .phases import doing, done_last, told_to
from .probing.call import Call
from .probing.guard import untouched
from .probing.probe import histograms, run_probe, sample_dim
from .records import ConstructionFault, Finding, Report, Seeds, Trace
from .response.ask import ask
from .response.perturb import push_of
from .response.recurrence import carried
from .response.unreached import unreached_reasons
from .rules.culprits import suspects, typical_deviation
from .rules.named import worst_layers
from .schemes.fill import initialize
from .schemes.origins import drawn_from
from .settings import Settings, matches
from .words import first_line, named_error

Model = nn.Module | Callable[[], nn.Module]
Loss = Callable[[Any], Tensor]


def check_init(model: Model, inputs: Any = None, *, loss: Loss | None = None, **settings: Any) -> Report:
    """Probe ``model`` and judge whether it will train from the weights it has; never raises for an unhealthy one.

    Args:
        model: a module, which is left bit for bit as it is, or a zero-argument factory, which is built under ``seed``
            with uninitialized memory filled, so that what construction never wrote to is found.
        inputs: tensor, tuple (positional), dict (keywords), tuple ending in a dict (both, as ``torch.onnx.export`` reads
            it), callable returning one of these, shape string (``"2x3x32x32"``, ``"8x64:int64"``, several separated by
            ``;``), or ``None``: then taken from the model.
        loss: from the model's output to a scalar; without one, directions that are random per sample are asked for.
        **settings: any of :data:`pytest_initcheck.settings.SETTINGS`.

    Returns:
        The report; ``report.ok`` says whether a finding is as severe as ``fail_on``.

    Raises:
        SettingsError: a setting cannot be used.
        ProbeError: the model could not be run forward and backward.
    """
    return check(model, inputs, loss=loss, settings=Settings.of(settings))


def assert_healthy_init(model: Model, inputs: Any = None, *, loss: Loss | None = None, **settings: Any) -> Report:
    """Raise :class:`UnhealthyInit` with the rendered report unless :func:`check_init` finds ``model`` healthy.

    Args, Raises:
        As :func:`check_init`, and :class:`UnhealthyInit` (an ``AssertionError``).
    """
    __tracebackhide__ = True
    report = check(model, inputs, loss=loss, settings=Settings.of(settings))
    if not report.ok:
        raise UnhealthyInit(str(report), report=report)
    return report


def check(
    model: Model,
    inputs: Any = None,
    *,
    loss: Loss | None = None,
    settings: Settings,
    name: str | None = None,
    extra_rules: Mapping[str, rules.Rule] | None = None,
    fixes: bool = True,
) -> Report:
    """As :func:`check_init`, with parsed settings and a name for the report (what the surfaces call).

    Args:
        model, inputs, loss: as :func:`check_init`.
        settings: what is asked for.
        name: what the report calls the model; its class name if ``None``.
        extra_rules: rules of other plugins by name.
        fixes: whether to try fixes on a copy of an unhealthy model.

    Raises:
        SettingsError, ProbeError, TargetError: as :func:`check_init`; any other exception becomes the cause of a
            ``ProbeError``.
    """
    try:
        return _check(model, inputs, loss, settings, name, extra_rules, fixes)
    except InitcheckError:
        raise
    except Exception as error:
        subject = name or (type(model).__name__ if isinstance(model, nn.Module) else "the model")
        raise ProbeError(
            f"{subject} could not be checked: in the phase {done_last()!r} came {named_error(error)[:300]} "
            "(debug=True or --initcheck-debug shows the traceback)"
        ) from error


def _check(
    model: Model,
    inputs: Any,
    loss: Loss | None,
    settings: Settings,
    name: str | None,
    extra_rules: Mapping[str, rules.Rule] | None,
    fixes: bool,
) -> Report:
    rules.validate(settings.ignore, setting="ignore", known=extra_rules or ())
    rules.validate(settings.select, setting="select", known=extra_rules or ())
    if isinstance(model, nn.Module):
        if settings.deferred or settings.seeds > 1:
            wish = "deferred" if settings.deferred else "seeds"
            raise SettingsError(f"{wish} needs a factory to build the model again (got a {type(model).__name__})")
        return _check_module(model, {}, inputs, loss, settings, name, extra_rules, fixes)
    if not callable(model):
        raise SettingsError(f"model must be an nn.Module or a zero-argument factory (got {type(model).__name__})")
    doing("building")
    built, left = build(model, settings.seed)
    if settings.deferred:
        left |= build_deferred(model, settings.deferred, settings.seed, built)
    report = _check_module(built, left, inputs, loss, settings, name, extra_rules, fixes)
    return report if settings.seeds == 1 else _over_seeds(model, report, inputs, loss, settings, extra_rules)


def _check_module(
    model: nn.Module,
    left: dict[str, ConstructionFault],
    inputs: Any,
    loss: Loss | None,
    settings: Settings,
    name: str | None,
    extra_rules: Mapping[str, rules.Rule] | None,
    fixes: bool,
) -> Report:
    _refuse(model)
    subject = _placed(model, settings)
    call = resolve_inputs(subject, inputs, device=settings.device, dtype=settings.dtype, seed=settings.seed)
    try:
        case = _measured(subject, call, left, loss, settings, named=fixes)
    except ProbeError as error:
        if "not implemented for 'Half'" not in str(error) and "not implemented for 'BFloat16'" not in str(error):
            raise
        # This device cannot run the format: measure in float32, where the rules predict what would not fit.
        subject = _placed(model, replace(settings, dtype="float32"))
        call = resolve_inputs(subject, inputs, device=settings.device, dtype="float32", seed=settings.seed)
        case = _measured(subject, call, left, loss, settings, named=fixes)
        told = f"{settings.dtype}: this device cannot run it; predicted from a float32 probe"
        case = replace(case, trace=replace(case.trace, unseen=(*case.trace.unseen, told)))
    names = [*case.trace.layers, *case.trace.parameters, *left]
    rules.validate(settings.ignore, setting="ignore", layers=names, known=extra_rules or ())
    rules.validate(settings.select, setting="select", layers=names, known=extra_rules or ())
    findings, ignored = rules.judge(case, extra=extra_rules)
    if fixes and findings:

        def again(trial: nn.Module) -> tuple[Finding, ...]:
            return _check_module(trial, {}, given, loss, plainly, None, extra_rules, False).findings

        given = (*call.args, call.kwargs) if call.kwargs else call.args
        plainly = replace(settings, device=None, dtype=None, ignore=(), select=())

        def anew(trial: nn.Module) -> str:
            initialize(trial, "auto", given, seed=settings.seed)
            arguments = "model" if inputs is None else "model, inputs=inputs"
            code = f"# without this import: print(pytest_initcheck.recommend_init({arguments}).code())"
            return f"import pytest_initcheck\npytest_initcheck.apply_init({arguments})\n{code}"

        doing("trying fixes")
        with told_to(None):  # each trial is a probe again
            findings = mend(subject, case.trace, findings, case.culprits, again, whole=anew, seed=settings.seed)
    trace = _with_histograms(subject, call, case.trace, findings, settings) if fixes else case.trace
    return Report(
        model=name or type(model).__name__,
        ok=rules.passes(findings, settings.fail_on),
        findings=tuple(findings),
        ignored=tuple(ignored),
        trace=trace,
        response=case.response,
        fail_on=settings.fail_on,
        reproduce=_reproduce(settings, name),
        settings=dict(settings.given),
    )


def _measured(
    subject: nn.Module,
    call: Call,
    left: dict[str, ConstructionFault],
    loss: Loss | None,
    settings: Settings,
    *,
    named: bool,
) -> rules.Case:
    """Everything that touches the model, inside the guard that leaves no trace."""
    told: list[str] = []
    alike = _alike(call)
    if alike:
        # Centred over equal samples everything is zero: ask about the output as a whole instead.
        call = replace(call, batch=None)
        told.append("all samples of the inputs are equal: whether the model tells inputs apart was not judged")
    elif call.batch == 1:
        told.append("one sample: nothing that compares samples (input-blind, dead units) was judged")
    with untouched(subject, tensors=call.tensors, also=(call.args, call.kwargs, loss)) as guard:
        guard.backup_parameters()  # a forward pass may write to its own weights
        probed = run_probe(subject, call, guard=guard, loss=loss, seed=settings.seed, mode=settings.mode)
        trace = probed.trace
        culprits = suspects(trace)
        doing("response")
        push = push_of(probed, guard, seed=settings.seed)
        response = ask(
            push, suspicious=any(s.loud for s in culprits), oversized=typical_deviation(trace) > thresholds.OVERSIZED
        )
        nothing = None if loss is None else _loss_of_nothing(probed.rerun_raw, loss)
        origins = drawn_from(probed.model, probed.uses, trace.parameters) if named else {}
        parameters = {
            n: replace(p, wakes=push.wakes.get(n), drawn_from=origins.get(n, "")) for n, p in trace.parameters.items()
        }
        missing = [n for n, p in parameters.items() if p.requires_grad and not p.reached]
        called = {layer.module for layer in trace.layers.values()}
        unreached = unreached_reasons(probed.model, push, missing, called)
        memory, not_asked = carried(probed.model, seed=settings.seed)
    trace = replace(trace, parameters=parameters, unseen=(*trace.unseen, *told, *push.unseen, *not_asked))
    trace = replace(trace, equal_samples=alike, loss_of_zero_output=nothing)
    return rules.Case(trace, response, settings, unreached, left, suspects(trace), memory)


def _with_histograms(
    subject: nn.Module, call: Call, trace: Trace, findings: Iterable[Finding], settings: Settings
) -> Trace:
    """The trace with histograms of the layers that errors and warnings name first, from one more forward pass.

    Only once they are known: most models are healthy, and pay nothing.
    """
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


def _refuse(model: nn.Module) -> None:
    """Raise for a model whose weights are not here."""
    kind = type(model).__name__
    for name, parameter in model.named_parameters():
        home = type(parameter.data).__module__
        if home.startswith("torch.distributed") or type(model).__module__.startswith("torch.distributed.fsdp"):
            raise ProbeError(
                f"the weights of {kind} are sharded over processes ({name}), which is not supported yet: "
                "check the model before it is sharded"
            )
        if parameter.is_meta:
            raise ProbeError(
                f"{name} of {kind} is on the meta device and has no values: check the model after to_empty() and its "
                "initialization, or give a factory that builds it elsewhere"
            )


def _alike(call: Call) -> bool:
    """Whether there are several samples and every input is the same for all of them."""
    if call.batch is None or call.batch < 2:
        return False
    per_sample = [(t, d) for t in call.tensors if (d := sample_dim(t, call.batch)) is not None]
    return bool(per_sample) and all(bool((t == t.narrow(d, 0, 1)).all()) for t, d in per_sample)


def _loss_of_nothing(forward: Callable[[], Any], loss: Loss) -> float | None:
    """The loss of an output that is zero everywhere: what a model that says nothing would pay."""
    with torch.no_grad():
        output = forward()
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None  # a structure whose parts the loss may read in any way
        try:
            return float(loss(torch.zeros_like(output)))
        except Exception:  # a loss need not be defined there
            return None


def _over_seeds(
    factory: Callable[[], nn.Module],
    first: Report,
    inputs: Any,
    loss: Loss | None,
    settings: Settings,
    extra_rules: Mapping[str, rules.Rule] | None,
) -> Report:
    """The first report, with what further initialisations say: the share of sick ones and each layer's spread."""
    reports = [first]
    for seed in range(settings.seed + 1, settings.seed + settings.seeds):
        doing(f"seed {seed}")
        with told_to(None):
            model, left = build(factory, seed)
            one = replace(settings, seed=seed, seeds=1)
            reports.append(_check_module(model, left, inputs, loss, one, None, extra_rules, False))
    spread = {
        name: (min(sizes), median(sizes), max(sizes))
        for name in first.layers
        if (sizes := [r.layers[name].activation.rms for r in reports if name in r.layers])
    }
    sick = [(settings.seed + i, r) for i, r in enumerate(reports) if any(f.severity == "error" for f in r.findings)]
    findings = first.findings
    if sick and len(sick) < len(reports):
        errors = [f for _, r in sick for f in r.findings if f.severity == "error"]
        findings = (
            *(f for f in findings if f.severity == "error"),
            rules.finding(
                "unlucky-seeds",
                "warning",
                errors[0].layers,
                f"{len(sick)} of {len(reports)} initialisations are sick ({', '.join(sorted({f.rule for f in errors}))})",
                evidence={"sick": len(sick), "seeds": len(reports), "first_sick_seed": sick[0][0]},
                cause=f"the scheme is at the edge: seed {sick[0][0]} gives: {errors[0].summary}",
            ),
            *(f for f in findings if f.severity != "error"),
        )
        kept = [f for f in findings if not matches(settings.ignore, f.rule, f.layers[:1] or ("",))]
        findings = tuple(kept)
    return replace(
        first,
        ok=rules.passes(findings, settings.fail_on),
        findings=findings,
        seeds=Seeds(len(reports), tuple(seed for seed, _ in sick)),
        spread=spread,
    )


def _placed(model: nn.Module, settings: Settings) -> nn.Module:
    """``model`` itself, or a copy on the device and in the dtype that the user asked for."""
    dtype = None
    if settings.dtype is not None:
        dtype = getattr(torch, settings.dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise SettingsError(
                f"dtype must be a floating dtype such as float32, bfloat16, float16 (got {settings.dtype!r})"
            )
    if settings.device is None and dtype is None:
        return model
    try:
        device = torch.device(settings.device) if settings.device else None
        first = next(iter(model.parameters()), None)
        if first is not None and (device is None or first.device == device) and (dtype is None or first.dtype == dtype):
            return model
        return copy.deepcopy(model).to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise SettingsError(f"device {settings.device!r} cannot be used here: {reason}") from error


def _reproduce(settings: Settings, name: str | None) -> str:
    given = {"seed": settings.seed, **settings.given}
    return f"check_init({name or 'model'}, inputs, {', '.join(f'{k}={v!r}' for k, v in given.items())})"
