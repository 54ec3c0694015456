"""Synthetic tasks: what a small model can learn from fresh batches within a hundred steps or so."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

#: Draws with which the loss of the best constant prediction is measured.
MEASURED = 1024


@dataclass(frozen=True)
class Task:
    """Inputs, targets and a loss.

    Attributes:
        name: what is asked for.
        batch: samples a step.
        draw: ``draw(n, generator)`` gives the positional inputs of ``n`` samples and their targets.
        loss: from the model's output and the targets to a scalar.
        constant: the loss of the best prediction that ignores the inputs.
        floor: the loss of the best prediction there is (0 where it is not known).
    """

    name: str
    batch: int
    draw: Callable[[int, Generator], tuple[tuple[Tensor, ...], Any]]
    loss: Callable[[Any, Any], Tensor]
    constant: float
    floor: float = 0.0


def generator(r: random.Random) -> Generator:
    """Return a generator of tensors that continues the draws of ``r``."""
    return torch.Generator().manual_seed(r.getrandbits(40))


def entropy(labels: Tensor) -> float:
    """Loss of the best constant prediction of these classes."""
    share = torch.bincount(labels.reshape(-1)).float()
    share = share[share > 0] / share.sum()
    return float(-(share * share.log()).sum())


def variance(target: Tensor) -> float:
    """Squared loss of the best constant prediction of these values."""
    return float((target - target.mean(0, keepdim=True)).square().mean())


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy over the last dimension, whatever dimensions come before it."""
    return F.cross_entropy(output.reshape(-1, output.shape[-1]), target.reshape(-1))


def standard(function: Callable[[Tensor], Tensor], sample: Tensor) -> Callable[[Tensor], Tensor]:
    """``function`` with outputs of mean 0 and variance 1 over ``sample``."""
    y = function(sample)
    flat = y.reshape(-1, y.shape[-1])
    mean, std = flat.mean(0), flat.std(0) + 1e-6
    return lambda x: (function(x) - mean) / std


def teacher(r: random.Random, din: int, dout: int, sharp: float) -> Callable[[Tensor], Tensor]:
    """A smooth random function of the last dimension, standardized for normal inputs."""
    g = generator(r)
    w1 = torch.randn(din, 8, generator=g) / math.sqrt(din) * sharp
    w2 = torch.randn(8, dout, generator=g)
    return standard(lambda x: torch.tanh(x @ w1) @ w2, torch.randn(MEASURED, din, generator=g))


def regression(r: random.Random, din: int, dout: int, batch: int = 48) -> Task:
    """A smooth function of normal inputs."""
    sharp = r.choice((0.4, 0.6, 0.8))
    f = teacher(r, din, dout, sharp)

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        x = torch.randn(n, din, generator=g)
        return (x,), f(x)

    return Task(f"regression {din} to {dout}, sharpness {sharp}", batch, draw, F.mse_loss, 1.0)


def classes(r: random.Random, din: int, n_classes: int, batch: int = 48) -> Task:
    """The class whose smooth score is largest."""
    f = teacher(r, din, n_classes, 0.4)

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        x = torch.randn(n, din, generator=g)
        return (x,), f(x).argmax(-1)

    constant = entropy(draw(MEASURED, generator(r))[1])
    return Task(f"{n_classes} classes of {din} features", batch, draw, F.cross_entropy, constant)


def gratings(r: random.Random, size: int, channels: int, n_classes: int, batch: int = 16) -> Task:
    """Images of noise and a grating, classified by its angle."""
    g0 = generator(r)
    yy, xx = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing="ij")
    angle = torch.arange(n_classes) * math.pi / n_classes
    wave = 0.9 * (torch.cos(angle)[:, None, None] * xx + torch.sin(angle)[:, None, None] * yy)
    sign = torch.randn(n_classes, channels, generator=g0).sign()

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        y = torch.randint(0, n_classes, (n,), generator=g)
        phase = torch.rand(n, generator=g) * 2 * math.pi
        pattern = torch.cos(wave[y] + phase[:, None, None])[:, None] * sign[y][:, :, None, None] * math.sqrt(2)
        noise = torch.randn(n, channels, size, size, generator=g)
        return ((noise + pattern) / 1.4,), y

    return Task(f"{n_classes} gratings of {channels}x{size}x{size}", batch, draw, cross_entropy, math.log(n_classes))


