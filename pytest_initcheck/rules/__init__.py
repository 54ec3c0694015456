"""Rules: trace and response in, findings out. No torch here: a rule judges records, it measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import SettingsError
from ..records import SEVERITIES, Finding
from ..settings import Settings, matches
from . import bounds, function, gradients, raced, ranks, samples, signal, structure, undecided, values  # noqa: F401  (importing registers the rules)
from .registry import RULES, Case, Rule, finding, rule

__all__ = ["RULES", "Case", "Rule", "finding", "judge", "passes", "rule", "sift", "validate"]


def judge(case: Case, *, extra: Mapping[str, Rule] | None = None) -> tuple[list[Finding], list[Finding]]:
    """Return the findings of every rule, most severe first, and those that the user's settings silence.

    Args:
        case: what to judge.
        extra: rules of other plugins, by name.
    """
    found: list[Finding] = []
    for name, entry in {**RULES, **(extra or {})}.items():
        if case.settings.select and not any(matches([p.partition(":")[0]], name, ()) for p in case.settings.select):
            continue
        found += entry.judge(case)
    kept, ignored = sift(raced.settled(case, found), case.settings)
    if any(f.severity == "error" for f in kept):
        kept = [f for f in kept if f.rule != "undecided"]  # it is decided: it fails
    return kept, ignored


def sift(found: Iterable[Finding], settings: Settings) -> tuple[list[Finding], list[Finding]]:
    """Return ``found``, most severe first, and those of it that the user's settings silence."""
    kept: list[Finding] = []
    ignored: list[Finding] = []
    for f in sorted(found, key=lambda f: SEVERITIES.index(f.severity)):
        silenced = matches(settings.ignore, f.rule, f.layers[:1] or ("",))
        unselected = settings.select and not matches(settings.select, f.rule, f.layers or ("",))
        (ignored if silenced or unselected else kept).append(f)
    return kept, ignored


def passes(findings: Iterable[Finding], fail_on: str) -> bool:
    """Whether no finding is as severe as ``fail_on``."""
    failing = {"error": ("error",), "warning": ("error", "warning"), "never": ()}[fail_on]
    return not any(f.severity in failing for f in findings)


def validate(
    patterns: Iterable[str], *, setting: str, layers: Iterable[str] | None = None, known: Iterable[str] = ()
) -> None:
    """Refuse patterns that can never match anything.

    Args:
        patterns: ``RULE`` or ``RULE:GLOB`` entries of a setting.
        setting: name of the setting, for the message.
        layers: names of layers and parameters of the model; ``None`` skips the globs.
        known: names of further rules.

    Raises:
        SettingsError: a rule is unknown or a glob matches no layer.
    """
    rules = [*RULES, *known]
    names = None if layers is None else list(layers)
    for pattern in patterns:
        wanted, colon, glob = pattern.partition(":")
        if not any(matches([wanted], name, ()) for name in rules):
            raise SettingsError(f"{setting} names the unknown rule {wanted!r} (known: {', '.join(sorted(rules))})")
        if colon and names is not None and not any(matches([f"*:{glob}"], "any", [name]) for name in names):
            some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise SettingsError(f"{setting} names layers {glob!r}, which match nothing in this model (it has {some})")
