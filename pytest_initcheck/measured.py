"""One model is measured: placed, fed, probed, pushed, and asked what the rules want to know."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from . import rules, thresholds
from .budget import TimeBudget
from .errors import ProbeError, SettingsError
from .models.inputs import describe, resolve_inputs
from .phases import doing
from .probing.call import Call, walk
from .probing.guard import untouched
from .probing.maker import maker_of, singular_of
from .probing.memory import is_dense
from .probing.modules import shared_modules
from .probing.operands import Use
from .probing.probe import Probed, run_probe, sample_dim
from .probing.streamed import Streamed
from .records import ConstructionFault, NotFinite, Trace
from .response.again import arrives
from .response.ask import ask, unanswered
from .response.exchange import replaced
from .response.perturb import push_of
from .response.recurrence import carried, shut_gates
from .response.rounding import rounding_only
from .response.scale import Scales, scales
from .response.strays import strays
from .response.unreached import unreached_reasons
from .rules.culprits import suspects, typical_deviation
from .schemes.distributions import Named
from .schemes.origins import ROWS, VALUES, drawn_from, origin, spread_with_origins
from .settings import Settings
from .sharding.batches import shared
from .sharding.layout import kind_of
from .sharding.world import current
from .words import first_line, some

Loss = Callable[[Any], Tensor]

#: So many more seeds are tried where layers that are dropped at random leave a function that does not answer.
OTHER_SEEDS = 3


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked about a model.

    Attributes:
        inputs, loss: as :func:`~pytest_initcheck.check_init` takes them.
        settings: what is asked for.
        name: what the report calls the model; its class name if ``None``.
        extra_rules: rules of other plugins by name.
        race: which models are raced against repaired copies: those in ``"doubt"``, ``"accused"`` ones alone, or ``"none"``.
        fixes: whether an unhealthy model is explained: fixes tried, distributions named, histograms taken.
        streamed: what is asked in place of the weights, where they are never all in memory; fixes are not tried then.
        limits: what the check may spend, as the setting ``time_budget`` says it; that setting if ``None``.
        budget: what the check spends from, where that was begun already; one of these limits if ``None``.
        refill: gives the parameters the values that they have now once more; without it a copy is kept.
    """

    inputs: Any = None
    loss: Loss | None = None
    settings: Settings = field(default_factory=Settings)
    name: str | None = None
    extra_rules: Mapping[str, rules.Rule] = field(default_factory=dict)
    race: Literal["doubt", "accused", "none"] = "doubt"
    fixes: bool = True
    streamed: Streamed | None = None
    limits: str | None = None
    budget: TimeBudget | None = None
    refill: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured, of what, and how it was called.

    Attributes:
        subject: the model, or a copy on the device and in the dtype asked for.
        call: how it was called.
        case: what the rules judge.
        dropped: parameters that this pass did not use and another would, of a function that does not answer.
    """

    subject: nn.Module
    call: Call
    case: rules.Case
    dropped: tuple[str, ...] = ()


def measured_in_any_format(model: nn.Module, request: Request, faults: Mapping[str, ConstructionFault]) -> Measured:
    try:
        return _measured(model, request, faults)
    except ProbeError as error:
        if request.streamed is not None:
            raise
        if "not implemented for 'Half'" not in str(error) and "not implemented for 'BFloat16'" not in str(error):
            raise
    # This device cannot run the format: measure in float32, where the rules predict what would not fit.
    wide = replace(request, settings=replace(request.settings, dtype="float32"))
    found = _measured(model, wide, faults)
    found = also_told(found, f"{request.settings.dtype}: this device cannot run it; predicted from a float32 probe")
    return replace(found, case=replace(found.case, settings=request.settings))


def also_told(measured: Measured, sentence: str) -> Measured:
    """The same, with one more sentence on what could not be seen."""
    trace = replace(measured.case.trace, unseen=(*measured.case.trace.unseen, sentence))
    return replace(measured, case=replace(measured.case, trace=trace))


def _measured(model: nn.Module, request: Request, faults: Mapping[str, ConstructionFault]) -> Measured:
    """What was measured, with another seed where the first dropped so much at random that nothing was left to judge."""
    settings = request.settings
    found = _measured_once(model, request, faults)
    for further in range(1, OTHER_SEEDS + 1):
        if not found.dropped or (request.budget is not None and request.budget.left <= 0):
            break
        told = f"seed {found.case.trace.seed}: {some(found.dropped)} did not take part in the pass; measured with another seed"
        other = replace(request, settings=replace(settings, seed=settings.seed + 1000 * further))
        found = _measured_once(model, other, faults)
        found = also_told(found, told)
        found = replace(found, case=replace(found.case, settings=settings))
    return found


def _measured_once(model: nn.Module, request: Request, faults: Mapping[str, ConstructionFault]) -> Measured:
    """Everything that touches the model, inside the guard that leaves no trace."""
    settings, loss = request.settings, request.loss
    subject = _placed(model, settings, streamed=request.streamed is not None)
    given = resolve_inputs(subject, request.inputs, device=settings.device, dtype=settings.dtype, seed=settings.seed)
    given, looked_at = _together(given)
    alike = _alike(given)
    # Centred over equal samples everything is zero: ask about the output as a whole instead.
    call = replace(given, batch=None) if alike else given
    refill = request.refill if subject is model else None
    with untouched(subject, tensors=call.tensors, also=(call.args, call.kwargs, loss), refill=refill) as guard:
        guard.backup_parameters()  # a forward pass may write to its own weights
        bounded = bool(settings.activation_std or settings.gradient_std)
        streamed = request.streamed
        probed = run_probe(
            subject,
            call,
            guard=guard,
            loss=loss,
            seed=settings.seed,
            mode=settings.mode,
            exact=bounded,
            streamed=streamed,
            budget=request.budget,
        )
        trace = probed.trace
        named = None if streamed is None or not request.fixes else _named_as_drawn(streamed, probed)
        not_finite = _not_finite(probed, loss)
        doing("response")
        push = push_of(probed, guard, seed=settings.seed)
        answer = ask(
            push,
            suspicious=any(s.loud for s in suspects(trace)),
            oversized=typical_deviation(trace) > thresholds.OVERSIZED,
        )
        reply, pulled = answer.response, Scales()
        if (reply.output_centred_rms or 0.0) > thresholds.AMPLE * reply.unit:
            pulled = scales(push)
            reply = replace(reply, with_unit_inputs=pulled.with_unit_inputs)
        nothing = None if loss is None else _loss_of_nothing(probed, loss)
        guard.rewind()  # the last pass may have added to the model, or taken from it
        if named is not None:
            origins = named()
        else:
            origins = drawn_from(probed.model, probed.uses, trace.parameters) if request.fixes else {}
        lying = spread_with_origins(probed, trace, origins)
        parameters = {
            name: replace(
                p,
                wakes=answer.wakes.get(name),
                drawn_from=str(origins[name]) if name in origins else "",
                origin=origins[name].label if name in origins else "",
                pull=pulled.pulls.get(name),
            )
            for name, p in trace.parameters.items()
        }
        missing = [name for name, p in parameters.items() if p.requires_grad and not p.reached]
        called = {layer.module for layer in trace.layers.values()}
        unreached = unreached_reasons(probed.model, push, missing, called)
        left_out = [name for name, reason in unreached.items() if reason == "unused"]
        dropped = tuple(sorted(arrives(push, left_out))) if left_out and unanswered(answer.response) else ()
        stray = strays(push)
        dead = [name for name, wakes in answer.wakes.items() if not wakes]
        absent = frozenset(arrives(push, dead)) if dead else frozenset()
        rounding = {} if not answer.response.movement or unanswered(answer.response) else rounding_only(push, trace)
        memory, unasked = carried(probed.model, seed=settings.seed)
        gates = shut_gates(probed.model, seed=settings.seed)
    trace = replace(
        trace,
        parameters=parameters,
        unseen=(
            *trace.unseen,
            *looked_at,
            *_not_judged(given, disturbed=answer.response.sensitivity is not None),
            *answer.unseen,
            *pulled.unseen,
            *unasked,
        ),
        equal_samples=alike,
        loss_of_zero_output=nothing,
    )
    case = rules.Case(
        trace,
        reply,
        settings,
        unreached,
        faults,
        suspects(trace),
        memory,
        gates,
        not_finite=not_finite,
        strays=stray,
        absent=absent,
        rounding=rounding,
        shared=shared_modules(probed.model),
        spread=lying,
        streamed=streamed is not None,
    )
    return Measured(subject, given, case, dropped)


def _named_as_drawn(streamed: Streamed, probed: Probed) -> Callable[[], dict[str, Named]]:
    """Name the distribution of each weight when it is next in memory; what is returned says which."""
    found: dict[str, Named] = {}

    def look(name: str, p: Tensor) -> None:
        record = probed.trace.parameters[name]
        if record.value is not None and record.value.finite and record.value.count:
            found[name] = origin(p, record, probed.uses.get(name, Use("other")), sample=VALUES, rows=ROWS)

    finish = streamed.look(look)

    def named() -> dict[str, Named]:
        finish()
        return {name: found[name] for name in probed.trace.parameters if name in found}

    return named


def split_over_ranks() -> bool:
    """Whether parameters are split over ranks: such a model cannot be copied."""
    world = current()
    return world is not None and world.sharded


def _together(call: Call) -> tuple[Call, tuple[str, ...]]:
    """The call that every rank makes, and in words what became of the inputs of each."""
    world = current()
    if world is None:
        return call, ()
    given = call.tensors
    values, told = shared(world, given, [sample_dim(t, call.batch) for t in given])
    swap = {id(t): v for t, v in zip(given, values, strict=True)}
    args, kwargs = replaced(call.args, swap), replaced(call.kwargs, swap)
    described = tuple(describe(name, t) for name, t in walk((args, kwargs)))
    sizes = [v.shape[d] for t, v in zip(given, values, strict=True) if (d := sample_dim(t, call.batch)) is not None]
    batch = sizes[0] if sizes else call.batch
    return replace(call, args=args, kwargs=kwargs, described=described, batch=batch), (told,)


def _not_finite(probed: Probed, loss: Loss | None) -> NotFinite | None:
    """What made the output, or else a gradient, not finite; asked only where one is."""
    trace = probed.trace
    if split_over_ranks():
        return _not_finite_of_parts(trace)
    if trace.output is not None and not trace.output.finite:
        return maker_of(probed)
    sound = all(p.gradient is None or p.gradient.finite for p in trace.parameters.values())
    return None if sound else singular_of(probed, loss)


def _not_finite_of_parts(trace: Trace) -> NotFinite | None:
    """The layer that meets an infinite weight: each rank sees operations on its own part, and what is not finite may be on one alone."""
    odd = [p.value for p in trace.parameters.values() if p.value is not None and not p.value.finite]
    first = next((x for x in trace.layers.values() if x.leaf and not x.activation.finite), None)
    if not odd or first is None or any(math.isnan(v.min) or math.isnan(v.max) for v in odd):
        return None
    return NotFinite(first.name, first.operation or first.kind, f"{first.kind} of infinite values")


def _not_judged(call: Call, *, disturbed: bool) -> list[str]:
    """What these inputs do not let one ask; one sample can still be ``disturbed``, which tells whether the output follows it."""
    if _alike(call):
        return ["all samples of the inputs are equal: whether the model tells inputs apart was not judged"]
    if call.batch == 1:
        left_out = "dead units" if disturbed else "input-blind, dead units"
        return [f"one sample: nothing that compares samples ({left_out}) was judged"]
    return []


def _alike(call: Call) -> bool:
    """Whether there are several samples and every input is the same for all of them."""
    if call.batch is None or call.batch < 2:
        return False
    dense = [t for t in call.tensors if is_dense(t)]
    per_sample = [(t, d) for t in dense if (d := sample_dim(t, call.batch)) is not None]
    return bool(per_sample) and all(bool((t == t.narrow(d, 0, 1)).all()) for t, d in per_sample)


def _loss_of_nothing(probed: Probed, loss: Loss) -> float | None:
    """The loss of an output that is zero everywhere: what a model that says nothing would pay."""
    if not probed.one_tensor:
        return None  # a structure whose parts the loss may read in any way
    with torch.no_grad():
        try:
            return float(loss(torch.zeros_like(probed.outputs[0])))
        except Exception:  # a loss need not be defined there
            return None


# -- before


def refuse(model: nn.Module) -> None:
    """Raise for a model whose weights are not here."""
    kind = kind_of(model)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ProbeError(without_values(name, model))
        if isinstance(parameter, UninitializedParameter):
            continue
        if parameter.requires_grad and parameter.is_inference():
            raise ProbeError(
                f"{name} of {kind} was made in inference mode and can never be trained: build the model outside of it"
            )
        if parameter.requires_grad and parameter.element_size() == 1:
            raise ProbeError(
                f"{name} of {kind} is {str(parameter.dtype).removeprefix('torch.')}, in which no optimizer can step: check the "
                "model before it is converted"
            )
        if parameter.requires_grad and torch._debug_has_internal_overlap(parameter) == 1:
            raise ProbeError(
                f"elements of {name} of {kind} share memory (an expanded tensor), so no optimizer can step it: "
                "make the parameter of a clone()"
            )


def without_values(name: str, model: nn.Module) -> str:
    return (
        f"{name} of {type(model).__name__} is on the meta device and has no values: check the model after to_empty() and its "
        "initialization, or give a factory that builds it elsewhere"
    )


def _placed(model: nn.Module, settings: Settings, *, streamed: bool = False) -> nn.Module:
    """``model`` itself, or a copy on the device and in the dtype that the user asked for."""
    dtype = None
    if settings.dtype is not None:
        dtype = getattr(torch, settings.dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise SettingsError(
                f"dtype must be a floating dtype such as float32, bfloat16, float16 (got {settings.dtype!r})"
            )
    if (settings.device is None and dtype is None) or streamed:
        return model
    try:
        device = torch.device(settings.device) if settings.device else None
        first = next(iter(model.parameters()), None)
        if first is not None and (device is None or first.device == device) and (dtype is None or first.dtype == dtype):
            return model
        if split_over_ranks():
            raise SettingsError(
                "device and dtype ask for a copy, and a model that is split over ranks cannot be copied: shard it on that device, "
                "with a mixed precision policy"
            )
        return copy.deepcopy(model).to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise SettingsError(f"device {settings.device!r} cannot be used here: {reason}") from error
