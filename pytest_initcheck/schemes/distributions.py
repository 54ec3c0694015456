"""From which distribution were these values drawn? A statistical statement, with the nearest scheme that has a name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..gain_table import weight_gain

#: Values that are looked at, of larger tensors a fixed random choice: enough to tell everything here apart.
SAMPLE = 1 << 16
#: Rows (or columns) that are tested for being orthogonal.
ROWS = 128
#: One kind is named if all others are this much less likely, as a log-likelihood ratio: 1 in 10,000.
SURE = math.log(1e4)
#: Error rate of what is concluded from a tail: that rows are orthogonal, that no named kind fits.
RARE = 1e-6
#: Where a normal is cut, in stds of the normal that is cut.
CUTS = (2.0, 3.0)
#: A std this near to a scheme's, or within its sampling error, is the scheme's.
NEAR = 0.02
#: Kinds that other numbers tell in full.
_WITHOUT_STD = frozenset(("constant", "identity", "orthogonal", "delta_orthogonal", "uniform"))


@dataclass(frozen=True, slots=True)
class Standard:
    """A scheme that has a name, and the std that it gives some parameter.

    Attributes:
        call: the scheme, as one would call it.
        std: what it gives.
        formula: where the std comes from, if the call does not say.
        default: whether modules of PyTorch draw it themselves.
        of: which modules do, where it is not the layers that compute with weights.
        fixed: whether the std follows no fan, so that another one is not the same scheme at another scale.
    """

    call: str
    std: float
    formula: str = ""
    default: bool = False
    of: str = ""
    fixed: bool = False

    def text(self, origin: str = "") -> str:
        """Return the scheme in words, with whose it is behind the call."""
        of = f" of {self.of}" if self.of else ""
        return f"{self.call}{origin}{of}{f': {self.formula}' if self.formula else ''}"

    def __str__(self) -> str:
        return self.text(", PyTorch's default" if self.default else "")


@dataclass(frozen=True, slots=True)
class Named:
    """The distribution that some values were drawn from.

    Attributes:
        kind: ``"normal"``, ``"truncated_normal"``, ``"uniform"``, ``"orthogonal"``, ``"delta_orthogonal"``, ``"identity"``,
            ``"sparse"``, ``"constant"``, ``"gates"``, ``"too few"`` (values to tell), or ``"other"``.
        count: number of values.
        mean: their mean; exactly 0 where it does not differ from 0 significantly.
        std: their std, about 0 if ``mean`` is 0.
        error: relative standard error of ``std``.
        bound: half the width of a uniform distribution or of a cut one.
        value: the constant, or the gain of an identity or an orthogonal matrix.
        standard: the nearest scheme with a name; ``None`` if none is near.
        ratio: ``std`` over the scheme's.
        factor: what a layer with this weight multiplies a signal by, without normalization; ``None`` if that is not known.
    """

    kind: str
    count: int
    mean: float = 0.0
    std: float = 0.0
    error: float = 0.0
    bound: float | None = None
    value: float | None = None
    standard: Standard | None = None
    ratio: float = 1.0
    factor: float | None = None

    @property
    def scheme(self) -> str:
        """The nearest scheme in words; ``""`` if none is near."""
        return "" if self.standard is None else str(self.standard)

    @property
    def known(self) -> bool:
        """Whether the distribution was told."""
        return self.kind not in ("too few", "other")

    @property
    def depth(self) -> float | None:
        """Number of such layers in a row after which a signal is a thousand times smaller or larger; inf if it never is."""
        if not self.factor or not math.isfinite(self.factor):
            return None
        decades = abs(math.log10(self.factor))
        return 3 / decades if decades > 0.01 else math.inf

    def __str__(self) -> str:
        text = self._text()
        return f"{text} = {self._times}{self.scheme}" if self.scheme else text

    @property
    def short(self) -> str:
        """The scheme if it has a name, else the kind; "default" is PyTorch's own of such a layer."""
        default = self.standard is not None and self.standard.default
        return f"{self._times}default" if default else self.label

    @property
    def label(self) -> str:
        """The scheme as one would call it if it has a name, else the kind."""
        return self._kind if self.standard is None else f"{self._times}{self.standard.call}"

    @property
    def _times(self) -> str:
        return "" if abs(self.ratio - 1) <= max(NEAR, 4 * self.error) else f"{self.ratio:.3g} x "

    def _text(self) -> str:
        if self.kind == "too few":
            return f"{f'mean {self.mean:.3g}, ' if self.mean else ''}std {self.std:.3g}, too few values to tell"
        return self._kind if self.kind in _WITHOUT_STD else f"{self._kind}, std {self.std:.3g}"

    @property
    def _kind(self) -> str:
        """The kind in words, with all numbers but the std."""
        about = f", mean {self.mean:.3g}" if self.mean else ""
        if self.kind == "constant":
            return {0.0: "zeros", 1.0: "ones"}.get(self.value or 0.0, f"constant {self.value:.4g}")
        if self.kind == "too few":
            return "too few to tell"
        if self.kind == "other":
            return f"no distribution with a name{about}"
        if self.kind in ("identity", "orthogonal", "delta_orthogonal"):
            return f"{self.kind.replace('_', '-')}, gain {self.value:.3g}"
        if self.kind == "uniform":
            middle = f"{self.mean:.3g} " if self.mean else ""
            return f"uniform {middle}+-{self.bound:.3g}"
        if self.kind == "truncated_normal":
            return f"normal cut at +-{self.bound:.3g}{about}"
        return f"{self.kind}{about}"


