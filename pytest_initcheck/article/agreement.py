"""When a number that somebody published, from one unseeded run, agrees with what is measured here over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ..statements.drift import limit

#: Chance that a number which is a run of ours like any other is called another.
CHANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Comparison:
    """One statement of the article, and whether it holds here.

    Attributes:
        what: the quantity, or the statement in words.
        published: the number that the article prints, or theory gives; ``None`` for a statement without one.
        measured: the mean (of logarithms: the geometric one) over the runs; ``None`` likewise.
        low: least number that the runs here make plausible for another such run.
        high: largest one.
        agrees: whether it holds.
    """

    what: str
    published: float | None
    measured: float | None
    low: float | None
    high: float | None
    agrees: bool


def compared(
    what: str, published: float, samples: Sequence[float], *, runs: float = 1.0, ratio: bool = False
) -> Comparison:
    """Return whether ``published`` is plausible as the mean of ``runs`` more samples: a prediction interval of Student's t.

    Args:
        what: the quantity.
        published: the number.
        samples: one number for each run; two or more.
        runs: samples that the published number is the mean of; ``math.inf`` for an expectation that theory gives.
        ratio: whether the samples are compared by their logarithms.
    """
    xs = [math.log(x) for x in samples] if ratio else list(samples)
    middle, spread = fmean(xs), stdev(xs)
    reach = limit(CHANCE, len(xs) - 1) * spread * math.sqrt(1 / runs + 1 / len(xs))
    low, high = middle - reach, middle + reach
    if ratio:
        middle, low, high = math.exp(middle), math.exp(low), math.exp(high)
    return Comparison(what, published, middle, low, high, low <= published <= high)


def holds(what: str, fact: bool) -> Comparison:
    """Return a statement that has no number."""
    return Comparison(what, None, None, None, None, fact)
