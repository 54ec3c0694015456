"""Rules on structure: units and layers that start as copies of each other, and scales that stand out."""

from __future__ import annotations

from collections.abc import Iterator

from .. import thresholds
from ..records import Finding, ParameterRecord
from ..words import and_more, number
from .named import inside
from .registry import Case, finding, rule

#: Share of a layer's units with an exact twin from which the layer cannot use its width.
TWINS = 0.5
#: Share of a change of the state that must be left one step later.
CUT = 1e-3
#: Share of a recurrent state at its bounds: the geometric middle between harmless (4 %) and harmed (27 %) pairs.
FULL = 0.1
#: Norm scales from which on their mean says what they were drawn around.
SCALES = 8
#: Share of a change of the state that is left one step later, from which on the recurrent weight amplifies: between harmless
#: pairs with saturated gates (0.4 and 0.67, their input weights alone are loud) and N(0, 1) weights (1.0 and more).
AMPLIFIED = 0.8
#: Factor by which single weights stand out before they are worth a warning, in decades.
MISMATCH = 0.8


@rule(
    "duplicate-units",
    family="structure",
    severity="error",
    threshold=f"at least {TWINS:.0%} of a weight's output units have exactly the same incoming weights, not all zero",
    evidence="all 48 injected cases of constant rows or constant weights; no published model at its default init",
    limits="units whose outgoing weights differ are told apart after a step; the layer still starts with the rank of one unit",
)
def duplicate_units(case: Case) -> Iterator[Finding]:
    """Units of a layer start as exact copies: they get the same gradient and stay one unit."""
    twins = [
        p for p in case.trace.parameters.values() if p.twin_rows >= TWINS and p.value is not None and p.value.rms > 0
    ]
    if not twins:
        return
    names = [p.name for p in sorted(twins, key=lambda p: -p.twin_rows)]
    constant = all(p.value is not None and p.value.min == p.value.max for p in twins)
    yield finding(
        "duplicate-units",
        "error",
        names,
        f"{number(100 * twins[0].twin_rows)} % of the units of {names[0]} have an exact twin{and_more(len(names), 'more weights')}",
        evidence={"share": twins[0].twin_rows, "weights": len(names)},
        cause="the weight is one constant" if constant else "the rows of the weight are copies of each other",
    )


@rule(
    "cloned-layers",
    family="structure",
    severity="note",
    threshold="two weights of the same shape with exactly the same values, not constant",
    evidence="nn.TransformerEncoder deep-copies one layer (pytorch #72253); such models train",
    limits="compares mean, std and extremes rather than every value",
)
def cloned_layers(case: Case) -> Iterator[Finding]:
    """Layers start as copies of one another."""
    groups: dict[tuple[object, ...], list[ParameterRecord]] = {}
    for p in case.trace.parameters.values():
        if (
            p.value is not None
            and len(p.shape) > 1
            and p.value.count >= 64
            and p.value.min < p.value.max
            and p.twin_rows < TWINS
        ):
            groups.setdefault((p.shape, p.value.mean, p.value.std, p.value.min, p.value.max), []).append(p)
    clones = [g for g in groups.values() if len(g) > 1]
    if clones:
        names = [p.name for p in max(clones, key=len)]
        yield finding(
            "cloned-layers",
            "note",
            names,
            f"{len(names)} weights start with the same values: {names[0]} and {names[1]}"
            + (", ..." if len(names) > 2 else ""),
            evidence={"weights": len(names)},
            cause="a layer was deep-copied after its initialization (nn.TransformerEncoder does), so all copies start equal",
            advice="initialize every copy anew after copying: copy.apply(init_weights), or pytest_initcheck.apply_init(model)",
        )


