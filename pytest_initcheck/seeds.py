"""Several initialisations of one model: how many of them are sick, and how far each layer's size spreads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median

from torch import nn

from . import rules
from .examine import examine
from .measured import Request
from .models.build import build
from .phases import doing, told_to
from .records import Seeds
from .report import Report
from .settings import matches


def over_seeds(factory: Callable[[], nn.Module], first: Report, request: Request) -> Report:
    """Return the first report, with what further initialisations say.

    Args:
        factory: builds the model.
        first: the report on the first seed.
        request: what was asked; ``request.settings.seeds`` says how many initialisations are looked at.
    """
    settings = request.settings
    reports = [first]
    for seed in range(settings.seed + 1, settings.seed + settings.seeds):
        doing(f"seed {seed}")
        with told_to(None):
            model, faults = build(factory, seed)
            one = replace(request, settings=replace(settings, seed=seed, seeds=1), name=None, fixes=False)
            reports.append(examine(model, one, faults))
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
