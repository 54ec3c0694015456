"""Families of nets on vectors of features."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from foundry_parts import tasks
from foundry_parts.design import Design, between, family
from foundry_parts.layers import ACTIVATIONS, NORMS, Glu, Maker, Mlp, Residual, forms, gain, norm

#: Activations through which deep nets pass signals without a norm.
DEEP = ("relu", "leaky_relu", "tanh", "selu")


def task_of(r: random.Random, din: int, dout: int) -> tasks.Task:
    """A regression or a classification."""
    return tasks.regression(r, din, dout) if r.random() < 0.6 else tasks.classes(r, din, max(dout, 3))


def outputs(task: tasks.Task, dout: int) -> int:
    """Size of the head for ``task_of(r, din, dout)``."""
    return dout if task.name.startswith("regression") else max(dout, 3)


def stack(make: Maker, din: int, width: int, depth: int, activation: str, kind: str, dout: int) -> list[nn.Module]:
    """Layers with norms and activations, and a head."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(make.linear(din if i == 0 else width, width, 1.0 if i == 0 else gain(activation)))
        if kind != "none":
            layers.append(norm(kind, width))
        layers.append(ACTIVATIONS[activation]())
    return [*layers, make.linear(width, dout, 1.0)]


@family
def mlp(r: random.Random) -> Design:
    """Layers one after another."""
    kind = r.choice(("none", "none", "none", *NORMS))
    depth = between(r, 2, 40 if kind in ("layer", "rms") else 24)
    activation = r.choice(DEEP) if depth > 8 else r.choice(list(ACTIVATIONS))
    width, din, dout = r.choice((24, 32, 48)), r.randint(4, 10), r.randint(1, 4)
    make, task = Maker.drawn(r), task_of(r, din, dout)

    def build() -> nn.Module:
        return nn.Sequential(*stack(make, din, width, depth, activation, kind, outputs(task, dout)))

    last = depth * (3 if kind != "none" else 2)
    facts = {"depth": depth, "width": width, "activation": activation, "norm": kind, "draw": make.distribution}
    return Design(facts, build, task, (f"{last}.",))


class _Trunk(nn.Module):
    """A stem, residual blocks, a norm and a head."""

    def __init__(
        self, make: Maker, din: int, width: int, blocks: list[nn.Module], kind: str, dout: int, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.stem = make.linear(din, width)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm(kind, width)
        self.drop = nn.Dropout(drop)
        self.head = make.linear(width, dout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(self.norm(x)))


@family
def residual_mlp(r: random.Random) -> Design:
    """Residual blocks of two layers."""
    place = r.choice(("pre", "pre", "post", "none"))
    kind = "none" if place == "none" else r.choice(NORMS)
    depth = between(r, 2, 32) if r.random() < 0.5 else between(r, 2, 8)
    form = forms(r, place, depth)
    activation = r.choice(list(ACTIVATIONS))
    width, din, dout = r.choice((16, 24, 32)), r.randint(4, 10), r.randint(1, 4)
    make, task = Maker.drawn(r), task_of(r, din, dout)
    drop = r.choice((0.0, 0.0, 0.1))

    def build() -> nn.Module:
        blocks = [
            Residual(Mlp(make, width, 2 * width, activation), width, 0, kind, place, form, depth) for _ in range(depth)
        ]
        return _Trunk(make, din, width, list(blocks), kind if place == "pre" else "none", outputs(task, dout), drop)

    facts = {
        "blocks": depth,
        "width": width,
        "activation": activation,
        "norm": f"{place} {kind}",
        "residual": form,
        "dropout": drop,
    }
    return Design(facts, build, task)


class _Highway(nn.Module):
    """Carries its input on, and lets a transform in through a gate."""

    def __init__(self, make: Maker, width: int, activation: str) -> None:
        super().__init__()
        self.transform = make.linear(width, width, gain(activation))
        self.gate = make.linear(width, width, bias=True)
        nn.init.constant_(self.gate.bias, -1.0)
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.gate(x))
        return t * self.act(self.transform(x)) + (1 - t) * x