@rule(
    "shared-module",
    family="structure",
    severity="note",
    threshold="one module with parameters that is registered several times in the same module",
    evidence="[layer] * n in a ModuleList is one layer n times; ALBERT and the heads of DETR share on purpose, and train",
    limits="weights that are tied one by one (an embedding and a head) are no modules, and not meant",
)
def shared_module(case: Case) -> Iterator[Finding]:
    """Several entries of a container are one and the same module, so they share their weights for ever."""
    for names in case.shared:
        yield finding(
            "shared-module",
            "note",
            names,
            f"{names[0]} is registered {len(names)} times: {names[1]}{', ...' if len(names) > 2 else ''} is the same module, with the same weights",
            evidence={"times": len(names)},
            cause="one object was put in several places ([layer] * n): the weights are shared; if that is not meant, make one for each",
        )


@rule(
    "gain-mismatch",
    family="structure",
    severity="warning",
    threshold=f"a weight, norm scale or embedding that stands out by a factor of {10**MISMATCH:.0f} from theory and from its peers, "
    "on the loud side",
    evidence="single weights scaled by 10 or 100 slow down or stop plain SGD on 12 of 12 architectures, and harm a third of them under Adam",
    limits="a scale that a norm layer absorbs does no harm; that is why this never fails a model by itself",
)
def gain_mismatch(case: Case) -> Iterator[Finding]:
    """A parameter's scale is far from what its fan-in and the nonlinearity behind it ask for."""
    off = [s for s in case.culprits if not s.common and s.decades > MISMATCH and s.kind != "bias"]
    if not off:
        return
    yield finding(
        "gain-mismatch",
        "warning",
        [s.name for s in off],
        f"{off[0].name} stands out by x{number(off[0].factor)}{and_more(len(off))}",
        evidence={"decades": off[0].decades, "expected_std": off[0].expected},
        cause=off[0].cause,
    )


@rule(
    "norm-scale-sign",
    family="structure",
    severity="warning",
    threshold=f"a norm layer's scales of both signs, {SCALES} or more, whose mean is smaller than their std",
    evidence="a DCGAN whose norm scales are drawn from N(0, 0.02), as its weights are, rather than N(1, 0.02), loses the signal at "
    "every norm; constant scales (0 is a gate, 1 usual) and draws around 1 are not touched",
    limits="scales that training spread around zero look the same",
)
def norm_scale_sign(case: Case) -> Iterator[Finding]:
    """Norm scales are drawn around zero, as weights are, not around one: a half of the channels is flipped, all are faint."""
    off = [p for p in case.trace.parameters.values() if _around_zero(p)]
    if off:
        value = off[0].value
        assert value is not None
        yield finding(
            "norm-scale-sign",
            "warning",
            [p.name for p in off],
            f"{off[0].name} has mean {number(value.mean)} and std {number(value.std)} (mean 1 is usual)"
            + (f" (and {len(off) - 1} more)" if len(off) > 1 else ""),
            evidence={"mean": value.mean, "std": value.std, "scales": len(off)},
            cause=f"the scales of a norm layer are drawn around zero, as weights are: it multiplies what it has normalized by "
            f"{number(value.rms)}, half of the channels with the sign turned",
            fix="\n".join(f"torch.nn.init.ones_(model.get_parameter({p.name!r}))" for p in off),
        )


def _around_zero(p: ParameterRecord) -> bool:
    v = p.value
    if p.role != "norm-scale" or v is None or v.count < SCALES or not v.finite:
        return False
    return v.min < 0 < v.max and abs(v.mean) < v.std


@rule(
    "nonzero-bias",
    family="structure",
    severity="warning",
    threshold=f"a bias or shift whose RMS is {thresholds.LARGE_BIAS:g} or more",
    evidence="biases of -10 and +10 harm 25 of 66 trainability pairs and slow down most others under plain SGD; 0 is every scheme's value",
    limits="a bias that is meant to start a gate open or shut (a prior of rare positives in detection: -4.6) is reported, too",
)
def nonzero_bias(case: Case) -> Iterator[Finding]:
    """An offset is large against the signal that it is added to."""
    off = [s for s in case.culprits if s.kind == "bias"]
    if off:
        yield finding(
            "nonzero-bias",
            "warning",
            [s.name for s in off],
            f"{off[0].name} starts at RMS {number(off[0].rms)} (below {number(thresholds.LARGE_BIAS)}){and_more(len(off))}",
            evidence={"biases": len(off)},
            cause=off[0].cause,
        )