def name_distribution(
    values: Tensor,
    *,
    fan_in: int | None = None,
    fan_out: int | None = None,
    followed_by: str | None = None,
    out_dim: int = 0,
    in_dim: int = 1,
    groups: int = 1,
    sample: int = SAMPLE,
    rows: int = ROWS,
) -> Named:
    """Return the distribution that ``values`` were drawn from, as far as they tell.

    Args:
        values: a parameter; floating, of any shape.
        fan_in: number of inputs that one output sums over, for the name of the scheme.
        fan_out: number of outputs that one input feeds.
        followed_by: nonlinearity behind it, as in :class:`~pytest_initcheck.ParameterRecord`.
        out_dim: dimension that runs over outputs.
        in_dim: dimension that runs over inputs.
        groups: blocks of outputs that were drawn one by one.
        sample: values that are looked at, at most.
        rows: rows that are tested for being orthogonal, at most.

    Returns:
        The kind, its parameters with their sampling error, and the nearest scheme.
    """
    values = values.detach()
    count = values.numel()
    if not count or not values.is_floating_point() or values.device.type == "meta":
        return Named("too few", count)
    if count <= _NEAR:
        values = values.cpu()  # one transfer in place of a question at a time
    flat = values.reshape(-1)
    seen = _sampled(flat, sample)
    if not bool(torch.isfinite(seen).all()):
        return Named("other", count, std=math.nan)
    if bool((seen == seen[0]).all()) and bool((flat == flat[0]).all()):
        return Named("constant", count, mean=float(seen[0]), value=float(seen[0]))
    matrix = _oriented(values, out_dim, in_dim) if values.ndim > 1 else None
    zeros = float((seen == 0).double().mean())
    found = _gates(values) or (_structured(matrix, groups, count, zeros, rows) if matrix is not None else None)
    named = found if found is not None else _independent(seen, count, discrete=values.dtype in _HALF)
    return _with_scheme(named, fan_in, fan_out, followed_by)


_HALF = (torch.float16, torch.bfloat16)
#: Tensors of so many elements at most are looked at on the CPU.
_NEAR = 1 << 16


