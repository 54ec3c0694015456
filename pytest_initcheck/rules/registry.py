"""What a rule is: a small named function with its threshold, the evidence for it and its known limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..race_records import Race
from ..records import ConstructionFault, Finding, NotFinite, Response, Severity, Spread, Stray, Trace
from ..settings import Settings

if TYPE_CHECKING:
    from .culprits import Suspect

#: Decides whether a parameter's missing gradient is a mistake; see :mod:`~pytest_initcheck.response.unreached`.
Reasons = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a rule may look at.

    Attributes:
        trace: what the probe measured.
        response: how the function answered.
        settings: what the user asked for.
        unreached: for every trainable parameter without a gradient path, why: ``"blocked"``, ``"unmentioned"``, ``"unused"``.
        unwritten: parameters and buffers, by their labels -> what is wrong with how they were constructed.
        culprits: where the fault starts, the most suspicious first, as :func:`~pytest_initcheck.rules.culprits.suspects` ranks.
        memory: for every recurrent module, the share of a change of its state that is left one step later.
        gates: for every recurrent module, the share of its pre-activations that its weights alone put where gates are flat.
        not_finite: what first made a number that is not finite, where the output is not.
        strays: tensors that get a gradient and that no optimizer is given.
        absent: parameters whose gradient is zero here, and is not with other inputs or other randomness.
        rounding: weights whose gradient is nothing but rounding, each with its size against the strongest one.
        shared: paths of each module that is registered several times in one place.
        spread: how parameters and buffers lie on the ranks; empty for a model of one process.
        race: whether another initialization learns better; ``None`` where there was no need to ask.
        streamed: whether the weights were never all in memory, so that no fit was asked.
    """

    trace: Trace
    response: Response
    settings: Settings = field(default_factory=Settings)
    unreached: Reasons = field(default_factory=dict)
    unwritten: Mapping[str, ConstructionFault] = field(default_factory=dict)
    culprits: tuple[Suspect, ...] = ()
    memory: Mapping[str, float] = field(default_factory=dict)
    gates: Mapping[str, float] = field(default_factory=dict)
    not_finite: NotFinite | None = None
    strays: tuple[Stray, ...] = ()
    absent: frozenset[str] = frozenset()
    rounding: Mapping[str, float] = field(default_factory=dict)
    shared: Sequence[tuple[str, ...]] = ()
    spread: Sequence[Spread] = ()
    race: Race | None = None
    streamed: bool = False


Judge = Callable[[Case], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the registry; the reference page is generated from these fields and the function's docstring.

    Attributes:
        name: kebab-case name.
        family: heading that it stands under.
        severity: severities that it can give, in words.
        threshold: the numbers it decides by.
        evidence: where these numbers come from.
        limits: when it is wrong.
        judge: the function.
    """

    name: str
    family: str
    severity: str
    threshold: str
    evidence: str
    limits: str
    judge: Judge


RULES: dict[str, Rule] = {}


def rule(
    name: str, *, family: str, severity: str, threshold: str, evidence: str, limits: str
) -> Callable[[Judge], Judge]:
    """Register the decorated function as the rule ``name``.

    Raises:
        ValueError: the name is taken.
    """

    def register(judge: Judge) -> Judge:
        if name in RULES:
            raise ValueError(f"two rules are called {name!r}")
        RULES[name] = Rule(name, family, severity, threshold, evidence, limits, judge)
        return judge

    return register


def finding(
    rule_name: str,
    severity: Severity,
    layers: Iterable[str],
    summary: str,
    *,
    evidence: Mapping[str, Any] | None = None,
    cause: str = "",
    fix: str = "",
    advice: str = "",
) -> Finding:
    """Return a finding, with the line that silences it filled in."""
    names = tuple(dict.fromkeys(layers))
    silence = f'ignore=["{rule_name}:{names[0]}"]' if names else f'ignore=["{rule_name}"]'
    return Finding(rule_name, severity, names, summary, evidence or {}, cause, fix, silence, advice)
