"""check_init and assert_healthy_init: build, probe, push, judge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from . import rules
from .errors import ProbeError, SettingsError, UnhealthyInit
from .inputs import resolve_inputs
from .localise import suspects
from .mend import mend
from .probe import run_probe
from .push import push_of
from .reach import unreached_reasons
from .recurrence import carried
from .records import Finding, Report
from .response import ask
from .settings import Settings
from .state import untouched

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
    """
    rules.validate(settings.ignore, setting="ignore", known=extra_rules or ())
    rules.validate(settings.select, setting="select", known=extra_rules or ())
    unwritten: dict[str, str] = {}
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise SettingsError(f"model must be an nn.Module or a zero-argument factory (got {type(model).__name__})")
        model, unwritten = build(model, settings.seed)
    subject = _placed(model, settings)
    call = resolve_inputs(subject, inputs, device=settings.device, dtype=settings.dtype, seed=settings.seed)
    with untouched(subject, tensors=call.tensors) as guard:
        probed = run_probe(subject, call, guard=guard, loss=loss, seed=settings.seed, mode=settings.mode)
        trace = probed.trace
        push = push_of(probed, guard, seed=settings.seed)
        culprits = suspects(trace)
        response = ask(push, suspicious=any(s.loud for s in culprits))
        parameters = {
            n: replace(p, wakes=push.wakes[n]) if n in push.wakes else p for n, p in trace.parameters.items()
        }
        trace = replace(trace, parameters=parameters)
        missing = [n for n, p in parameters.items() if p.requires_grad and not p.reached]
        called = {layer.module for layer in trace.layers.values()}
        unreached = unreached_reasons(probed.model, push, missing, called)
        memory = carried(probed.model, seed=settings.seed)
    names = [*trace.layers, *trace.parameters]
    rules.validate(settings.ignore, setting="ignore", layers=names, known=extra_rules or ())
    rules.validate(settings.select, setting="select", layers=names, known=extra_rules or ())
    case = rules.Case(trace, response, settings, unreached, unwritten, suspects(trace), memory)
    findings, ignored = rules.judge(case, extra=extra_rules)
    if fixes and findings:

        def again(trial: nn.Module) -> tuple[Finding, ...]:
            return check(trial, given, loss=loss, settings=plainly, extra_rules=extra_rules, fixes=False).findings

        given = (*call.args, call.kwargs) if call.kwargs else call.args
        plainly = replace(settings, device=None, dtype=None, ignore=(), select=())
        findings = mend(subject, trace, findings, case.culprits, again, seed=settings.seed)
    failing = {"error": ("error",), "warning": ("error", "warning"), "never": ()}[settings.fail_on]
    return Report(
        model=name or type(model).__name__,
        ok=not any(f.severity in failing for f in findings),
        findings=tuple(findings),
        ignored=tuple(ignored),
        trace=trace,
        response=response,
        fail_on=settings.fail_on,
        reproduce=_reproduce(settings, name),
        settings=dict(settings.given),
    )


def build(factory: Callable[[], nn.Module], seed: int) -> tuple[nn.Module, dict[str, str]]:
    """Return what ``factory`` builds under ``seed``, and what of it was never written.

    Uninitialized memory is filled while it is built (NaN, the largest integer), so what still holds the filling
    afterwards was allocated and left. Generators and torch's settings are put back.

    Raises:
        ProbeError: the factory returned no module.
    """
    with _filled_memory(), torch.random.fork_rng(devices=_accelerators()):
        torch.manual_seed(seed)
        model = factory()
    if not isinstance(model, nn.Module):
        raise ProbeError(f"the factory must return an nn.Module (it returned {type(model).__name__})")
    return model, _unwritten(model)


@contextmanager
def _filled_memory() -> Any:
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    # torch.use_deterministic_algorithms would import torch's compiler for its own setting: 1.5 s in every fresh process.
    switch = torch._C._set_deterministic_algorithms
    try:
        switch(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
        yield
    finally:
        switch(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _accelerators() -> list[int]:
    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []


def _unwritten(model: nn.Module) -> dict[str, str]:
    found: dict[str, str] = {}
    uninitialized = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, uninitialized) or tensor.device.type == "meta" or tensor.numel() == 0:
            continue
        value = tensor.detach()
        if value.is_floating_point() or value.is_complex():
            share = float(torch.isnan(value).float().mean())
            if share > 0:
                found[name] = f"{share:.0%} of its values are the filling of uninitialized memory"
        elif value.dtype is not torch.bool:
            share = float((value == torch.iinfo(value.dtype).max).float().mean())
            if share > 0 and value.dtype in (torch.int32, torch.int64):
                found[name] = f"{share:.0%} of its values are the filling of uninitialized memory"
    return found


def _placed(model: nn.Module, settings: Settings) -> nn.Module:
    """``model`` itself, or a copy on the device and in the dtype that the user asked for."""
    dtype = None
    if settings.dtype is not None:
        dtype = getattr(torch, settings.dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise SettingsError(f"dtype must be a floating dtype such as float32, bfloat16, float16 (got {settings.dtype!r})")
    if settings.device is None and dtype is None:
        return model
    try:
        device = torch.device(settings.device) if settings.device else None
        first = next(iter(model.parameters()), None)
        if first is not None and (device is None or first.device == device) and (dtype is None or first.dtype == dtype):
            return model
        return copy.deepcopy(model).to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"device {settings.device!r} cannot be used here: {reason}") from error


def _reproduce(settings: Settings, name: str | None) -> str:
    given = {"seed": settings.seed, **settings.given}
    return f"check_init({name or 'model'}, inputs, {', '.join(f'{k}={v!r}' for k, v in given.items())})"
