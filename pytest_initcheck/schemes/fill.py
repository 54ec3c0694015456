"""Plan what a scheme does to the parameters of a model, and do it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ..errors import ProbeError, SettingsError
from ..models.inputs import resolve_inputs
from ..probing.call import Call
from ..probing.guard import untouched
from ..probing.modules import held_by
from ..sharding.flat import is_flat
from ..sharding.layout import gathered, is_sharded, whole_to_fill
from .auto import Values
from .choices import chooser, scheme_called
from .distributions import Named
from .draws import Draw, fill_
from .lsuv import calibrate
from .origins import origin
from .places import Place, Wiring, module_wiring, read_wiring
from .plan import Change, Plan

Patterns = str | Iterable[str]


@dataclass(frozen=True)
class Planned:
    """A plan and what carrying it out needs.

    Attributes:
        plan: one entry for every parameter.
        call: how the model was run to see where each weight stands; ``None`` where it was not.
    """

    plan: Plan
    call: Call | None

    @property
    def on_data(self) -> bool:
        """Whether a weight is scaled by what the model makes of its inputs, so that the plan shows only as it is done."""
        return any(c.draw is not None and c.draw.calibrated for c in self.plan.changes)


def initialize(model: nn.Module, scheme: str, inputs: Any, *, seed: int) -> None:
    """Initialize ``model`` in place by ``scheme``; nothing is changed if anything raises."""
    generator = torch.Generator().manual_seed(seed)
    planned = plan_for(model, scheme, inputs, {})
    with put_back_unless_done(model):
        carry_out(model, planned, generator)


def plan_for(
    model: nn.Module,
    scheme: str | Mapping[str, str | Draw],
    inputs: Any,
    options: Mapping[str, Any],
    *,
    include: Patterns = "*",
    exclude: Patterns = (),
    frozen: bool = False,
    origins: bool = False,
) -> Planned:
    """Return what ``scheme`` would do to ``model``; nothing is changed.

    Args:
        model, scheme, inputs, options, include, exclude, frozen: as :func:`~pytest_initcheck.apply_init`.
        origins: whether to name the distributions that the values have.

    Raises:
        SettingsError: an argument, a pattern or a parameter cannot be used.
        ProbeError: the scheme must see the model run, and it could not be run.
    """
    _refuse(model)
    wiring, call = _seen(model, scheme, inputs, options)
    values = {name: _values(model, place) for name, place in wiring.places.items()}
    changes = _plan(
        model, scheme, wiring, values, options, _list(include), _list(exclude), frozen=frozen, origins=origins
    )
    notes = (*_notes(scheme, wiring), *_default(changes))
    plan = Plan(scheme if isinstance(scheme, str) else "by pattern", tuple(changes), notes=notes)
    return Planned(plan, call)


def carry_out(
    model: nn.Module, planned: Planned, generator: torch.Generator | None, *, tolerance: float = 0.05, passes: int = 10
) -> Plan:
    """Fill the parameters of ``model`` as planned, scale those on data that are meant to be, and return what came of it.

    Args:
        model: what the plan was made for.
        planned: what to do.
        generator: source of randomness; torch's own one if ``None``.
        tolerance, passes: as :func:`~pytest_initcheck.apply_init`.
    """
    if planned.on_data and any(is_sharded(p) for p in model.parameters()):
        raise SettingsError(
            "a scheme that scales weights by what layers return needs whole layers: apply it before the model is sharded"
        )
    _fill(model, planned.plan, generator)
    if not planned.on_data:
        return planned.plan
    assert planned.call is not None
    return _calibrated(model, planned.call, planned.plan, tolerance=tolerance, passes=passes)


@contextmanager
def put_back_unless_done(model: nn.Module, *, always: bool = False) -> Iterator[None]:
    """Give the parameters their old values back if anything raises, or ``always``: a copy is kept until then."""
    kept = {n: p.detach().clone() for n, p in model.named_parameters()}
    try:
        yield
    except BaseException:
        _put_back(model, kept)
        raise
    if always:
        _put_back(model, kept)


# -- what there is


def _refuse(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise SettingsError(f"model must be an nn.Module, which is changed in place (got {type(model).__name__})")
    if is_flat(model):
        raise SettingsError(
            f"{type(model).__name__} holds flat vectors of parameters without shapes: initialize the model before it is wrapped"
        )
    for name, p in model.named_parameters():
        if isinstance(p, UninitializedParameter):
            raise SettingsError(f"{name} has no shape yet; run one batch through the lazy model, then initialize it")
        if p.is_inference():
            raise SettingsError(
                f"{name} was made in inference mode and can never be trained; build the model outside of it"
            )
        if p.device.type == "meta":
            raise SettingsError(f"{name} is on the meta device; call model.to_empty(device=...) first")


def _seen(
    model: nn.Module, scheme: str | Mapping[str, str | Draw], inputs: Any, options: Mapping[str, Any]
) -> tuple[Wiring, Call | None]:
    named = [scheme] if isinstance(scheme, str) else [s for s in scheme.values() if isinstance(s, str)]
    needed = [s for s in named if scheme_called(s).needs_graph and "gain" not in options]
    try:
        call = resolve_inputs(model, inputs, device=None, dtype=None, seed=0)
        return read_wiring(model, call), call
    except ProbeError as e:
        if needed or inputs is not None:
            raise ProbeError(f"scheme {(needed or named)[0]!r} must see the model run once: {e}") from e
        return module_wiring(model), None


def _values(model: nn.Module, place: Place) -> Values:
    tensor = gathered(_tensor(model, place))
    if not tensor.is_floating_point() or not tensor.numel():
        return Values(math.nan, False, True)
    v = tensor.detach()
    v = v.float() if v.dtype in (torch.float16, torch.bfloat16) else v
    scale = float(v.abs().max())
    rms = scale * float((v / scale).square().mean().sqrt()) if 0 < scale < math.inf else scale
    constant = bool((v == v.reshape(-1)[0]).all())
    return Values(rms, constant, math.isfinite(scale))


def _tensor(model: nn.Module, place: Place) -> Tensor:
    """The tensor that users know by the name, also where a parametrization makes it."""
    path, _, attribute = place.name.rpartition(".")
    if place.made_by == "weight-norm":
        g, v = (model.get_parameter(n) for n in place.parameters)
        return torch._weight_norm(v, g, _norm_dim(model, path, attribute))
    tensor = getattr(model.get_submodule(path), attribute)
    assert isinstance(tensor, Tensor)
    return tensor


def _norm_dim(model: nn.Module, path: str, attribute: str) -> int:
    return next(h.norm_dim for h in held_by(model.get_submodule(path)) if h.attribute == attribute)


# -- what to do


def _plan(
    model: nn.Module,
    scheme: str | Mapping[str, str | Draw],
    wiring: Wiring,
    values: Mapping[str, Values],
    options: Mapping[str, Any],
    include: Sequence[str],
    exclude: Sequence[str],
    *,
    frozen: bool,
    origins: bool,
) -> list[Change]:
    rules: Mapping[str, str | Draw] = {"*": scheme} if isinstance(scheme, str) else scheme
    choosers = {s: chooser(s, wiring, values, options) for s in rules.values() if isinstance(s, str)}
    for called, patterns in (("scheme", rules), ("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(_matches(p, (pattern,)) for p in wiring.places.values()):
                raise SettingsError(
                    f"{called}: {pattern!r} matches no parameter; the first is {next(iter(values), None)!r}"
                )
    changes = []
    for place in wiring.places.values():
        chosen = next((s for pattern, s in rules.items() if _matches(place, (pattern,))), None)
        draw: Draw | None = None
        tensor = _tensor(model, place)
        if not _matches(place, include) or _matches(place, exclude) or chosen is None:
            why = "not asked for"
        elif not frozen and not any(model.get_parameter(n).requires_grad for n in place.parameters):
            why = "frozen: frozen=True changes it, too"
        elif not tensor.is_floating_point():
            why = f"{str(tensor.dtype).removeprefix('torch.')}: no scheme for it here"
        elif not tensor.numel():
            why = "empty"
        elif isinstance(chosen, Draw):
            draw, why = chosen, chosen.why or "as asked"
        else:
            draw, why = choosers[chosen](place)
        if draw is not None:
            _writable(model, place)
        told = origins and tensor.is_floating_point() and tensor.numel() > 0
        drawn = origin(gathered(tensor.detach()), place, place.use) if told else None
        changes.append(Change(place, draw, why, before=values[place.name].rms, origin=drawn))
    return changes


def _matches(place: Place, patterns: Iterable[str]) -> bool:
    names = (place.name, *place.parameters, *place.aliases)
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _list(patterns: Patterns) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _notes(scheme: str | Mapping[str, str | Draw], wiring: Wiring) -> Iterable[str]:
    if not wiring.followed:
        yield "The model was not run: roles and fans are read from the kinds of its modules. Pass inputs to see more."
    if scheme == "mup":
        yield "muP also divides Adam's learning rate of hidden and output weights by their fan_in; that is the optimizer's part."
    if scheme == "fixup" and wiring.norms:
        yield "Fixup is meant for networks without norm layers; this one has some."
    if scheme in ("zero_gate", "fixup", "depth_scaled") and not wiring.branches:
        yield "No residual branch was found."
    elif scheme == "zero_gate" and not any(p.closes and p.role == "norm-scale" for p in wiring.places.values()):
        yield "No residual branch ends in a norm with a scale."
    if scheme == "siren" and not any(p.followed_by == "sin" for p in wiring.places.values()):
        yield "No weight is followed by a sine, which is what this scheme is made for."


def _default(changes: Iterable[Change]) -> Iterable[str]:
    """What PyTorch's default is, and how far it carries a signal where no norm follows."""
    named = [(c, c.origin) for c in changes if c.origin is not None and _by_torch(c.origin)]
    for text in dict.fromkeys(n.standard.text() for _, n in named if n.standard is not None):
        yield f"default is PyTorch's: {text}."
    told: set[str] = set()
    for c, n in named:
        behind = c.place.followed_by
        if behind is None or behind in ("norm", "mixed", "softmax", *told):
            continue
        if n.factor is None or n.depth is None or not math.isfinite(n.depth):
            continue
        told.add(behind)
        where = "with no nonlinearity behind it" if behind == "none" else f"in front of {behind}"
        yield (
            f"The default {where} multiplies a signal by {n.factor:.2g} a layer: without normalization "
            f"a thousandth is left after {n.depth:.0f} layers."
        )


