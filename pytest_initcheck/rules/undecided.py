"""What was not decided is said: a question that the time budget cut off is neither healthy nor sick."""

from __future__ import annotations

from collections.abc import Iterator

from ..records import Finding
from ..words import number
from .blame import for_silence, for_size
from .function import silent
from .registry import Case, finding, rule

#: What to do about it.
MORE = "give more to decide: time_budget=none lifts the limit"


@rule(
    "undecided",
    family="function",
    severity="warning",
    threshold="the first look was not clear, and the time budget was spent before the fit or the race that decides had all its steps",
    evidence="the steps are counted, so that the same model is cut off at the same step on every machine; a machine that manages more "
    "within the budget's seconds is not cut off",
    limits="a larger time_budget decides; where nobody looks at warnings, fail_on=warning keeps such a model from passing",
)
def undecided(case: Case) -> Iterator[Finding]:
    """Whether the model trains is not known: asking was stopped by the time budget."""
    r = case.response
    race = case.race
    if race is not None and race.outcome != "open":
        return
    blame = for_silence(case) if silent(case) else for_size(case)
    if race is not None and race.cut:
        yield finding(
            "undecided",
            "warning",
            blame.names,
            f"the time budget ({case.settings.time_budget}) was spent while this model was raced against repaired copies",
            evidence={"passes": race.passes, "budget": case.settings.time_budget},
            cause=blame.cause,
            advice=MORE,
        )
    elif r.cut is not None:
        yield finding(
            "undecided",
            "warning",
            blame.names,
            f"the time budget ({case.settings.time_budget}) was spent while {number(min(100 * r.cut, 100))} % of a fit's error were left",
            evidence={"left": r.cut, "fit_steps": r.fit_steps, "budget": case.settings.time_budget},
            cause=blame.cause,
            advice=MORE,
        )