@family
def gated(r: random.Random) -> Design:
    """Blocks with multiplicative gates: highways, or gated linear units in residual blocks."""
    highway = r.random() < 0.4
    depth = between(r, 2, 12)
    activation = r.choice(("tanh", "relu", "gelu")) if highway else r.choice(("sigmoid", "silu", "gelu"))
    kind = "none" if highway else r.choice(("layer", "rms"))
    form = "highway" if highway else forms(r, "pre", depth)
    width, din, dout = r.choice((16, 24, 32)), r.randint(4, 10), r.randint(1, 4)
    make, task = Maker.drawn(r), task_of(r, din, dout)
    if not highway:
        make = Maker(make.distribution, make.mode, r.random() < 0.5)

    def build() -> nn.Module:
        if highway:
            blocks: list[nn.Module] = [_Highway(make, width, activation) for _ in range(depth)]
        else:
            blocks = [
                Residual(Glu(make, width, 2 * width, activation), width, 0, kind, "pre", form, depth)
                for _ in range(depth)
            ]
        return _Trunk(make, din, width, blocks, kind, outputs(task, dout))

    return Design({"blocks": depth, "width": width, "activation": activation, "norm": kind, "form": form}, build, task)


class _Experts(nn.Module):
    """Experts in stacked parameters, weighted by a router: softly, or the best two only."""

    def __init__(self, make: Maker, width: int, experts: int, hidden: int, best: int) -> None:
        super().__init__()
        self.router = make.linear(width, experts, 1.0, bias=False)
        self.w_in = make.raw(experts, width, hidden)
        self.w_out = make.raw(experts, hidden, width, size=gain("gelu"))
        self.best = best

    @property
    def last(self) -> list[nn.Parameter]:
        """What the form of a residual changes."""
        return [self.w_out]

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        if self.best:
            scores = scores.masked_fill(scores < scores.topk(self.best, -1).values[..., -1:], float("-inf"))
        h = nn.functional.gelu(torch.einsum("bi,eih->beh", x, self.w_in))
        return torch.einsum("beh,eho,be->bo", h, self.w_out, scores.softmax(-1))


@family
def experts(r: random.Random) -> Design:
    """A mixture of experts in every block."""
    depth, count, best = between(r, 1, 4), r.choice((3, 4, 6)), r.choice((0, 2))
    kind = r.choice(("layer", "rms"))
    form = forms(r, "pre", depth)
    width, din, dout = r.choice((16, 24)), r.randint(4, 10), r.randint(1, 4)
    make, task = Maker.drawn(r), task_of(r, din, dout)

    def build() -> nn.Module:
        blocks = [
            Residual(_Experts(make, width, count, 16, best), width, 0, kind, "pre", form, depth) for _ in range(depth)
        ]
        return _Trunk(make, din, width, list(blocks), kind, outputs(task, dout))

    return Design(
        {"blocks": depth, "width": width, "experts": count, "best": best, "norm": kind, "residual": form}, build, task
    )


@family
def weight_normed(r: random.Random) -> Design:
    """Layers whose weights are taken by direction and size, or divided by their spectral norm."""
    wrap = r.choice(("weight", "weight", "spectral"))
    depth = between(r, 2, 12) if wrap == "weight" else between(r, 2, 4)
    activation = r.choice(DEEP)
    width, din, dout = r.choice((16, 24, 32)), r.randint(4, 10), r.randint(1, 4)
    drawn = Maker.drawn(r)
    make = Maker(drawn.distribution, "in", drawn.bias, wrap)
    task = task_of(r, din, dout)

    def build() -> nn.Module:
        return nn.Sequential(*stack(make, din, width, depth, activation, "none", outputs(task, dout)))

    return Design(
        {"depth": depth, "width": width, "activation": activation, "weights": wrap}, build, task, (f"{2 * depth}.",)
    )


