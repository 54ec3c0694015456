"""Schemes for one weight: which distribution, with which std for its fans and its nonlinearity, and how to draw it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..gain_table import weight_gain

_NOTHING: Mapping[str, Any] = MappingProxyType({})
#: Std of a standard normal cut at +-2, by which a truncated normal must be divided to have the std that was asked for.
CUT_AT_2 = 0.87962566103423978


@dataclass(frozen=True, slots=True)
class Draw:
    """What to fill one tensor with.

    Attributes:
        kind: ``"normal"``, ``"uniform"``, ``"truncated_normal"``, ``"orthogonal"``, ``"delta_orthogonal"``, ``"sparse"``,
            ``"identity"``, ``"constant"`` or ``"gates"`` (a constant for each gate of a recurrent bias).
        std: std of the values about zero (their root mean square), 0 for constants.
        value: the constant; for identity and orthogonal ones the gain.
        options: what else the kind needs: ``sparsity``, ``values`` of gates.
        why: the scheme and its source, in words.
        calibrated: whether it is only what LSUV starts from, and then scaled to data.
    """

    kind: str
    std: float = 0.0
    value: float = 0.0
    options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    why: str = ""
    calibrated: bool = False

    def times(self, factor: float, why: str = "") -> Draw:
        """Return the same with every value multiplied by ``factor``."""
        reason = f"{self.why}, {why}" if why else self.why
        return replace(self, std=self.std * factor, value=self.value * factor, why=reason)

    def __str__(self) -> str:
        told = self.kind in ("constant", "gates", "orthogonal", "delta_orthogonal", "identity", "uniform")
        return self.label if told else f"{self.label}, std {self.std:.4g}"

    @property
    def label(self) -> str:
        """What it draws in words, without the std."""
        if self.kind == "constant":
            return {0.0: "zeros", 1.0: "ones"}.get(self.value, f"constant {self.value:g}")
        if self.kind == "gates":
            return "gates " + " ".join(f"{v:g}" for v in self.options["values"])
        if self.kind in ("orthogonal", "delta_orthogonal", "identity"):
            return f"{self.kind.replace('_', '-')}, gain {self.value:.4g}"
        if self.kind == "uniform":
            return f"uniform in +-{self.std * math.sqrt(3):.4g}"
        return {"truncated_normal": "normal cut at +-2 std", "sparse": "sparse normal"}.get(self.kind, self.kind)

    def code(self, target: str, *, out_dim: int = 0, in_dim: int = 1, groups: int = 1) -> str:
        """Return lines of Python that draw it into ``target``, with the names ``torch`` and ``nn``."""
        if self.kind == "constant":
            call = {0.0: f"zeros_({target})", 1.0: f"ones_({target})"}.get(self.value)
            return f"nn.init.{call or f'constant_({target}, {self.value:.6g})'}"
        if self.kind == "gates":
            values = ", ".join(f"{v:g}" for v in self.options["values"])
            return (
                f"with torch.no_grad():\n"
                f"    gates = {target}.view({len(self.options['values'])}, -1)\n"
                f"    gates.copy_(torch.tensor([{values}]).view(-1, 1).expand_as(gates))"
            )
        if self.kind == "normal":
            return f"nn.init.normal_({target}, std={self.std:.6g})"
        if self.kind == "uniform":
            bound = self.std * math.sqrt(3)
            return f"nn.init.uniform_({target}, -{bound:.6g}, {bound:.6g})"
        if self.kind == "truncated_normal":
            s = self.std / CUT_AT_2
            return f"nn.init.trunc_normal_({target}, std={s:.6g}, a=-{2 * s:.6g}, b={2 * s:.6g})"
        if self.kind == "orthogonal" and (out_dim, in_dim) == (0, 1) and groups == 1:
            return f"nn.init.orthogonal_({target}, gain={self.value:.6g})"
        return (
            "from pytest_initcheck.schemes import Draw, fill_\n"
            f"fill_({target}, Draw({self.kind!r}, {self.std:.6g}, {self.value:.6g}, {dict(self.options)!r}), "
            f"out_dim={out_dim}, in_dim={in_dim}, groups={groups})"
        )


def fill_(
    tensor: Tensor,
    draw: Draw,
    *,
    out_dim: int = 0,
    in_dim: int = 1,
    groups: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill ``tensor`` in place with what ``draw`` says and return it.

    Values are drawn in float32 on the generator's device (the CPU without one), so that a seed gives the same weights on
    every device and in every dtype, up to rounding.

    Args:
        tensor: any shape; a weight has its outputs along ``out_dim`` and its inputs along ``in_dim``.
        draw: the distribution.
        out_dim: dimension that runs over output units.
        in_dim: dimension that runs over the inputs of one unit.
        groups: number of blocks of units, drawn one by one where the units of a block depend on each other.
        generator: source of randomness; torch's own one if ``None``.

    Raises:
        ValueError: the shape does not allow this kind.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    with torch.no_grad():
        if draw.kind == "constant":
            return tensor.fill_(draw.value)
        if draw.kind == "gates":
            values = torch.tensor(draw.options["values"], dtype=torch.float32)
            blocks = tensor.view(len(values), -1)
            blocks.copy_(values.view(-1, 1).expand_as(blocks))
            return tensor
        values = torch.empty(tensor.shape, dtype=torch.float32, device=device)
        if draw.kind == "normal":
            values.normal_(std=draw.std, generator=generator)
        elif draw.kind == "uniform":
            bound = draw.std * math.sqrt(3)
            values.uniform_(-bound, bound, generator=generator)
        elif draw.kind == "truncated_normal":
            s = draw.std / CUT_AT_2
            if s > 0:
                nn.init.trunc_normal_(values, std=s, a=-2 * s, b=2 * s, generator=generator)
            else:
                values.zero_()
        else:
            if tensor.dim() < 2:
                raise ValueError(
                    f"{draw.kind} needs a weight of two dimensions or more (got shape {list(tensor.shape)})"
                )
            oriented = values.movedim((out_dim, in_dim), (0, 1))
            for block in oriented.chunk(groups):
                block.copy_(_DEPENDENT[draw.kind](block.shape, draw, generator, device))
        return tensor.copy_(values)


def _orthogonal(shape: torch.Size, draw: Draw, generator: torch.Generator | None, device: torch.device) -> Tensor:
    return nn.init.orthogonal_(torch.empty(shape, device=device), gain=draw.value, generator=generator)


def _centre(kernel: Tensor) -> Tensor:
    """View of the [out, in] matrix at the middle of a kernel."""
    for size in kernel.shape[2:]:
        kernel = kernel.select(2, size // 2)
    return kernel


def _delta_orthogonal(shape: torch.Size, draw: Draw, generator: torch.Generator | None, device: torch.device) -> Tensor:
    kernel = torch.zeros(shape, device=device)
    _centre(kernel).copy_(_orthogonal(shape[:2], draw, generator, device))
    return kernel


def _identity(shape: torch.Size, draw: Draw, _generator: torch.Generator | None, device: torch.device) -> Tensor:
    kernel = torch.zeros(shape, device=device)
    _centre(kernel).copy_(torch.eye(shape[0], shape[1], device=device) * draw.value)
    return kernel


def _sparse(shape: torch.Size, draw: Draw, generator: torch.Generator | None, device: torch.device) -> Tensor:
    inputs = math.prod(shape[1:])
    kept = max(1, round(inputs * (1 - float(draw.options["sparsity"]))))
    # Martens 2010 fixes the number of connections of each unit, not their probability.
    chosen = torch.rand(shape[0], inputs, generator=generator, device=device).argsort(1)[:, :kept]
    each = draw.std * math.sqrt(inputs / kept)
    weights = torch.randn(shape[0], kept, generator=generator, device=device) * each
    return torch.zeros(shape[0], inputs, device=device).scatter_(1, chosen, weights).view(shape)


_DEPENDENT: Mapping[str, Callable[..., Tensor]] = {
    "orthogonal": _orthogonal,
    "delta_orthogonal": _delta_orthogonal,
    "identity": _identity,
    "sparse": _sparse,
}

ZEROS = Draw("constant", why="zero")
ONES = Draw("constant", value=1.0, why="one")


# -- schemes that need no more than the fans of a weight


def xavier(fan_in: int, fan_out: int, *, gain: float = 1.0, kind: str = "uniform") -> Draw:
    """Return std ``gain * sqrt(2 / (fan_in + fan_out))``: Glorot and Bengio 2010, equation 16."""
    std = gain * math.sqrt(2.0 / (fan_in + fan_out))
    return Draw(kind, std, why=f"xavier {kind}, gain {gain:.3g} (Glorot and Bengio 2010)")


def kaiming(
    fan_in: int,
    fan_out: int,
    *,
    gain: float = math.sqrt(2.0),
    mode: str = "fan_in",
    kind: str = "normal",
) -> Draw:
    """Return std ``gain / sqrt(fan)``: He et al. 2015, equations 10 (``fan_in``) and 14 (``fan_out``)."""
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out' (got {mode!r})")
    fan = fan_in if mode == "fan_in" else fan_out
    words = "" if mode == "fan_in" else ", fan_out"
    return Draw(kind, gain / math.sqrt(fan), why=f"kaiming {kind}{words}, gain {gain:.3g} (He et al. 2015)")


def lecun(fan_in: int, *, kind: str = "normal") -> Draw:
    """Return std ``1 / sqrt(fan_in)``: LeCun et al. 1998, section 4.6; Klambauer et al. 2017 for SELU."""
    return Draw(kind, 1.0 / math.sqrt(fan_in), why=f"lecun {kind} (LeCun et al. 1998)")


def orthogonal(fan_in: int, units: int, *, gain: float = 1.0) -> Draw:
    """Return a (semi-)orthogonal matrix of units by inputs, times ``gain``: Saxe et al. 2014.

    Its values have std ``gain / sqrt(max(fan_in, units))``: rows are orthonormal, or columns where there are more units.
    """
    return Draw("orthogonal", gain / math.sqrt(max(fan_in, units)), gain, why="orthogonal (Saxe et al. 2014)")


def siren(fan_in: int, *, first: bool, omega: float = 30.0) -> Draw:
    """Return uniform in ``+-1/fan_in`` for the first layer, else ``+-sqrt(6/fan_in)/omega``: Sitzmann et al. 2020, section 3.2.

    Args:
        fan_in: number of inputs.
        first: whether the layer reads the coordinates themselves.
        omega: the factor inside the sine, ``sin(omega * (W x + b))``.
    """
    bound = 1.0 / fan_in if first else math.sqrt(6.0 / fan_in) / omega
    return Draw("uniform", bound / math.sqrt(3.0), why=f"siren, omega {omega:g} (Sitzmann et al. 2020)")


#: Schemes that treat every weight alike, and their sources.
BY_FANS: Mapping[str, str] = {
    "xavier_uniform": "Glorot and Bengio 2010",
    "xavier_normal": "Glorot and Bengio 2010",
    "kaiming_uniform": "He et al. 2015",
    "kaiming_normal": "He et al. 2015",
    "lecun_uniform": "LeCun et al. 1998",
    "lecun_normal": "LeCun et al. 1998; Klambauer et al. 2017",
    "orthogonal": "Saxe et al. 2014",
    "delta_orthogonal": "Xiao et al. 2018",
    "truncated_normal": "std 0.02 in BERT and GPT-2; cut at +-2 std",
    "normal": "std 0.02 in GPT-2 (Radford et al. 2019)",
    "sparse": "Martens 2010",
    "identity": "Le et al. 2015 (IRNN); Zagoruyko and Komodakis 2017 (dirac)",
    "zeros": "",
}


def by_fans(
    scheme: str,
    fan_in: int,
    fan_out: int,
    followed_by: str | None = None,
    *,
    units: int | None = None,
    gain: float | None = None,
    mode: str = "fan_in",
    std: float | None = None,
    sparsity: float = 0.9,
) -> Draw:
    """Return what ``scheme`` draws for a weight.

    Args:
        scheme: a key of :data:`BY_FANS`.
        fan_in: number of inputs that one output sums over.
        fan_out: number of outputs that one input feeds.
        followed_by: nonlinearity behind the weight; gives the gain where the scheme has one.
        units: number of outputs, in one group (default: ``fan_out``, which counts each position of a kernel).
        gain: the gain instead; xavier and identity default to 1, the others to what ``followed_by`` asks for.
        mode: fan of kaiming.
        std: std of ``normal`` and ``truncated_normal`` (default 0.02), of all values of ``sparse``.
        sparsity: share of zeros of ``sparse``.

    Raises:
        ValueError: the scheme is unknown.
    """
    own = weight_gain(followed_by).value if gain is None else gain
    plain = 1.0 if gain is None else gain
    family, _, kind = scheme.partition("_")
    if scheme not in BY_FANS:
        raise ValueError(f"scheme must be one of {', '.join(BY_FANS)} (got {scheme!r})")
    if family == "xavier":
        return xavier(fan_in, fan_out, gain=plain, kind=kind)
    if family == "kaiming":
        return kaiming(fan_in, fan_out, gain=own, mode=mode, kind=kind)
    if family == "lecun":
        return lecun(fan_in, kind=kind)
    if scheme == "orthogonal":
        return orthogonal(fan_in, units or fan_out, gain=own)
    if scheme == "delta_orthogonal":
        # Zero but for the middle of the kernel: its positions count in both fans, the values in one position only.
        return replace(orthogonal(fan_in, fan_out, gain=own), kind=scheme, why="delta-orthogonal (Xiao et al. 2018)")
    if scheme == "sparse":
        size = own / math.sqrt(fan_in) if std is None else std
        why = f"sparse, {sparsity:.0%} zeros (Martens 2010)"
        return Draw("sparse", size, options={"sparsity": sparsity}, why=why)
    if scheme == "identity":
        return Draw("identity", 0.0, plain, why="identity (Le et al. 2015)")
    if scheme == "zeros":
        return ZEROS
    return Draw(scheme, 0.02 if std is None else std, why="GPT-2 (Radford et al. 2019)" if std is None else "as asked")
