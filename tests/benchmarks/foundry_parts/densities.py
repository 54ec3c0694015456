"""Families of nets that give likelihoods, or bounds of them."""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundry_parts import tasks
from foundry_parts.design import Design, between, family
from foundry_parts.layers import Maker, Mlp, fill_
from foundry_parts.vectors import stack


class _Mixture(nn.Module):
    """Log-likelihood of the last coordinate given the others, and of the others in turn: a mixture for each."""

    def __init__(self, make: Maker, dims: int, width: int, depth: int, parts: int, activation: str) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            [nn.Sequential(*stack(make, max(d, 1), width, depth, activation, "none", 3 * parts)) for d in range(dims)]
        )
        for net in self.nets:
            with torch.no_grad():
                fill_(net[-1].weight, width, 3 * parts, 0.3, "normal")
                net[-1].bias = nn.Parameter(torch.cat([torch.linspace(-1, 1, parts), torch.zeros(2 * parts)]))

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for d, net in enumerate(self.nets):
            mean, log_std, weight = net(x[:, :d] if d else torch.ones_like(x[:, :1])).chunk(3, -1)
            z = (x[:, d : d + 1] - mean) * torch.exp(-log_std)
            part = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)
            total = total + torch.logsumexp(part + weight.log_softmax(-1), -1)
        return total


@family
def mixture_density(r: random.Random) -> Design:
    """Likelihood by mixtures of normals whose parts a net gives."""
    dims, width, depth, parts = r.choice((2, 3)), r.choice((16, 24)), between(r, 2, 5), r.randint(2, 4)
    activation = r.choice(("tanh", "relu", "gelu"))
    drawn, task = Maker.drawn(r), tasks.density(r, dims)
    make = Maker(drawn.distribution, drawn.mode, True)
    facts = {"depth": depth, "width": width, "coordinates": dims, "parts": parts, "activation": activation}
    head = tuple(f"nets.{d}.{2 * depth}." for d in range(dims))
    return Design(facts, lambda: _Mixture(make, dims, width, depth, parts, activation), task, head)


class _Coupling(nn.Module):
    """Half of the coordinates scaled and shifted by a net of the other half; starts as the identity."""

    def __init__(self, make: Maker, dims: int, width: int, activation: str, odd: bool) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.arange(dims) % 2 == int(odd)).float())
        self.net = Mlp(make, dims, width, activation, 2 * dims)
        nn.init.zeros_(self.net.fc2.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.net(x * self.mask).chunk(2, -1)
        log_scale = torch.tanh(log_scale) * (1 - self.mask) * 2
        return x * torch.exp(log_scale) + shift * (1 - self.mask), log_scale.sum(-1)


class _Flow(nn.Module):
    def __init__(self, couplings: list[nn.Module]) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(couplings)

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for coupling in self.couplings:
            x, log_det = coupling(x)
            total = total + log_det
        return total - 0.5 * x.square().sum(-1) - 0.5 * x.shape[-1] * math.log(2 * math.pi)


@family
def flow(r: random.Random) -> Design:
    """A normalizing flow of affine couplings."""
    depth, width, dims = between(r, 3, 8), r.choice((16, 24)), r.choice((2, 3, 4))
    activation = r.choice(("tanh", "relu", "gelu"))
    drawn, task = Maker.drawn(r), tasks.density(r, dims)
    make = Maker(drawn.distribution, drawn.mode, True)

    def build() -> nn.Module:
        return _Flow([_Coupling(make, dims, width, activation, bool(i % 2)) for i in range(depth)])

    facts = {"couplings": depth, "width": width, "coordinates": dims, "activation": activation}
    return Design(facts, build, task, tuple(f"couplings.{i}.net.fc2" for i in range(depth)))


class _Variational(nn.Module):
    """Encoder, a noisy code, decoder: the reconstruction, and the code's mean and log variance."""

    def __init__(self, make: Maker, cells: int, width: int, code: int, activation: str) -> None:
        super().__init__()
        self.encoder = Mlp(make, cells, width, activation, 2 * code)
        with torch.no_grad():  # starts with a code that is mostly signal
            self.encoder.fc2.bias[code:] = -4.0
        self.decoder = Mlp(make, code, width, activation, cells)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encoder(x.flatten(1)).chunk(2, -1)
        z = mean + torch.randn_like(mean) * torch.exp(log_var / 2)
        return self.decoder(z).view_as(x), mean, log_var


@family
def variational(r: random.Random) -> Design:
    """A variational autoencoder: reconstruction and the price of its code."""
    width, code, activation = r.choice((24, 32)), r.choice((3, 4)), r.choice(("relu", "tanh", "gelu", "silu"))
    drawn, base = Maker.drawn(r), tasks.reconstruction(r, (12,), 1, batch=32)
    make = Maker(drawn.distribution, drawn.mode, True)

    def loss(output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
        x, mean, log_var = output
        return F.mse_loss(x, target) + 0.003 * (mean.square() + log_var.exp() - log_var - 1).mean()

    task = tasks.Task("likelihood bound of series of 12", base.batch, base.draw, loss, base.constant)
    return Design(
        {"width": width, "code": code, "activation": activation},
        lambda: _Variational(make, 12, width, code, activation),
        task,
        ("decoder.fc2",),
    )
