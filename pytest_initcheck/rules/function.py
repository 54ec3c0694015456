"""Rules on the function: can it be moved, is it within reach, are near inputs treated alike."""

from __future__ import annotations

from collections.abc import Iterator

from ..localise import growth, typical_deviation
from ..records import Finding
from ..words import number
from .registry import Case, finding, rule

#: A network that moves less than this in three optimizer-sized steps is looked at harder.
SILENT = 1e-3
#: Movement of the output in one step beyond what published models show.
VIOLENT = 50.0
#: Loss at the start over the loss of an output that is zero.
CONFIDENT = 10.0
#: Share of the centred squared error on targets that are functions of the input, after 30 Adam steps at its better rate.
UNREACHED = 0.94
#: A network that moves by less than DEEP at first, and needs more than LATE steps of the fit to get below 90 %, sleeps on.
DEEP, LATE = 1e-6, 20
#: Beyond this share the steps have not even brought the output to where zeros are: 2.2 times as far from the targets.
STRAYED = 5.0
#: The same for token scores: share of a uniform guess's cross-entropy.
TOKENS_UNREACHED = 0.45
#: Correlation of the first step's movement with the direction it was asked to move in.
ASTRAY = 0.2
#: RMS over the samples of an output that no unit-scale loss pulls back within a short training.
OUT_OF_REACH = 40.0
#: An output of this RMS over the samples, or in all, is off the unit scale.
AMPLE = 3.0
FAR = 5.0
#: Relative change of the output over relative change of the input.
CHAOTIC = 28.0
#: Decades by which the weights are larger than theory asks for before they are blamed for chaos (kaiming over xavier: 0.15).
LOUD = 0.4
#: Chaos counts as the init's if smaller weights bring it down by this factor.
CURED = 0.5


def silent(case: Case) -> bool:
    """Whether the output hardly moves when every parameter takes optimizer-sized steps."""
    r = case.response
    return bool(r.movement) and max(r.movement) < SILENT


def asleep(case: Case) -> bool:
    """Whether a silent network does not wake up within the fit either, or so late that an ordinary training is over."""
    r = case.response
    if r.residual is None:
        return False
    late = max(r.movement) < DEEP and r.details.get("fit_steps", 0) > LATE
    return r.residual >= UNREACHED or late


@rule(
    "unresponsive",
    family="function",
    severity="error (warning where it wakes up within 30 Adam steps)",
    threshold=f"moves by less than {SILENT:g} in 3 steps of 1e-3, and a fit of 30 Adam steps leaves {UNREACHED:.0%} of the error; "
    f"or it moves by less than {DEEP:g}, and needs more than {LATE} steps to get rid of the first 10 %",
    evidence="56 of 107 harmed trainability pairs move by less than 3e-7 and keep 99.9 % of the error; on 15 further architectures "
    "harmed ones keep 94 to 99 %; harmless ones that move by less than 1e-3 keep 91 % at most over five seeds, and none moves by less than 1e-5",
    limits="a network that needs a special optimizer or thousands of warm-up steps looks the same",
)
def unresponsive(case: Case) -> Iterator[Finding]:
    """No parameter can move the output sample by sample: the signal is dead, blocked, vanished, or the same for all inputs."""
    r = case.response
    if not silent(case) or r.residual is None:
        return
    moved = max(r.movement)
    dead = asleep(case)
    names = _where(case, dead=True)
    summary = (
        f"{len(r.movement)} optimizer steps move the output by {number(moved)} (at least {number(SILENT)} expected)"
        + (
            ""
            if dead
            else f", and it wakes up slowly: {number(100 * (1 - r.residual))} % of a fit within 30 Adam steps"
        )
    )
    yield finding(
        "unresponsive",
        "error" if dead else "warning",
        names,
        summary,
        evidence={"movement": moved, "allowed": SILENT, "residual": r.residual, "predicted": r.predicted},
        cause=_cause(
            case, "the signal does not get through: the output is the same for all inputs, or its gradient vanishes"
        ),
        fix=_fix(case),
    )


