"""A gradient that is rounding is none; one that is merely small is one, and offsets in front of a norm are healthy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_initcheck import check_init

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))


class Gated(nn.Module):
    """body(x) times what ``f`` makes of a gate."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.body, self.f = (
            nn.Linear(16, 6),
            nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)),
            f,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.gate(x)) * self.body(x)


class Shifted(nn.Module):
    """A shift that is computed from the sample, in front of a norm that takes it away, or behind it."""

    def __init__(self, *, before: bool) -> None:
        super().__init__()
        self.conv, self.shift, self.before = nn.Conv1d(1, 8, 3), nn.Linear(16, 8), before
        self.norm, self.head = nn.InstanceNorm1d(8), nn.Linear(8 * 14, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, s = self.conv(x[:, None]), self.shift(x)[..., None]
        h = self.norm(h + s) if self.before else self.norm(h) + s
        return self.head(h.relu().flatten(1))


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.reshape(-1, 2, 8)
        return self.head(self.attention(h, h, h)[0].flatten(1))


class Positions(nn.Module):
    """A table that is added to the output: the same for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.table = nn.Linear(16, 8), nn.Parameter(torch.randn(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)[:, None] + torch.eye(4) @ self.table


class Quiet(nn.Module):
    """A branch behind a LayerScale of 1e-6."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.scale, self.head = nn.Linear(16, 16), nn.Parameter(torch.full((16,), 1e-6)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.scale * self.branch(x).tanh())


def deep() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(30):
        layers += [nn.Linear(16, 16), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(16, 4))


def rounding(model: nn.Module) -> list[str]:
    return [n for f in check_init(model, X).findings if f.rule == "rounding-gradient" for n in f.layers]


SICK: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "divided by itself": (lambda: Gated(lambda g: g.exp() [:, :1] / g.exp()[:, :1]), "gate.weight"),
    "top-1 over its sum": (lambda: Gated(lambda g: (t := g.softmax(-1).topk(1)[0]) / (t.sum(-1, keepdim=True) + 1e-20)), "gate.weight"),
    "summed over a softmax": (lambda: Gated(lambda g: g.softmax(-1).sum(-1, keepdim=True)), "gate.weight"),
    "length of a unit vector": (lambda: Gated(lambda g: F.normalize(g, dim=-1).norm(dim=-1, keepdim=True)), "gate.weight"),
    "shift before a norm": (lambda: Shifted(before=True), "shift.weight"),
}  # fmt: skip
HEALTHY: dict[str, Callable[[], Any]] = {
    "top-1": lambda: Gated(lambda g: g.softmax(-1).topk(1)[0]),
    "top-2 over its sum": lambda: Gated(lambda g: (t := g.softmax(-1).topk(2)[0])[:, :1] / t.sum(-1, keepdim=True)),
    "softmax": lambda: Gated(lambda g: g.softmax(-1)[:, :1]),
    "shift behind a norm": lambda: Shifted(before=False),
    "bias before a batch norm": lambda: nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)
    ),
    "scale before a norm": lambda: nn.Sequential(nn.Linear(16, 1), nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 4)),
    "key bias": Attends,
    "table at the output": Positions,
    "LayerScale": Quiet,
    "deep": deep,
}


@pytest.mark.parametrize("name", SICK)
def test_a_gradient_of_rounding_counts_as_none(name: str) -> None:
    make, where = SICK[name]
    torch.manual_seed(0)

    assert rounding(make()) == [where]


@pytest.mark.parametrize("name", HEALTHY)
def test_small_gradients_and_offsets_that_a_norm_takes_away_are_healthy(name: str) -> None:
    torch.manual_seed(0)

    assert rounding(HEALTHY[name]()) == []
