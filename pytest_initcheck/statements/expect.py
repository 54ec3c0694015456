"""What a parameter is expected to be drawn from, and the test whether it was.

``normal(std=0.02)``, ``zeros()``, ``kaiming_normal(nonlinearity="relu")`` and so on: named, and with the arguments, as the
functions of :mod:`torch.nn.init` that would have drawn it. Every test here bounds the chance of a false alarm for any number
of values (Chernoff; Dvoretzky, Kiefer and Wolfowitz with Massart's constant), none relies on a sample being large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import SettingsError
from ..probing.statistics import measure, settle
from ..schemes.distributions import distribution_function

#: Statistical tests of a parameter that was drawn: location, scale, shape.
TESTS = 3
#: Values whose shape is tested: of larger parameters a fixed random choice.
SHAPE_OF = 1 << 18
#: Stds from its mean beyond which a normal that is cut there is a normal.
UNCUT = 8.0
#: Nodes of the quadrature over a bounded distribution.
_NODES = 801
#: Largest relative deviation of a row of an orthogonal matrix, in units of the dtype's resolution.
_ROUNDING = 64

Kind = Literal["normal", "uniform", "truncated_normal", "constant", "orthogonal", "identity", "dirac"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """One distribution with all its numbers.

    Attributes:
        kind: which.
        mean: mean of its values; the constant, or the gain, where there is no chance in it.
        std: std of its values.
        low: least possible value.
        high: largest possible value.
        scale: of a cut normal, the std of the normal that was cut.
        centre: of a cut normal, the mean of the normal that was cut.
    """

    kind: Kind
    mean: float = 0.0
    std: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    scale: float = 0.0
    centre: float = 0.0

    @property
    def drawn(self) -> bool:
        """Whether its values are independent draws."""
        return self.kind in ("normal", "uniform", "truncated_normal")


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a parameter is expected to be, as a call in words.

    Attributes:
        text: the call that made it, ``"normal(std=0.02)"``.
        of: the distribution for a parameter; ``None`` for :func:`default`, which depends on more than the parameter.
    """

    text: str
    of: Callable[[Tensor], Distribution] | None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Misfit:
    """One way in which values are not what was expected.

    Attributes:
        what: ``"location"``, ``"scale"``, ``"shape"``, ``"range"``, ``"constant"`` or ``"structure"``.
        text: found, expected and allowed, in words.
        p: bound on the chance that such values were drawn as expected; 0 where chance has no part in it.
    """

    what: str
    text: str
    p: float = 0.0


# -- the expectations, with the names and the arguments of torch.nn.init


def normal(mean: float = 0.0, std: float = 1.0) -> Expectation:
    """As ``torch.nn.init.normal_(p, mean, std)`` draws."""
    _positive("std", std)
    return _fixed(_text("normal", mean=(mean, 0.0), std=(std, None)), Distribution("normal", mean, std))


def uniform(a: float = 0.0, b: float = 1.0) -> Expectation:
    """As ``torch.nn.init.uniform_(p, a, b)`` draws."""
    _ordered(a, b)
    return _fixed(_text("uniform", a=(a, None), b=(b, None)), _uniform(a, b))