def _by_torch(named: Named) -> bool:
    return named.standard is not None and named.standard.default


# -- doing it


def _writable(model: nn.Module, place: Place) -> None:
    if place.made_by != "parametrization":
        return
    path, _, attribute = place.name.rpartition(".")
    chain = model.get_submodule(path).parametrizations[attribute]  # type: ignore[index]
    for parametrization in chain:
        if not hasattr(parametrization, "right_inverse"):
            kind = type(parametrization).__name__
            raise SettingsError(
                f"{place.name} is made by {kind}, which has no right_inverse, so no value can be set; "
                f"add exclude={place.name!r}"
            )


def _fill(model: nn.Module, plan: Plan, generator: torch.Generator | None) -> None:
    for change in plan.changes:
        if change.draw is None:
            continue
        place, use = change.place, change.place.use
        how = {"out_dim": use.out_dim, "in_dim": use.in_dim, "groups": use.groups}
        try:
            if not place.made_by:
                with whole_to_fill(model.get_parameter(place.name)) as weight:
                    fill_(weight, change.draw, generator=generator, **how)
            else:
                weight = torch.empty_like(_tensor(model, place), requires_grad=False)
                _set(model, place, fill_(weight, change.draw, generator=generator, **how))
        except (RuntimeError, ValueError, IndexError) as e:
            raise SettingsError(f"{place.name} {list(place.shape)} cannot be filled with {change.draw}: {e}") from e