@rule(
    "unreachable-targets",
    family="function",
    severity="error",
    threshold=f"output RMS over the samples above {OUT_OF_REACH:g}, or above {AMPLE:g} with {STRAYED:g} times the error of zeros after "
    f"30 Adam steps; or a fit of 30 Adam steps leaves {UNREACHED:.1%} of the error "
    f"while the first step points elsewhere (correlation below {ASTRAY:g}); for token scores, {TOKENS_UNREACHED:.0%} of chance",
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
    unit = r.details.get("unit", 1.0)
    size = r.details.get("output_centred_rms", 0.0) / unit
    # Cross-entropy forgives large scores, and for tokens it has been asked.
    if size > OUT_OF_REACH and not r.details.get("token_fit"):
        yield finding(
            "unreachable-targets",
            "error",
            _where(case),
            f"the output starts at RMS {number(size)} over the samples (at most {number(OUT_OF_REACH)})",
            evidence={"output_rms": size, "allowed": OUT_OF_REACH},
            cause=_cause(case, "the forward signal grows from layer to layer"),
            fix=_fix(case),
        )
    elif r.residual is not None and r.details.get("token_fit"):
        if r.residual >= TOKENS_UNREACHED:
            yield finding(
                "unreachable-targets",
                "error",
                _where(case),
                f"30 Adam steps towards a fixed class for every token leave {number(100 * r.residual)} % of a uniform guess's "
                f"cross-entropy (at most {number(100 * TOKENS_UNREACHED)} %)",
                evidence={"residual": r.residual, "allowed": TOKENS_UNREACHED},
                cause=_cause(
                    case,
                    "the scores of a token do not follow the token: a layer is far too loud, or attention is one-hot",
                ),
                fix=_fix(case),
            )
    elif r.residual is not None and r.residual >= STRAYED and size > AMPLE:
        yield finding(
            "unreachable-targets",
            "error",
            _where(case),
            f"the output starts at RMS {number(size)} over the samples, and 30 Adam steps leave {number(100 * r.residual)} % of a fit's "
            f"error (at most {number(100 * STRAYED)} %)",
            evidence={"output_rms": size, "residual": r.residual, "allowed": STRAYED},
            cause=_cause(case, "the forward signal grows from layer to layer"),
            fix=_fix(case),
        )
    elif (
        r.residual is not None
        and r.residual >= UNREACHED
        and r.alignment is not None
        and r.alignment < ASTRAY
        # Large networks that train go astray at tiny batches, too: an init fault must show in the init.
        and (size > AMPLE or r.details.get("output_rms", 0.0) / unit > FAR or any(s.loud for s in case.culprits))
    ):
        yield finding(
            "unreachable-targets",
            "error",
            _where(case),
            f"30 Adam steps leave {number(100 * r.residual)} % of a fit's error, and a step moves the output with correlation "
            f"{number(r.alignment)} to where it was asked to go (at least {number(ASTRAY)})",
            evidence={"residual": r.residual, "alignment": r.alignment, "allowed": UNREACHED},
            cause=_cause(
                case,
                "the output does not follow its parameters: single layers are far too loud, or their units are shut",
            ),
            fix=_fix(case),
        )


@rule(
    "chaotic-response",
    family="function",
    severity="error (note where no smaller weights would cure it)",
    threshold=f"a 1 % disturbance of the input changes the output by more than {CHAOTIC:g} %, and smaller weights bring that "
    f"below {CURED:.0%} of it",
    evidence="harmless and clean pairs: median 1.4, the largest 24.8 (a clean sine network: 15.5); over-scaled recurrent and tanh "
    "networks: 30 to 150. 70 of 826 published models lie above 35, batch-norm stacks whose chaos no scale of the weights changes",
    limits="needs inputs that can be disturbed: floating ones, or ids that go through an embedding module",
)
def chaotic_response(case: Case) -> Iterator[Finding]:
    """Inputs that are nearly equal give unrelated outputs: such a network memorises and does not generalise."""
    r = case.response
    if r.sensitivity is None or not r.sensitivity > CHAOTIC:
        return
    cured = r.details.get("sensitivity_if_smaller")
    loud = [s for s in case.culprits if s.loud and s.kind != "bias" and not s.common]
    own = bool(loud) or (cured is not None and cured < CURED * r.sensitivity and typical_deviation(case.trace) > LOUD)
    yield finding(
        "chaotic-response",
        "error" if own else "note",
        _where(case),
        f"a disturbance of the input by 1 % changes the output by {number(r.sensitivity)} % (at most {number(CHAOTIC)} %)",
        evidence={"sensitivity": r.sensitivity, "allowed": CHAOTIC, "with_smaller_weights": cured},
        cause=_cause(case, "the weights amplify differences from layer to layer")
        if own
        else "no weight is larger than its fan-in asks for: the architecture does this (batch norms without zero-init residuals do), "
        "and such models train",
        fix=_fix(case) if own else "",
    )


@rule(
    "explosive-response",
    family="function",
    severity="warning",
    threshold=f"the first optimizer step of 1e-3 moves the output by more than {VIOLENT:g}",
    evidence="published models of 5M to 90M parameters move by 0.0014 to 43 after two such steps; over-scaled harmed pairs by 37 and more",
    limits="a smaller learning rate is enough where the output itself is within reach; that is why this is no error",
)
def explosive_response(case: Case) -> Iterator[Finding]:
    """One optimizer step throws the output far away: training diverges at ordinary learning rates."""
    r = case.response
    if r.movement and r.movement[0] > VIOLENT:
        yield finding(
            "explosive-response",
            "warning",
            _where(case),
            f"one step of 1e-3 moves the output by {number(r.movement[0])} (at most {number(VIOLENT)})",
            evidence={"movement": r.movement[0], "allowed": VIOLENT, "predicted": r.predicted},
            cause=_cause(case, "every weight is amplified by the layers behind it"),
        )


@rule(
    "overconfident-output",
    family="function",
    severity="warning",
    threshold=f"the loss at the start is more than {CONFIDENT:g} times the loss of an output that is zero everywhere",
    evidence="clean trainability models start at 0.8 to 6.9 times the loss of a constant predictor, 95 % of the harmless pairs below 5.4; "
    "a quarter of the harmed ones above 149",
    limits="needs a loss, and an output that is one tensor; a loss whose zero output is perfect (a residual) is not judged",
)
def overconfident_output(case: Case) -> Iterator[Finding]:
    """The model starts far worse than one that says nothing, and spends its first steps on unlearning that."""
    nothing, loss = case.response.details.get("loss_of_zero_output"), case.trace.loss
    if nothing is None or loss is None or not 0 < nothing < float("inf") or not loss > CONFIDENT * nothing:
        return
    yield finding(
        "overconfident-output",
        "warning",
        _where(case),
        f"the loss starts at {number(loss)}, {number(loss / nothing)} times that of an output of zeros (at most {number(CONFIDENT)})",
        evidence={"loss": loss, "loss_of_zero_output": nothing, "allowed": CONFIDENT},
        cause=_cause(case, "the output is too large at the start: scale down the last layer"),
    )


def _where(case: Case, *, dead: bool = False) -> list[str]:
    names = [s.name for s in case.culprits[:5]]
    if names:
        return names
    layers = [x for x in case.trace.layers.values() if x.leaf]
    return [layers[0].name] if layers else []


def _cause(case: Case, otherwise: str) -> str:
    if not case.culprits:
        fitted = growth(case.trace)
        if fitted is None or abs(fitted.decades) * fitted.steps < 2:
            return otherwise
        return f"the signal changes x{number(fitted.factor)} a layer over {fitted.steps + 1} layers"
    s = case.culprits[0]
    if s.common:
        fitted = growth(case.trace)
        over = ""
        if fitted is not None:
            over = f"; fitted over {fitted.steps + 1} layers: x{number(fitted.factor)} a layer"
        return f"{s.cause}; most layers are off by as much, so it is the scheme{over}"
    return str(s.cause)


def _fix(case: Case) -> str:
    return str(case.culprits[0].fix) if case.culprits else ""
