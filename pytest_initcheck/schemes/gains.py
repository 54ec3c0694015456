"""Gains by integration, of any activation: what a weight's std must make up for because of the nonlinearity next to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..gain_table import plain_name

Moment = Literal["square", "variance"]
Function = Callable[[Tensor], Tensor]

#: Grid of the numerical integrals. Midpoints, because kinks and jumps of the activations in use (0, 0.5, 1, 3, 6) then lie on
#: the borders of cells, where the error is of second order; for smooth functions against a Gaussian the rule converges
#: faster than any power. Gauss-Hermite quadrature is better for polynomials and wrong in the third digit at a kink.
_STEP, _REACH = 1e-3, 13.0

#: Elementwise functions by the name they have in torch.nn.functional or torch. Those of two halves or of whole vectors follow below.
_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "linear": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "softshrink": F.softshrink,
    "hardshrink": F.hardshrink,
    "tanhshrink": F.tanhshrink,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "logsigmoid": F.logsigmoid,
    "threshold": F.threshold,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "exp": torch.exp,
    "square": torch.square,
}
#: Products of one half with a function of the other (Shazeer 2020): out = a * f(b), a and b independent.
_GATED = {"glu": "sigmoid", "swiglu": "silu", "geglu": "gelu", "reglu": "relu"}
#: Outputs that sum to one or have unit length whatever goes in: nothing to make up for; unit scores are what they want.
_NORMALISED = frozenset(("softmax", "softmin", "log_softmax", "gumbel_softmax", "normalize", "norm"))

#: Gains with a closed form; everything else is integrated. E[f(z)^2] of z ~ N(0, 1) is 1/2 for a ReLU (He et al. 2015), and
#: 1 by construction for SELU (Klambauer et al. 2017), both for unit z.
_CLOSED = {"linear": 1.0, "relu": math.sqrt(2.0), "sin": math.sqrt(2.0 / (1.0 - math.exp(-2.0))), "selu": 1.0}


def gain(activation: str | nn.Module | Function, *, moment: Moment = "square", **options: Any) -> float:
    r"""Return the factor that makes up for ``activation``: :math:`1 / \sqrt{E[f(z)^2]}` with z standard normal.

    A weight of std ``gain / sqrt(fan_in)`` behind the activation keeps pre-activations at unit RMS from layer to layer
    (He et al. 2015, section 2.2, for a ReLU; the same argument for any f). With ``moment="variance"`` the mean of the output is
    not counted, :math:`1 / \sqrt{Var f(z)}`, as in the scaled activations of normalizer-free networks (Brock et al. 2021).

    Args:
        activation: name of a function in ``torch.nn.functional`` or a module in ``torch.nn`` (``"relu"``, ``"GELU"``,
            ``"nn.SiLU"``), one of ``"swiglu"``, ``"geglu"``, ``"reglu"``, a module with its own options, or any elementwise
            function of a tensor.
        moment: ``"square"`` or ``"variance"``.
        **options: keyword arguments of the function (``negative_slope=0.2``, ``approximate="tanh"``).

    Returns:
        The gain; 1 for functions whose output is normalised whatever goes in (softmax and its kin).

    Raises:
        ValueError: the name is unknown, or the function's output vanishes.
    """
    if moment not in ("square", "variance"):
        raise ValueError(f"moment must be 'square' or 'variance' (got {moment!r})")
    if isinstance(activation, nn.Module):
        return _of_module(activation, moment)
    if callable(activation):
        return _numerical(partial(activation, **options) if options else activation, moment)
    name = canonical(activation)
    if name in _NORMALISED:
        return 1.0
    if name in _GATED:
        return gain(_GATED[name])  # E[a^2] = 1, and E[a] = 0: the product has no mean, so both moments agree
    if name == "prelu":
        return _leaky(float(options.pop("init", 0.25)) ** 2, 0.25, moment)
    if name == "rrelu":
        low, high = float(options.get("lower", 1 / 8)), float(options.get("upper", 1 / 3))
        return _leaky((low * low + low * high + high * high) / 3, (low + high) / 2, moment)
    if not options and moment == "square" and name in _CLOSED:
        return _CLOSED[name]
    if name == "leaky_relu":
        slope = float(options.get("negative_slope", 0.01))
        return _leaky(slope * slope, slope, moment)
    if options:
        return _numerical(partial(_FUNCTIONS[name], **options), moment)
    return _named(name, moment)


def canonical(name: str) -> str:
    """Return the name under which the gain of an activation is known here.

    Raises:
        ValueError: it is not.
    """
    key = plain_name(name)
    if key not in known():
        raise ValueError(f"activation must be one of {', '.join(sorted(known()))} (got {name!r})")
    return key


@lru_cache(maxsize=1)
def known() -> frozenset[str]:
    """Return the names of all activations with a gain."""
    return frozenset(_FUNCTIONS) | frozenset(_GATED) | _NORMALISED | {"prelu", "rrelu"}


def slope(activation: str | Function, **options: Any) -> float:
    r"""Return :math:`\sqrt{E[f'(z)^2]}`, z standard normal: what a gradient is multiplied by on its way back.

    Where pre-activations have unit RMS, ``gain * slope`` tells the phase of a deep network: below 1, differences between
    inputs die out; above, they grow (Schoenholz et al. 2017). Exactly 1 for a ReLU, 1.04 for GELU, 1.09 for tanh.
    """
    f = partial(_FUNCTIONS[canonical(activation)], **options) if isinstance(activation, str) else activation
    z, weight = _grid()
    z = z.clone().requires_grad_(True)
    with torch.enable_grad():
        (derivative,) = torch.autograd.grad(f(z).sum(), z)
    return math.sqrt(float((derivative.square() * weight).sum()))


def _of_module(module: nn.Module, moment: Moment) -> float:
    if isinstance(module, nn.PReLU):
        with torch.no_grad():
            a = module.weight.detach().double()
            return _leaky(float(a.square().mean()), float(a.mean()), moment)
    if isinstance(module, nn.RReLU):
        return gain("rrelu", moment=moment, lower=module.lower, upper=module.upper)
    if isinstance(module, nn.LeakyReLU):
        return gain("leaky_relu", moment=moment, negative_slope=module.negative_slope)
    if isinstance(module, nn.Softmax | nn.Softmax2d | nn.Softmin | nn.LogSoftmax):
        return 1.0
    if isinstance(module, nn.GLU):
        return gain("glu", moment=moment)
    return _numerical(module, moment)


def _leaky(slope_square: float, slope_mean: float, moment: Moment) -> float:
    """z for z > 0, a z below, with the given E[a^2] and E[a]."""
    square = (1.0 + slope_square) / 2.0
    mean = (1.0 - slope_mean) / math.sqrt(2.0 * math.pi)
    return 1.0 / math.sqrt(square if moment == "square" else square - mean * mean)


@lru_cache(maxsize=1)
def _grid() -> tuple[Tensor, Tensor]:
    cells = round(2 * _REACH / _STEP)
    z = (torch.arange(cells, dtype=torch.float64, device="cpu") + 0.5) * _STEP - _REACH
    return z, torch.exp(-0.5 * z * z) * (_STEP / math.sqrt(2 * math.pi))


@lru_cache(maxsize=256)
def _named(name: str, moment: Moment) -> float:
    options = {"threshold": 0.0, "value": 0.0} if name == "threshold" else {}
    return _numerical(partial(_FUNCTIONS[name], **options), moment)


def _numerical(f: Function, moment: Moment) -> float:
    z, weight = _grid()
    with torch.no_grad():
        y = f(z.clone())
    if not isinstance(y, Tensor) or y.shape != z.shape:
        raise ValueError("activation must be an elementwise function of a tensor (its output has another shape)")
    square = float((y.square() * weight).sum())
    if moment == "variance":
        square -= float((y * weight).sum()) ** 2
    if not 0.0 < square < math.inf:
        raise ValueError(f"the output of the activation has E[f(z)^2] = {square:g}, so no gain makes up for it")
    return 1.0 / math.sqrt(square)