def _waves(r: random.Random, n: int, shape: tuple[int, ...], channels: int) -> Tensor:
    """``n`` smooth patterns of unit size together."""
    g = generator(r)
    phase = torch.rand(n, channels, *[1] * len(shape), generator=g) * 2 * math.pi
    for axis, size in enumerate(shape):
        k = torch.randint(0, 3, (n, channels), generator=g).float()
        place = torch.linspace(0, 1, size).view([-1 if a == axis else 1 for a in range(len(shape))])
        phase = phase + 2 * math.pi * k.view(n, channels, *[1] * len(shape)) * place
    patterns = torch.cos(phase)
    return patterns / patterns.square().sum(0).mean().sqrt()


def reconstruction(r: random.Random, shape: tuple[int, ...], channels: int, batch: int = 16, rank: int = 3) -> Task:
    """Grids that a few smooth patterns span, to be given back."""
    patterns = _waves(r, rank, shape, channels)

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        x = torch.tensordot(torch.randn(n, rank, generator=g), patterns, 1)
        return (x,), x

    return Task(f"reconstruction of {channels}x{'x'.join(map(str, shape))}", batch, draw, F.mse_loss, 1.0)


def dense(r: random.Random, shape: tuple[int, ...], channels: int, dout: int, batch: int = 16) -> Task:
    """At every place a smooth function of the neighbourhood."""
    g0 = generator(r)
    conv = F.conv2d if len(shape) == 2 else F.conv1d
    kernel = torch.randn(dout, channels, *[3] * len(shape), generator=g0) / math.sqrt(channels * 3 ** len(shape))
    scale = 1.0 / float(torch.tanh(torch.randn(MEASURED, generator=g0)).std())

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        x = torch.randn(n, channels, *shape, generator=g)
        return (x,), torch.tanh(conv(x, kernel, padding=1)) * scale

    constant = variance(draw(MEASURED // 4, generator(r))[1])
    return Task(f"dense map of {channels}x{'x'.join(map(str, shape))}", batch, draw, F.mse_loss, constant)


def series(r: random.Random, steps: int, din: int, dout: int, *, every: bool, batch: int = 32) -> Task:
    """A smooth function of a decaying sum over a series: at its end, or at every step."""
    f = teacher(r, din, dout, 0.5)
    keep = r.choice((0.5, 0.7, 0.8))
    weights = torch.stack(
        [keep ** (t - torch.arange(steps)).clamp(min=0) * (torch.arange(steps) <= t) for t in range(steps)]
    )
    weights = weights / weights.square().sum(1, keepdim=True).sqrt()

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        x = torch.randn(n, steps, din, generator=g)
        y = f(torch.einsum("ts,bsd->btd", weights, x))
        return (x,), y if every else y[:, -1]

    return Task(f"{'every step' if every else 'the end'} of series of {steps}x{din}", batch, draw, F.mse_loss, 1.0)


def next_token(r: random.Random, vocabulary: int, steps: int, lag: int, batch: int = 16) -> Task:
    """The next token follows from the one ``lag`` before by a fixed permutation, nearly always."""
    order = torch.randperm(vocabulary, generator=generator(r))
    sure = 0.97

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        x = torch.randint(0, vocabulary, (n, steps + 1), generator=g)
        follow = torch.rand(n, steps + 1, generator=g) < sure
        for t in range(lag + 1, steps + 1):
            x[:, t] = torch.where(follow[:, t], order[x[:, t - 1 - lag]], x[:, t])
        return (x[:, :-1],), x[:, 1:]

    p = sure + (1 - sure) / vocabulary
    known = -p * math.log(p) - (1 - p) * math.log((1 - sure) / vocabulary)
    floor = (lag * math.log(vocabulary) + (steps - lag) * known) / steps
    return Task(
        f"next of {vocabulary} tokens by the one {lag + 1} back",
        batch,
        draw,
        cross_entropy,
        math.log(vocabulary),
        floor,
    )


def token_classes(r: random.Random, vocabulary: int, steps: int, n_classes: int, batch: int = 32) -> Task:
    """The class that most tokens of a sentence vote for."""
    votes = torch.randn(vocabulary, n_classes, generator=generator(r))
    votes = votes - votes.mean(0)

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        x = torch.randint(0, vocabulary, (n, steps), generator=g)
        return (x,), votes[x].mean(1).argmax(-1)

    constant = entropy(draw(MEASURED, generator(r))[1])
    return Task(f"{n_classes} classes of sentences of {steps} tokens", batch, draw, cross_entropy, constant)


def sets(r: random.Random, size: int, din: int, dout: int, batch: int = 32) -> Task:
    """A function of a set that does not depend on its order."""
    f = teacher(r, din, dout, 0.7)
    g0 = generator(r)
    sample = f(torch.randn(MEASURED, size, din, generator=g0)).mean(1)
    std = sample.std(0)

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        x = torch.randn(n, size, din, generator=g)
        return (x,), f(x).mean(1) / std

    return Task(f"regression on sets of {size}x{din}", batch, draw, F.mse_loss, 1.0)


def nodes(r: random.Random, adjacency: Tensor, din: int, dout: int, batch: int = 16) -> Task:
    """At every node a smooth function of it and its neighbours."""
    f = teacher(r, din, dout, 0.6)
    mix = adjacency / adjacency.square().sum(1, keepdim=True).sqrt()

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        x = torch.randn(n, len(adjacency), din, generator=g)
        return (x,), f(mix @ x)

    return Task(f"regression on {len(adjacency)} nodes", batch, draw, F.mse_loss, 1.0)


def ratings(r: random.Random, users: int, items: int, batch: int = 96) -> Task:
    """How a user rates an item: a product of two hidden tastes."""
    g0 = generator(r)
    table = torch.randn(users, 2, generator=g0) @ torch.randn(2, items, generator=g0) + torch.randn(items, generator=g0)
    table = (table - table.mean()) / table.std()

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        u, i = torch.randint(0, users, (n,), generator=g), torch.randint(0, items, (n,), generator=g)
        return (u, i), table[u, i]

    return Task(f"ratings of {items} items by {users} users", batch, draw, F.mse_loss, 1.0)


def surface(r: random.Random, din: int, dout: int, batch: int = 96) -> Task:
    """A picture: values at coordinates from -1 to 1."""
    g0 = generator(r)
    k = torch.randn(din, 6, generator=g0) * r.choice((2.0, 3.0))
    phase, mix = torch.rand(6, generator=g0) * 6.28, torch.randn(6, dout, generator=g0)
    f = standard(lambda x: torch.sin(x @ k + phase) @ mix, torch.rand(MEASURED, din, generator=g0) * 2 - 1)

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        x = torch.rand(n, din, generator=g) * 2 - 1
        return (x,), f(x)

    return Task(f"a picture over {din} coordinates", batch, draw, F.mse_loss, 1.0)


def views(r: random.Random, din: int, batch: int = 32) -> Task:
    """Two views of one thing: which of the batch belongs to which. The model gives the matrix of similarities."""
    g0 = generator(r)
    one, other = torch.randn(5, din, generator=g0) / 2, torch.randn(5, din, generator=g0) / 2

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        z = torch.randn(n, 5, generator=g)
        a = z @ one + 0.1 * torch.randn(n, din, generator=g)
        b = z @ other + 0.1 * torch.randn(n, din, generator=g)
        return (a, b), torch.arange(n) % batch

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (F.cross_entropy(output, target) + F.cross_entropy(output.T, target)) / 2

    return Task(f"matching views of {din} features", batch, draw, loss, math.log(batch))


def density(r: random.Random, dims: int, batch: int = 64) -> Task:
    """Points whose likelihood is asked for: each coordinate bends and shifts by the one before it."""
    bend, width = r.choice((0.5, 0.8)), r.choice((0.3, 0.4))

    def bent(n: int, g: Generator) -> Tensor:
        z = torch.randn(n, dims, generator=g)
        x = [z[:, 0]]
        for d in range(1, dims):
            x.append(bend * (x[-1].clamp(-3, 3).square() - 1) * (1.0 if d == 1 else 0.3) + width * z[:, d])
        return torch.stack(x, -1)

    sample = bent(4 * MEASURED, generator(r))
    mean, std = sample.mean(0), sample.std(0)

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        points = (bent(n, g) - mean) / std
        return (points,), points

    constant = 0.5 * math.log(2 * math.pi * math.e)
    floor = constant + math.log(width) * (dims - 1) / dims - float(std.log().mean())

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return -output.mean() / dims

    return Task(f"likelihood of {dims} coordinates", batch, draw, loss, constant, floor)


def several(
    r: random.Random, din: int, dout: int, n_classes: int, *, names: tuple[str, str] | None, batch: int = 48
) -> Task:
    """A regression and a classification of the same inputs: outputs as a tuple, or a dict with these names."""
    f, h = teacher(r, din, dout, 0.5), teacher(r, din, n_classes, 0.4)

    def draw(n: int, g: Generator) -> tuple[tuple[Tensor, ...], Any]:
        x = torch.randn(n, din, generator=g)
        return (x,), (f(x), h(x).argmax(-1))

    def loss(output: Any, target: Any) -> Tensor:
        first, second = (output[names[0]], output[names[1]]) if names else output
        return F.mse_loss(first, target[0]) + F.cross_entropy(second, target[1])

    constant = 1.0 + entropy(draw(MEASURED, generator(r))[1][1])
    return Task(f"regression and {n_classes} classes of {din} features", batch, draw, loss, constant)
