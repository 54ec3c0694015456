"""apply_init and recommend_init: do to a model what a scheme says, and prove that it helped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .check import check_init
from .errors import SettingsError, UnhealthyInit
from .report import Report
from .schemes.draws import Draw
from .schemes.fill import Patterns, carry_out, plan_for, put_back_unless_done
from .schemes.plan import Plan
from .settings import Settings
from .sharding.layout import is_distributed
from .sharding.verdict import as_one
from .sharding.world import current
from .words import plural


def apply_init(
    model: nn.Module,
    scheme: str | Mapping[str, str | Draw] = "auto",
    inputs: Any = None,
    *,
    include: Patterns = "*",
    exclude: Patterns = (),
    frozen: bool = False,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    dry_run: bool = False,
    verify: bool = False,
    loss: Callable[[Any], Tensor] | None = None,
    tolerance: float = 0.05,
    passes: int = 10,
    **options: Any,
) -> Plan:
    """Initialize ``model`` in place, in the manner of ``torch.nn.init``, and return what was done.

    Biases become zero (the forget gate of an LSTM 1), norms one and zero, embeddings normal; weights follow the scheme.
    Parameters on which the output does not depend are left alone. Nothing is changed if anything raises: a copy of the
    parameters is kept until all is done.

    Args:
        model: the module; built, not lazy, not on the meta device.
        scheme: a key of :data:`~pytest_initcheck.schemes.choices.SCHEMES`, or glob of names -> key or
            :class:`~pytest_initcheck.schemes.Draw`, the first that matches counts; what none matches is left alone.
        inputs: as :func:`~pytest_initcheck.check_init`; the model is run once to see where each weight stands.
        include: globs of the parameters to change.
        exclude: globs of parameters to leave alone.
        frozen: whether parameters that are not trained are changed, too; they are left alone, because most were loaded.
        seed: makes the values reproducible; torch's own generator is neither used nor advanced then.
        generator: the same with a generator of yours.
        dry_run: return the plan and change nothing; the plan then names the distributions that the values have.
        verify: check the model before and after, and raise, with the old values back, if it is not healthier.
        loss: as :func:`~pytest_initcheck.check_init`, for ``verify``.
        tolerance: for ``"lsuv"``: how far the std of a layer's output may be from 1.
        passes: for ``"lsuv"``: forward passes for one weight at most.
        **options: of the scheme: ``gain``, ``mode``, ``std``, ``sparsity``, ``base_width``, ``omega``.

    Returns:
        The plan, one entry for every parameter.

    Raises:
        SettingsError: an argument, a pattern or a parameter cannot be used.
        ProbeError: the scheme must see the model run, and it could not be run.
        UnhealthyInit: ``verify``, and the model is not healthier.
    """
    if seed is not None and generator is not None:
        raise SettingsError("seed and generator exclude each other; pass one of them")
    generator = torch.Generator().manual_seed(seed) if seed is not None else generator
    asked: dict[str, Any] = {"include": include, "exclude": exclude, "frozen": frozen, "generator": generator}
    asked |= {"dry_run": dry_run, "verify": verify, "loss": loss, "tolerance": tolerance, "passes": passes, **options}
    if torch.is_inference_mode_enabled():  # in which nothing has a graph
        with torch.inference_mode(False):
            return apply_init(model, scheme, inputs, **asked)
    if isinstance(model, nn.Module) and current() is None and is_distributed(model):
        return as_one(model, Settings().timeout, lambda: apply_init(model, scheme, inputs, **asked), str)
    if generator is None and (world := current()) is not None:
        generator = world.generator()
    planned = plan_for(model, scheme, inputs, options, include=include, exclude=exclude, frozen=frozen, origins=dry_run)
    if dry_run and not planned.on_data:
        return planned.plan
    before = check_init(model, inputs, loss=loss) if verify else None
    with put_back_unless_done(model, always=dry_run):
        plan = carry_out(model, planned, generator, tolerance=tolerance, passes=passes)
        if before is not None:
            plan = replace(plan, notes=(*plan.notes, _compared(before, check_init(model, inputs, loss=loss))))
    return plan if dry_run else replace(plan, applied=True)


def recommend_init(model: nn.Module, inputs: Any = None, *, scheme: str = "auto", **arguments: Any) -> Plan:
    """Return what the initialization of each parameter of ``model`` is and should be; nothing is changed.

    Args:
        model, inputs, scheme: as :func:`apply_init`.
        **arguments: further ones of :func:`apply_init`.
    """
    return apply_init(model, scheme, inputs, dry_run=True, **arguments)


def _compared(before: Report, after: Report) -> str:
    """A sentence on what has become of the errors.

    Raises:
        UnhealthyInit: there are errors, and not fewer than before, or others.
    """
    was = {(f.rule, f.layers[:1]) for f in before.findings if f.severity == "error"}
    now = {(f.rule, f.layers[:1]) for f in after.findings if f.severity == "error"}
    if now and (len(now) >= len(was) or {r for r, _ in now} - {r for r, _ in was}):
        told = f"apply_init: the model is not healthier ({len(was)} errors before, {len(now)} after); its old values are back"
        raise UnhealthyInit(f"{told}\n\n{after}", report=after)
    return f"Verified: {_count(len(was))} before, {_count(len(now))} after."


def _count(errors: int) -> str:
    return plural(errors, "error") if errors else "no error"