class _Raw(nn.Module):
    """No layers: parameters, matrix products and einsum."""

    def __init__(self, make: Maker, din: int, width: int, depth: int, activation: str, dout: int, kind: str) -> None:
        super().__init__()
        self.w_in, self.b_in = make.raw(din, width), nn.Parameter(torch.zeros(width))
        size = 1.0 if kind == "residual" else gain(activation)
        shape = (depth, width, width) if kind == "stacked" else (width, width)
        count = 1 if kind == "stacked" else depth
        self.weights = nn.ParameterList([make.raw(*shape, size=size) for _ in range(count)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(width)) for _ in range(depth)])
        if kind == "residual":
            for w in self.weights:
                w.data /= math.sqrt(depth)
        self.w_out = make.raw(width, dout)
        self.act, self.kind = ACTIVATIONS[activation](), kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(x @ self.w_in + self.b_in)
        for i, b in enumerate(self.biases):
            w = self.weights[0][i] if self.kind == "stacked" else self.weights[i]
            y = self.act(torch.einsum("bi,io->bo", x, w) + b)
            x = x + y if self.kind == "residual" else y
        return x @ self.w_out


@family
def raw_parameters(r: random.Random) -> Design:
    """Bare parameters in functional calls."""
    kind = r.choice(("plain", "residual", "stacked"))
    depth, activation = between(r, 2, 12), r.choice(DEEP)
    width, din, dout = r.choice((16, 24, 32)), r.randint(4, 10), r.randint(1, 4)
    make, task = Maker.drawn(r), task_of(r, din, dout)

    def build() -> nn.Module:
        return _Raw(make, din, width, depth, activation, outputs(task, dout), kind)

    return Design({"depth": depth, "width": width, "activation": activation, "form": kind}, build, task, ("w_out",))


class _Two(nn.Module):
    """A trunk with two heads: a tuple, or a dict where ``names`` are given."""

    def __init__(
        self, trunk: list[nn.Module], heads: tuple[nn.Module, nn.Module], names: tuple[str, str] | None
    ) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*trunk)
        self.head_a, self.head_b = heads
        self.names = names

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | dict[str, Tensor]:
        x = self.trunk(x)
        first, second = self.head_a(x), self.head_b(x)
        return {self.names[0]: first, self.names[1]: second} if self.names else (first, second)


@family
def two_outputs(r: random.Random) -> Design:
    """One trunk, two outputs: policy and value with a small policy head, or a regression beside a classification."""
    policy = r.random() < 0.5
    kind = "none" if policy else r.choice(("none", *NORMS))
    depth = between(r, 2, 10)
    activation = r.choice(("tanh", "relu")) if policy else r.choice(DEEP)
    width, din, dout, n = r.choice((16, 24, 32)), r.randint(4, 10), 1 if policy else r.randint(1, 3), r.randint(3, 5)
    names = None if r.random() < 0.5 else (("value", "logits") if policy else ("mean", "kind"))
    make, task = Maker.drawn(r), tasks.several(r, din, dout, n, names=names)
    if policy:
        make = Maker("orthogonal", "in", True)

    def build() -> nn.Module:
        trunk = stack(make, din, width, depth, activation, kind, 1)[:-1]
        return _Two(trunk, (make.linear(width, dout), make.linear(width, n, 0.01 if policy else 1.0)), names)

    facts = {
        "depth": depth,
        "width": width,
        "activation": activation,
        "norm": kind,
        "policy": policy,
        "output": names or "tuple",
    }
    return Design(facts, build, task)


class _Sine(nn.Module):
    def __init__(self, din: int, dout: int, omega: float, first: bool) -> None:
        super().__init__()
        self.linear, self.omega = nn.Linear(din, dout), omega
        bound = 1 / din if first else math.sqrt(6 / din) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


