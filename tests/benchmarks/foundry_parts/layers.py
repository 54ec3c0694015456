"""Layers that families are built of, each drawn soundly as it is made."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "softsign": nn.Softsign,
}
NORMS = ("layer", "batch", "rms", "group")


@functools.cache
def gain(activation: str) -> float:
    """The factor by which the layer after this activation must be larger to keep the second moment."""
    z = torch.erfinv(torch.linspace(-0.9999, 0.9999, 2001, dtype=torch.float64)) * math.sqrt(2)
    return float(ACTIVATIONS[activation]()(z).square().mean().rsqrt())


def norm(kind: str, width: int, dims: int = 0) -> nn.Module:
    """A norm over ``width`` features: last in the shape if ``dims`` is 0, else before that many grid dimensions."""
    if kind == "none":
        return nn.Identity()
    if dims:
        batch = nn.BatchNorm2d if dims == 2 else nn.BatchNorm1d
        return batch(width) if kind == "batch" else nn.GroupNorm(4 if width % 4 == 0 else 1, width)
    return {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "batch": nn.BatchNorm1d}.get(kind, nn.LayerNorm)(width)


def fill_(w: Tensor, fan_in: float, fan_out: float, size: float, distribution: str, mode: str = "in") -> Tensor:
    """Draw ``w`` with the second moment ``size**2 / fan``."""
    fan = {"in": fan_in, "out": fan_out, "average": (fan_in + fan_out) / 2}[mode]
    std = size / math.sqrt(fan)
    with torch.no_grad():
        if distribution == "uniform":
            return w.uniform_(-std * math.sqrt(3), std * math.sqrt(3))
        if distribution == "truncated":
            return nn.init.trunc_normal_(w, std=std / 0.88, a=-2 * std / 0.88, b=2 * std / 0.88)
        if distribution == "orthogonal" and w.dim() == 2:
            nn.init.orthogonal_(w)
            return w.mul_(std / w.square().mean().sqrt())
        return w.normal_(0, std)


@dataclass
class Maker:
    """Makes layers with weights that are drawn one sound way."""

    distribution: str = "normal"
    mode: str = "in"
    bias: bool = True
    wrap: str = "none"  # "weight" or "spectral": the norm of the weight that is taken

    @classmethod
    def drawn(cls, r: random.Random) -> Maker:
        return cls(
            r.choice(("normal", "uniform", "truncated", "orthogonal")),
            r.choice(("in", "in", "average")),
            r.random() < 0.8,
        )

    def _done(self, layer: Any, fan_in: float, fan_out: float, size: float) -> Any:
        fill_(layer.weight, fan_in, fan_out, size, self.distribution, self.mode)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        if self.wrap == "weight":
            return parametrizations.weight_norm(layer)
        return parametrizations.spectral_norm(layer) if self.wrap == "spectral" else layer

    def linear(self, din: int, dout: int, size: float = 1.0, bias: bool | None = None) -> nn.Module:
        return self._done(nn.Linear(din, dout, bias=self.bias if bias is None else bias), din, dout, size)

    def conv(self, dims: int, din: int, dout: int, kernel: int = 3, size: float = 1.0, **options: Any) -> nn.Module:
        layer = (nn.Conv2d if dims == 2 else nn.Conv1d)(
            din, dout, kernel, bias=options.pop("bias", self.bias), **options
        )
        cells = kernel**dims / layer.groups
        return self._done(layer, din * cells, dout * cells, size)

    def transposed(
        self, dims: int, din: int, dout: int, kernel: int, stride: int, padding: int, size: float = 1.0
    ) -> nn.Module:
        layer = (nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose1d)(din, dout, kernel, stride, padding)
        cells = (kernel / stride) ** dims
        return self._done(layer, din * cells, dout * cells, size)

    def raw(self, *shape: int, size: float = 1.0) -> nn.Parameter:
        """A parameter ``(..., in, out)``."""
        w = torch.empty(shape)
        for part in w.view(-1, *shape[-2:]):
            fill_(part, shape[-2], shape[-1], size, self.distribution, self.mode)
        return nn.Parameter(w)


class Residual(nn.Module):
    """``x`` and a branch of it, joined by one of the forms that train deep nets.

    Args:
        branch: what is added; its last weight is changed where the form asks for it.
        width, dims, kind: of the norm.
        place: "pre", "post" or "none": where the norm stands.
        form: "plain", "zero" (the last weight of the branch is zero), "layerscale", "rezero" or "skipinit" (a gate of zero),
            "scaled" (by depth).
        depth: number of branches of the net.
    """

    def __init__(self, branch: nn.Module, width: int, dims: int, kind: str, place: str, form: str, depth: int) -> None:
        super().__init__()
        self.norm = norm(kind, width, dims) if place != "none" else nn.Identity()
        self.branch = branch
        self.post = place == "post"
        last = getattr(branch, "last", [p for p in branch.parameters() if p.dim() >= 2])[-1]
        with torch.no_grad():
            if form == "zero":
                last.zero_()
            if form == "scaled":
                last.mul_(1 / math.sqrt(2 * depth))
        self.alpha: nn.Parameter | None = None
        if form == "layerscale":
            self.alpha = nn.Parameter(torch.full((width, *[1] * dims), 0.1 if depth < 18 else 0.01))
        if form == "rezero":
            self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x if self.post else self.norm(x))
        y = x + (y if self.alpha is None else self.alpha * y)
        return self.norm(y) if self.post else y


def forms(r: random.Random, place: str, depth: int) -> str:
    """A form of residual that is sound with the norm at ``place``."""
    if place == "post":
        return r.choice(("plain", "scaled", "zero")) if depth <= 12 else r.choice(("zero", "rezero"))
    if place == "none":
        return r.choice(("zero", "rezero", "scaled", "layerscale"))
    return r.choice(("plain", "scaled", "zero", "rezero", "layerscale"))


class Mlp(nn.Module):
    """Two layers with an activation between."""

    def __init__(self, make: Maker, width: int, hidden: int, activation: str, dout: int | None = None) -> None:
        super().__init__()
        self.fc1 = make.linear(width, hidden)
        self.act = ACTIVATIONS[activation]()
        self.fc2 = make.linear(hidden, dout or width, gain(activation))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Glu(nn.Module):
    """A layer gated by another one."""

    def __init__(self, make: Maker, width: int, hidden: int, activation: str, dout: int | None = None) -> None:
        super().__init__()
        self.up = make.linear(width, hidden, 1.4)
        self.gate = make.linear(width, hidden)
        self.activation = activation
        self.down = make.linear(hidden, dout or width, 1.2)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        return self.down(
            self.up(x)
            * (torch.sigmoid(gate) * 1.8 if self.activation == "sigmoid" else getattr(F, self.activation)(gate))
        )


class TorchAttention(nn.Module):
    """Self-attention as torch has it."""

    def __init__(self, make: Maker, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        fill_(self.attention.in_proj_weight, width, width, 1.0, make.distribution)
        fill_(self.attention.out_proj.weight, width, width, 1.0, make.distribution)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
        return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


class Attention(nn.Module):
    """Self-attention: one projection for queries, keys and values, or three."""

    def __init__(self, make: Maker, width: int, heads: int, *, causal: bool, fused: bool) -> None:
        super().__init__()
        if fused:
            self.qkv = make.linear(width, 3 * width)
        else:
            self.q, self.k, self.v = (make.linear(width, width) for _ in range(3))
        self.proj = make.linear(width, width)
        self.heads, self.causal, self.fused = heads, causal, fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(y.transpose(1, 2).flatten(2))