def truncated_normal(mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Expectation:
    """As ``torch.nn.init.trunc_normal_(p, mean, std, a, b)`` draws: ``a`` and ``b`` are values, not multiples of ``std``."""
    _positive("std", std)
    _ordered(a, b)
    text = _text("truncated_normal", mean=(mean, 0.0), std=(std, None), a=(a, -2.0), b=(b, 2.0))
    if a < mean - UNCUT * std and b > mean + UNCUT * std:
        return _fixed(text, Distribution("normal", mean, std))
    if not a < mean < b:
        raise SettingsError(f"truncated_normal needs its mean between a and b (got mean={mean:g}, a={a:g}, b={b:g})")
    plain = Distribution("truncated_normal", 0.0, 1.0, a, b, std, mean)
    values, weights = _quadrature("truncated_normal", a, b, mean, std)
    centre = float((values * weights).sum())
    spread = math.sqrt(float(((values - centre).square() * weights).sum()))
    return _fixed(text, Distribution(plain.kind, centre, spread, a, b, std, mean))


def constant(value: float) -> Expectation:
    """Every element is ``value``."""
    return _fixed(f"constant({value:g})", Distribution("constant", value))


def zeros() -> Expectation:
    """Every element is 0."""
    return _fixed("zeros()", Distribution("constant", 0.0))


def ones() -> Expectation:
    """Every element is 1."""
    return _fixed("ones()", Distribution("constant", 1.0))


def orthogonal(gain: float = 1.0) -> Expectation:
    """As ``torch.nn.init.orthogonal_(p, gain)``: rows are orthogonal, or columns if they are fewer, and of length ``gain``."""
    _positive("gain", gain)
    return _fixed(_text("orthogonal", gain=(gain, 1.0)), Distribution("orthogonal", gain))


def identity(gain: float = 1.0) -> Expectation:
    """As ``torch.nn.init.eye_(p)`` times ``gain``."""
    return _fixed(_text("identity", gain=(gain, 1.0)), Distribution("identity", gain))


def dirac() -> Expectation:
    """As ``torch.nn.init.dirac_(p)``: a convolution that hands its input on."""
    return _fixed("dirac()", Distribution("dirac", 1.0))


def xavier_uniform(gain: float = 1.0) -> Expectation:
    """As ``torch.nn.init.xavier_uniform_(p, gain)``: Glorot and Bengio 2010."""
    _positive("gain", gain)
    return Expectation(_text("xavier_uniform", gain=(gain, 1.0)), lambda p: _spread("uniform", _xavier(p, gain)))


def xavier_normal(gain: float = 1.0) -> Expectation:
    """As ``torch.nn.init.xavier_normal_(p, gain)``: Glorot and Bengio 2010."""
    _positive("gain", gain)
    return Expectation(_text("xavier_normal", gain=(gain, 1.0)), lambda p: _spread("normal", _xavier(p, gain)))


def kaiming_uniform(a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Expectation:
    """As ``torch.nn.init.kaiming_uniform_(p, a, mode, nonlinearity)``: He et al. 2015."""
    return _kaiming("uniform", a, mode, nonlinearity)


def kaiming_normal(a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Expectation:
    """As ``torch.nn.init.kaiming_normal_(p, a, mode, nonlinearity)``: He et al. 2015."""
    return _kaiming("normal", a, mode, nonlinearity)


def lecun_uniform() -> Expectation:
    """Uniform with std ``1/sqrt(fan_in)``: LeCun et al. 1998."""
    return Expectation("lecun_uniform()", lambda p: _spread("uniform", 1 / math.sqrt(_fans(p)[0])))


def lecun_normal() -> Expectation:
    """Normal with std ``1/sqrt(fan_in)``: LeCun et al. 1998; Klambauer et al. 2017."""
    return Expectation("lecun_normal()", lambda p: _spread("normal", 1 / math.sqrt(_fans(p)[0])))


def default() -> Expectation:
    """As the modules' own ``reset_parameters`` draw it, children first: PyTorch's default, where nobody wrote another."""
    return Expectation("default()", None)


def _kaiming(kind: Literal["normal", "uniform"], a: float, mode: str, nonlinearity: str) -> Expectation:
    if mode not in ("fan_in", "fan_out"):
        raise SettingsError(f"mode must be 'fan_in' or 'fan_out' (got {mode!r})")
    try:
        gain = nn.init.calculate_gain(nonlinearity, a)  # type: ignore[arg-type]
    except ValueError as e:
        raise SettingsError(f"nonlinearity: {e}") from None
    text = _text(f"kaiming_{kind}", a=(a, 0.0), mode=(mode, "fan_in"), nonlinearity=(nonlinearity, "leaky_relu"))
    return Expectation(text, lambda p: _spread(kind, gain / math.sqrt(_fans(p)[mode == "fan_out"])))


def _xavier(p: Tensor, gain: float) -> float:
    return gain * math.sqrt(2 / sum(_fans(p)))


def _fans(p: Tensor) -> tuple[int, int]:
    if p.dim() < 2:
        raise SettingsError(f"a scheme that goes by fans needs two dimensions (this one has shape {list(p.shape)})")
    kernel = math.prod(p.shape[2:])
    return p.shape[1] * kernel, p.shape[0] * kernel


def _spread(kind: Literal["normal", "uniform"], std: float) -> Distribution:
    return Distribution("normal", 0.0, std) if kind == "normal" else _uniform(-std * math.sqrt(3), std * math.sqrt(3))


def _uniform(a: float, b: float) -> Distribution:
    return Distribution("uniform", (a + b) / 2, (b - a) / math.sqrt(12), a, b)


def _fixed(text: str, distribution: Distribution) -> Expectation:
    return Expectation(text, lambda _: distribution)


def _text(call: str, **arguments: tuple[object, object]) -> str:
    """The call with the arguments that are not left at their defaults."""
    shown = [
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value!r}"
        for name, (value, usual) in arguments.items()
        if value != usual
    ]
    return f"{call}({', '.join(shown)})"


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise SettingsError(f"{name} must be a number above 0 (got {value!r})")


def _ordered(a: float, b: float) -> None:
    if not -math.inf < a < b < math.inf:
        raise SettingsError(f"a must be below b, both finite (got a={a!r}, b={b!r})")


# -- the tests


def misfits(values: Tensor, expected: Distribution, *, alpha: float) -> list[Misfit]:
    """Return in what ways ``values`` are not what was expected, the surest first; none if chance explains them.

    Args:
        values: a parameter.
        expected: the distribution.
        alpha: chance of a false alarm of one test, of which a drawn parameter has :data:`TESTS`.
    """
    if not values.numel():
        return []
    (found,) = settle([measure(values)])
    if found is None or not found.finite:
        return [Misfit("range", "holds values that are not finite")]
    if expected.kind == "constant":
        return _constant(values, expected.mean)
    if not expected.drawn:
        return _structure(values, expected)
    if found.count > 1 and found.min == found.max:
        return [Misfit("constant", f"all values are {found.min:.4g}")]
    resolution = torch.finfo(values.dtype).eps
    reach = resolution * max(abs(found.min), abs(found.max))
    if found.min < expected.low - reach or found.max > expected.high + reach:
        text = f"values from {found.min:.4g} to {found.max:.4g}, expected {expected.low:.4g} to {expected.high:.4g}"
        return [Misfit("range", text)]
    rounding = resolution * found.rms / expected.std
    n, mean, square = _standardized(values, expected)
    told = _location(n, mean, expected, rounding, alpha)
    # A mean that moved is not a wider draw.
    told += _scale(n, square - mean * mean if told else square, expected, rounding, alpha)
    told += _shape(values, expected, rounding, alpha)
    return sorted(told, key=lambda m: m.p)


def _standardized(values: Tensor, expected: Distribution) -> tuple[int, float, float]:
    """Number of values, their mean and their mean square about the expected mean, in units of the expected std."""
    total = square = 0.0
    for part in values.detach().reshape(-1).split(1 << 22):
        x = (part.to(torch.float64) - expected.mean) / expected.std
        total += float(x.sum())
        square += float(x.square().sum())
    n = values.numel()
    return n, total / n, square / n


def _location(n: int, mean: float, expected: Distribution, rounding: float, alpha: float) -> list[Misfit]:
    p = _chance(n, _rate(expected, 1, math.copysign(max(0.0, abs(mean) - rounding), mean)))
    if p >= alpha:
        return []
    found, error = expected.mean + mean * expected.std, expected.std * math.sqrt(2 * math.log(2 / alpha) / n)
    return [Misfit("location", f"mean {found:.4g}, expected {expected.mean:.4g} ± {error:.2g} by chance", p)]


def _scale(n: int, square: float, expected: Distribution, rounding: float, alpha: float) -> list[Misfit]:
    slack = 2 * rounding * rounding
    p = _chance(n, _rate(expected, 2, max(1.0, square - slack) if square > 1 else min(1.0, square + slack)))
    if p >= alpha:
        return []
    low, high = (expected.std * math.sqrt(v) for v in _range(expected, math.log(2 / alpha) / n))
    found = expected.std * math.sqrt(max(0.0, square))
    ratio = found / expected.std
    text = f"std {found:.4g}, expected {expected.std:.4g} (x{ratio:.3g}; {low:.4g} to {high:.4g} by chance)"
    return [Misfit("scale", text, p)]


def _shape(values: Tensor, expected: Distribution, rounding: float, alpha: float) -> list[Misfit]:
    y, _ = sampled(values).sort()
    n = y.numel()
    if expected.kind == "truncated_normal":
        kind, centre, scale, bound = "normal", expected.centre, expected.scale, math.inf
    else:
        kind, centre, scale = expected.kind, expected.mean, expected.std
        bound = expected.high - centre
    below = distribution_function(kind, y - centre, scale, bound)
    if expected.kind == "truncated_normal":
        edges = torch.tensor([expected.low, expected.high], dtype=torch.float64) - centre
        first, last = distribution_function("normal", edges, scale, math.inf)
        below = ((below - first) / (last - first)).clamp(0, 1)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    gap = float(torch.maximum((steps[1:] - below).max(), (below - steps[:-1]).max()))
    p = min(1.0, 2 * math.exp(-2 * n * max(0.0, gap - rounding) ** 2))
    if p >= alpha:
        return []
    allowed = math.sqrt(math.log(2 / alpha) / 2 / n)
    text = f"distribution function {gap:.2g} off ({allowed:.2g} by chance)"
    return [Misfit("shape", text, p)]


def sampled(values: Tensor, generator_seed: int = 0) -> Tensor:
    """Return at most :data:`SHAPE_OF` of the values, in float64 on the CPU; of more, a fixed random choice."""
    flat = values.detach().reshape(-1)
    if flat.numel() > SHAPE_OF:
        chosen = torch.randint(
            flat.numel(), (SHAPE_OF,), generator=torch.Generator().manual_seed(generator_seed), dtype=torch.int64
        )
        flat = flat[chosen.unique().to(flat.device)]  # twice the same one would not be independent
    return flat.to("cpu", torch.float64)


def _constant(values: Tensor, value: float) -> list[Misfit]:
    # What float32 cannot tell apart is one constant: a model may have been initialized before it became float64.
    wanted = torch.tensor(value, dtype=values.dtype).float()
    other = values.detach().float() != wanted.to(values.device)
    count = int(other.sum())
    if not count:
        return []
    x = values.detach()[other].double()
    what = f"{count} of {values.numel()} values are not {value:g} ({float(x.min()):.4g} to {float(x.max()):.4g})"
    return [Misfit("constant", what)]


def _structure(values: Tensor, expected: Distribution) -> list[Misfit]:
    if values.dim() < 2 or (expected.kind == "identity" and values.dim() != 2):
        dimensions = "two dimensions" if expected.kind == "identity" else "two dimensions or more"
        raise SettingsError(f"{expected.kind} needs {dimensions} (this one has shape {list(values.shape)})")
    x = values.detach().to("cpu", torch.float64)
    if expected.kind == "orthogonal":
        rows = x.flatten(1)
        rows = (rows if rows.shape[0] <= rows.shape[1] else rows.T) / expected.mean
        gap = float((rows @ rows.T - torch.eye(rows.shape[0], dtype=rows.dtype)).abs().max())
        allowed = _ROUNDING * max(torch.finfo(torch.float32).eps, torch.finfo(values.dtype).eps)
        return (
            []
            if gap <= allowed
            else [Misfit("structure", f"W Wᵀ/gain² is {gap:.2g} off the identity ({allowed:.2g} allowed)")]
        )
    if expected.kind == "identity":
        wanted = torch.eye(*x.shape, dtype=x.dtype) * expected.mean
    elif values.dim() in (3, 4, 5):
        wanted = nn.init.dirac_(torch.empty(x.shape, dtype=x.dtype))
    else:
        raise SettingsError(f"dirac needs three to five dimensions (this one has shape {list(values.shape)})")
    off = int((x.float() != wanted.to(values.dtype).float()).sum())
    return [Misfit("structure", f"{off} of {x.numel()} values are not the {expected.kind}'s")] if off else []


# -- large deviations: P(mean of n draws >= x) <= exp(-n rate(x)) (Cramér; Chernoff 1952)


def _chance(n: int, rate: float) -> float:
    return min(1.0, 2 * math.exp(-n * rate))


def _rate(expected: Distribution, power: int, x: float) -> float:
    """Rate of the mean of the standardized values (``power`` 1) or of their squares (2) at ``x``."""
    if expected.kind == "normal":
        if power == 1:
            return x * x / 2
        return math.inf if x <= 0 else (x - 1 - math.log(x)) / 2
    values, weights = _quadrature(expected.kind, expected.low, expected.high, expected.centre, expected.scale)
    statistic = ((values - expected.mean) / expected.std).pow(power)
    usual = float((statistic * weights).sum())
    if not float(statistic.min()) < x < float(statistic.max()):
        return math.inf
    sign = 1.0 if x > usual else -1.0
    high = 1.0
    while sign * (_tilted(statistic, weights, sign * high)[1] - x) < 0 and high < 1e9:
        high *= 2
    low = 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sign * (_tilted(statistic, weights, sign * middle)[1] - x) < 0 else (low, middle)
    return max(0.0, sign * low * x - _tilted(statistic, weights, sign * low)[0])


def _tilted(statistic: Tensor, weights: Tensor, t: float) -> tuple[float, float]:
    """Logarithm of E[exp(t S)], and the mean of S under the distribution tilted by it."""
    exponent = t * statistic + weights.log()
    total = torch.logsumexp(exponent, 0)
    return float(total), float((statistic * (exponent - total).exp()).sum())


@lru_cache(maxsize=256)
def _quadrature(kind: str, low: float, high: float, centre: float, scale: float) -> tuple[Tensor, Tensor]:
    """Values over the range of a bounded distribution and their probabilities (Simpson's rule)."""
    if kind == "truncated_normal":
        low, high = max(low, centre - UNCUT * scale), min(high, centre + UNCUT * scale)
    values = torch.linspace(low, high, _NODES, dtype=torch.float64)
    weights = torch.full_like(values, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    if kind == "truncated_normal":
        weights = weights * torch.exp(-((values - centre) / scale).square() / 2)
    return values, weights / weights.sum()


def _range(expected: Distribution, rate: float) -> tuple[float, float]:
    """Mean squares whose rate is ``rate``, below and above what is expected."""
    ends = []
    for far in (0.0, 1e9):
        near = 1.0
        for _ in range(60):
            middle = math.sqrt(near * far) if far and near * far > 1 else (near + far) / 2
            near, far = (middle, far) if _rate(expected, 2, middle) < rate else (near, middle)
        ends.append(near)
    return ends[0], ends[1]