def _set(model: nn.Module, place: Place, weight: Tensor) -> None:
    path, _, attribute = place.name.rpartition(".")
    with torch.no_grad():
        if place.made_by == "weight-norm":
            g, v = (model.get_parameter(n) for n in place.parameters)
            v.copy_(weight)
            g.copy_(torch.norm_except_dim(weight, 2, _norm_dim(model, path, attribute)))
        else:
            setattr(model.get_submodule(path), attribute, weight)


def _put_back(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in kept.items():
            model.get_parameter(name).copy_(value)


def _calibrated(model: nn.Module, call: Call, plan: Plan, *, tolerance: float, passes: int) -> Plan:
    if not tolerance > 0 or passes < 1:
        raise SettingsError(f"tolerance must be above 0 and passes at least 1 (got {tolerance!r} and {passes!r})")
    todo = [c.place for c in plan.changes if c.draw is not None and c.draw.calibrated]
    places = {p.name: p for p in todo if not p.use.cell}
    weights: dict[str, Collection[Tensor]] = {
        name: [model.get_parameter(n) for n in place.parameters] for name, place in places.items()
    }

    def multiply(name: str, factor: float) -> None:
        place = places[name]
        with torch.no_grad():
            if not place.made_by:
                model.get_parameter(name).mul_(factor)
            else:
                _set(model, place, _tensor(model, place) * factor)

    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    for p in frozen:
        p.requires_grad_(True)  # the guard takes frozen ones for averages, and would put their old values back
    try:
        with untouched(model, tensors=call.tensors):  # buffers, modes, generators; not the weights
            model.train()
            found = calibrate(model, call, weights, multiply, tolerance=tolerance, passes=passes, seed=0)
    finally:
        for p in frozen:
            p.requires_grad_(False)
    changes = []
    for c in plan.changes:
        if c.name in found:
            factor, std = found[c.name]
            if std == 0:
                c = replace(c, why="its output is constant on these inputs: orthogonal, not scaled")
            else:
                assert c.draw is not None
                c = replace(c, draw=c.draw.times(factor), why=f"{c.why}: its output has std {std:.3g}")
        changes.append(c)
    far = [n for n, (_, std) in found.items() if std and abs(std - 1) > tolerance]
    left = f"{len(far)} outputs stay beyond the tolerance of {tolerance:g}: {', '.join(far[:5])}"
    return replace(plan, changes=tuple(changes), notes=(*plan.notes, *([left] if far else [])))
