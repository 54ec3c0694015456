"""Rules on the signal: how its scale changes over depth, and units that say nothing.

Warnings: what the function does decides whether a model fails (see :mod:`.function`); these say what a plain optimizer, a
half-precision format or a deeper version of the same model will meet.
"""

from __future__ import annotations

from collections.abc import Iterator

from .. import thresholds
from ..records import Finding
from ..words import number, spelled
from .blame import behind, for_silence, too_loud, too_quiet, unscaled
from .culprits import Growth, growth
from .death import death
from .function import asleep, disturbed, silent
from .registry import Case, finding, rule

#: Factor over the whole depth from which a steady trend is worth a warning, and how steady it must be.
TREND, STEADY = 1e3, 0.8
#: Share of a layer's units that are zero, or flat, for every sample.
DEAD = 0.9
#: Largest finite float16, and its smallest positive number.
HALF_MAX, HALF_TINY = 65504.0, 5.96e-8
#: RMS of a first layer's input from which on it is far off unit scale.
UNSCALED = 6.0
#: Samples from which on "zero for every sample" says something about a unit.
SAMPLES = 8


@rule(
    "input-blind",
    family="signal",
    severity="error",
    threshold=f"the output's variation across samples is below {thresholds.BLIND:g} of its RMS, or its relative change under a disturbed input "
    f"below {thresholds.DEAF:g} of the disturbance, nor does it answer when samples are exchanged (or, of one sample, when its numbers are), "
    "and no step changes that (see unresponsive)",
    evidence="shut or saturated layers of harmed pairs: below 1e-7; zero heads and zero-init gates start there too, but move",
    limits="a batch of equal samples looks the same: that is said as a note; one sample of integers, or inputs that the model refuses to take in "
    "another order, are not judged, and the report says so",
)
def input_blind(case: Case) -> Iterator[Finding]:
    """Different inputs give the same output: somewhere on the way the samples became equal."""
    output, r = case.trace.output, case.response
    later = r.sensitivity_later
    if (
        not silent(case)
        and r.sensitivity is not None
        and later is not None
        and max(r.sensitivity, later) < thresholds.DEAF
    ):
        blame = for_silence(case)
        yield finding(
            "input-blind",
            "error",
            blame.names,
            f"{disturbed(r.sensitivity, r.disturbance)}, and {spelled(thresholds.LOOKS)} steps do not change that",
            evidence={"sensitivity": r.sensitivity, "sensitivity_later": later, "allowed": thresholds.DEAF},
            cause=blame.cause or "what the output varies with is not the input (dropout, noise)",
        )
        return
    if not silent(case) or not asleep(case) or output is None or output.variation is None:
        return
    end = death(case.trace, case.culprits)
    scheme = bool(case.culprits) and case.culprits[0].common  # then the signal faded on the way: unresponsive says so
    if output.rms == 0 or output.variation > thresholds.BLIND or end is None or scheme:
        return
    blame = for_silence(case)
    yield finding(
        "input-blind",
        "error",
        blame.names,
        f"all samples give the same output (variation {number(output.variation)}); they become equal at {end.layer.name}",
        evidence={"variation": output.variation, "allowed": thresholds.BLIND, "layer": end.layer.name},
        cause=blame.cause or f"{end.layer.name} returns the same values whatever comes in",
    )


@rule(
    "equal-samples",
    family="signal",
    severity="warning",
    threshold="two samples or more, and every input is the same for all of them",
    evidence="torch.zeros and torch.ones are what people pass to get something through; centred over equal samples every number is 0",
    limits="inputs that differ in a part that the model ignores count as different",
)
def equal_samples(case: Case) -> Iterator[Finding]:
    """The inputs say nothing, so neither can the check: whether the model tells samples apart was not judged."""
    if case.trace.equal_samples:
        yield finding(
            "equal-samples",
            "warning",
            (),
            "all samples of the inputs are equal: whether the model tells inputs apart was not judged",
            cause="pass inputs that differ, such as torch.randn of this shape, or a shape string",
        )