class _Fourier(nn.Module):
    """Fixed waves of the coordinates."""

    def __init__(self, din: int, waves: int, size: float) -> None:
        super().__init__()
        self.register_buffer("k", torch.randn(din, waves) * size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.sin(x @ self.k), torch.cos(x @ self.k)], -1) * math.sqrt(2)


@family
def implicit(r: random.Random) -> Design:
    """A picture as a net of its coordinates: sines throughout, or fixed waves and an MLP."""
    sine = r.random() < 0.6
    depth, omega = between(r, 2, 6), r.choice((5.0, 10.0, 30.0))
    width, din, dout = r.choice((24, 32)), r.choice((1, 2, 2)), r.randint(1, 3)
    activation = r.choice(("relu", "gelu", "silu"))
    make, task = Maker.drawn(r), tasks.surface(r, din, dout)

    def build() -> nn.Module:
        if sine:
            first = max(omega / 4, 3.0)  # the first layer's range of frequencies fits the picture, the others' the sine
            layers: list[nn.Module] = [_Sine(din, width, first, True)]
            layers += [_Sine(width, width, omega, False) for _ in range(depth - 1)]
            head = nn.Linear(width, dout)
            nn.init.uniform_(head.weight, -math.sqrt(6 / width) / 3, math.sqrt(6 / width) / 3)
            return nn.Sequential(*layers, head)
        return nn.Sequential(_Fourier(din, 12, 2.0), *stack(make, 24, width, depth, activation, "none", dout))

    head = depth if sine else 1 + 2 * depth
    facts = {
        "depth": depth,
        "width": width,
        "activation": f"sine {omega:g}" if sine else activation,
        "coordinates": din,
    }
    return Design(facts, build, task, (f"{head}.",))


class _Iterated(nn.Module):
    """One block applied again and again."""

    def __init__(self, make: Maker, din: int, width: int, times: int, dout: int) -> None:
        super().__init__()
        self.stem = make.linear(din, width)
        self.inner, self.outer = make.linear(width, 2 * width), make.linear(2 * width, width, gain("tanh"))
        self.norm = nn.LayerNorm(width)
        self.head = make.linear(width, dout)
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(self.times):
            x = x + self.outer(torch.tanh(self.inner(self.norm(x)))) / self.times
        return self.head(x)


@family
def iterated(r: random.Random) -> Design:
    """Weights shared over depth, as in a solver's steps."""
    times, width, din, dout = between(r, 2, 12), r.choice((16, 24, 32)), r.randint(4, 10), r.randint(1, 4)
    make, task = Maker.drawn(r), task_of(r, din, dout)
    return Design(
        {"times": times, "width": width}, lambda: _Iterated(make, din, width, times, outputs(task, dout)), task
    )


class _Bilinear(nn.Module):
    """Scores of pairs from tables of embeddings, with a small net or without."""

    def __init__(self, make: Maker, users: int, items: int, width: int, deep: bool, size: float) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, width), nn.Embedding(items, width)
        self.offset = nn.Embedding(items, 1)
        nn.init.normal_(self.user.weight, std=size)
        nn.init.normal_(self.item.weight, std=size)
        nn.init.zeros_(self.offset.weight)
        self.net = Mlp(make, 3 * width, 32, "relu", 1) if deep else None

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, i = self.user(user), self.item(item)
        score = (u * i).sum(-1) if self.net is None else self.net(torch.cat([u, i, u * i], -1)).squeeze(-1)
        return score + self.offset(item).squeeze(-1)


@family
def recommender(r: random.Random) -> Design:
    """Tables of embeddings multiplied."""
    users, items, width, deep = r.randint(6, 12), r.randint(6, 12), r.choice((4, 8)), r.random() < 0.6
    size = 1.0 if deep else 0.5
    make, task = Maker.drawn(r), tasks.ratings(r, users, items)
    facts = {"users": users, "items": items, "width": width, "net": deep}
    return Design(facts, lambda: _Bilinear(make, users, items, width, deep, size), task, ("net.fc2",) if deep else ())
