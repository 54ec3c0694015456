"""What the race says about the findings: it proves some, and takes others back.

A number is no fault: whether an initialization is at fault is whether another one of the same model learns better. Where the
race was run, it decides; what it cannot show (never-written, non-finite, frozen, detached, twins, unused) keeps its rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..race_records import YOURS, Race
from ..records import Finding, Severity
from ..words import number
from .blame import LISTED
from .registry import Case, finding, rule

#: Errors that the race may take back, and what then is left of them.
CONTESTED: dict[str, Severity] = {
    "unresponsive": "warning",
    "unreachable-targets": "warning",
    "input-blind": "warning",
    "blocked-gradient": "warning",
    "chaotic-response": "note",
    "offset-output": "warning",
    "saturated-state": "warning",
}
#: Those of them that rest on how well a task is learned: where repaired copies learn none either, nothing is shown. What does not
#: follow its inputs is at fault whatever others do, and what does not move, unless training moved it.
BY_LEARNING = frozenset(("unreachable-targets", "chaotic-response", "offset-output", "blocked-gradient"))
#: Rules that say nothing of how well a model learns, or say it for certain.
BESIDE = frozenset(
    (
        "activation-std",
        "cloned-layers",
        "deferred-mismatch",
        "equal-samples",
        "frozen-parameter",
        "gradient-std",
        "half-precision-overflow",
        "init-drift",
        "no-gradient",
        "norm-scale-sign",
        "shared-module",
        "unlucky-seeds",
        "unregistered-parameter",
    )
)
#: An output of this RMS over the samples, for inputs of an ordinary size, is out of reach of any loss on its scale, also where no repaired
#: copy learns (128 published models of timm and torchvision start at 20 at most).
HOPELESS = 1e4
#: A model of more parameters than this is raced for what it would fail by, not for doubts, and not for long.
LARGE = 1_000_000
#: Optimizer steps of a heat of a large model: of the default time budget, every rate of its own and of one copy take about half.
FEW = 20
#: Of a model whose units sum over fewer weights than this, forty steps say little: each weight moves as far as in a wide one.
NARROW = 8.0
#: A scale that is off by so many decades leaves a doubt.
DOUBTFUL = 0.5
#: What one optimizer-sized step moves an ordinary output by, the change of one that answers changes of the input, and its RMS
#: over the samples and in all.
MOVES, ANSWERS, SPREADS, LEVEL = (0.005, 3.0), (0.1, 8.0), (0.02, 3.0), 5.0


def unclear(case: Case, found: Iterable[Finding]) -> bool:
    """Whether the first look leaves a doubt that a race can settle.

    Not where another error stands in any case: then nothing depends on it. A note does not ask for one.
    """
    found = [f for f in found if f.severity != "note"]
    if any(f.severity == "error" and f.rule not in CONTESTED for f in found):
        return False
    if accused(found):
        return True
    found = [f for f in found if f.rule not in BESIDE]
    if size(case) > LARGE or width(case) < NARROW:
        return False
    if found or any(abs(s.decades) >= DOUBTFUL and not s.absorbed for s in case.culprits):
        return True
    r = case.response
    if not r.movement:
        return False
    unit = r.unit or 1.0
    return not (
        r.residual is None
        and MOVES[0] <= r.movement[-1] <= MOVES[1]
        and (r.sensitivity is None or ANSWERS[0] <= r.sensitivity <= ANSWERS[1])
        and (not r.output_centred_rms or SPREADS[0] * unit <= r.output_centred_rms <= SPREADS[1] * unit)
        and (r.output_rms or 0.0) <= LEVEL * unit
    )


def accused(found: Iterable[Finding]) -> bool:
    """Whether an error stands that the race may take back."""
    return any(f.severity == "error" and f.rule in CONTESTED for f in found)


def width(case: Case) -> float:
    """Return how many weights add up in a unit, on average over the weights; infinite where there are none."""
    sizes = [
        (p.fan_in, p.value.count)
        for p in case.trace.parameters.values()
        if p.requires_grad and p.fan_in and p.value is not None
    ]
    return sum(f * n for f, n in sizes) / sum(n for _, n in sizes) if sizes else math.inf


def size(case: Case) -> int:
    """Return the number of parameters."""
    return sum(math.prod(p.shape) for p in case.trace.parameters.values())


def settled(case: Case, found: Iterable[Finding]) -> Iterator[Finding]:
    """Yield ``found`` as the race leaves it: contested findings with what it measured, as errors or as less than that."""
    race, found = case.race, list(found)
    if race is None or race.outcome == "open":
        if race is None or not race.unbeaten or any(f.severity == "error" and not _by_learning(f, race) for f in found):
            yield from found
        else:
            yield from (f if _hopeless(f, case) else _unbeaten(f, race) for f in found)
        return
    told = race.outcome == "lost" and accused(found)
    asked = any(h.task == YOURS for h in race.heats)
    for f in found:
        if f.rule == "outperformed" and told:  # a finding that says what is wrong says by how much, too
            continue
        # What your own loss is learned with is nothing to be warned of.
        mild = f.severity == "note" or (f.severity == "warning" and not (asked and race.outcome == "held"))
        if f.rule not in CONTESTED or mild:
            yield f
        elif race.outcome == "lost":
            yield replace(f, summary=f"{f.summary}; {race.words}", fix=race.fix)
        else:
            summary = f"{f.summary}; but it learns: {race.words}"
            # What never learns is worth a warning, however well the rest does.
            mild = (asked or race.learned) and f.rule != "blocked-gradient"
            yield replace(f, severity="note" if mild else CONTESTED[f.rule], summary=summary, fix="")


def _by_learning(f: Finding, race: Race) -> bool:
    """Whether a finding rests on how well a task is learned: also that nothing moves, once training has moved it."""
    return f.rule in BY_LEARNING or (f.rule == "unresponsive" and race.moved)


def _hopeless(f: Finding, case: Case) -> bool:
    """Whether it says of an output that it starts beyond all targets, whatever a race shows."""
    r = case.response
    size = min(r.output_centred_rms or 0.0, r.with_unit_inputs or float("inf")) / (r.unit or 1.0)
    return f.rule == "unreachable-targets" and size > HOPELESS


def _unbeaten(f: Finding, race: Race) -> Finding:
    """The same, less than an error where it rests on how well a task is learned, and nobody learns any."""
    if f.severity != "error" or not _by_learning(f, race):
        return f
    but, cause = "but", f.cause
    if f.rule == "unresponsive":
        but = "but training moves it, and"
        cause = (
            "a few small steps do not show in the output, and many do: so it is where gradients are passed straight "
            "through (a codebook, a rounding)"
        )
    summary = f"{f.summary}; {but} repaired copies learn no better"
    return replace(f, severity=CONTESTED[f.rule], summary=summary, cause=cause, fix="")


@rule(
    "outperformed",
    family="function",
    severity="error",
    threshold="where the first look leaves a doubt: up to 40 Adam steps at the best of 3e-3, 1e-3 and 3e-4, on your loss, or else on every task that "
    "the output admits; as it is, less than half of the error is gone that is gone from a repaired copy, which loses 15 % at least",
    evidence="on 67 harmed foundry models a copy comes more than twice as far on 57 without a loss and on 62 with theirs, on 82 harmless and 79 sound "
    "ones on one and two; a model that nothing else speaks against must still be behind after 100 steps, which clears these",
    limits="a fault that no candidate repairs, and one that shows after hundreds of steps only, is not seen; a head that is far too large "
    "is one for a squared error and none for a cross-entropy: pass your loss",
)
def outperformed(case: Case) -> Iterator[Finding]:
    """The same model with other start values learns much better from the same data."""
    race = case.race
    if race is None or race.outcome != "lost" or race.closest is None:
        return
    names, heat = _names(case, race), race.closest
    yield finding(
        "outperformed",
        "error",
        names,
        f"other start values of the same model learn better: {race.words}",
        evidence={"task": heat.task, "steps": heat.steps, "gone": heat.gone, "repaired": heat.repaired},
        cause=_cause(case, race, names),
        fix=race.fix,
    )


def _names(case: Case, race: Race) -> list[str]:
    """What stands out of theory, single layers before a whole scheme; else what the winner changed most; else the first layer."""
    single = [s.name for s in case.culprits if not s.common]
    changed = list(race.apart)
    first = [x.name for x in case.trace.layers.values() if x.leaf][:1]
    return (single or [s.name for s in case.culprits] or changed or first)[:LISTED]


def _cause(case: Case, race: Race, names: list[str]) -> str:
    for s in case.culprits:
        if s.name in names[:1] and s.cause:
            return s.cause
    times = race.apart.get(names[0]) if names else None
    if times is None:
        return "the start values hold training up: other ones of the same model do not"
    return f"{names[0]} is {number(times)} times as large as in the copy that learns"
