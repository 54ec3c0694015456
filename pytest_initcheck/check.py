"""check_init and assert_healthy_init: what users call, and the net under it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import nn

from . import rules
from .errors import InitcheckError, ProbeError, SettingsError, UnhealthyInit
from .examine import examine
from .measured import Loss, Request
from .models.build import build, build_deferred
from .phases import doing, done_last
from .records import ConstructionFault
from .report import Report
from .seeds import over_seeds
from .settings import Settings
from .streaming import check_streamed, outgrows
from .words import named_error

Model = nn.Module | Callable[[], nn.Module]


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
    race: Literal["doubt", "accused", "none"] = "doubt",
    fixes: bool = True,
    faults: Mapping[str, ConstructionFault] | None = None,
    budget: str | None = None,
) -> Report:
    """As :func:`check_init`, with parsed settings and a name for the report (what the surfaces call).

    Args:
        model, inputs, loss: as :func:`check_init`.
        settings: what is asked for.
        name: what the report calls the model; its class name if ``None``.
        extra_rules: rules of other plugins by name.
        race: which models are raced against repaired copies: those in doubt, accused ones alone, or none.
        fixes: whether to try fixes on a copy of an unhealthy model.
        faults: what construction left undone in a module, by name, where whoever built it knows.
        budget: what the check may spend, in the words of the setting ``time_budget``, where it is not that setting.

    Raises:
        SettingsError, ProbeError, TargetError: as :func:`check_init`; any other exception becomes the cause of a
            ``ProbeError``.
    """
    try:
        request = Request(inputs, loss, settings, name, extra_rules or {}, race, fixes, limits=budget)
        # In inference mode nothing has a graph.
        with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
            return _check(model, request, faults)
    except InitcheckError:
        raise
    except Exception as error:
        subject = name or (type(model).__name__ if isinstance(model, nn.Module) else "the model")
        raise ProbeError(
            f"{subject} could not be checked: in the phase {done_last()!r} came {named_error(error)[:300]} "
            "(debug=True or --initcheck-debug shows the traceback)"
        ) from error


def _check(model: Model, request: Request, faults: Mapping[str, ConstructionFault] | None) -> Report:
    settings = request.settings
    for setting in ("ignore", "select"):
        rules.validate(getattr(settings, setting), setting=setting, known=request.extra_rules)
    if isinstance(model, nn.Module):
        if settings.stream or settings.deferred or settings.seeds > 1:
            wish = "stream" if settings.stream else "deferred" if settings.deferred else "seeds"
            raise SettingsError(f"{wish} needs a factory to build the model again (got a {type(model).__name__})")
        return examine(model, request, faults)
    if not callable(model):
        raise SettingsError(f"model must be an nn.Module or a zero-argument factory (got {type(model).__name__})")
    if settings.stream is not None:
        return check_streamed(model, request)
    doing("building")
    built, found = build(model, settings.seed)
    if (told := outgrows(built)) is not None:
        del built
        return check_streamed(model, request, told=told)
    if settings.deferred:
        found |= build_deferred(model, settings.deferred, settings.seed, built)
    report = examine(built, request, found)
    return report if settings.seeds == 1 else over_seeds(model, report, request)
