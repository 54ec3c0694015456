"""Families of nets on grids: images and series of channels."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry_parts import tasks
from foundry_parts.design import Design, between, family
from foundry_parts.layers import ACTIVATIONS, Maker, Mlp, Residual, forms, gain, norm
from foundry_parts.vectors import DEEP

GRID_NORMS = ("batch", "group")


class _Classifier(nn.Module):
    """Features, their mean over the grid, a head."""

    def __init__(self, features: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(2).mean(-1))


@family
def conv(r: random.Random) -> Design:
    """Convolutions one after another, classifying."""
    kind = r.choice(("none", *GRID_NORMS))
    depth = between(r, 2, 10 if kind == "none" else 12)
    activation = r.choice(DEEP) if depth > 6 else r.choice(list(ACTIVATIONS))
    width, channels, size, n = r.choice((8, 12, 16)), r.choice((1, 3)), 8, r.randint(3, 4)
    make, task = Maker.drawn(r), tasks.gratings(r, size, channels, n)

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for i in range(depth):
            size = 1.0 if i == 0 else gain(activation)
            layers.append(
                make.conv(2, channels if i == 0 else width, width, size=size, stride=2 if i == 0 else 1, padding=1)
            )
            layers += [norm(kind, width, 2)] if kind != "none" else []
            layers.append(ACTIVATIONS[activation]())
        return _Classifier(layers, make.linear(width, n, 2.0))

    return Design({"depth": depth, "width": width, "activation": activation, "norm": kind, "size": size}, build, task)


class _ConvBranch(nn.Module):
    """Two convolutions, the second after an activation; depthwise and pointwise if ``apart``."""

    def __init__(self, make: Maker, dims: int, width: int, activation: str, apart: bool) -> None:
        super().__init__()
        self.conv1 = make.conv(dims, width, width, padding=1, groups=width if apart else 1)
        self.act = ACTIVATIONS[activation]()
        self.conv2 = make.conv(dims, width, width, 1 if apart else 3, gain(activation), padding=0 if apart else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.conv1(x)))


@family
def residual_conv(r: random.Random) -> Design:
    """Residual convolutions, classifying."""
    place = r.choice(("pre", "pre", "post", "none"))
    kind = "none" if place == "none" else r.choice(GRID_NORMS)
    depth, apart = between(r, 1, 6), r.random() < 0.3
    form = forms(r, place, depth)
    activation = r.choice(("relu", "gelu", "silu", "elu"))
    width, channels, size, n = r.choice((8, 12)), r.choice((1, 3)), 8, r.randint(3, 4)
    make, task = Maker.drawn(r), tasks.gratings(r, size, channels, n)

    def build() -> nn.Module:
        layers: list[nn.Module] = [make.conv(2, channels, width, stride=2, padding=1)]
        for _ in range(depth):
            layers.append(Residual(_ConvBranch(make, 2, width, activation, apart), width, 2, kind, place, form, depth))
        layers += [norm(kind, width, 2), ACTIVATIONS[activation]()]
        return _Classifier(layers, make.linear(width, n, 2.0))

    facts = {
        "blocks": depth,
        "width": width,
        "activation": activation,
        "norm": f"{place} {kind}",
        "residual": form,
        "apart": apart,
    }
    return Design(facts, build, task)


class _Dilated(nn.Module):
    """A causal convolution with a gated activation, its reach doubling from layer to layer."""

    def __init__(self, make: Maker, width: int, dilation: int) -> None:
        super().__init__()
        self.filter = make.conv(1, width, width, dilation=dilation)
        self.gate = make.conv(1, width, width, dilation=dilation)
        self.mix = make.conv(1, width, width, 1, 2.0)
        self.pad = 2 * dilation

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (self.pad, 0))
        return self.mix(torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x)))


class _PerStep(nn.Module):
    """Layers over channels first, for series with features last."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.Sequential(*blocks), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x.transpose(1, 2)))).transpose(1, 2)


@family
def conv1d(r: random.Random) -> Design:
    """Convolutions over series: gated and dilated in residual blocks, or plain ones."""
    wave = r.random() < 0.6
    depth = between(r, 1, 4) if wave else between(r, 2, 10)
    activation = "gated" if wave else r.choice(DEEP)
    form = forms(r, "none", depth) if wave else "none"
    width, din, dout, steps = r.choice((12, 16)), r.randint(2, 6), r.randint(1, 3), r.choice((8, 12))
    drawn = Maker.drawn(r)
    make = Maker(drawn.distribution, drawn.mode, True)
    task = tasks.series(r, steps, din, dout, every=True, batch=12) if wave else tasks.dense(r, (steps,), din, dout)

    def build() -> nn.Module:
        if wave:
            blocks: list[nn.Module] = [
                Residual(_Dilated(make, width, 2 ** (i % 3)), width, 1, "none", "none", form, depth)
                for i in range(depth)
            ]
            return _PerStep(make.conv(1, din, width, 1), blocks, make.conv(1, width, dout, 1))
        layers: list[nn.Module] = []
        for i in range(depth):
            size = 1.0 if i == 0 else gain(activation)
            layers += [make.conv(1, din if i == 0 else width, width, size=size, padding=1), ACTIVATIONS[activation]()]
        return nn.Sequential(*layers, make.conv(1, width, dout, 1))

    facts = {"depth": depth, "width": width, "activation": activation, "residual": form, "steps": steps}
    return Design(facts, build, task, ("head",) if wave else (f"{2 * depth}.",))