@rule(
    "unscaled-input",
    family="signal",
    severity="warning",
    threshold=f"the input of a first weighted layer, or what an embedding hands to one, has an RMS of {UNSCALED:g} or more, and no norm layer "
    "rescales what that layer makes of it",
    evidence="plain ReLU networks on inputs of mean 120 and std 30: their first steps are spent on the offset; pixels of 0 to 255 are RMS 150",
    limits="an embedding of positions or times that is written by hand may want large numbers",
)
def unscaled_input(case: Case) -> Iterator[Finding]:
    """What the first layer reads is far larger than the unit scale that every scheme of initialization assumes."""
    looked_up = {x.name for x in case.trace.layers.values() if (x.operation or "").startswith("embedding")}
    for layer in case.trace.layers.values():
        sources = case.trace.edges.get(layer.name, ())
        rows = bool(sources) and looked_up.issuperset(sources)
        size = layer.input.rms if layer.input is not None else layer.input_rms if rows else None
        roles = {p.role for n in layer.parameters if (p := case.trace.parameters.get(n)) is not None}
        if not size or not UNSCALED <= size < float("inf") or "weight" not in roles or "norm-scale" in roles:
            continue
        if layer.followed_by == "norm":
            continue
        given = (
            f"{unscaled(layer)}: normalize the inputs"
            if layer.input is not None
            else f"the embedding {sources[0]} hands {layer.name} its input at RMS {number(size)}, and no norm layer stands between them"
        )
        names = [*(n for s in sources for n in case.trace.layers[s].parameters), layer.name]
        yield finding(
            "unscaled-input",
            "warning",
            names,
            f"the input of {layer.name} has RMS {number(size)} (below {number(UNSCALED)})",
            evidence={"rms": size, "allowed": UNSCALED},
            cause=given,
        )
        return


@rule(
    "vanishing-activations",
    family="signal",
    severity="warning",
    threshold=f"activation RMS falls by {TREND:g} or more over depth, at a steady rate ({STEADY:.0%} of the steps follow it)",
    evidence="plain SGD makes under 5 % of the clean progress on the hurt trainability pairs that do this; Adam copes",
    limits="a trend through norm layers is not one; only runs of layers without them are fitted",
)
def vanishing_activations(case: Case) -> Iterator[Finding]:
    """The forward signal shrinks by a constant factor from layer to layer."""
    yield from _trend(case, "activation", shrinking=True)


@rule(
    "exploding-activations",
    family="signal",
    severity="warning",
    threshold=f"activation RMS grows by {TREND:g} or more over depth, at a steady rate ({STEADY:.0%} of the steps follow it)",
    evidence="as vanishing-activations; outputs that end above the reach of a loss are unreachable-targets, an error",
    limits="as vanishing-activations",
)
def exploding_activations(case: Case) -> Iterator[Finding]:
    """The forward signal grows by a constant factor from layer to layer."""
    yield from _trend(case, "activation", shrinking=False)


@rule(
    "vanishing-gradients",
    family="signal",
    severity="warning",
    threshold=f"gradient RMS falls by {TREND:g} or more from the last layer to the first, at a steady rate ({STEADY:.0%} of the steps follow it)",
    evidence="torchvision's alexnet (2e3, PyTorch's default init without normalization) trains under Adam and slowly under SGD",
    limits="as vanishing-activations",
)
def vanishing_gradients(case: Case) -> Iterator[Finding]:
    """The backward signal shrinks by a constant factor from layer to layer on its way back."""
    yield from _trend(case, "gradient", shrinking=True)


@rule(
    "exploding-gradients",
    family="signal",
    severity="warning",
    threshold=f"gradient RMS grows by {TREND:g} or more from the last layer to the first, at a steady rate ({STEADY:.0%} of the steps follow it)",
    evidence="as vanishing-gradients",
    limits="batch-norm stacks grow gradients towards the input and train: norm layers end a run",
)
def exploding_gradients(case: Case) -> Iterator[Finding]:
    """The backward signal grows by a constant factor from layer to layer on its way back."""
    yield from _trend(case, "gradient", shrinking=False)


@rule(
    "dead-units",
    family="signal",
    severity="warning",
    threshold=f"at least {DEAD:.0%} of a layer's units are zero for every sample, of {SAMPLES} samples or more",
    evidence="a ReLU layer at a healthy init has 0 to 30 % of such units in a batch of 8",
    limits=f"small batches and sparse experts: fewer samples than {SAMPLES} are not judged",
)
def dead_units(case: Case) -> Iterator[Finding]:
    """Most units of a layer are zero for every sample, so they get no gradient."""
    if case.trace.batch is None or case.trace.batch < SAMPLES:
        return
    dead = [
        x
        for x in case.trace.layers.values()
        if x.dead_units is not None and x.dead_units >= DEAD and x.activation.rms > 0
    ]
    if dead:
        worst = max(dead, key=lambda x: x.dead_units or 0.0)
        yield finding(
            "dead-units",
            "warning",
            [x.name for x in dead],
            f"{number(100 * (dead[0].dead_units or 0))} % of the units of {dead[0].name} are zero for every sample (below "
            f"{number(100 * DEAD)} %)",
            evidence={"share": worst.dead_units, "layers": len(dead)},
            cause=behind(case, dead[0]) or "the pre-activations are negative for all samples",
        )


