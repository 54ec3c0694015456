"""The models of rows 1 to 15: stacks of matrix products, single layers drawn many times, and products of two numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..apply import apply_init
from ..models.inputs import resolve_inputs
from ..probing.guard import untouched
from ..probing.probe import run_probe
from ..records import LayerRecord, Trace
from ..schemes.draws import Draw, fill_

#: Length of the article's vectors, and layers of its stacks.
WIDTH, DEPTH = 512, 100
#: Draws of a 512x512 weight that one module holds: a hundred megabytes.
TOGETHER = 100
ACTIVATIONS = {"none": nn.Identity, "tanh": nn.Tanh, "relu": nn.ReLU}


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean, std around it, and root mean square, over all values of all draws."""

    mean: float
    std: float
    rms: float


class Products(nn.Module):
    """Many draws of one layer, each with an input of its own: ``y[k] = act(a[k] x[k])``."""

    def __init__(self, draws: int, width: int, activation: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(draws, width, width))
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """``[draws, width]`` in and out."""
        out: Tensor = self.act(torch.einsum("koi,ki->ko", self.weight, x))
        return out


class Scalars(nn.Module):
    """Many products of two numbers: ``y[k] = a[k] x[k]``."""

    def __init__(self, draws: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(draws))

    def forward(self, x: Tensor) -> Tensor:
        """``[draws]`` in and out."""
        return self.weight * x


def stack(activation: str, *, depth: int = DEPTH, width: int = WIDTH) -> nn.Sequential:
    """Return ``depth`` matrix products without biases, an activation behind each."""
    return nn.Sequential(
        *(layer for _ in range(depth) for layer in (nn.Linear(width, width, bias=False), ACTIVATIONS[activation]()))
    )


def probed(model: nn.Module, x: Tensor, *, seed: int = 0) -> Trace:
    """Return what the probe records of a forward and a backward pass."""
    call = resolve_inputs(model, x)
    with untouched(model, tensors=call.tensors) as guard:
        return run_probe(model, call, guard=guard, seed=seed).trace


def through_stack(activation: str, weights: str | Draw, *, seed: int) -> list[LayerRecord]:
    """Return the records behind each of the 100 activations, for x ~ N(0, 1) and fresh weights.

    Args:
        activation: ``"none"``, ``"tanh"`` or ``"relu"``.
        weights: a scheme of ``apply_init``, or what each weight is drawn from.
        seed: of the weights and of x.
    """
    model = stack(activation)
    x = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(seed))
    scheme = weights if isinstance(weights, str) else {"*": weights}
    apply_init(model, scheme, x, seed=1000 + seed)
    layers = probed(model, x).layers
    return [layers[f"{2 * i + 1}"] for i in range(DEPTH)]


def many_draws(weights: Draw, activation: str, *, draws: int, seed: int) -> Moments:
    """Return the moments of ``draws`` layers of 512 inputs and outputs, each with its own weight and input."""
    return _together(_layers(weights, activation, draws, seed))


def _layers(weights: Draw, activation: str, draws: int, seed: int) -> Iterator[Moments]:
    generator = torch.Generator().manual_seed(seed)
    model = Products(min(TOGETHER, draws), WIDTH, activation)
    for _ in range(max(1, draws // TOGETHER)):
        fill_(model.weight, weights, generator=generator)
        x = torch.randn(model.weight.shape[0], WIDTH, generator=generator)
        yield _moments(probed(model, x).layers["act"])


def many_products(weights: Draw, *, draws: int, seed: int) -> Moments:
    """Return the moments of ``draws`` products of two numbers, the second from N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    model = Scalars(draws)
    fill_(model.weight, weights, generator=generator)
    return _moments(probed(model, torch.randn(draws, generator=generator)).layers["(model)"])


def _moments(layer: LayerRecord) -> Moments:
    a = layer.activation
    return Moments(a.mean, a.std, a.rms)


def _together(parts: Iterator[Moments]) -> Moments:
    """Moments over equally many values each."""
    found = list(parts)
    mean = math.fsum(m.mean for m in found) / len(found)
    square = math.fsum(m.rms**2 for m in found) / len(found)
    return Moments(mean, math.sqrt(max(0.0, square - mean * mean)), math.sqrt(square))