@family
def autoencoder(r: random.Random) -> Design:
    """Strided convolutions down, transposed ones up, in one or two dimensions."""
    dims, levels = r.choice((1, 2)), r.choice((1, 2))
    kind = r.choice(("none", "none", *GRID_NORMS))
    activation = r.choice(("relu", "leaky_relu", "gelu", "silu", "elu"))
    width, channels, extra = r.choice((8, 12, 16)), r.choice((1, 2)), r.choice((0, 0, 1))
    drawn = Maker.drawn(r)
    make = Maker(drawn.distribution, "in", True)
    task = tasks.reconstruction(r, (8,) * dims if dims == 2 else (16,), channels)

    def build() -> nn.Module:
        def act() -> list[nn.Module]:
            return [*([norm(kind, width, dims)] if kind != "none" else []), ACTIVATIONS[activation]()]

        layers: list[nn.Module] = []
        for i in range(levels):
            layers += [
                make.conv(
                    dims, channels if i == 0 else width, width, 3, gain(activation) if i else 1.0, stride=2, padding=1
                ),
                *act(),
            ]
        for _ in range(extra):
            layers += [make.conv(dims, width, width, 3, gain(activation), padding=1), *act()]
        for i in range(levels):
            last = i == levels - 1
            up = make.transposed(dims, width, channels if last else width, 4, 2, 1, gain(activation))
            layers += [up] if last else [up, *act()]
        return nn.Sequential(*layers)

    per = 3 if kind != "none" else 2
    facts = {"dims": dims, "levels": levels, "width": width, "activation": activation, "norm": kind}
    return Design(facts, build, task, (f"{per * (2 * levels + extra - 1)}.",))


class _Unet(nn.Module):
    """Down, across and up, the way down joined to the way up."""

    def __init__(
        self, make: Maker, channels: int, width: int, depth: int, activation: str, kind: str, dout: int
    ) -> None:
        super().__init__()
        g = gain(activation)

        def block(din: int, size: float = g) -> nn.Module:
            return nn.Sequential(
                make.conv(2, din, width, 3, size, padding=1), norm(kind, width, 2), ACTIVATIONS[activation]()
            )

        self.stem = block(channels, 1.0)
        self.down = make.conv(2, width, width, 3, g, stride=2, padding=1)
        self.middle = nn.Sequential(*[block(width) for _ in range(depth)])
        self.up = make.transposed(2, width, width, 4, 2, 1, g)
        self.join = block(2 * width, 1.2)
        self.head = make.conv(2, width, dout, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.join(torch.cat([x, self.up(self.middle(self.down(x)))], 1)))


@family
def unet(r: random.Random) -> Design:
    """A dense map with a way around the middle."""
    depth, activation, kind = between(r, 1, 3), r.choice(("relu", "gelu", "silu")), r.choice(("none", *GRID_NORMS))
    width, channels, dout = r.choice((8, 12)), r.randint(1, 3), r.randint(1, 2)
    make, task = Maker.drawn(r), tasks.dense(r, (8, 8), channels, dout, batch=6)
    facts = {"depth": depth, "width": width, "activation": activation, "norm": kind}
    return Design(facts, lambda: _Unet(make, channels, width, depth, activation, kind, dout), task)


class _Mixing(nn.Module):
    """Mixes patches, then features."""

    def __init__(self, make: Maker, patches: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across, self.within = Mlp(make, patches, 2 * patches, "gelu"), Mlp(make, width, 2 * width, "gelu")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.norm2(x))


class _Mixer(nn.Module):
    def __init__(self, make: Maker, channels: int, width: int, depth: int, size: int, n: int) -> None:
        super().__init__()
        self.patches = make.conv(2, channels, width, 2, stride=2)
        self.blocks = nn.ModuleList([_Mixing(make, (size // 2) ** 2, width) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), make.linear(width, n)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


@family
def mixer(r: random.Random) -> Design:
    """Patches mixed by MLPs."""
    depth, width, channels, n = between(r, 1, 3), r.choice((16, 24)), r.choice((1, 3)), r.randint(3, 4)
    make, task = Maker.drawn(r), tasks.gratings(r, 8, channels, n)
    return Design({"blocks": depth, "width": width}, lambda: _Mixer(make, channels, width, depth, 8, n), task)
