"""Whether a parameter's initialization has changed by more than two draws of the same initialization differ.

A baseline holds one draw and a run makes another, so every test here compares two samples. What is assumed: the values
of a parameter are independent draws from one continuous distribution (mixtures and exact zeros included) of finite
kurtosis. Values that hang together so that their mean and std vary less, as the rows of an orthogonal matrix do, make
the tests more cautious, not less.

No torch here, and no reading or writing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..records import ParameterRecord
from ..words import digits

Kind = Literal["added", "removed", "dtype", "shape", "not finite", "constant", "std", "mean"]

#: Tests of one parameter that is drawn: its std and its mean.
TESTS = 2
#: Standard errors by which a kurtosis is taken higher than it was estimated. Simulated for normal, uniform, Laplace,
#: log-uniform and mixed normal draws of 2 to 256 values: with 4, the most frequent false alarm has 0.6 of the rate asked
#: for; with 2, small log-uniform samples exceed it threefold.
CAUTION = 4.0
#: Values that a kurtosis is estimated from at most.
SEEN = 1 << 14
#: Relative difference up to which two constants are one: rounding to float32 is 6e-8.
EQUAL = 1e-6


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of one parameter's draw.

    Attributes:
        shape: shape.
        dtype: dtype, without ``torch.``.
        constant: the value that all elements share, ``None`` where they differ.
        mean: arithmetic mean, NaN where it is not known.
        std: sample standard deviation, NaN where it is not known.
        kurtosis: fourth central moment over squared variance; ``None`` where it is not known, and nothing is tested.
        alike: share of the elements that say nothing of their own: zeros, and rows equal to another row.
        finite: whether all values are finite.
    """

    shape: tuple[int, ...]
    dtype: str
    constant: float | None = None
    mean: float = math.nan
    std: float = math.nan
    kurtosis: float | None = None
    alike: float = 0.0
    finite: bool = True

    @property
    def count(self) -> float:
        """Elements that count as independent draws."""
        return math.prod(self.shape) * (1.0 - self.alike)

    @property
    def tested(self) -> bool:
        """Whether its std and mean can be tested: it was drawn, and by more than one number."""
        return self.constant is None and self.finite and self.kurtosis is not None and self.count >= 2


@dataclass(frozen=True, slots=True)
class Drift:
    """One parameter that is not what it was.

    Attributes:
        name: dotted name of the parameter.
        kind: what has changed.
        text: the change in words, the parameter's name left out.
        was: the number in the baseline, where it is a number that changed.
        now: the number found.
        allowed: relative change of a std, or absolute change of a mean, that sampling explains.
        p: chance that two draws of one initialization differ at least as much; 0 for what is not a matter of chance.
    """

    name: str
    kind: Kind
    text: str
    was: float | None = None
    now: float | None = None
    allowed: float | None = None
    p: float = 0.0

    @property
    def ratio(self) -> float | None:
        """What the number has become as a multiple of what it was."""
        return self.now / self.was if self.was and self.now is not None else None


def sample_of(parameter: ParameterRecord) -> Sample | None:
    """Return what a probe found out about a parameter's draw; ``None`` where its values could not be read."""
    value = parameter.value
    if value is None or not value.count:
        return None
    if not value.finite:
        return Sample(parameter.shape, parameter.dtype, finite=False)
    if value.min == value.max:
        return Sample(parameter.shape, parameter.dtype, constant=value.min, mean=value.min, std=0.0)
    alike = 1.0 - (1.0 - value.zeros) * (1.0 - parameter.twin_rows)
    return Sample(
        parameter.shape, parameter.dtype, mean=value.mean, std=value.std, kurtosis=parameter.kurtosis, alike=alike
    )


def comparisons(samples: Mapping[str, Sample]) -> int:
    """Return the number of tests that have a rate of false alarms, for a model with these parameters."""
    return TESTS * sum(sample.tested for sample in samples.values())


def drifted(was: Mapping[str, Sample], now: Mapping[str, Sample], *, alpha: float) -> list[Drift]:
    """Return what has changed between two initializations by more than sampling explains, the least likely first.

    Args:
        was: the baseline's samples by parameter name.
        now: the samples to judge.
        alpha: chance of a false alarm of one test; a parameter that was drawn has :data:`TESTS` of them.
    """
    found = [Drift(name, "removed", f"is gone ({_form(was[name])} in the baseline)") for name in was if name not in now]
    found += [Drift(name, "added", f"is new ({_form(now[name])})") for name in now if name not in was]
    for name in was:
        if name in now:
            found += _changed(name, was[name], now[name], alpha)
    return sorted(found, key=lambda d: (d.p, -abs(math.log(d.ratio)) if d.ratio and d.ratio > 0 else 0.0))


def std_test(was: Sample, now: Sample) -> tuple[float, float]:
    """Return Student's t of the ratio of two stds, and its degrees of freedom.

    Shoemaker, "Fixing the F test for equal variances", The American Statistician 57 (2003): the ratio of two variances
    follows F with degrees of freedom that the kurtosis sets, n - 1 for normal draws. An F with r and r degrees of freedom
    is a t with r (Cacoullos, Journal of the American Statistical Association 60, 1965): t = sqrt(r) sinh(ln ratio of stds).
    """
    freedom = _freedom(was, now)
    return math.sqrt(freedom) * math.sinh(math.log(now.std) - math.log(was.std)), freedom


