"""Rules on the samples of a batch: what is common to their outputs, and whether they read each other."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .. import thresholds
from ..records import Finding
from ..words import number, percent
from .function import silent
from .registry import Case, finding, rule

#: RMS of what is common to all samples of an output.
OFFSET = 10.0
#: Loss at the start over the loss of zeros, from which on such an offset is an error.
VAST = 1e3


@rule(
    "offset-output",
    family="function",
    severity=f"warning; with a loss, error from {VAST:g} times the loss of an output of zeros",
    threshold=f"the mean of the output over the samples has RMS above {OFFSET:g}; with a loss, also {thresholds.CONFIDENT:g} times the loss of zeros",
    evidence="sound initializations of 23 families: 5.1 at most; harmless ones 17, and one head of 100 times its scale 45. Losses above 1e3 "
    "times that of zeros are of harmed models alone (hurt ones reach 850, harmless ones 35)",
    limits="targets that lie so far from zero on purpose: give the loss, which tells; token scores that a fit learns are not judged",
)
def offset_output(case: Case) -> Iterator[Finding]:
    """All samples start with a large part of the output in common, which training has to take away first."""
    r, t = case.response, case.trace
    if not r.movement or silent(case) or r.output_rms is None or r.output_centred_rms is None or (t.batch or 0) < 2:
        return
    varying = r.output_centred_rms / r.unit
    # The mean over few samples has a share of what varies.
    common = math.sqrt(max((r.output_rms / r.unit) ** 2 - varying**2 * (1 + 1 / ((t.batch or 2) - 1)), 0.0))
    learned = r.token_fit and r.residual is not None and r.residual < thresholds.TOKENS_UNREACHED
    if not OFFSET < common < math.inf or varying > thresholds.OUT_OF_REACH or learned:
        return
    nothing, loss = t.loss_of_zero_output, t.loss
    told = loss is not None and nothing is not None and 0 < nothing < math.inf
    times = loss / nothing if told and loss is not None and nothing else None
    if times is not None and not times > thresholds.CONFIDENT:
        return
    last = [x for x in t.layers.values() if x.leaf]
    names = [s.name for s in case.culprits[:3]] or [x.name for x in last[-1:]]
    yield finding(
        "offset-output",
        "error" if times is not None and times > VAST else "warning",
        names,
        f"the outputs of all samples have {number(common)} (RMS) in common (at most {number(OFFSET)})"
        + (f", and the loss starts at {number(times)} times that of zeros" if times is not None else ""),
        evidence={
            "offset": common,
            "allowed": OFFSET,
            "output_rms": r.output_rms,
            "loss": loss,
            "loss_of_zero_output": nothing,
        },
        cause=case.culprits[0].cause
        if case.culprits
        else "a bias of the last layer, or features whose mean is far from zero (inputs that are not centred, ReLU stacks)",
    )


@rule(
    "mixed-samples",
    family="signal",
    severity="warning where a softmax runs along the samples; else note",
    threshold=f"another sample in one place of the batch changes the outputs of the others by more than {thresholds.MIXED:g} of their RMS, "
    "batch norms kept as they were",
    evidence="each sample for itself: rounding, 1e-7 at most; softmax over a batch of 32: 1e-2",
    limits="graphs, sequences with time first, contrastive tables and statistics over a minibatch do this on purpose",
)
def mixed_samples(case: Case) -> Iterator[Finding]:
    """The output for one sample depends on the others in its batch: training and use see different functions."""
    r = case.response
    if r.mixing is None or r.mixed_at is None:
        return
    yield finding(
        "mixed-samples",
        "warning" if r.mixed_by_softmax else "note",
        [r.mixed_at or "(model)"],
        f"another sample in its batch changes the output of a sample by {percent(r.mixing)} (batch norms apart)",
        evidence={"change": r.mixing, "allowed": thresholds.MIXED},
        cause="a softmax runs along the samples: give it the dimension of the classes"
        if r.mixed_by_softmax
        else "the samples are read together: on purpose (a graph, time first, statistics over the batch), or a dimension is mistaken",
    )
