"""Rules on what only sharding can break: what ranks should have in common and have not, or have in common and should not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from .. import thresholds
from ..records import Finding, Spread
from ..words import and_more, number, percent, some
from .registry import Case, finding, rule

#: Share of a parameter's parts that are another part bit for bit, from which its width is not used.
COPIED = 0.5
#: Factor by which the std of one rank's parts is off from the others' before it counts, beside the standard errors.
APART = 1.2
#: Share of the split weights in which the same ranks must be apart: parts of one weight may differ on purpose (q, k and v in one).
MOST = 0.5


@rule(
    "replicas-differ",
    family="sharding",
    severity="error (a parameter), warning (a buffer)",
    threshold="any bit differs between two ranks that hold the same part of a parameter or buffer",
    evidence="data parallelism averages gradients and never weights: replicas that start apart stay apart, and no rank trains the "
    "model that is saved; DDP sends rank 0's values when it wraps, fully_shard and parallelize_module send nothing",
    limits="a buffer that differs on purpose (a rank's own offset) is a warning all the same; the rest of the report is about the "
    "first rank's values",
)
def replicas_differ(case: Case) -> Iterator[Finding]:
    """Ranks hold different values of what each of them should hold the same of."""
    for buffer in (False, True):
        odd = [s for s in case.spread if s.differing and s.buffer is buffer]
        if not odd:
            continue
        ranks = odd[0].differing
        what = "buffer" if buffer else "parameter"
        yield finding(
            "replicas-differ",
            "warning" if buffer else "error",
            [s.name for s in odd],
            f"{odd[0].name} has other values on {_ranks(ranks)} than on the first that holds the same part"
            f"{and_more(len(odd), f'more {what}s')}",
            evidence={"ranks": list(ranks), what + "s": len(odd)},
            cause="each rank drew its own values, or changed them after they were the same",
            advice="seed every rank alike before what is replicated is drawn, or send one rank's values: "
            "torch.distributed.broadcast(tensor, 0)",
        )


@rule(
    "copied-shards",
    family="sharding",
    severity="error",
    threshold=f"at least {COPIED:.0%} of the parts of a split weight, of 64 values or more and not constant, are another part bit for bit",
    evidence="every rank drew its part with the same seed (values drawn on to_local() under one manual_seed): units of one rank are those "
    "of another, so a weight over n ranks has the width of one part",
    limits="parts that are equal on purpose: none is known",
)
def copied_shards(case: Case) -> Iterator[Finding]:
    """Parts of a weight on different ranks are copies of each other."""
    copies = [s for s in case.spread if not s.buffer and s.split and s.copies >= COPIED]
    if copies:
        yield finding(
            "copied-shards",
            "error",
            [s.name for s in copies],
            f"{percent(copies[0].copies)} of the parts of {copies[0].name} are copies of each other"
            f"{and_more(len(copies), 'more weights')}",
            evidence={"share": copies[0].copies, "weights": len(copies)},
            cause="every rank drew its own part of the weight from the same seed (on a mesh of CPUs, torch.nn.init of a DTensor does)",
            advice="seed each part by its place in the mesh, or let pytest_initcheck.apply_init draw the whole weight and keep the part",
        )


@rule(
    "shards-drawn-apart",
    family="sharding",
    severity="warning",
    threshold=f"the parts of the same ranks have a std off by a factor of {APART:g} and {thresholds.STANDARD_ERRORS:g} standard errors "
    f"in at least {MOST:.0%} of the split weights, and in two",
    evidence="an init that ran before sharding on some ranks only leaves each weight half from one distribution and half from another",
    limits="weights of a few hundred values do not tell; a model all of whose weights are fused from parts of different scale, one a rank, "
    "would be reported",
)
def shards_drawn_apart(case: Case) -> Iterator[Finding]:
    """The parts that some ranks hold were drawn from another distribution than the others'."""
    asked = [s for s in case.spread if not s.buffer and s.split and len(s.holders) > 1 and any(s.stds)]
    apart = [(s, odd) for s in asked if (odd := _apart(s))]
    if len(apart) < 2:
        return
    ranks, times = Counter(odd for _, odd in apart).most_common(1)[0]
    if times < max(2, MOST * len(asked)):
        return
    names = [s.name for s, odd in apart if odd == ranks]
    first = next(s for s, odd in apart if odd == ranks)
    off = first.stds[first.holders.index(ranks[0])]
    usual = median(s for r, s in zip(first.holders, first.stds, strict=True) if r not in ranks)
    yield finding(
        "shards-drawn-apart",
        "warning",
        names,
        f"the part of {names[0]} on {_ranks(ranks)} has std {number(off)}, the others {number(usual)}{and_more(len(names), 'more weights')}",
        evidence={"ranks": list(ranks), "std": off, "std_elsewhere": usual, "weights": times},
        cause="an initialization ran on these ranks only, or not on these, before or after the model was sharded",
        advice="initialize after sharding, on every rank: model.to_empty(device=...), then model.init_weights()",
    )


@rule(
    "local-fan",
    family="sharding",
    severity="warning",
    threshold="a weight's values are those of a scheme with a name for the fans of one rank's part, and of none for the weight's own",
    evidence="an init that reads the shape of the local tensor takes fan / ranks for the fan: the std is sqrt(ranks) times what was meant, "
    "and another one for each number of ranks",
    limits="only where fans are split (the input side, or a scheme that counts both); the values of one scheme for a part can be those of "
    "another for the whole (LeCun's on two ranks are He's), which is not reported; a std chosen by hand may coincide with a scheme",
)
def local_fan(case: Case) -> Iterator[Finding]:
    """A weight was initialized by the shape of one rank's part of it."""
    found = [(s, s.local_origin) for s in case.spread if s.local_origin]
    if not found:
        return
    first, scheme = found[0]
    p = case.trace.parameters.get(first.name)
    yield finding(
        "local-fan",
        "warning",
        [s.name for s, _ in found],
        f"{first.name} is drawn as {scheme} of one rank's part, not of the whole weight{and_more(len(found), 'more weights')}",
        evidence={"std": p.value.std if p is not None and p.value is not None else None, "factor": first.local_factor},
        cause=f"the fan was read from the local shape: the std is off by a factor of {number(first.local_factor)}, the root of the share of the fan "
        "that one rank holds",
        advice="initialize the DTensor, whose shape is the whole one, not its to_local()",
    )


def _apart(s: Spread) -> tuple[int, ...]:
    """Ranks whose part has another std than the middle one of the parts, beyond what chance explains."""
    middle = sorted(s.stds)[(len(s.stds) - 1) // 2 if len(s.stds) > 2 else -1]
    reference = s.stds.index(middle)
    found = []
    for i, std in enumerate(s.stds):
        if i == reference:
            continue
        if not std or not middle:
            apart = bool(std) != bool(middle)
        else:
            error = math.sqrt(sum(_variance(s.kurtoses[j], s.counts[j]) for j in (i, reference))) / 2
            distance = abs(math.log(std / middle))
            apart = distance > math.log(APART) and distance > thresholds.STANDARD_ERRORS * error
        if apart:
            found.append(s.holders[i])
    return tuple(found)


def _variance(kurtosis: float, count: int) -> float:
    """Of the logarithm of a sample variance."""
    return (max(kurtosis, 1.8) - 1) / count if kurtosis == kurtosis else math.inf


def _ranks(ranks: Sequence[int]) -> str:
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {some(map(str, ranks), 8)}"