def mean_test(was: Sample, now: Sample) -> tuple[float, float]:
    """Return Welch's t of the difference of two means, and the least degrees of freedom that it can have.

    The least, because few values of a uniform draw exceed the tails of Welch's own degrees of freedom threefold.
    """
    error = math.hypot(was.std / math.sqrt(was.count), now.std / math.sqrt(now.count))
    return (now.mean - was.mean) / error, min(was.count, now.count) - 1


def chance(t: float, freedom: float) -> float:
    """Return the probability that Student's t with ``freedom`` degrees of freedom is at least ``abs(t)`` from zero.

    Abramowitz and Stegun 26.7.1 with the continued fraction 26.5.8 of the incomplete beta function; beyond a million
    degrees of freedom the normal distribution, which is within 0.1 % of it up to eight standard deviations.
    """
    t = abs(t)
    if math.isinf(t):
        return 0.0
    if freedom > 1e6:
        return math.erfc(t / math.sqrt(2))
    if t * t < 3.0:  # the fraction converges slowly there, and no such difference is rare: integrate instead
        return _chance_near_zero(t, freedom)
    a, b, x = freedom / 2, 0.5, freedom / (freedom + t * t)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    return min(1.0, math.exp(log_front) * _fraction(a, b, x))


@lru_cache(maxsize=4096)
def limit(p: float, freedom: float) -> float:
    """Return the t whose :func:`chance` is ``p``."""
    low, high = 0.0, 1.0
    while chance(high, freedom) > p and high < 1e150:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle, freedom) > p else (low, middle)
    return high


def _freedom(was: Sample, now: Sample) -> float:
    assert was.kurtosis is not None
    assert now.kurtosis is not None
    n = min(was.count, now.count)
    kurtosis = max(was.kurtosis, now.kurtosis) + CAUTION * math.sqrt(24 / min(n, SEEN))
    return 2 * n / (kurtosis - (n - 3) / (n - 1))


def _fraction(a: float, b: float, x: float) -> float:
    """Lentz's method on the continued fraction of the incomplete beta function."""
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1) or tiny)
    h = d
    for m in range(1, 100_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / (1.0 + term * d or tiny)
            c = 1.0 + term / c or tiny
            h *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return h


def _chance_near_zero(t: float, freedom: float) -> float:
    """Simpson's rule on the density from 0 to t."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    steps = 200
    total = 0.0
    for i in range(steps + 1):
        x = t * i / steps
        weight = 1 if i in (0, steps) else 4 if i % 2 else 2
        total += weight * math.exp(-(freedom + 1) / 2 * math.log1p(x * x / freedom))
    return max(0.0, 1.0 - 2 * scale * total * t / steps / 3)


def _changed(name: str, was: Sample, now: Sample, alpha: float) -> list[Drift]:
    if was.shape != now.shape:
        return [Drift(name, "shape", f"shape {_shape(now)} was {_shape(was)}")]
    if was.dtype != now.dtype:
        return [Drift(name, "dtype", f"dtype {now.dtype} was {was.dtype}")]
    if was.finite != now.finite:
        return [Drift(name, "not finite", "is finite, was not" if now.finite else "is not finite, was")]
    if was.constant is not None or now.constant is not None:
        return _constants(name, was, now)
    return _draws(name, was, now, alpha) if was.tested and now.tested else []


def _constants(name: str, was: Sample, now: Sample) -> list[Drift]:
    if was.constant is not None and now.constant is not None:
        if math.isclose(was.constant, now.constant, rel_tol=EQUAL):
            return []
        if math.prod(was.shape) == 1 and not (was.constant.is_integer() or now.constant.is_integer()):
            return []  # one number may be drawn or set; only a whole one was certainly not drawn
        text = f"{digits(now.constant)} was {digits(was.constant)}"
        return [Drift(name, "constant", text, was.constant, now.constant)]
    return [Drift(name, "constant", f"{_values(now)} was {_values(was)}", was.std, now.std)]


def _draws(name: str, was: Sample, now: Sample, alpha: float) -> list[Drift]:
    found = []
    t, freedom = std_test(was, now)
    p = chance(t, freedom)
    if p < alpha:
        allowed = math.expm1(math.asinh(limit(alpha, freedom) / math.sqrt(freedom)))
        text = f"std {digits(now.std)} was {digits(was.std)} (x{_factor(now.std / was.std)}, beyond ±{100 * allowed:.2g} % sampling error)"
        found.append(Drift(name, "std", text, was.std, now.std, allowed, p))
    t, freedom = mean_test(was, now)
    p = chance(t, freedom)
    if p < alpha:
        allowed = limit(alpha, freedom) * abs((now.mean - was.mean) / t)
        text = f"mean {digits(now.mean)} was {digits(was.mean)} (beyond ±{allowed:.2g} sampling error)"
        found.append(Drift(name, "mean", text, was.mean, now.mean, allowed, p))
    return found


def _values(sample: Sample) -> str:
    return f"std {digits(sample.std)}" if sample.constant is None else f"all {digits(sample.constant)}"


def _factor(ratio: float) -> str:
    """A ratio with as many digits as show that it is not 1."""
    return f"{ratio:.2f}" if 0.095 < ratio < 10 and abs(ratio - 1) >= 0.05 else f"{ratio:.4g}"


def _form(sample: Sample) -> str:
    return f"{sample.dtype} {_shape(sample)}"


def _shape(sample: Sample) -> str:
    return "x".join(map(str, sample.shape)) or "scalar"