def _sampled(flat: Tensor, most: int) -> Tensor:
    if flat.numel() > most:
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randint(flat.numel(), (most,), generator=generator)
        flat = flat[chosen.to(flat.device)]
    return flat.to("cpu", torch.float64)


def _oriented(values: Tensor, out_dim: int, in_dim: int) -> Tensor:
    """``[out, in, positions]``."""
    return values.movedim((out_dim, in_dim), (0, 1)).flatten(2) if values.ndim > 2 else _two(values, out_dim)


def _two(values: Tensor, out_dim: int) -> Tensor:
    return (values if out_dim == 0 else values.T).unsqueeze(-1)


# -- kinds whose values depend on each other


def _gates(values: Tensor) -> Named | None:
    if values.ndim != 1 or values.numel() % 4 or values.numel() < 16:
        return None
    blocks = values.view(4, -1)
    if not bool((blocks == blocks[:, :1]).all()):
        return None
    x = values.double()
    return Named("gates", values.numel(), float(x.mean()), float(x.square().mean().sqrt()))


def _structured(matrix: Tensor, groups: int, count: int, zeros: float, rows: int) -> Named | None:
    units, inputs, positions = matrix.shape
    if zeros > 0.05 and units >= 2 and inputs >= 2:
        return _with_zeros(matrix, groups, count, rows)
    if units % groups:
        return None
    block = matrix[: units // groups].reshape(units // groups, inputs * positions)
    gain = _orthogonal(block, rows)
    if gain is None:
        return None
    return Named("orthogonal", count, std=gain / math.sqrt(max(block.shape)), value=gain)


def _with_zeros(matrix: Tensor, groups: int, count: int, rows: int) -> Named | None:
    units, inputs, positions = matrix.shape
    std = _rms(matrix)
    centre = matrix[..., _middle(matrix)]
    if positions == 1 or not bool(torch.any(_without(matrix, _middle(matrix)))):
        block = centre[: units // groups] if units % groups == 0 else centre
        diagonal = torch.diagonal(block)
        if bool((diagonal == diagonal[0]).all()) and float(diagonal[0]) != 0:
            eye = torch.eye(*block.shape, dtype=block.dtype, device=block.device) * diagonal[0]
            if torch.equal(block, eye):
                return Named("identity", count, std=std, value=float(diagonal[0]))
        if positions > 1 and (gain := _orthogonal(block, rows)) is not None:
            return Named("delta_orthogonal", count, std=std, value=gain)
    kept = (matrix.reshape(units, -1) != 0).sum(1)
    # As many connections for each unit, or for each input (torch.nn.init.sparse_ thins columns out).
    per_input = (matrix.movedim(1, 0).reshape(inputs, -1) != 0).sum(1)
    # In half precision a value or two may have been rounded to zero.
    if units >= 4 and min(int(kept.max() - kept.min()), int(per_input.max() - per_input.min())) <= 2:
        return Named("sparse", count, std=std)
    return None


def _middle(matrix: Tensor) -> int:
    """Position that carries the most: the centre of a kernel, whatever its shape was."""
    if matrix.shape[2] == 1:
        return 0
    return int(matrix[:ROWS].abs().sum((0, 1)).argmax())


def _without(matrix: Tensor, position: int) -> Tensor:
    return torch.cat([matrix[..., :position], matrix[..., position + 1 :]], -1)


def _orthogonal(block: Tensor, most: int) -> float | None:
    """The gain of a matrix whose rows, or columns if they are fewer, are orthogonal and of one length; else ``None``.

    For independent values, n times the sum of the squared cosines of P pairs is about chi-squared with P degrees of
    freedom; how improbable a value this small is follows from the lower tail of that distribution.
    """
    rows = block if block.shape[0] <= block.shape[1] else block.T
    rows = rows[:most].to("cpu", torch.float64)
    if rows.shape[0] < 2:
        return None
    lengths = rows.norm(dim=1)
    if not bool((lengths > 0).all()):
        return None
    cosines = (rows / lengths[:, None]) @ (rows / lengths[:, None]).T
    pairs = rows.shape[0] * (rows.shape[0] - 1) // 2
    statistic = rows.shape[1] * float((cosines.square().sum() - rows.shape[0]) / 2)
    chance = pairs / 2 * math.log(max(statistic, 1e-300) / 2) - math.lgamma(pairs / 2 + 1)
    spread = float((lengths / lengths.mean() - 1).abs().max())
    if chance > math.log(RARE) or spread > 0.02:
        return None
    return float(lengths.mean())


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


# -- independent values


def _independent(x: Tensor, count: int, *, discrete: bool) -> Named:
    """Normal, cut normal, or uniform: by likelihood, each with its best scale; and only if the best one fits at all."""
    n = x.numel()
    mean, spread = float(x.mean()), float(x.std(correction=0))
    if abs(mean) < 5 * spread / math.sqrt(n):
        mean = 0.0
    y = x - mean
    std = _rms(y)
    kurtosis = float((y / std).pow(4).mean())
    error = math.sqrt(max(kurtosis - 1, 0.1) / 4 / n)
    fits = dict(_likelihoods(y))
    best = max(fits, key=lambda kind: fits[kind][0])
    runner_up = max(v for k, (v, _, _) in fits.items() if k != best)
    likelihood, scale, bound = fits[best]
    plain = Named("too few", count, mean, std, error)
    # Rounded values repeat; that is no evidence against a continuous distribution until a sample resolves the grid.
    if n >= 16 and _misfit(y, best, scale, bound, slack=2**-8 if discrete else 0.0) < RARE:
        return Named("other", count, mean, std, error)
    if likelihood - runner_up < SURE:
        return plain
    if best == "uniform":
        return Named("uniform", count, mean, std, error, bound=bound)
    kind = "normal" if best == "normal" else "truncated_normal"
    return Named(kind, count, mean, std, error, bound=bound if kind != "normal" else None)


def _likelihoods(y: Tensor) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Kind -> (log-likelihood, scale, bound), each at the scale that makes it largest."""
    n, square, most = y.numel(), float(y.square().mean()), float(y.abs().max())
    if most == 0:
        return
    width = most * (n + 1) / n
    yield "uniform", (-n * math.log(2 * width), width, width)
    for cut in CUTS:
        scale = max(math.sqrt(square / _cut_variance(cut)), most / cut)
        inside = math.erf(cut / math.sqrt(2))
        value = -n * (math.log(scale * inside * math.sqrt(2 * math.pi)) + square / (2 * scale * scale))
        yield f"cut{cut:g}", (value, scale, cut * scale)
    scale = math.sqrt(square)
    yield "normal", (-n * (math.log(scale * math.sqrt(2 * math.pi)) + 0.5), scale, math.inf)


def _cut_variance(cut: float) -> float:
    """Variance of a standard normal cut at +-``cut``."""
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    return 1 - 2 * cut * density / math.erf(cut / math.sqrt(2))


def distribution_function(kind: str, y: Tensor, scale: float, bound: float) -> Tensor:
    """Return P(Y <= y) about zero for ``"uniform"``, ``"normal"``, or a normal of std ``scale`` that is cut at ``bound``."""
    if kind == "uniform":
        return ((y / bound + 1) / 2).clamp(0, 1)
    inside = 1.0 if kind == "normal" else math.erf(bound / scale / math.sqrt(2))
    return (0.5 + 0.5 * torch.erf(y / (scale * math.sqrt(2))) / inside).clamp(0, 1)


def kolmogorov(y: Tensor, kind: str, scale: float, bound: float, *, slack: float = 0.0) -> float:
    """Return the probability of a largest difference of distribution functions like this one (Kolmogorov; Stephens 1970).

    Args:
        y: values about their mean.
        kind: as in :func:`distribution_function`.
        scale: of the distribution.
        bound: of the distribution.
        slack: largest relative rounding of the values, whose effect is taken off.
    """
    n = y.numel()
    ordered = y.sort().values
    expected = distribution_function(kind, ordered, scale, bound)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    largest = float(torch.maximum((steps[1:] - expected).max(), (expected - steps[:-1]).max()))
    largest = max(largest - slack, 0.0)
    root = math.sqrt(n)
    lam = (root + 0.12 + 0.11 / root) * largest
    if lam < 0.3:
        return 1.0
    tail = 2 * sum((1 if k % 2 else -1) * math.exp(-2.0 * k * k * lam * lam) for k in range(1, 50))
    return min(1.0, max(0.0, tail))


def _misfit(y: Tensor, kind: str, scale: float, bound: float, *, slack: float) -> float:
    # The scale was fitted, which makes the test conservative: what it refuses is refused more surely than stated.
    return kolmogorov(y, "cut" if kind.startswith("cut") else kind, scale, bound, slack=slack)


# -- names


def _with_scheme(named: Named, fan_in: int | None, fan_out: int | None, followed_by: str | None) -> Named:
    fields: dict[str, Any] = {}
    if fan_in and named.std and named.kind not in ("constant", "gates") and fan_in > 1:
        fields["factor"] = named.std * math.sqrt(fan_in) / weight_gain(followed_by).value
    candidates = _schemes(named, fan_in, fan_out, followed_by)
    if candidates and named.std:
        nearest = min(candidates, key=lambda c: round(abs(math.log(named.std / c.std)) / 0.02))
        ratio = named.std / nearest.std
        # Something a factor of 4 away is no longer that scheme in any sense; a std that follows no fan is it or is not.
        if 0.25 <= ratio <= 4 and not (nearest.fixed and abs(ratio - 1) > max(NEAR, 4 * named.error)):
            fields |= {"standard": nearest, "ratio": ratio}
    return Named(**({f: getattr(named, f) for f in Named.__dataclass_fields__} | fields)) if fields else named


def _schemes(named: Named, fan_in: int | None, fan_out: int | None, followed_by: str | None) -> list[Standard]:
    """What has a name and is of this kind, the more usual first."""
    found: list[Standard] = []
    if named.mean or named.kind not in ("normal", "uniform", "truncated_normal"):
        return found
    kind = {"truncated_normal": "trunc_normal"}.get(named.kind, named.kind)
    if fan_in and fan_out and fan_in > 1:
        if named.kind == "uniform":
            formula = "0.577/sqrt(fan_in)"
            found.append(Standard("kaiming_uniform(a=sqrt(5))", 1 / math.sqrt(3 * fan_in), formula, default=True))
            if fan_out != fan_in:
                hidden = Standard(
                    "uniform 1/sqrt(hidden)", 1 / math.sqrt(3 * fan_out), default=True, of="recurrent layers"
                )
                found.append(hidden)
        found.append(Standard(f"xavier_{kind}", math.sqrt(2 / (fan_in + fan_out))))
        found.append(Standard(f"kaiming_{kind}(relu)", math.sqrt(2 / fan_in)))
        found.append(Standard(f"lecun_{kind}", math.sqrt(1 / fan_in)))
        found.append(Standard(f"kaiming_{kind}(relu, fan_out)", math.sqrt(2 / fan_out)))
        gain = weight_gain(followed_by).value
        if gain not in (1.0, math.sqrt(2)):
            own = f"{kind} with the gain of {followed_by}"
            found.append(Standard(own, gain / math.sqrt(fan_in), f"{gain:.3g}/sqrt(fan_in)"))
    if named.kind != "uniform":
        found.append(Standard(f"{kind}(std=0.02)", 0.02, fixed=True))
        if named.kind == "normal":
            found.append(Standard("normal(std=1)", 1.0, default=True, of="embeddings", fixed=True))
    return found
