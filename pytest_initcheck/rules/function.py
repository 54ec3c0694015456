"""Rules on the function: can it be moved, is it within reach, are near inputs treated alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .. import thresholds
from ..records import Finding
from ..words import number, percent, scientific
from .blame import LISTED, Blame, cause_of, for_silence, for_size, too_loud
from .culprits import growth, typical_deviation
from .registry import Case, finding, rule


def silent(case: Case) -> bool:
    """Whether the output hardly moves when every parameter takes optimizer-sized steps."""
    r = case.response
    return bool(r.movement) and max(r.movement) < thresholds.SILENT * r.reach


def asleep(case: Case) -> bool:
    """Whether a silent network does not wake up within the fit either, or so late that an ordinary training is over."""
    r = case.response
    if r.residual is None and case.streamed:  # no fit: certain only where no step brings any weight a gradient
        weights = [p for p in case.trace.parameters.values() if p.requires_grad and p.reached and len(p.shape) > 1]
        return bool(weights) and all(p.wakes is False for p in weights)
    if r.residual is None:
        return False
    late = max(r.movement) < thresholds.DEEP and (r.fit_steps or 0) > thresholds.LATE
    return r.residual >= thresholds.UNREACHED or late


def disturbed(sensitivity: float, size: float | None = None) -> str:
    """Return in words what the disturbance of the input that was tried (of relative size ``size``) does to the output."""
    if size == 0:
        return (
            f"a small disturbance of the input changes the output by {number(sensitivity)} times as much, by its slope"
        )
    size = thresholds.DISTURBANCE if size is None else size
    if size > 1:
        return f"inputs of other samples change the output by {percent(size * sensitivity)}"
    return f"a disturbance of the input by {percent(size)} changes the output by {percent(size * sensitivity)}"


@rule(
    "unresponsive",
    family="function",
    severity=f"error (warning where it wakes up within {thresholds.FIT_STEPS} Adam steps)",
    threshold=f"moves by less than {thresholds.SILENT:g} in {thresholds.LOOKS} steps of {scientific(thresholds.STEP)}, and a fit of "
    f"{thresholds.FIT_STEPS} Adam steps leaves {thresholds.UNREACHED:.0%} of the error; "
    f"or it moves by less than {thresholds.DEEP:g}, and needs more than {thresholds.LATE} steps to get rid of the first "
    f"{100 * (1 - thresholds.FIT_ENOUGH):.0f} %. Where fewer than {thresholds.WIDE:g} weights add up in a unit, or the output differs over the "
    f"samples by less than 1, it must move by as much less, {thresholds.FAINT * thresholds.SILENT:.0e} at the least",
    evidence="56 of 107 harmed trainability pairs move by less than 3e-7 and keep 99.9 % of the error; on 15 further architectures "
    "harmed ones keep 94 to 99 %; harmless ones that move by less than 1e-3 keep 91 % at most over five seeds, and none moves by less than 1e-5",
    limits="a network that needs a special optimizer or thousands of warm-up steps looks the same",
)
def unresponsive(case: Case) -> Iterator[Finding]:
    """No parameter can move the output sample by sample: the signal is dead, blocked, vanished, or the same for all inputs."""
    r = case.response
    if not silent(case) or (r.residual is None and not case.streamed):
        return
    moved = max(r.movement)
    dead = asleep(case)
    waking = (
        f"whether {thresholds.FIT_STEPS} Adam steps wake it was not asked"
        if r.residual is None
        else f"it wakes up slowly: {number(100 * (1 - r.residual))} % of a fit within {thresholds.FIT_STEPS} Adam steps"
    )
    blame = for_silence(case)
    summary = (
        f"{len(r.movement)} optimizer steps move the output by {number(moved)} (at least {number(thresholds.SILENT * r.reach)} expected)"
        + ("" if dead else f", and {waking}")
    )
    yield finding(
        "unresponsive",
        "error" if dead else "warning",
        blame.names,
        summary,
        evidence={
            "movement": moved,
            "allowed": thresholds.SILENT * r.reach,
            "residual": r.residual,
            "predicted": r.predicted,
        },
        cause=blame.cause
        or "the signal does not get through: the output is the same for all inputs, or its gradient vanishes",
    )


@rule(
    "unreachable-targets",
    family="function",
    severity="error (warning where it is streamed and scores tokens)",
    threshold=f"output RMS over the samples above {thresholds.OUT_OF_REACH:g}, or above {thresholds.AMPLE:g} with "
    f"{thresholds.STRAYED:g} times the error of zeros after {thresholds.FIT_STEPS} Adam steps; or a fit of "
    f"{thresholds.FIT_STEPS} Adam steps leaves {thresholds.UNREACHED:.1%} of the error while the "
    f"first step points elsewhere (correlation below {thresholds.ASTRAY:g}); for token scores, {thresholds.TOKENS_UNREACHED:.0%} of chance",
    evidence="outputs of harmed pairs with an over-scaled layer: 56 and more; of harmless and clean ones: 30 at most. Of harmless "
    "pairs with a fit that fails (large logits, which cross-entropy forgives), the least correlation is 0.23; of harmed ones, the most 0.16. "
    "Token scores: harmed pairs keep 56 to 71 % of chance, harmless ones 37 % at most (hurt ones 33 to 48)",
    limits="an output in physical units (pixels, metres) can be that large on purpose: normalise it or silence the rule",
)
def unreachable_targets(case: Case) -> Iterator[Finding]:
    """The output starts too far from anything a loss on unit-scale targets asks for, or does not go where it is pushed."""
    r = case.response
    if not r.movement or silent(case):
        return
    size = (r.output_centred_rms or 0.0) / r.unit
    blame = for_size(case) if size > thresholds.AMPLE else _astray(case)
    # Cross-entropy forgives large scores, and for tokens it has been asked, unless weights come and go.
    perhaps = case.streamed and bool(r.token_fit) and r.residual is None
    if size > thresholds.OUT_OF_REACH and (perhaps or not r.token_fit):
        yield finding(
            "unreachable-targets",
            "warning" if perhaps else "error",
            blame.names,
            f"the output starts at RMS {number(size)} over the samples (at most {number(thresholds.OUT_OF_REACH)})"
            + (", and whether scores so large are forgiven was not asked" if perhaps else ""),
            evidence={"output_rms": size, "allowed": thresholds.OUT_OF_REACH},
            cause=blame.cause or "the forward signal grows from layer to layer",
        )
    elif r.residual is not None and r.token_fit:
        if r.residual >= thresholds.TOKENS_UNREACHED:
            yield finding(
                "unreachable-targets",
                "error",
                blame.names,
                f"{thresholds.FIT_STEPS} Adam steps towards a fixed class for every token leave {number(100 * r.residual)} % of a uniform guess's "
                f"cross-entropy (at most {number(100 * thresholds.TOKENS_UNREACHED)} %)",
                evidence={"residual": r.residual, "allowed": thresholds.TOKENS_UNREACHED},
                cause=blame.cause
                or "the scores of a token do not follow the token: a layer is far too loud, or attention is one-hot",
            )
    elif r.residual is not None and r.residual >= thresholds.STRAYED and size > thresholds.AMPLE:
        yield finding(
            "unreachable-targets",
            "error",
            blame.names,
            f"the output starts at RMS {number(size)} over the samples, and {thresholds.FIT_STEPS} Adam steps leave {_left(r.residual)} of a fit's "
            f"error (at most {number(100 * thresholds.STRAYED)} %)",
            evidence={"output_rms": size, "residual": r.residual, "allowed": thresholds.STRAYED},
            cause=blame.cause or "the forward signal grows from layer to layer",
        )
    elif (
        r.residual is not None
        and r.residual >= thresholds.UNREACHED
        and r.alignment is not None
        and r.alignment < thresholds.ASTRAY
        # Large networks that train go astray at tiny batches, too: an init fault must show in the init.
        and (
            size > thresholds.AMPLE
            or (r.output_rms or 0.0) / r.unit > thresholds.FAR
            or any(s.loud for s in case.culprits)
        )
    ):
        yield finding(
            "unreachable-targets",
            "error",
            blame.names,
            f"{thresholds.FIT_STEPS} Adam steps leave {_left(r.residual)} of a fit's error, and a step moves the output with correlation "
            f"{number(r.alignment)} to where it was asked to go (at least {number(thresholds.ASTRAY)})",
            evidence={"residual": r.residual, "alignment": r.alignment, "allowed": thresholds.UNREACHED},
            cause=blame.cause
            or "the output does not follow its parameters: single layers are far too loud, or their units are shut",
        )


#: So many times the error are not told in per cent.
MANY = 10.0


def _left(residual: float) -> str:
    """A share in per cent, or in times where it is many."""
    return f"{number(residual)} times" if residual >= MANY else f"{number(100 * residual)} %"


@rule(
    "chaotic-response",
    family="function",
    severity="error (note where no smaller weights would cure it)",
    threshold=f"a {percent(thresholds.DISTURBANCE)} disturbance of the input changes the output by more than "
    f"{percent(thresholds.CHAOTIC * thresholds.DISTURBANCE)}, and smaller weights bring that below {thresholds.CURED:.0%} of it",
    evidence="harmless and clean pairs: median 1.4, the largest 24.8 (a clean sine network: 15.5); over-scaled recurrent and tanh "
    "networks: 30 to 150. 70 of 826 published models lie above 35, batch-norm stacks whose chaos no scale of the weights changes",
    limits="needs inputs that can be disturbed a little: floating ones, or ids that go through an embedding module",
)
def chaotic_response(case: Case) -> Iterator[Finding]:
    """Inputs that are nearly equal give unrelated outputs: such a network memorises and does not generalise."""
    r = case.response
    if r.sensitivity is None or not r.sensitivity > thresholds.CHAOTIC:
        return
    cured = r.sensitivity_if_smaller
    allowed = number(thresholds.CHAOTIC) if r.disturbance == 0 else percent(thresholds.CHAOTIC * thresholds.DISTURBANCE)
    loud = [s for s in case.culprits if s.loud and s.kind != "bias" and not s.common]
    amplifiers = [s.name for s in case.culprits if too_loud(s)][:LISTED]
    own = bool(loud) or (
        cured is not None
        and cured < thresholds.CURED * r.sensitivity
        and typical_deviation(case.trace) > thresholds.OVERSIZED
    )
    yield finding(
        "chaotic-response",
        "error" if own else "note",
        amplifiers or _where(case),
        f"{disturbed(r.sensitivity, r.disturbance)} (at most {allowed})",
        evidence={"sensitivity": r.sensitivity, "allowed": thresholds.CHAOTIC, "with_smaller_weights": cured},
        cause=_cause(case, amplifiers) or "the weights amplify differences from layer to layer"
        if own
        else "no weight is larger than its fan-in asks for: the architecture does this (batch norms without zero-init residuals do), "
        "and such models train",
    )


@rule(
    "explosive-response",
    family="function",
    severity="warning",
    threshold=f"the first optimizer step of {scientific(thresholds.STEP)} moves the output by more than {thresholds.VIOLENT:g}",
    evidence="published models of 5M to 90M parameters move by 0.0014 to 43 after two such steps; over-scaled harmed pairs by 37 and more",
    limits="a smaller learning rate is enough where the output itself is within reach; that is why this is no error",
)
def explosive_response(case: Case) -> Iterator[Finding]:
    """One optimizer step throws the output far away: training diverges at ordinary learning rates."""
    r = case.response
    if r.movement and r.movement[0] > thresholds.VIOLENT:
        blame = for_size(case)
        yield finding(
            "explosive-response",
            "warning",
            blame.names,
            f"one step of {scientific(thresholds.STEP)} moves the output by {number(r.movement[0])} (at most {number(thresholds.VIOLENT)})",
            evidence={"movement": r.movement[0], "allowed": thresholds.VIOLENT, "predicted": r.predicted},
            cause=blame.cause or "every weight is amplified by the layers behind it",
        )


@rule(
    "overconfident-output",
    family="function",
    severity="warning",
    threshold=f"the loss at the start is more than {thresholds.CONFIDENT:g} times the loss of an output that is zero everywhere",
    evidence="clean trainability models start at 0.8 to 6.9 times the loss of a constant predictor, 95 % of the harmless pairs below 5.4; "
    "a quarter of the harmed ones above 149",
    limits="needs a loss, and an output that is one tensor; a loss whose zero output is perfect (a residual) is not judged",
)
def overconfident_output(case: Case) -> Iterator[Finding]:
    """The model starts far worse than one that says nothing, and spends its first steps on unlearning that."""
    nothing, loss = case.trace.loss_of_zero_output, case.trace.loss
    if nothing is None or loss is None or not 0 < nothing < float("inf") or not loss > thresholds.CONFIDENT * nothing:
        return
    blame = for_size(case)
    yield finding(
        "overconfident-output",
        "warning",
        blame.names,
        f"the loss starts at {number(loss)}, {number(loss / nothing)} times that of an output of zeros (at most {number(thresholds.CONFIDENT)})",
        evidence={"loss": loss, "loss_of_zero_output": nothing, "allowed": thresholds.CONFIDENT},
        cause=blame.cause or "the output is too large at the start: scale down the last layer",
    )


def _astray(case: Case) -> Blame:
    """What makes steps miss their targets: the loud first, and only where nothing is, whatever stands out."""
    loud = [s.name for s in case.culprits if too_loud(s)]
    return Blame(tuple(loud[:LISTED] or _where(case)), _cause(case, loud or None))


def _where(case: Case) -> list[str]:
    names = [s.name for s in case.culprits[:LISTED]]
    if names:
        return names
    layers = [x for x in case.trace.layers.values() if x.leaf]
    return [layers[0].name] if layers else []


def _cause(case: Case, names: Iterable[str] | None = None) -> str:
    """Why the first suspect, or the first of ``names``, is one."""
    wanted = None if names is None else set(names)
    suspects = [s for s in case.culprits if wanted is None or s.name in wanted]
    if not suspects:
        fitted = growth(case.trace)
        if fitted is None or abs(fitted.decades) * fitted.steps < 2:
            return ""
        return f"the signal changes x{number(fitted.factor)} a layer over {fitted.steps + 1} layers"
    return cause_of(case, suspects[0])
