"""What was not decided is said: a question that the time budget cut off is neither healthy nor sick."""

from __future__ import annotations

from collections.abc import Iterator

from ..records import Finding
from ..words import number
from .blame import for_silence, for_size
from .function import silent
from .registry import Case, finding, rule


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
    r, race, limits = case.response, case.race, case.settings.time_budget
    if race is not None and race.outcome != "open":
        return
    evidence: dict[str, float | str | None]
    if race is not None and race.cut:
        cut_off = "this model was raced against repaired copies"
        evidence = {"passes": race.passes}
    elif r.cut is not None:
        cut_off = f"{number(min(100 * r.cut, 100))} % of a fit's error were left"
        evidence = {"left": r.cut, "fit_steps": r.fit_steps}
    else:
        return
    blame = for_silence(case) if silent(case) else for_size(case)
    yield finding(
        "undecided",
        "warning",
        blame.names,
        f"the time budget ({limits}) was spent while {cut_off}",
        evidence={**evidence, "budget": limits},
        cause=blame.cause,
        advice="give more to decide: time_budget=none lifts the limit",
    )