@rule(
    "cut-recurrence",
    family="structure",
    severity="error",
    threshold=f"less than {CUT:g} of a change of the hidden state is left one time step later",
    evidence="the harmed GRU with its reset and update gates shut keeps 6e-5; every harmless recurrent pair, zero weights and shut "
    "forget gates among them, keeps 0.12 to 3",
    limits="sees torch.nn.RNN, LSTM, GRU and their cells, not recurrences written by hand",
)
def cut_recurrence(case: Case) -> Iterator[Finding]:
    """A recurrent layer forgets its state at every step, so it can learn nothing about the past."""
    for layer, left in case.memory.items():
        if left < CUT:
            own = [s for s in case.culprits if inside(layer, s.name)]
            yield finding(
                "cut-recurrence",
                "error",
                [s.name for s in own] or [layer],
                f"{layer or 'the model'} keeps {number(left)} of its state from one step to the next (at least {number(CUT)})",
                evidence={"kept": left, "allowed": CUT},
                cause=own[0].cause
                if own
                else "the gates that carry the state are shut for every sample, or the recurrent weight is zero",
            )


@rule(
    "saturated-state",
    family="structure",
    severity="error",
    threshold=f"at least {FULL:.0%} of a recurrent layer's state is at its bounds (above {thresholds.FLAT:g}), or its weights alone put "
    f"{FULL:.0%} of the pre-activations of its gates where these are flat and leave {AMPLIFIED:.0%} or more of a change of the state a step later",
    evidence="harmed recurrent pairs with over-scaled weights start with 27 to 72 % of their state at its bounds, harmless ones with "
    "4 % at most; weights of any scheme in use saturate 0.7 % of the gates, N(0, 1) weights 15 to 77 %; loud input weights "
    "alone (31 and 36 %) are harmless, the state keeps 0.4 and 0.67 of a change there and 1 to 2.4 with N(0, 1) weights",
    limits="sees torch.nn.RNN with tanh, LSTM, GRU and their cells; gates are asked with inputs of unit RMS and without biases",
)
def saturated_state(case: Case) -> Iterator[Finding]:
    """The state of a recurrent layer sits at its bounds for almost every sample, so neither input nor weights move it."""
    for layer in case.trace.layers.values():
        if layer.name in case.memory and layer.saturated is not None and layer.saturated >= FULL:
            own = [s for s in case.culprits if inside(layer.module, s.name)]
            yield finding(
                "saturated-state",
                "error",
                [s.name for s in own] or [layer.name],
                f"{number(100 * layer.saturated)} % of the state of {layer.name} is at its bounds (below {number(100 * FULL)} %)",
                evidence={"share": layer.saturated, "allowed": FULL},
                cause=own[0].cause if own else "the input of the layer, or its weights, are far too large for its tanh",
            )
            return
    for name, share in case.gates.items():
        if share >= FULL and case.memory.get(name, 0.0) >= AMPLIFIED:
            own = [s for s in case.culprits if inside(name, s.name) and s.decades > 0]
            recurrent = [p.name for p in case.trace.parameters.values() if inside(name, p.name) and p.role == "weight"]
            drives = (
                f"its weights put {number(100 * share)} % of the gates of {name or 'the model'} where they are flat"
            )
            yield finding(
                "saturated-state",
                "error",
                [s.name for s in own] or recurrent or [name],
                f"{number(100 * share)} % of the gates of {name or 'the model'} are saturated by its weights (below {number(100 * FULL)} %)",
                evidence={"gates": share, "allowed": FULL},
                cause=own[0].cause if own else drives,
            )


@rule(
    "unlucky-seeds",
    family="structure",
    severity="warning",
    threshold="some, but not all, of the initialisations that `seeds` asks for have an error",
    evidence="verdicts on clean trainability models agree over 20 seeds; one that depends on the seed is at the edge of a fault",
    limits="needs a factory and seeds=N; given by the check itself, after the rules have judged every seed",
)
def unlucky_seeds(_case: Case) -> Iterator[Finding]:
    """Whether this model starts healthy depends on the seed."""
    return iter(())