@rule(
    "saturated-units",
    family="signal",
    severity="warning",
    threshold=f"at least {DEAD:.0%} of a bounded nonlinearity's outputs are on its flat part (above {thresholds.FLAT:g} of its range)",
    evidence="tanh networks at 3 times Xavier's scale: 60 to 99 %; at Xavier's scale: below 5 %",
    limits="a gate that is meant to start open or shut is reported, too: silence it by name",
)
def saturated_units(case: Case) -> Iterator[Finding]:
    """A tanh or sigmoid is flat where it starts, so no gradient passes it."""
    flat = [x for x in case.trace.layers.values() if x.saturated is not None and x.saturated >= DEAD]
    if flat:
        yield finding(
            "saturated-units",
            "warning",
            [x.name for x in flat],
            f"{number(100 * (flat[0].saturated or 0))} % of the outputs of {flat[0].name} are saturated (below {number(100 * DEAD)} %)",
            evidence={"share": flat[0].saturated, "layers": len(flat)},
            cause=behind(case, flat[0]) or "pre-activations far outside the nonlinearity's linear part",
        )


@rule(
    "half-precision-overflow",
    family="signal",
    severity="warning; note where no half precision was asked for",
    threshold=f"an activation above {HALF_MAX:g}, or a layer's gradient RMS below {HALF_TINY:g}, in a float16 probe or predicted from float32",
    evidence="the limits of the format (IEEE 754 binary16)",
    limits="without a loss the backward signal has unit RMS over the number of outputs: your loss may scale it differently",
)
def half_precision_overflow(case: Case) -> Iterator[Finding]:
    """Values that this model makes at the start do not fit float16."""
    asked = case.trace.dtype == "float16" or case.settings.dtype == "float16"
    layers = [x for x in case.trace.layers.values() if x.activation.finite and x.activation.count]
    loud = [x for x in layers if max(abs(x.activation.min), abs(x.activation.max)) > HALF_MAX]
    if loud:
        top = max(abs(loud[0].activation.min), abs(loud[0].activation.max))
        yield finding(
            "half-precision-overflow",
            "warning" if asked else "note",
            [x.name for x in loud],
            f"{loud[0].name} reaches {number(top)} (float16 ends at {number(HALF_MAX)})",
            evidence={"max": top, "allowed": HALF_MAX, "layers": len(loud)},
            cause="use bfloat16, or a smaller scale in front of this layer",
        )
    if asked and case.trace.dtype == "float16":
        faint = [x for x in layers if x.gradient is not None and x.gradient.finite and 0 < x.gradient.rms < HALF_TINY]
        if faint:
            yield finding(
                "half-precision-overflow",
                "warning",
                [x.name for x in faint],
                f"the gradient at {faint[0].name} has RMS {number(faint[0].gradient.rms if faint[0].gradient else None)} "
                f"(float16 loses what is below {number(HALF_TINY)})",
                evidence={"layers": len(faint), "allowed": HALF_TINY},
                cause="scale the loss (torch.amp.GradScaler), or use bfloat16",
            )


def _trend(case: Case, kind: str, *, shrinking: bool) -> Iterator[Finding]:
    r = case.response
    failed = (silent(case) and asleep(case)) or (r.output_centred_rms or 0.0) > thresholds.OUT_OF_REACH
    found = growth(case.trace, kind)
    if failed or found is None or found.steadiness < STEADY:
        return
    total = found.factor**found.steps
    if not (total <= 1 / TREND if shrinking else total >= TREND):
        return
    where = "from layer to layer" if kind == "activation" else "a layer on the way back"
    verb = "shrinks" if shrinking else "grows"
    yield finding(
        f"{'vanishing' if shrinking else 'exploding'}-{kind}s",
        "warning",
        [found.first, found.last],
        f"{kind} RMS {verb} x{number(found.factor)} {where}, x{number(total)} over {found.steps + 1} layers"
        f" (at most x{number(1 / TREND if shrinking else TREND)})",
        evidence={"factor": found.factor, "layers": found.steps + 1, "steadiness": found.steadiness},
        cause=f"{_scheme(case, shrinking)}; Adam copes, plain SGD will not, and {number(_fails_at(found))} layers of this would leave float32",
    )


def _scheme(case: Case, shrinking: bool) -> str:
    own = [s.cause for s in case.culprits if (too_quiet(s) if shrinking else too_loud(s))]
    return own[0] if own else "the gain of each layer is not the one that its nonlinearity asks for"


def _fails_at(found: Growth) -> float:
    """Layers after which a unit signal leaves float32 (1e-38 to 1e38) at this rate."""
    return float(round(38 / abs(found.decades))) if found.decades else float("inf")
