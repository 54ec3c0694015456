"""Twice the layers, at most about twice the work of our own; and no depth at which anything recurses too far."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pytest_initcheck
from pytest_initcheck import check_init, recommend_init

HOME = str(Path(pytest_initcheck.__file__).parent)
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act, self.linear = nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.linear(self.act(self.norm(x)))


class Reused(nn.Module):
    def __init__(self, times: int) -> None:
        super().__init__()
        self.block, self.times = Block(), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.block(x)
        return x


class Unrolled(nn.Module):
    """A cell over as many steps: every sum joins the input and the state."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.reads, self.keeps, self.steps = nn.Linear(8, 8), nn.Linear(8, 8), steps

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x)
        for _ in range(self.steps):
            state = torch.tanh(self.reads(x) + self.keeps(state))
        return state


class Scattered(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.shifts = nn.ParameterList(nn.Parameter(0.01 * torch.randn(8)) for _ in range(count))
        self.head = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        for shift in self.shifts:
            x = x + shift
        return self.head(x)


class Unused(nn.Module):
    """Layers that nothing calls."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.head, self.others = nn.Linear(8, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def stack(count: int) -> nn.Module:
    return nn.Sequential(*(Block() for _ in range(count)), nn.Linear(8, 8))


def dead(count: int) -> nn.Module:
    model = nn.Sequential(*(m for _ in range(count) for m in (nn.Linear(8, 8), nn.ReLU())))
    for p in model.parameters():
        nn.init.constant_(p, 1e-3)
    return model


def calls(work: Callable[[], Any]) -> int:
    """Functions that the package's own code enters or calls, builtins included."""
    count = 0

    def seen(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        if event in ("call", "c_call") and frame.f_code.co_filename.startswith(HOME):
            count += 1

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def check(model: nn.Module) -> None:
    check_init(model, X, time_budget="2x")


def plan(model: nn.Module) -> None:
    recommend_init(model, X)


@pytest.mark.always(
    "check-stack-20",
    "check-dead-20",
    "check-Reused-20",
    "check-Unrolled-30",
    "check-Unused-40",
    "plan-Reused-20",
    "plan-dead-20",
)
@pytest.mark.parametrize(
    ("build", "size"), [(stack, 20), (dead, 20), (Reused, 20), (Unrolled, 30), (Scattered, 80), (Unused, 40)]
)
@pytest.mark.parametrize("work", [check, plan])
def test_twice_the_layers_cost_twice_the_calls(
    build: Callable[[int], nn.Module], size: int, work: Callable[[nn.Module], None]
):
    torch.manual_seed(0)
    models = [build(factor * size) for factor in (1, 2, 4)]
    work(build(2))  # what is done once, imports and caches

    once, twice, four = (calls(lambda model=model: work(model)) for model in models)

    assert four - twice < 2.3 * (twice - once)


@pytest.mark.parametrize("build", [stack, dead])
def test_nothing_recurses_with_the_depth(build: Callable[[int], nn.Module]):
    torch.manual_seed(0)
    check_init(build(2), X)  # imports go deep, too
    usual, here = sys.getrecursionlimit(), len(inspect.stack())
    sys.setrecursionlimit(here + 150)
    try:
        report = check_init(build(200), X, time_budget="2x")
        shown = str(report), report.to_dict()
    finally:
        sys.setrecursionlimit(usual)

    assert len(report.layers) > 200
    assert all(shown)
